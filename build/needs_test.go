package build

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestNeeds(t *testing.T) {
	pip, project, npm := &mayfly.Build{Recipe: "pip", Target: "requirements.txt"}, &mayfly.Build{Recipe: "pip", Target: "pyproject.toml"}, &mayfly.Build{Recipe: "npm"}
	for _, tt := range []struct {
		name  string
		build *mayfly.Build
		files []string
		want  string // the files that decide; empty: all of the code does
	}{
		{"pip", pip, []string{"main.py", "x", "requirements.txt", "six==1.16.0\nrequests[socks] >= 2, <3 ; python_version > '3' # why\n\n# more\nflask\n"}, "requirements.txt"},
		{"pip, pinned", pip, []string{"requirements.txt", "six==1.16.0 \\\n    --hash=sha256:1234 \\\n    --hash=sha256:5678\n--index-url https://example.org/simple\n"}, "requirements.txt"},
		{"pip, a file", pip, []string{"main.py", "x", "requirements.txt", "./w/a-1.0-py3-none-any.whl\nb-1.tar.gz\n", "w/a-1.0-py3-none-any.whl", "a", "b-1.tar.gz", "b", "c-1.tar.gz", ""},
			"b-1.tar.gz requirements.txt w/a-1.0-py3-none-any.whl"},
		{"pip, a file that is not there", pip, []string{"requirements.txt", "./a-1.0-py3-none-any.whl\n"}, ""},
		{"pip, another list", pip, []string{"requirements.txt", "-r more.txt\n", "more.txt", "six\n"}, ""},
		{"pip, constraints", pip, []string{"requirements.txt", "six\n-c constraints.txt\n"}, ""},
		{"pip, itself", pip, []string{"requirements.txt", ".\n"}, ""},
		{"pip, a folder", pip, []string{"requirements.txt", "-e ./lib\n"}, ""},
		{"pip, a folder without -e", pip, []string{"requirements.txt", "lib/own\n"}, ""},
		{"pip, a place of its own", pip, []string{"requirements.txt", "six @ file:///app/six\n"}, ""},
		{"pip, files of a folder", pip, []string{"requirements.txt", "--find-links ./wheels\nsix\n"}, ""},
		{"pip, no list", pip, []string{"main.py", ""}, ""},
		{"pyproject", project, []string{"pyproject.toml", "[project]\ndependencies = ['six']\n", "main.py", ""}, "pyproject.toml"},
		{"pyproject, a file", project, []string{"pyproject.toml", "[project]\ndependencies = ['six @ file:///x']\n"}, ""},
		{"npm", npm, []string{"index.mjs", "", "package.json", `{"dependencies": {"ms": "^2"}}`, "package-lock.json", "{}", ".npmrc", "", "node_modules/ms/x", ""}, ".npmrc package-lock.json package.json"},
		{"npm, a file", npm, []string{"package.json", `{"dependencies": {"ms": "file:./ms-2.tgz"}}`, "ms-2.tgz", "x"}, "ms-2.tgz package.json"},
		{"npm, a folder", npm, []string{"package.json", `{"dependencies": {"ms": "file:./ms"}}`, "ms/package.json", "{}"}, ""},
		{"npm, a path", npm, []string{"package.json", `{"dependencies": {"ms": "../ms"}}`}, ""},
		{"npm, scripts of its own", npm, []string{"package.json", `{"dependencies": {"ms": "2"}, "scripts": {"postinstall": "node make.js"}}`}, ""},
		{"npm, scripts that run later", npm, []string{"package.json", `{"dependencies": {"ms": "2"}, "scripts": {"start": "node x.js", "test": "x"}}`}, "package.json"},
		{"npm, workspaces", npm, []string{"package.json", `{"workspaces": ["a"]}`}, ""},
		{"npm, native code", npm, []string{"package.json", `{"dependencies": {"ms": "2"}}`, "binding.gyp", "{}"}, ""},
		{"npm, not JSON", npm, []string{"package.json", `{`}, ""},
		{"npm that builds", &mayfly.Build{Recipe: "npm", Target: "build"}, []string{"package.json", `{"devDependencies": {"ms": "2"}}`}, "package.json"},
		{"npm that builds, of nothing", &mayfly.Build{Recipe: "npm", Target: "build"}, []string{"package.json", `{"scripts": {"build": "x"}}`}, ""},
		{"go", &mayfly.Build{Recipe: "go"}, []string{"go.mod", "module x\n"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			apart, err := Needs(tt.build, bytes.NewReader(pack(t, write(t, tt.files...))), &out)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if apart {
				for _, line := range entries(t, out.Bytes()) {
					got = append(got, strings.Fields(line)[1])
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestJoin: what the code brings of what is installed gives way to it.
func TestJoin(t *testing.T) {
	code := pack(t, write(t, "index.mjs", "new", "package.json", "{}", "node_modules/ms/index.js", "old", ".mayfly/x", "x", "lib/node_modules/y", "y"))
	installed := pack(t, write(t, "package.json", "{}", "package-lock.json", "{}", "node_modules/ms/index.js", "good"))
	var out bytes.Buffer
	if err := Join(&mayfly.Build{Recipe: "npm"}, bytes.NewReader(code), bytes.NewReader(installed), &out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rw-r--r-- index.mjs new", "drwxr-xr-x lib/", "drwxr-xr-x lib/node_modules/", "-rw-r--r-- lib/node_modules/y y", "-rw-r--r-- package.json {}",
		"drwxr-xr-x node_modules/", "drwxr-xr-x node_modules/ms/", "-rw-r--r-- node_modules/ms/index.js good",
	}
	if diff := cmp.Diff(want, entries(t, out.Bytes())); diff != "" {
		t.Error(diff)
	}
}

// FuzzNeeds: whatever is uploaded, nothing fails but as a mistake in it.
func FuzzNeeds(f *testing.F) {
	f.Add("six==1.16.0\n./a.whl\n", `{"dependencies": {"ms": "file:a.tgz"}}`)
	f.Add("-r x\n\\\n", "{")
	f.Fuzz(func(t *testing.T, list, text string) {
		local, ok := pipNeeds("requirements.txt", list)
		also, okToo := npmNeeds(map[string]string{"package.json": text}, "")
		for _, name := range append(local, also...) {
			if (ok || okToo) && clean(name) != name {
				t.Errorf("it takes %q along", name)
			}
		}
	})
}
