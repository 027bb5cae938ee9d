package build

import (
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/mayfly-run/mayfly"
)

// tree makes files from pairs of name and content.
func tree(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return m
}

func skipNothing(string, bool) bool { return false }

const (
	pyHandler  = "import os\n\ndef handle(event, context):\n    return 1\n"
	jsHandler  = "export async function handle(event, context) { return 1 }\n"
	goEvent    = "package hello\n\nimport \"context\"\n\nfunc Handle(ctx context.Context, e map[string]any) (any, error) { return e, nil }\n"
	goWeb      = "package hello\n\nimport \"net/http\"\n\nfunc Handle(w http.ResponseWriter, r *http.Request) {}\n"
	goProgram  = "package main\n\nfunc main() {}\n"
	pythonMain = "print(1)\n"
)

func TestDetect(t *testing.T) {
	goBuild := func(target, program, wrap string, fetch bool) *mayfly.Build {
		return &mayfly.Build{Recipe: "go", Target: target, Program: program, Wrap: wrap, Fetch: fetch}
	}
	site := []string{"lighttpd", "-D", "-f", "/etc/mayfly/site.conf"}
	tests := []struct {
		name  string
		files fstest.MapFS
		want  Found
	}{
		{"a Python file with a handler", tree("main.py", pyHandler),
			Found{Text: "a Python file with a handler, main.py", Stack: "python", Handler: "main.handle", Protocol: "handler"}},
		{"a handler of another file", tree("thumbs.py", pyHandler, "util.py", pythonMain),
			Found{Text: "a Python file with a handler, thumbs.py", Stack: "python", Handler: "thumbs.handle", Protocol: "handler"}},
		{"main.py before others", tree("a.py", pyHandler, "main.py", pyHandler),
			Found{Text: "a Python file with a handler, main.py", Stack: "python", Handler: "main.handle", Protocol: "handler"}},
		{"an async handler", tree("x.py", "async  def  handle (e, c):\n  pass"),
			Found{Text: "a Python file with a handler, x.py", Stack: "python", Handler: "x.handle", Protocol: "handler"}},
		{"a method is no handler", tree("x.py", "class A:\n    def handle(self, x): pass\n"),
			Found{Text: "a Python program, x.py", Stack: "python", Command: []string{"/usr/bin/python3", "-u", "x.py"}, Protocol: "http"}},
		{"requirements.txt", tree("app.py", pythonMain, "requirements.txt", "# web\nflask==3.0\n"),
			Found{Text: "Python with requirements.txt: program, app.py", Stack: "python", Command: []string{"/usr/bin/python3", "-u", "app.py"}, Protocol: "http",
				Build: &mayfly.Build{Recipe: "pip", Target: "requirements.txt", Fetch: true}}},
		{"requirements.txt that asks for nothing", tree("main.py", pyHandler, "requirements.txt", "# none\n\n"),
			Found{Text: "Python with requirements.txt: file with a handler, main.py", Stack: "python", Handler: "main.handle", Protocol: "handler"}},
		{"pyproject.toml", tree("main.py", pyHandler, "pyproject.toml", "[project]\nname = 'x'\ndependencies = [\n  'a>1', # b\n]\n"),
			Found{Text: "Python with pyproject.toml: file with a handler, main.py", Stack: "python", Handler: "main.handle", Protocol: "handler",
				Build: &mayfly.Build{Recipe: "pip", Target: "pyproject.toml", Fetch: true}}},
		{"pyproject.toml without dependencies", tree("main.py", pyHandler, "pyproject.toml", "[tool.x]\ndependencies = ['a']\n[project]\ndependencies = []\n"),
			Found{Text: "Python with pyproject.toml: file with a handler, main.py", Stack: "python", Handler: "main.handle", Protocol: "handler"}},
		{"a JavaScript file with a handler", tree("index.mjs", jsHandler),
			Found{Text: "a JavaScript file with a handler, index.mjs", Stack: "node", Handler: "index.handle", Protocol: "handler"}},
		{"a handler of CommonJS", tree("hello.js", "exports.handle = async (e) => e\n"),
			Found{Text: "a JavaScript file with a handler, hello.js", Stack: "node", Handler: "hello.handle", Protocol: "handler"}},
		{"a JavaScript program", tree("server.js", "require('http')"),
			Found{Text: "a JavaScript program, server.js", Stack: "node", Command: []string{"/usr/bin/node", "server.js"}, Protocol: "http"}},
		{"package.json with start", tree("package.json", `{"scripts": {"start": "node --no-warnings web.js"}, "dependencies": {"a": "1"}}`),
			Found{Text: "Node.js with package.json, started as its script start says", Stack: "node", Command: []string{"/bin/sh", "-c", "exec node --no-warnings web.js"}, Protocol: "http",
				Build: &mayfly.Build{Recipe: "npm", Fetch: true}}},
		{"package.json with main", tree("package.json", `{"main": "./lib/x.cjs"}`, "lib/x.cjs", "module.exports = { handle }\n"),
			Found{Text: "Node.js with package.json: file with a handler, lib/x.cjs", Stack: "node", Handler: "lib/x.handle", Protocol: "handler"}},
		{"package.json with a build", tree("package.json", `{"main": "dist/x.js", "scripts": {"build": "tsc"}, "devDependencies": {"typescript": "5"}}`),
			Found{Text: "Node.js with package.json: program, dist/x.js", Stack: "node", Command: []string{"/usr/bin/node", "dist/x.js"}, Protocol: "http",
				Build: &mayfly.Build{Recipe: "npm", Target: "build", Fetch: true}}},
		{"odd keys of package.json are npm's", tree("package.json", `{"main": 7, "scripts": [], "dependencies": "x"}`, "index.js", jsHandler),
			Found{Text: "Node.js with package.json: file with a handler, index.js", Stack: "node", Handler: "index.handle", Protocol: "handler"}},
		{"a site with package.json for its tools", tree("package.json", `{"devDependencies": {"prettier": "3"}}`, "index.html", "", "style.css", ""),
			Found{Text: "a static site, index.html", Stack: "static", Command: site, Protocol: "http"}},
		{"a site with scripts", tree("index.html", "", "index.js", "1"), Found{Text: "a static site, index.html", Stack: "static", Command: site, Protocol: "http"}},
		{"a Go module", tree("go.mod", "module example.org/shop/v2\n\ngo 1.23\n", "main.go", goProgram),
			Found{Text: "a Go module, example.org/shop/v2", Stack: "static", Command: []string{"shop"}, Protocol: "http", Build: goBuild(".", "shop", "", false)}},
		{"a Go module that requires", tree("go.mod", "module x\nrequire (\n\ta.b/c v1.0.0\n)\n", "main.go", goProgram),
			Found{Text: "a Go module, x", Stack: "static", Command: []string{"x"}, Protocol: "http", Build: goBuild(".", "x", "", true)}},
		{"a Go module that brings all", tree("go.mod", "module x\nrequire a.b/c v1.0.0 // indirect\n", "main.go", goProgram, "vendor/modules.txt", ""),
			Found{Text: "a Go module, x", Stack: "static", Command: []string{"x"}, Protocol: "http", Build: goBuild(".", "x", "", false)}},
		{"a Go module with one command", tree("go.mod", "module x\n", "x.go", "package x\n", "cmd/web/main.go", goProgram, "cmd/web/main_test.go", "junk"),
			Found{Text: "a Go module, x/cmd/web", Stack: "static", Command: []string{"web"}, Protocol: "http", Build: goBuild("./cmd/web", "web", "", false)}},
		{"a Go module with a handler", tree("go.mod", "module x\n", "x.go", goWeb),
			Found{Text: "a Go module with a handler, func Handle in x.go", Stack: "static", Command: []string{"x"}, Protocol: "http", Build: goBuild(".", "x", "http", false)}},
		{"a Go file with a handler of events", tree("hello.go", goEvent),
			Found{Text: "a Go file with a handler, func Handle in hello.go", Stack: "static", Command: []string{"app"}, Protocol: "http", Build: goBuild(".", "app", "event", false)}},
		{"a Go program in a file", tree("hello.go", goProgram),
			Found{Text: "a Go program, hello.go", Stack: "static", Command: []string{"app"}, Protocol: "http", Build: goBuild(".", "app", "", false)}},
		{"Go before package.json", tree("go.mod", "module x\n", "main.go", goProgram, "package.json", "{}"),
			Found{Text: "a Go module, x", Stack: "static", Command: []string{"x"}, Protocol: "http", Build: goBuild(".", "x", "", false)}},
		{"package.json before Python", tree("package.json", "{}", "index.js", jsHandler, "main.py", pyHandler),
			Found{Text: "Node.js with package.json: file with a handler, index.js", Stack: "node", Handler: "index.handle", Protocol: "handler"}},
		{"a Procfile overrides", tree("main.py", pyHandler, "Procfile", "# how\nworker: x\nweb: gunicorn -b :$PORT main:app\n", "requirements.txt", "gunicorn"),
			Found{Text: "Python with requirements.txt, started as its Procfile says", Stack: "python", Command: []string{"/bin/sh", "-c", "exec gunicorn -b :$PORT main:app"}, Protocol: "http",
				Build: &mayfly.Build{Recipe: "pip", Target: "requirements.txt", Fetch: true}}},
		{"a Procfile with shell", tree("main.py", "", "Procfile", "web: A=1 python3 main.py && echo"),
			Found{Text: "Python, started as its Procfile says", Stack: "python", Command: []string{"/bin/sh", "-c", "A=1 python3 main.py && echo"}, Protocol: "http"}},
		{"a Procfile alone", tree("Procfile", "web: ruby app.rb\n", "app.rb", ""),
			Found{Text: "a Procfile", Stack: "ruby", Command: []string{"/bin/sh", "-c", "exec ruby app.rb"}, Protocol: "http"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := detect(tt.files, skipNothing, false)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("\n got %+v\nwant %+v", got, tt.want)
			}
			if err := got.Build.Check(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDetectRefuses(t *testing.T) {
	tests := []struct {
		name  string
		files fstest.MapFS
		want  string
	}{
		{"nothing", tree(), "cannot tell what this code is: there is no Procfile, go.mod, package.json"},
		{"nothing known", tree("README.md", "", "x.rb", ""), "say --stack and --command"},
		{"two handlers", tree("a.py", pyHandler, "b.py", pyHandler), "several files have a handler: a.py, b.py; call one main.py"},
		{"requirements.txt alone", tree("requirements.txt", "x", "a.py", "", "b.py", ""), "there is a requirements.txt, but no Python file with def handle"},
		{"Poetry's list", tree("main.py", pyHandler, "pyproject.toml", "[tool.poetry.dependencies]\npython = '^3'\nx = '1'\n"), "for Poetry alone"},
		{"package.json that starts nothing", tree("package.json", `{"main": "gone.js"}`), "no script start"},
		{"package.json that is none", tree("package.json", "{"), "package.json is no JSON"},
		{"several commands", tree("go.mod", "module x", "cmd/a/m.go", goProgram, "cmd/b/m.go", goProgram), "several programs: cmd/a, cmd/b"},
		{"a library", tree("go.mod", "module x", "x.go", "package x"), "no package main"},
		{"Go that imports others", tree("m.go", "package main\nimport \"a.org/b\"\nfunc main() { b.X() }\n"), "m.go imports a.org/b, and there is no go.mod"},
		{"an odd Handle", tree("m.go", "package m\nfunc Handle(x int) {}\n"), "func Handle in m.go is of no form"},
		{"an empty Procfile", tree("Procfile", "# web: x\n", "main.py", ""), "the Procfile is empty"},
		{"a broken Procfile", tree("Procfile", "web\n", "main.py", ""), `a line "web"`},
		{"a Procfile without web", tree("Procfile", "a: x\nb: y\n", "main.py", ""), "none is web"},
		{"a Procfile of something unknown", tree("Procfile", "web: ./server\n"), "nothing tells what that runs on"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := detect(tt.files, skipNothing, false)
			if mayfly.KindOf(err) != mayfly.Invalid || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %+v, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// What is said stays, what is not is found out, and Forget takes exactly that back.
func TestFill(t *testing.T) {
	py := write(t, "main.py", pyHandler, "requirements.txt", "x\n")
	tests := []struct {
		name     string
		dir      string
		say      mayfly.Workload
		want     mayfly.Workload
		detected string
	}{
		{"all is found out", py, mayfly.Workload{},
			mayfly.Workload{Stack: "python", Handler: "main.handle", Protocol: "handler", Isolation: "run", Build: &mayfly.Build{Recipe: "pip", Target: "requirements.txt", Fetch: true}},
			"stack start protocol isolation build"},
		{"another stack has no need of the build", py, mayfly.Workload{Stack: "host"},
			mayfly.Workload{Stack: "host", Handler: "main.handle", Protocol: "handler", Isolation: "run"}, "start protocol isolation"},
		{"another start", py, mayfly.Workload{Process: mayfly.Process{Command: []string{"x"}}, Isolation: "run"},
			mayfly.Workload{Stack: "python", Process: mayfly.Process{Command: []string{"x"}}, Protocol: "http", Isolation: "run",
				Build: &mayfly.Build{Recipe: "pip", Target: "requirements.txt", Fetch: true}}, "stack protocol build"},
		{"an instance for several at once", py, mayfly.Workload{Stack: "host", Scale: mayfly.Scale{Concurrency: 4}},
			mayfly.Workload{Stack: "host", Handler: "main.handle", Protocol: "handler", Isolation: "instance", Scale: mayfly.Scale{Concurrency: 4}}, "start protocol isolation"},
		{"a program that nobody knows", write(t, "x.pl", ""), mayfly.Workload{Process: mayfly.Process{Command: Shell("perl x.pl")}},
			mayfly.Workload{Stack: "perl", Process: mayfly.Process{Command: Shell("perl x.pl")}, Protocol: "http", Isolation: "instance"}, "stack protocol isolation"},
		{"its build makes what is started", write(t, "package.json", `{"scripts": {"build": "x"}, "devDependencies": {"x": "1"}}`), mayfly.Workload{Handler: "index.handle"},
			mayfly.Workload{Stack: "node", Handler: "index.handle", Protocol: "handler", Isolation: "run", Build: &mayfly.Build{Recipe: "npm", Target: "build", Fetch: true}},
			"stack protocol isolation build"},
		{"another language lies beside it", write(t, "a.py", "", "b.py", "", "x.rb", ""), mayfly.Workload{Process: mayfly.Process{Command: Shell("ruby x.rb")}},
			mayfly.Workload{Stack: "ruby", Process: mayfly.Process{Command: Shell("ruby x.rb")}, Protocol: "http", Isolation: "instance"}, "stack protocol isolation"},
		{"all is said", write(t, "x", ""), mayfly.Workload{Stack: "bash", Process: mayfly.Process{Command: []string{"./x"}}, Protocol: "cgi"},
			mayfly.Workload{Stack: "bash", Process: mayfly.Process{Command: []string{"./x"}}, Protocol: "cgi", Isolation: "run"}, "isolation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := tt.say
			if _, err := Fill(&w, tt.dir); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(w.Detected, " "); got != tt.detected {
				t.Errorf("detected %s, want %s", got, tt.detected)
			}
			back := w
			w.Detected = nil
			if !reflect.DeepEqual(w, tt.want) {
				t.Errorf("\n got %+v\nwant %+v", w, tt.want)
			}
			if Forget(&back); !reflect.DeepEqual(back, tt.say) {
				t.Errorf("forgotten:\n got %+v\nwant %+v", back, tt.say)
			}
		})
	}
	if _, err := Fill(&mayfly.Workload{Stack: "bash"}, write(t, "x", "")); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("nothing says how to start it: %v", err)
	}
}

// Detect looks at what is packed, and at nothing else.
func TestDetectHonoursIgnoreFiles(t *testing.T) {
	f, err := Detect(write(t, "go.mod", "module x", "main.py", pyHandler, IgnoreFile, "go.mod\n"))
	if err != nil || f.Stack != "python" {
		t.Errorf("got %+v, %v", f, err)
	}
}

func FuzzDetect(f *testing.F) {
	for _, s := range [][2]string{
		{"package.json", `{"scripts": {"start": "x"}, "main": "../x"}`}, {"Procfile", "web: a | b"}, {"pyproject.toml", "[project]\ndependencies = [\n'x'"},
		{"requirements.txt", "-r x"}, {"go.mod", "module x\nrequire ("}, {"m.go", goEvent}, {"index.mjs", jsHandler}, {"main.py", pyHandler},
	} {
		f.Add(s[0], s[1], s[1])
	}
	f.Fuzz(func(t *testing.T, name, text, more string) {
		if !fs.ValidPath(name) || name == "." || strings.Contains(name, "/") {
			return
		}
		got, err := detect(tree(name, text, "main.go", more, "cmd/x/main.go", goProgram), skipNothing, false)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("%v", err)
			}
			return
		}
		if err := got.Build.Check(); err != nil {
			t.Errorf("%+v: %v", got, err)
		}
		if got.Stack == "" || got.Text == "" || got.Handler == "" && len(got.Command) == 0 {
			t.Errorf("%+v does not say all", got)
		}
	})
}

func FuzzSources(f *testing.F) {
	f.Add("Types: deb\nURIs: http://a/b\nSuites: x x-updates\nSigned-By: /k\n\ndeb [signed-by=/q] http://c x main\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := sourceOf(text, "x")
		if ok && (s.uri == "" || strings.ContainsAny(s.uri, " \n") || strings.ContainsAny(s.signedBy, " \n]")) {
			t.Errorf("%+v", s)
		}
	})
}

func TestSources(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"deb822", "# a\nTypes: deb\nURIs: http://m/debian http://n\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/k.gpg\n",
			"deb [signed-by=/usr/k.gpg] http://m/debian bookworm-backports main"},
		{"the second paragraph", "URIs: http://s\nSuites: bookworm-security\n\nURIs: http://m\nSuites: bookworm\n", "deb http://m bookworm-backports main"},
		{"one line", "deb-src http://z bookworm main\ndeb [ arch=amd64 signed-by=/k ] http://m bookworm main\n", "deb [signed-by=/k] http://m bookworm-backports main"},
		{"another release", "deb http://m trixie main\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, ok := sourceOf(tt.text, "bookworm")
			if got := s.line("bookworm-backports"); ok != (tt.want != "") || ok && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
