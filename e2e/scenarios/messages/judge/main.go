// judge FILE...: what the histories in these files show, taken together (package messages). The first violations are
// printed, then one line of JSON for whoever counts. Exit code 1: a promise was broken.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"swarm/e2e/scenarios/messages"
)

const (
	shown        = 20
	maxLineBytes = 1 << 20
)

func main() {
	var lines []string
	for _, name := range os.Args[1:] {
		file, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "judge:", err)
			os.Exit(2)
		}
		scanner := bufio.NewScanner(file)
		scanner.Buffer(nil, maxLineBytes)
		for scanner.Scan() {
			lines = append(lines, scanner.Text())
		}
		if err := scanner.Err(); err != nil {
			fmt.Fprintf(os.Stderr, "judge: %s: %v\n", name, err)
			os.Exit(2)
		}
		file.Close()
	}
	report, violations := messages.Check(lines)
	counts := map[messages.Kind]int{}
	for i, v := range violations {
		counts[v.Kind]++
		if i < shown {
			fmt.Println(v)
		}
	}
	out, err := json.Marshal(map[string]any{"report": report, "violations": counts})
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(2)
	}
	fmt.Println(string(out))
	if len(violations) > 0 {
		os.Exit(1)
	}
}
