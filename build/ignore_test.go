package build

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

// packed are the files of a folder that Pack sends.
func packed(t *testing.T, dir string, b *mayfly.Build) (names []string, left LeftOut) {
	t.Helper()
	var out bytes.Buffer
	left, err := Pack(t.Context(), &out, dir, b)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names, left
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeDir {
			names = append(names, h.Name)
		}
	}
}

func TestWhatIsLeftOut(t *testing.T) {
	npm := &mayfly.Build{Recipe: recipeNpm, Fetch: true}
	for _, tt := range []struct {
		name  string
		files []string // whose content does not matter, but of .gitignore and its like: NAME=CONTENT
		build *mayfly.Build
		want  string
		left  string
	}{
		{"nothing", []string{"main.py", "data/a.bin"}, nil, "data/a.bin main.py", ""},
		{"what git ignores", []string{".gitignore=*.log\n/out/\n", "main.py", "a.log", "sub/b.log", "out/x", "out/y", "sub/out/x"}, nil,
			".gitignore main.py sub/out/x", "files and folders left out: 3 by .gitignore"},
		{"what is brought back", []string{".gitignore=*.log\n!keep.log\n", "a.log", "sub/keep.log"}, nil, ".gitignore sub/keep.log", "files and folders left out: 1 by .gitignore"},
		{"nothing is brought back from a folder that is out", []string{".gitignore=out/\n!out/keep\n", "out/keep", "a"}, nil,
			".gitignore a", "files and folders left out: 1 by .gitignore"},
		{"all but some", []string{".gitignore=*\n!*/\n!*.py\n!.gitignore\n", "a.py", "sub/b.py", "sub/c.txt", "d"}, nil,
			".gitignore a.py sub/b.py", "files and folders left out: 2 by .gitignore"},
		{"a nested one decides", []string{".gitignore=*.bin\n", "sub/.gitignore=!*.bin\n/a\n", "x.bin", "sub/y.bin", "sub/a", "sub/deep/a", "a"}, nil,
			".gitignore a sub/.gitignore sub/deep/a sub/y.bin", "files and folders left out: 2 by .gitignore"},
		{"one in a folder that is out does not", []string{".gitignore=sub\n", "sub/.gitignore=!*\n", "sub/a", "b"}, nil, ".gitignore b", "files and folders left out: 1 by .gitignore"},
		{".mayflyignore alone", []string{".gitignore=*.log\n", ".mayflyignore=*.tmp\n", "a.log", "b.tmp", "__pycache__/a.pyc"}, nil,
			".gitignore .mayflyignore __pycache__/a.pyc a.log", "files and folders left out: 1 by .mayflyignore"},
		{"version control", []string{".git/HEAD", "sub/.git", ".svn/x", ".hg/x", "a", ".github/x"}, nil, ".github/x a", ""},
		{"what Python makes", []string{"main.py", "__pycache__/main.pyc", "sub/a.pyc", ".venv/x", "env/pyvenv.cfg", "env/bin/python", ".pytest_cache/x"}, nil,
			"main.py", "files and folders left out: 5 of no use where it runs"},
		{"it can be brought back", []string{".gitignore=!*.pyc\n", "a.pyc", "b.pyo"}, nil, ".gitignore a.pyc", "files and folders left out: 1 of no use where it runs"},
		{"what npm installs", []string{"package.json", "node_modules/x/index.js", "lib/node_modules/y/index.js"}, npm,
			"lib/node_modules/y/index.js package.json", "files and folders left out: 1 of no use where it runs"},
		{"what nobody installs", []string{"index.mjs", "node_modules/x/index.js"}, nil, "index.mjs node_modules/x/index.js", ""},
		{"both", []string{".gitignore=x\n", "x", "a.pyc", "b"}, nil, ".gitignore b", "files and folders left out: 1 by .gitignore, 1 of no use where it runs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var pairs []string
			for _, f := range tt.files {
				name, content, _ := strings.Cut(f, "=")
				pairs = append(pairs, name, content)
			}
			got, left := packed(t, write(t, pairs...), tt.build)
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
			if left.String() != tt.left {
				t.Errorf("it says %q, not %q", left, tt.left)
			}
		})
	}
}

func TestDetectLooksAtWhatIsSent(t *testing.T) {
	dir := write(t, ".gitignore", "/generated.py\n/dist/\n", "generated.py", "def handle(event, context): pass\n", "main.py", "def handle(event, context): pass\n",
		"dist/package.json", "{}")
	if f, err := Detect(dir); err != nil || f.Handler != "main.handle" {
		t.Errorf("%+v, %v", f, err)
	}
}

