package mayfly_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "github.com/mayfly-run/mayfly"

// ranks is the layering: a package imports only lower ranks. A directory that
// is not named takes the rank of its nearest parent that is.
var ranks = map[string]int{
	".": 0, "sdk": 0, "sdk/go": 0, "disk": 0,
	"bus": 1, "place": 1, "image": 1, "network": 1, "volume": 1, "secret": 1, "schedule": 1, "cesql": 1, "probe": 1, "tree": 1, "scale": 1,
	"container/wire": 1, "container/setup": 1, "container/seccomp": 1, "container/cgroup": 1,
	"store": 2, "container": 2, "manifest": 2,
	"queue": 3, "build": 3, "discovery": 3, "claim": 3, "material": 3,
	"event": 4, "router": 4, "reconcile": 4, "node": 4, "explain": 4,
	"api":       5,
	"dockerapi": 6, "web": 6,
	"cmd": 7, "e2e": 7, "bench": 7, "examples": 7,
}

// rootMay names what else of rank 0 may be imported by a package of rank 0.
var rootMay = map[string][]string{"sdk/go": {"."}}

// only lists every import, besides the standard library, that the non-test
// code of a package may have. A trailing slash means everything below.
var only = map[string][]string{
	".":                 {},
	"schedule":          {module},
	"cesql":             {module},
	"scale":             {module},
	"container/wire":    {},
	"container/setup":   {"golang.org/x/sys/unix"},
	"container/seccomp": {"golang.org/x/sys/", "github.com/opencontainers/runtime-spec/"},
	"container/cgroup":  {"golang.org/x/sys/", "github.com/opencontainers/runtime-spec/"},
	"cmd/mayfly-init":   {"golang.org/x/sys/unix", module + "/container/wire", module + "/container/setup"},
}

// never lists imports that stay out of what every container holds in memory.
var never = map[string][]string{
	"cmd/mayfly-init": {"net/http", "crypto/tls", "text/template"},
	"container/wire":  {"net/http", "crypto/tls", "text/template"},
	"container/setup": {"net/http", "crypto/tls", "text/template"},
}

// testOnly are packages that only test code and the end-to-end tests import.
var testOnly = []string{"bus/bustest", "container/containertest", "disk/disktest"}

// vagueNames say nothing about what a package holds.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types", "pkg", "internal", "misc", "shared"}

// source is one parsed Go file.
type source struct {
	path string // slash-separated, below the root of the module
	dir  string
	test bool
	file *ast.File
}

