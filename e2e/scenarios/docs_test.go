package scenarios

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// TestDocs runs what README.md and docs/quickstart.md tell people to run, by the rules of CONTRIBUTING.md ("Commands in
// documents"), and has the API server look at every manifest that is shown.
func TestDocs(t *testing.T) {
	t.Parallel()
	for _, document := range []string{"README.md", "docs/quickstart.md"} {
		t.Run(filepath.Base(document), func(t *testing.T) {
			t.Parallel()
			runDocument(newWorld(t), document)
		})
	}
	t.Run("manifests", func(t *testing.T) {
		t.Parallel()
		shownManifests(newWorld(t))
	})
}

// step is a run of commands and what they are said to print.
type step struct {
	line     int // of its first command
	commands []string
	expected []string
}

// steps are those of the blocks marked sh, in order.
func steps(document string) ([]step, error) {
	var out []step
	var now *step
	inBlock, heredoc, number := false, "", 0
	flush := func() {
		if now != nil {
			out = append(out, *now)
		}
		now = nil
	}
	lines := bufio.NewScanner(strings.NewReader(document))
	begin := regexp.MustCompile("^```sh *$")
	here := regexp.MustCompile(`<<-?\s*['"]?(\w+)['"]?`)
	for lines.Scan() {
		number++
		text := lines.Text()
		switch {
		case !inBlock:
			inBlock = begin.MatchString(text)
			continue
		case heredoc == "" && strings.HasPrefix(text, "```"):
			inBlock = false
			flush()
			continue
		case heredoc == "" && strings.HasPrefix(text, "# "):
			if now == nil {
				return nil, fmt.Errorf("line %d: output of no command", number)
			}
			now.expected = append(now.expected, text[2:])
			continue
		}
		if now != nil && len(now.expected) > 0 {
			flush()
		}
		if now == nil {
			now = &step{line: number}
		}
		now.commands = append(now.commands, text)
		if heredoc != "" {
			if strings.TrimLeft(text, "\t") == heredoc {
				heredoc = ""
			}
		} else if found := here.FindStringSubmatch(text); found != nil {
			heredoc = found[1]
		}
	}
	if inBlock {
		return nil, fmt.Errorf("line %d: a block or a here-document has no end", number)
	}
	return out, lines.Err()
}

// unmet says which line of what was expected is not, as a whole and in this order, a line of the output; "…" stands for
// anything.
func unmet(expected []string, output string) string {
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	lines := strings.Split(output, "\n")
	at := 0
	for _, want := range expected {
		parts := strings.Split(words(want), "…")
		for i, part := range parts {
			parts[i] = regexp.QuoteMeta(strings.TrimSpace(part))
		}
		pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
		found := false
		for ; at < len(lines) && !found; at++ {
			found = pattern.MatchString(words(lines[at]))
		}
		if !found {
			return want
		}
	}
	return ""
}

func TestSelfUnmet(t *testing.T) {
	for _, row := range []struct {
		expected []string
		output   string
		unmet    string
	}{
		{[]string{"3"}, "note\n3\n", ""},
		{[]string{"3"}, "13\n", "3"},
		{[]string{"3"}, "3 tasks\n", "3"},
		{[]string{"a  b"}, "  a b  \n", ""},
		{[]string{"… done …"}, "t-0-1   done   1\n", ""},
		{[]string{"mine 2/2 …"}, "not-mine 2/2 0\n", "mine 2/2 …"},
		{[]string{"deleted …"}, "deleted\n", ""},
		{[]string{"body…"}, "m-1\nbodymessage m-1\n", ""},
		{[]string{"a", "b"}, "b\na\n", "b"},
		{[]string{"a.c"}, "abc\n", "a.c"},
	} {
		if got := unmet(row.expected, row.output); got != row.unmet {
			t.Errorf("%q in %q: unmet is %q, not %q", row.expected, row.output, got, row.unmet)
		}
	}
}

const stepMark = "@@ step done"