// ignoredTrees are the files that each .gitignore is tried on.
func ignoredTrees() []string {
	return []string{
		"a", "b", "ab", "ba", "aab", "a-b", "a b", "-", "]", "[a]", "!a", "#a", "a]", "A", "1",
		"d/a", "d/b", "d/ab", "d/e/a", "d/e/ab", "d/e/f/b", "e/d/a", "e/d/b", "f/a]b", "f/d-e/a",
	}
}

// TestGitignoreIsReadAsGitReadsIt tries lines by hand and at random, each in a folder
// of its own, and asks git what it leaves out.
func TestGitignoreIsReadAsGitReadsIt(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("needs git: apt-get install git")
	}
	all := []string{
		"a", "/a", "a/", "d/", "/d", "d/a", "/d/a", "d/*", "d/**", "**/a", "**/d/a", "d/**/a", "a/**", "**", "*", "/*", "*/", "/*/", "*\n!a", "*\n!*/\n!b", "d\n!d/a",
		"d/*\n!d/e/", "d/*\n!d/e", "*b", "a*", "?", "??", "[ab]", "[!a]", "[^a]", "[a-b]", "[]]", "[]-]", "[a-]", "[\\]]", "[[:alpha:]]", "[[:digit:][:upper:]]",
		"[[:nope:]]", "[[:alpha]", "[a", "a]", "\\a", "\\[a\\]", "\\!a", "\\#a", "#a", "!a", "a ", "a\\ ", "a\\ b", " a", "a\r", "*\r\n!a\r", "/", "//", "", "!", "d//",
		"d/e/f", "**/e", "e/**/b", "*/a", "*/*/a", "***/a", "d/***", "a**", "**a", "d**/a", "d/e**", "f/d-?", "f/*]*", "f/[a-z]]b", "\\", "a\\", "\xef\xbb\xbfa", "*[ab]", "[a-a]",
		"d/e/../a", "./a", "*/e/", "!*\na", "a\nb\n!a\na", "[b-a]", "[-]", "[--1]", "[a\\-b]", "d[/]a", "d?a", "d/[!/]",
	}
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"a", "b", "d", "e", "*", "**", "?", "/", "/", "[ab]", "[!a]", "[", "]", "-", "\\", " ", "!", "#", "\n", "\n!", "**/", "/**"}
	for range 120 {
		var line strings.Builder
		for range 1 + random.IntN(7) {
			line.WriteString(parts[random.IntN(len(parts))])
		}
		all = append(all, line.String())
	}
	dir := t.TempDir()
	for n, text := range all {
		pairs := []string{".gitignore", text}
		for _, f := range ignoredTrees() {
			pairs = append(pairs, f, "")
		}
		writeIn(t, filepath.Join(dir, fmt.Sprint(n)), pairs...)
	}
	got, _ := packed(t, dir, nil)
	want := unignored(t, dir)
	if len(want) < len(all) {
		t.Fatalf("git lists %d files", len(want))
	}
	for n, text := range all {
		g, w := inFolder(got, n), inFolder(want, n)
		if diff := cmp.Diff(w, g); diff != "" {
			t.Errorf("%q (-git +mayfly):\n%s", text, diff)
		}
	}
}

func inFolder(names []string, n int) (in []string) {
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, fmt.Sprint(n)+"/"); ok && rest != gitIgnore {
			in = append(in, rest)
		}
	}
	slices.Sort(in)
	return in
}

// unignored are the files that git does not ignore.
func unignored(t *testing.T, dir string) []string {
	t.Helper()
	git := func(args ...string) string {
		cmd := exec.Command("git", append([]string{"-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "HOME="+t.TempDir(), "XDG_CONFIG_HOME=/nonexistent")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return string(out)
	}
	git("init", "-q")
	return strings.Split(git("ls-files", "--others", "--exclude-standard", "-z"), "\x00")
}

// FuzzIgnore: no line makes a match fail or take so long that the fuzzer gives up, and what a line says of a name
// is the same each time.
func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!keep.log\n/out/\n", "sub/keep.log")
	f.Add(strings.Repeat("**/a*", 20)+"x", strings.Repeat("a/", 40)+"a")
	f.Add(strings.Repeat("*a", 100), strings.Repeat("a", 200)+"b")
	f.Add("[[:alpha:]-\\", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		if len(text) > 1000 || len(name) > 1000 {
			return
		}
		for _, p := range parseGitignore([]byte(text)) {
			for _, isDir := range []bool{true, false} {
				if first := p.matches(name, isDir); p.matches(name, isDir) != first {
					t.Errorf("%q and %q", text, name)
				}
			}
		}
	})
}