// TestLayers keeps the rules of ARCHITECTURE.md about who imports whom, so
// that they hold without anyone having to remember them.
func TestLayers(t *testing.T) {
	sources, err := parseTree(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations(sources) {
		t.Error(v)
	}
}

func TestLayerRulesCatchBreaches(t *testing.T) {
	const doc = "// Package x is x.\n"
	cases := []struct {
		name  string
		files map[string]string
		want  string // part of the only violation; none if empty
	}{
		{"a lower rank", map[string]string{"node/node.go": doc + `package node; import _ "` + module + `/store"`}, ""},
		{"a family", map[string]string{"build/x/x.go": doc + `package x; import _ "` + module + `/build"`}, ""},
		{"the sdk and the nouns", map[string]string{"sdk/go/doc.go": doc + `package sdk; import _ "` + module + `"`}, ""},
		{"a peer", map[string]string{"node/node.go": doc + `package node; import _ "` + module + `/router"`}, "node/node.go: node (rank 4) imports router (rank 4)"},
		{"a higher rank", map[string]string{"store/store.go": doc + `package store; import _ "` + module + `/api"`}, "rank 5"},
		{"a higher rank in a test", map[string]string{"store/store.go": doc + "package store", "store/a_test.go": `package store; import _ "` + module + `/api"`}, "store/a_test.go"},
		{"the nouns import up", map[string]string{"mayfly.go": doc + `package mayfly; import _ "` + module + `/bus"`}, "rank 1"},
		{"the nouns import a library", map[string]string{"mayfly.go": doc + `package mayfly; import _ "example.com/x"`}, "may import only the standard library"},
		{"an unknown directory", map[string]string{"elsewhere/elsewhere.go": doc + "package elsewhere"}, "has no rank"},
		{"no comment", map[string]string{"bus/bus.go": "package bus"}, "bus: has no package comment"},
		{"two comments", map[string]string{"bus/bus.go": doc + "package bus", "bus/doc.go": doc + "package bus"}, "2 package comments"},
		{"a comment in the wrong file", map[string]string{"bus/other.go": doc + "package bus"}, "move it to bus/bus.go or bus/doc.go"},
		{"a vague name", map[string]string{"bus/util/util.go": doc + "package util"}, "says nothing"},
		{"an init", map[string]string{"bus/bus.go": doc + "package bus; func init() {}"}, "has an init function"},
		{"a method named init", map[string]string{"bus/bus.go": doc + "package bus; type t int; func (t) init() {}"}, ""},
		{"cgo", map[string]string{"bus/bus.go": doc + "package bus; import \"C\""}, "uses cgo"},
		{"init with a library", map[string]string{"cmd/mayfly-init/main.go": doc + `package main; import _ "github.com/spf13/cobra"`}, "cmd/mayfly-init may import only"},
		{"init with its own", map[string]string{"cmd/mayfly-init/main.go": doc + `package main; import (_ "` + module + `/container/wire"; _ "golang.org/x/sys/unix")`}, ""},
		{"init with an HTTP stack", map[string]string{"cmd/mayfly-init/main.go": doc + `package main; import _ "net/http"`}, "memory of every container"},
		{"wire with a library", map[string]string{"container/wire/wire.go": doc + `package wire; import _ "golang.org/x/sys/unix"`}, "container/wire may import only"},
		{"a generator", map[string]string{"bus/bus.go": doc + "package bus", "bus/gen.go": "//go:build ignore\n\n" + doc + "package main"}, ""},
		{"a suite in a program", map[string]string{"node/node.go": doc + `package node; import _ "` + module + `/container/containertest"`}, "only test code"},
		{"a suite in a test", map[string]string{"node/node.go": doc + "package node", "node/n_test.go": `package node; import _ "` + module + `/container/containertest"`}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range c.files {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			sources, err := parseTree(tree)
			if err != nil {
				t.Fatal(err)
			}
			got := violations(sources)
			if c.want == "" && len(got) > 0 {
				t.Errorf("refused: %q", got)
			}
			if c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
				t.Errorf("got %q, want one violation with %q", got, c.want)
			}
		})
	}
}

// parseTree reads every Go file below the root but those of testdata and of
// hidden directories. It heeds no build constraint but "ignore": the rules
// hold on every platform.
func parseTree(root fs.FS) ([]source, error) {
	var sources []source
	fset := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p != "." && (d.Name() == "testdata" || d.Name() == "node_modules" || d.Name() == "bin" || strings.ContainsAny(d.Name()[:1], "._")) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || path.Ext(p) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(text), "//go:build ignore\n") || strings.Contains(string(text), "\n//go:build ignore\n") {
			return nil // a generator, run by hand
		}
		sources = append(sources, source{p, path.Dir(p), strings.HasSuffix(p, "_test.go"), file})
		return nil
	})
	return sources, err
}

// violations returns one line for each breach, with what to do about it.
func violations(sources []source) []string {
	var all []string
	dirs := map[string][]source{}
	for _, s := range sources {
		dirs[s.dir] = append(dirs[s.dir], s)
		all = append(all, checkImports(s)...)
		all = append(all, checkDecls(s)...)
	}
	for dir, files := range dirs {
		all = append(all, checkDir(dir, files)...)
	}
	slices.Sort(all)
	return all
}

// rankOf returns the rank of a directory, and whether it has one.
func rankOf(dir string) (int, bool) {
	for d := dir; d != "."; d = path.Dir(d) {
		if r, ok := ranks[d]; ok {
			return r, true
		}
	}
	return 0, dir == "."
}

// family is the top directory: packages below one may share a rank.
func family(dir string) string {
	top, _, _ := strings.Cut(dir, "/")
	return top
}