func runDocument(w *world, document string) {
	text, err := os.ReadFile(filepath.Join(root, document))
	if err != nil {
		w.Fatal(err)
	}
	all, err := steps(string(text))
	if err != nil {
		w.Fatalf("%s: %v", document, err)
	}
	if len(all) < 5 {
		w.Fatalf("%s: only %d steps found", document, len(all))
	}
	var script strings.Builder
	script.WriteString("set -eo pipefail\n")
	for _, s := range all {
		script.WriteString(strings.Join(s.commands, "\n"))
		script.WriteString("\necho '" + stepMark + "'\n")
	}
	ctx, cancel := context.WithTimeout(w.ctx, 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = likeRepository(w)
	cmd.WaitDelay = 5 * time.Second
	begin := time.Now()
	output, failure := cmd.CombinedOutput()
	printed := strings.Split(string(output), stepMark+"\n")
	// The last part follows the last mark: it is of the step that failed, if one did.
	for i, s := range all {
		place := fmt.Sprintf("%s:%d", document, s.line)
		if i >= len(printed)-1 {
			last := printed[len(printed)-1]
			w.Errorf("%s: %v:\n%s\n--- it printed:\n%s", place, failure, strings.Join(s.commands, "\n"), last)
			return
		}
		if missing := unmet(s.expected, printed[i]); missing != "" {
			w.Errorf("%s: %q is not in what it printed:\n%s\n---\n%s", place, missing, strings.Join(s.commands, "\n"), printed[i])
		}
	}
	if failure != nil {
		w.Errorf("%s: %v", document, failure)
	}
	w.result("every command of "+document+" works and prints what it says", "make e2e SCENARIO=docs",
		fmt.Sprintf("%d steps in %s", len(all), time.Since(begin).Round(time.Second)), "all", !w.Failed())
}

// likeRepository is a folder in which everything of the repository can be found, except that build/cluster.env leads to
// this scenario's namespace, and what is written below build/ stays here.
func likeRepository(w *world) string {
	w.Helper()
	dir := w.TempDir()
	absolute, err := filepath.Abs(root)
	if err != nil {
		w.Fatal(err)
	}
	link := func(from, to string) {
		entries, err := os.ReadDir(from)
		if err != nil {
			w.Fatal(err)
		}
		for _, entry := range entries {
			if entry.Name() == "build" || entry.Name() == ".git" || entry.Name() == "cluster.env" {
				continue
			}
			if err := os.Symlink(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
				w.Fatal(err)
			}
		}
	}
	build := filepath.Join(dir, "build")
	if err := os.Mkdir(build, 0o755); err != nil {
		w.Fatal(err)
	}
	link(absolute, dir)
	for _, kept := range []string{"release"} {
		if err := os.Symlink(filepath.Join(absolute, "build", kept), filepath.Join(build, kept)); err != nil {
			w.Fatal(err)
		}
	}
	config, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	if err != nil {
		w.Fatal(err)
	}
	config.Contexts[config.CurrentContext].Namespace = w.ns
	kubeconfig := filepath.Join(build, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		w.Fatal(err)
	}
	environment, err := os.ReadFile(filepath.Join(absolute, "build/cluster.env"))
	if err != nil {
		w.Fatalf("%v: run this by `make e2e`", err)
	}
	environment = append(environment, []byte("\nexport KUBECONFIG="+kubeconfig+"\n")...)
	if err := os.WriteFile(filepath.Join(build, "cluster.env"), environment, 0o644); err != nil {
		w.Fatal(err)
	}
	return dir
}

// shownManifests has the API server take, as a dry run, every manifest of examples/ and every one in the documents.
func shownManifests(w *world) {
	taken := 0
	take := func(place, yaml string) {
		out, err := w.tryIn(time.Minute, yaml, "kubectl", "-n", w.ns, "apply", "--dry-run=server", "-f", "-")
		if err != nil {
			w.Errorf("%s: %v", place, err)
			return
		}
		taken += strings.Count(out, "\n")
	}
	err := filepath.WalkDir(filepath.Join(root, "examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), "apiVersion:") {
			take(path, string(text))
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	documents, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		w.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	for _, document := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(document)
		if err != nil {
			w.Fatal(err)
		}
		for _, found := range block.FindAllStringSubmatchIndex(string(text), -1) {
			yaml := string(text[found[2]:found[3]])
			if strings.Contains(yaml, "apiVersion:") {
				take(fmt.Sprintf("%s:%d", document, 1+strings.Count(string(text[:found[2]]), "\n")), yaml)
			}
		}
	}
	w.result("manifests of examples/ and of the documents that the API server takes", "make e2e SCENARIO=docs", taken, "all, at least 4", !w.Failed() && taken >= 4)
}
