{{/* Every object is named like the release; see NOTES.txt for the command that names it swarm-operator. */}}
{{- define "swarm.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "swarm.labels" -}}
app.kubernetes.io/name: {{ include "swarm.name" . }}
app.kubernetes.io/part-of: swarm-operator
{{- end }}

{{/* The operator's rights in the namespaces that it watches: see manifests/rbac.yaml for why each is there. */}}
{{- define "swarm.rules" -}}
- apiGroups: [cfn.dev]
  resources: [swarms]
  verbs: [get, list, watch]
- apiGroups: [cfn.dev]
  resources: [swarms/status]
  verbs: [get, patch, update]
- apiGroups: [cfn.dev]
  resources: [swarms/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