func checkImports(s source) (bad []string) {
	rank, known := rankOf(s.dir)
	for _, spec := range s.file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if name == "C" {
			bad = append(bad, fmt.Sprintf("%s: uses cgo; the binary is static, so call the kernel through golang.org/x/sys/unix", s.path))
			continue
		}
		if !s.test {
			bad = append(bad, checkLibrary(s, name)...)
		}
		dir, ours := strings.CutPrefix(name, module)
		if !ours || !known {
			continue
		}
		dir = strings.TrimPrefix(dir, "/")
		if dir == "" {
			dir = "."
		}
		if slices.Contains(testOnly, dir) && !s.test && dir != s.dir && family(s.dir) != "e2e" {
			bad = append(bad, fmt.Sprintf("%s: imports %s, which only test code may import; move the use into a _test.go file", s.path, dir))
		}
		to, _ := rankOf(dir)
		allowed := to < rank || dir == s.dir || slices.Contains(rootMay[s.dir], dir) ||
			to == rank && family(dir) == family(s.dir)
		if !allowed {
			bad = append(bad, fmt.Sprintf("%s: %s (rank %d) imports %s (rank %d); imports point down: declare the interface that you need in %s and let cmd/mayfly satisfy it",
				s.path, s.dir, rank, dir, to, s.dir))
		}
	}
	return bad
}

// checkLibrary holds the few packages that must stay small to their lists.
func checkLibrary(s source, name string) []string {
	for _, n := range never[s.dir] {
		if name == n || strings.HasSuffix(n, "/") && strings.HasPrefix(name, n) {
			return []string{fmt.Sprintf("%s: imports %s, which would sit in the memory of every container; do it in the daemon", s.path, name)}
		}
	}
	list, limited := only[s.dir]
	first, _, _ := strings.Cut(name, "/")
	ours := name == module || strings.HasPrefix(name, module+"/")
	if !limited || !strings.Contains(first, ".") || ours && s.dir == "." {
		return nil // no list, the standard library, or a matter of ranks
	}
	for _, l := range list {
		if name == l || strings.HasSuffix(l, "/") && strings.HasPrefix(name, l) {
			return nil
		}
	}
	what := strings.Join(append([]string{"the standard library"}, list...), ", ")
	return []string{fmt.Sprintf("%s: imports %s, but %s may import only %s; move the code that needs it up", s.path, name, s.dir, what)}
}

func checkDecls(s source) (bad []string) {
	if s.test {
		return nil
	}
	for _, d := range s.file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			bad = append(bad, fmt.Sprintf("%s: has an init function; do the work in a constructor that its caller calls", s.path))
		}
	}
	return bad
}

func checkDir(dir string, files []source) (bad []string) {
	if _, known := rankOf(dir); !known {
		bad = append(bad, fmt.Sprintf("%s: has no rank; name it in the table of layers_test.go and in ARCHITECTURE.md", dir))
	}
	if base := path.Base(dir); slices.Contains(vagueNames, base) {
		bad = append(bad, fmt.Sprintf("%s: %q says nothing about what is in it; name the package after the thing it holds", dir, base))
	}
	if slices.ContainsFunc(files, func(s source) bool { return !s.test }) {
		files = slices.DeleteFunc(slices.Clone(files), func(s source) bool { return s.test })
	}
	name := files[0].file.Name.Name
	var comments []string
	for _, s := range files {
		if s.file.Doc != nil && s.file.Doc.Text() != "" {
			comments = append(comments, s.path)
		}
	}
	home := []string{path.Join(dir, strings.TrimSuffix(name, "_test")+".go"), path.Join(dir, "doc.go")}
	switch {
	case files[0].test: // a directory of tests only says what it tests where it likes
		if len(comments) > 1 {
			bad = append(bad, fmt.Sprintf("%s: has %d package comments (%s); keep one", dir, len(comments), strings.Join(comments, ", ")))
		}
	case len(comments) == 0:
		bad = append(bad, fmt.Sprintf("%s: has no package comment; say in %s what it is, what it promises and what it leaves to others", dir, home[0]))
	case len(comments) > 1:
		bad = append(bad, fmt.Sprintf("%s: has %d package comments (%s); keep one", dir, len(comments), strings.Join(comments, ", ")))
	case !slices.Contains(home, comments[0]):
		bad = append(bad, fmt.Sprintf("%s: holds the package comment; move it to %s or %s", comments[0], home[0], home[1]))
	}
	return bad
}
