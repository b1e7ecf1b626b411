# docs/crd-reference.md from the CRD (as JSON); called by manifests/generate.
def cell: gsub("\\|"; "\\|") | gsub("\n"; " ");
def kind: if .["x-kubernetes-int-or-string"] then "number or text"
	elif .type == "array" then "list"
	elif .additionalProperties then "map" else .type // "object" end;
def allowed: [
	(if .enum then (.enum | map("`\(.)`") | join(", ")) else empty end),
	(if .minimum != null then "\(.minimum) to \(.maximum // "…")" else empty end),
	(if .maxItems then "\(.minItems // 0) to \(.maxItems) items" else empty end)] | join("; ");
def row($path): "| `\($path)` | \(kind) | \(allowed) | \(if (.default|type) != "object" and .default != null then "`\(.default)`" else "" end) | \((.description // "") | cell | sub(" ([0-9]+ to [0-9]+, d|D)efault [^ ]+$"; "")) |";
def rows($path; $skip): . as $s
	| ($s.properties // {}) | to_entries[]
	| ($path + (if $path == "" then "" else "." end) + .key) as $p
	| .key as $key
	| (($s.required // []) | any(. == $key)) as $required
	| (.value | row($p) | if $required then sub("` \\| "; "` (required) | ") else . end),
	  (.value | select($skip | any(. == $p) | not)
		| rows($p; $skip), (select(.type == "array").items | select(.properties) | rows($p + "[]"; $skip)));
def rules($path): (."x-kubernetes-validations"[]? | select(.rule != "false")
	| "- `\(($path + (.fieldPath // "")) | ltrimstr("."))`: \(.message | cell)"),
	(.properties // {} | to_entries[] | .key as $k | .value | rules((if $path == "" then "" else $path + "." end) + $k)),
	(select(.type == "array") | .items | rules($path + "[]"));
def head: "| field | type | allowed | default | |\n|---|---|---|---|---|";

.spec.versions[0].schema.openAPIV3Schema as $root
| $root.properties as $p
| "# CRD reference: Swarm, cfn.dev/v1alpha1\n",
  "Made by manifests/generate from crds/swarms.cfn.dev.yaml; do not edit. The same in a terminal: `kubectl explain swarm.spec --recursive`.\n",
  $root.description + "\n",
  "## spec\n", head,
  ($p.spec | rows("spec"; ["spec.coordinator.template", "spec.workers.template.spec.initContainers"])),
  "\n`spec.coordinator.template` has the fields of `spec.workers.template`, `initContainers` those of `containers`.\n",
  "## Rules\n",
  "Checked by the API server, beside types and limits:\n",
  ($root | .properties.spec.properties.coordinator = {} | rules("")),
  "\n## status\n", head,
  ($p.status | rows("status"; []))
