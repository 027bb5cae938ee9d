package mayfly_test

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestDependenciesAreExplained keeps docs/dependencies.md and the code in step:
// a row for every module that is imported.
func TestDependenciesAreExplained(t *testing.T) {
	sources, err := parseTree(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:require )?([a-z0-9.-]+\.[a-z]+/\S+|go\.\S+/\S+) v`).FindAllStringSubmatch(string(mod), -1) {
		modules = append(modules, m[1])
	}
	used := map[string]string{} // module -> a file that imports it
	for _, s := range sources {
		for _, spec := range s.file.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			if m := moduleOf(name, modules); m != "" {
				used[m] = s.path
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^tool (\S+)`).FindAllStringSubmatch(string(mod), -1) {
		used[moduleOf(m[1], modules)] = "go.mod"
	}
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([a-z0-9.-]+\.[a-z]+/\S+) \|`).FindAllStringSubmatch(string(page), -1) {
		rows = append(rows, m[1])
	}
	for m, file := range used {
		if !slices.Contains(rows, m) {
			t.Errorf("%s imports %s, which has no row in docs/dependencies.md; say there what for, instead of what, and why", file, m)
		}
	}
}

// moduleOf returns the module that a package is of: the longest that fits.
func moduleOf(pkg string, modules []string) string {
	var best string
	for _, m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}
