package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSelfSteps: the matrix has every crash_point() of the sources, and no other.
func TestSelfSteps(t *testing.T) {
	call := regexp.MustCompile(`crash_point\("([a-z-]+)"\)`)
	var there, ours []string
	for _, top := range []string{"src-common", "sidecar"} {
		err := filepath.WalkDir(filepath.Join("../../..", top), func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".cc") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, found := range call.FindAllStringSubmatch(string(text), -1) {
				there = append(there, found[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range steps {
		ours = append(ours, s.name)
	}
	slices.Sort(there)
	slices.Sort(ours)
	if !slices.Equal(there, ours) {
		t.Errorf("in the sources: %v\nin the matrix: %v", there, ours)
	}
}
