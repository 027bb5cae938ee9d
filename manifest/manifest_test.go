package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestParse(t *testing.T) {
	const text = `
name: holiday
x-env: &env
  LANG: C.UTF-8
  EMPTY:
functions:
  thumbnail:
    stack: python
    code: ./thumbnail
    handler: main.handle
    memory: 256MB
    cpus: 0.5
    pids: 64
    files: 256
    timeout: 30s
    concurrency: 20
    maxBody: 8m
    env: {<<: *env, SIZE: 128, WHO: "${WHO:-nobody}", FROM: $FROM}
    routes: [{path: /thumbnail/}, {path: /t, host: Photos.example.org}, /u, photos.example.org/v]
  echo:
    image: busybox
    protocol: stdio
    command: sh -c 'cat; echo "a b"'
    entrypoint: []
    env: [A=1, FROM, UNSET, "B=x=y"]
    network: none
    user: "1000:1000"
    workdir: /srv
    readOnly: true
    memory: 4194304
`
	got, err := Parse("dir/mayfly.yaml", []byte(text), Options{Env: map[string]string{"FROM": "here"}, Space: "team"})
	if err != nil {
		t.Fatal(err)
	}
	want := &Manifest{
		Name: "holiday",
		Functions: []Workload{{
			Workload: mayfly.Workload{
				Space: "team", Name: "echo", App: "holiday", Image: "busybox", Protocol: mayfly.Stdio, Isolation: mayfly.IsolationRun,
				Process: mayfly.Process{
					Entrypoint: []string{},
					Command:    []string{"sh", "-c", `cat; echo "a b"`},
					Env:        map[string]string{"A": "1", "FROM": "here", "B": "x=y"},
					User:       "1000:1000", WorkDir: "/srv",
				},
				Resources: mayfly.Resources{Memory: 4 << 20},
				ReadOnly:  true, Network: "none",
			},
		}, {
			Workload: mayfly.Workload{
				Space: "team", Name: "thumbnail", App: "holiday", Stack: "python", Handler: "main.handle",
				Protocol: mayfly.Handler, Isolation: mayfly.IsolationRun,
				Process: mayfly.Process{
					Env: map[string]string{"LANG": "C.UTF-8", "SIZE": "128", "WHO": "nobody", "FROM": "here"},
				},
				Resources:   mayfly.Resources{Memory: 256 << 20, CPUs: 0.5, Pids: 64, Files: 256},
				Concurrency: 20, Timeout: 30 * time.Second, MaxBody: 8 << 20,
				Routes: []mayfly.Route{
					{Path: "/thumbnail"}, {Path: "/t", Host: "photos.example.org"},
					{Path: "/u"}, {Path: "/v", Host: "photos.example.org"},
				},
			},
			CodeDir: "dir/thumbnail",
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("Parse (-want +got):\n" + diff)
	}
}

// one is a manifest with a single function of the given lines.
func one(lines ...string) string {
	return "functions:\n  f:\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", `m.yaml is empty; say what to run under functions:`},
		{"list", "- a", `m.yaml:1:1: a manifest is a mapping of keys (- a); begin with functions:`},
		{"unknown top", "functons: {}", `m.yaml:1:1: unknown key "functons" (functons: {}); did you mean "functions"?`},
		{"unknown key", one("image: a", "handlr: main.handle"),
			`m.yaml:4:5: function "f": unknown key "handlr" (handlr: main.handle); did you mean "handler"?`},
		{"far key", one("image: a", "zebra: 1"),
			`m.yaml:4:5: function "f": unknown key "zebra" (zebra: 1); known here: code, command, concurrency, configs, cpus, entrypoint, env, events, files, handler, image, isolation, key, labels, maxBody, memory, network, pids, protocol, provides, rate, readOnly, requires, retries, routes, scale, schedules, secrets, stack, timeout, user, volumes, workdir`},
		{"scale number", one("image: a", "scale: 3"),
			`m.yaml:4:12: function "f": scale of a function must be a mapping: it has as many instances as its runs need (scale: 3); write scale: {min: 0, max: 10}`},
		{"scale order", one("image: a", "scale: {min: 3, max: 2}"), `m.yaml:4:26: function "f": scale: max is less than min (scale: {min: 3, max: 2})`},
		{"scale active", one("image: a", "scale: {active: 1}"), `m.yaml:4:21: function "f": scale: active is for services: every instance of a function works (scale: {active: 1})`},
		{"scale unknown", one("image: a", "scale: {mix: 1}"), `m.yaml:4:13: function "f": scale: unknown key "mix" (scale: {mix: 1}); did you mean "max"?`},
		{"scale idle", one("image: a", "scale: {idle: 5}"), `m.yaml:4:19: function "f": scale: idle "5" is not a duration (scale: {idle: 5}); add a unit, as in 5s`},
		{"scale concurrency", one("image: a", "scale: {concurrency: 2}"),
			`m.yaml:4:26: function "f": scale: with isolation run each instance serves one run (scale: {concurrency: 2}); add isolation: instance`},
		{"scale cooldown", one("image: a", "scale: {cooldown: 1m}"),
			`m.yaml:4:23: function "f": scale: with isolation run each instance ends with its run (scale: {cooldown: 1m}); add isolation: instance`},
		{"far top key", "zebra: 1", `m.yaml:1:1: unknown key "zebra" (zebra: 1); known here: configs, functions, include, name, secrets, services, stacks, volumes`},
		{"tabs", "functions:\n\tf: {image: a}\n",
			`m.yaml:2:1: found character ' ' that cannot start any token (f: {image: a}); indent with spaces: YAML takes no tabs`},
		{"memory overflow", one("image: a", "memory: 99999999999GB"), `m.yaml:4:13: function "f": memory must be at most 8TB (memory: 99999999999GB)`},
		{"byte order mark, carriage returns", "\ufefffunctions:\r\n  f: {}\r\n",
			`m.yaml:2:3: function "f": nothing says what to run (f: {}); add code: ./FOLDER, or image: NAME`},
		{"synonym", one("image: a", "environment: {A: b}"),
			`m.yaml:4:5: function "f": unknown key "environment" (environment: {A: b}); did you mean "env"?`},
		{"later", one("image: a", "priority: 3"),
			`m.yaml:4:5: function "f": "priority" is not supported yet (priority: 3); remove it`},
		{"models", "models: {m: {}}", `m.yaml:1:1: "models" is not supported yet (models: {m: {}}); remove it`},
		{"nothing", one("timeout: 3s"),
			`m.yaml:2:3: function "f": nothing says what to run (f:); add code: ./FOLDER, or image: NAME`},
		{"both", one("image: a", "stack: host", "code: ./c"),
			`m.yaml:4:12: function "f": image and stack exclude each other (stack: host); keep one of them`},
		{"name", "functions:\n  Big: {image: a}\n",
			`m.yaml:2:3: function "Big" is not a valid name (Big: {image: a}); use 1 to 63 of a-z, 0-9 and '-', not starting or ending with '-'`},
		{"timeout unit", one("image: a", "timeout: 30"),
			`m.yaml:4:14: function "f": timeout "30" is not a duration (timeout: 30); add a unit, as in 30s`},
		{"timeout zero", one("image: a", "timeout: 0s"), `m.yaml:4:14: function "f": timeout must be more than 0 (timeout: 0s)`},
		{"timeout long", one("image: a", "timeout: 25h"), `m.yaml:4:14: function "f": timeout must be at most 24h (timeout: 25h)`},
		{"memory", one("image: a", "memory: 1MB"), `m.yaml:4:13: function "f": memory must be at least 4MB (memory: 1MB)`},
		{"memory word", one("image: a", "memory: much"),
			`m.yaml:4:13: function "f": memory "much" is not a size (memory: much); write it like 256MB or 1GB`},
		{"handler with image", one("image: a", "handler: main.handle"),
			`m.yaml:4:14: function "f": handler needs a stack, whose loader calls it (handler: main.handle); use stack and code`},
		{"handler with http", one("stack: host", "code: c", "protocol: http", "handler: main.handle"),
			`m.yaml:6:14: function "f": handler and protocol http exclude each other (handler: main.handle); remove one of them`},
		{"handler missing", one("stack: host", "code: c", "protocol: handler", "command: [a]"),
			`m.yaml:5:15: function "f": protocol handler needs a handler (protocol: handler); add handler: FILE.FUNCTION, as in main.handle`},
		{"handler dots", one("stack: host", "code: c", "handler: ../main.handle"),
			`m.yaml:5:14: function "f": handler "../main.handle" is not valid (handler: ../main.handle); write FILE.FUNCTION, as in main.handle`},
		{"protocol", one("image: a", "protocol: grpc"),
			`m.yaml:4:15: function "f": protocol cannot be "grpc" (protocol: grpc); use http, cgi, stdio or handler`},
		{"instance", one("image: a", "protocol: cgi", "isolation: instance"),
			`m.yaml:5:16: function "f": isolation instance does not fit protocol cgi, which is a process for each run (isolation: instance); use protocol http or handler, or isolation run`},
		{"code outside", one("stack: host", "code: ../c"),
			`m.yaml:4:11: function "f": code "../c" is not beneath the manifest's folder (code: ../c); use a relative path without ..`},
		{"route twice", "functions:\n  a: {image: a, routes: [/x]}\n  b: {image: a, routes: [/y, /x/]}\n",
			`m.yaml:3:30: function "b": route /x is here twice (b: {image: a, routes: [/y, /x/]}); give each route to one function, or all of them a weight`},
		{"route", one("image: a", "routes: [x]"), `m.yaml:4:14: function "f": route path "x" is not absolute (routes: [x]); begin it with /`},
		{"route method", one("image: a", "routes: [{method: G T}]"), `m.yaml:4:23: function "f": route method "G T" is not a method (routes: [{method: G T}]); write it like GET or POST`},
		{"route weight", one("image: a", "routes: [{weight: 1001}]"), `m.yaml:4:23: function "f": weight must be a whole number from 1 to 1000 (routes: [{weight: 1001}])`},
		{"route port", one("image: a", "routes: [{port: http}]"), `m.yaml:4:14: function "f": f is a function, of which no port is chosen (routes: [{port: http}]); leave the route's port out`},
		{"a service's route", "services:\n  w:\n    image: a\n    routes: [/]\n", `m.yaml:4:14: service "w": w provides no port that a route could lead to (routes: [/]); add provides: {http: PORT} to it`},
		{"a service's route's port", "services:\n  w:\n    image: a\n    provides: {a: 1, b: 2}\n    routes: [/]\n", `m.yaml:5:14: service "w": w provides several ports, and none is called http (routes: [/]); choose one for the route: port: a or b`},
		{"a service's route's release", "services:\n  w:\n    image: a\n    provides: {a: 1}\n    routes: [{release: 2}]\n", `m.yaml:5:14: service "w": w is a service, of which one release runs at a time (routes: [{release: 2}]); deploy the other one as a service of its own, and share the route by weights`},
		{"route key", one("image: a", "routes: [{pth: /x}]"),
			`m.yaml:4:15: function "f": unknown key "pth" (routes: [{pth: /x}]); did you mean "path"?`},
		{"syntax", "a: [1", `m.yaml:1:4: sequence end token ']' not found (a: [1)`},
		{"duplicate", one("image: a", "image: b"), `m.yaml:4:5: mapping key "image" already defined at [3:5] (image: b)`},
		{"alias", one("image: *x"), `m.yaml:3:12: no anchor &x stands before its alias (image: *x)`},
		{"two documents", "name: a\n---\nname: b\n",
			`m.yaml:3:1: a manifest is one YAML document, and here a second one begins (name: b); put it into a file of its own`},
		{"variable", one("image: ${X:?say which}"),
			`m.yaml:3:12: required variable X is missing a value: say which (image: ${X:?say which}); write $$ for a plain $`},
		{"depth", "a: " + strings.Repeat("[", 70), `m.yaml:1:68: nested deeper than 64 levels (a: ` + strings.Repeat("[", 57) + `...)`},
		{"include", "include: [x.yaml]", `m.yaml:1:11: include needs a manifest that is a file (include: [x.yaml])`},
		{"project", "name: Big Name", `m.yaml:1:7: name "Big Name" is not a valid project name (name: Big Name); use a-z, 0-9, '-' and '_', starting with a letter or digit`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("m.yaml", []byte(tt.text), Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("kind %s, want invalid", mayfly.KindOf(err))
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// write makes a folder with files from pairs of name and content.
func write(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		name := filepath.Join(dir, pairs[i])
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(pairs[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := write(t,
		"mayfly.yaml", "include: [sub/more.yaml]\nfunctions: {a: {stack: host, code: a, command: $CMD}}",
		".env", "CMD=./run\nWHO=file\n",
		"a/run", "",
		"sub/more.yaml", "functions: {b: {stack: host, code: ./c, command: x, env: {WHO: $WHO, SUB: $SUB}}}",
		"sub/.env", "SUB=yes\nWHO=sub\n",
		"sub/c/main", "",
	)
	m, err := Load(filepath.Join(dir, "mayfly.yaml"), Options{Env: map[string]string{"WHO": "caller"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Functions) != 2 || len(m.Warnings) != 0 {
		t.Fatalf("got %d functions and warnings %q", len(m.Functions), m.Warnings)
	}
	a, b := m.Functions[0], m.Functions[1]
	if diff := cmp.Diff([]string{"./run"}, a.Command); diff != "" {
		t.Error("command from .env:", diff)
	}
	if want := filepath.Join(dir, "a"); a.CodeDir != want {
		t.Errorf("code of a: %s, want %s", a.CodeDir, want)
	}
	if want := filepath.Join(dir, "sub/c"); b.CodeDir != want {
		t.Errorf("code of the included b: %s, want %s", b.CodeDir, want)
	}
	if diff := cmp.Diff(map[string]string{"WHO": "caller", "SUB": "yes"}, b.Env); diff != "" {
		t.Error("env of b:", diff)
	}
}

func TestLoadErrors(t *testing.T) {
	f := func(code string) string { return "functions: {a: {stack: host, code: " + code + "}}" }
	tests := []struct {
		name  string
		files []string
		link  string // made as "link", pointing here
		want  string // after the folder's name
	}{
		{"missing", nil, "", `no manifest at DIR/mayfly.yaml; write one, or name it with -f FILE`},
		{"no code", []string{"mayfly.yaml", f("x")}, "",
			`DIR/mayfly.yaml:1:36: function "a": code folder "x" cannot be opened: no such file or directory (functions: {a: {stack: host, code: x}})`},
		{"code is a file", []string{"mayfly.yaml", f("x"), "x", ""}, "",
			`DIR/mayfly.yaml:1:36: function "a": code "x" is not a folder (functions: {a: {stack: host, code: x}}); name its folder`},
		{"code leaves by a link", []string{"mayfly.yaml", f("link")}, "/etc",
			`DIR/mayfly.yaml:1:36: function "a": code folder "link" cannot be opened: path escapes from parent (functions: {a: {stack: host, code: link}})`},
		{"include missing", []string{"mayfly.yaml", "include: [x.yaml]"}, "",
			`DIR/mayfly.yaml:1:11: included file "x.yaml" does not exist (include: [x.yaml])`},
		{"include outside", []string{"mayfly.yaml", "include: [../x.yaml]"}, "",
			`DIR/mayfly.yaml:1:11: included file "../x.yaml" is not beneath the manifest's folder (include: [../x.yaml]); use a relative path without ..`},
		{"include itself", []string{"mayfly.yaml", "include: [a.yaml]", "a.yaml", "include: [./mayfly.yaml]"}, "",
			`DIR/a.yaml:1:11: "./mayfly.yaml" includes itself (include: [./mayfly.yaml])`},
		{"function twice", []string{"mayfly.yaml", "include: [a.yaml]\nfunctions: {f: {image: a}}", "a.yaml", "functions: {f: {image: a}}"}, "",
			`DIR/a.yaml:1:13: function "f" is defined in another file too (functions: {f: {image: a}}); rename one`},
		{"folder", []string{"mayfly.yaml/x", ""}, "", `DIR/mayfly.yaml is a folder; name the file, as in -f DIR/mayfly.yaml/mayfly.yaml`},
		{"too large", []string{"mayfly.yaml", "#" + strings.Repeat("x", MaxSize)}, "",
			`DIR/mayfly.yaml is larger than 1048576 bytes; split it with include`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, tt.files...)
			if tt.link != "" {
				if err := os.Symlink(tt.link, filepath.Join(dir, "link")); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(filepath.Join(dir, "mayfly.yaml"), Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	m, err := Parse("m.yaml", []byte(one("image: a", "user: $UNSET", "workdir: /${ALSO-srv}${SET+x}", "command: $$HOME ${EMPTY:-}")), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"m.yaml:4:11: the variable UNSET is not set, so it is empty; write $$ if the container's own is meant (user: $UNSET)"}
	if diff := cmp.Diff(want, m.Warnings); diff != "" {
		t.Error("warnings (-want +got):\n" + diff)
	}
	if f := m.Functions[0]; f.WorkDir != "/srv" || f.Command[0] != "$HOME" {
		t.Errorf("got workdir %q and command %q", f.WorkDir, f.Command)
	}
}

// What costs a reader time or memory out of proportion must be refused.
func TestBombs(t *testing.T) {
	const size = MaxSize / 4 // enough to see it; the whole costs seconds under -race
	tests := map[string]string{
		"flow maps":  strings.Repeat("{a: ", size/4),
		"flow lists": strings.Repeat("[", size),
		"dashes":     strings.Repeat("- ", size/2),
		"questions":  strings.Repeat("? ", size/2),
		"anchors":    strings.Repeat("&a ", size/3),
		"tags":       strings.Repeat("!!str ", size/6),
		"colons":     strings.Repeat("a: ", size/3),
		"laughs":     bomb(),
		"within":     "x-a: &a [*a]",
		"quotes":     strings.Repeat(`"`, size),
		"lines":      strings.Repeat("a\n", size/2),
		"spaces":     strings.Repeat(" \n", size/2),
		"tabs":       strings.Repeat("\t", size),
		"comments":   strings.Repeat("#\n", size/2),
		"pipes":      strings.Repeat("|\n", size/2),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("m.yaml", []byte(text), Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if s := err.Error(); strings.ContainsRune(s, '\n') || len(s) > 400 {
				t.Errorf("not one short line: %q", s[:min(len(s), 400)])
			}
		})
	}
}

// bomb is a "billion laughs": ten levels of lists of ten aliases.
func bomb() string {
	var b strings.Builder
	b.WriteString("x-0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := '1'; i <= '9'; i++ {
		b.WriteString("x-" + string(i) + ": &a" + string(i) + " [" + strings.Repeat("*a"+string(i-1)+", ", 9) + "*a" + string(i-1) + "]\n")
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "functions: {}", one("image: a"), one("stack: host", "code: ./c", "handler: main.handle", "routes: [/x, {path: /y, host: a.b}]"),
		one("image: a", "env: {A: ${B:-c}}", "command: a 'b c' \"d\"", "memory: 1gb", "timeout: 1.5s"),
		one("image: a", `schedules: ["@daily", {cron: "0 3 L * 5#1", tz: Europe/Berlin, start: 2031-01-01, payload: {a: [1]}, every: 1h}]`),
		"x: &a {b: c}\nfunctions: {f: {<<: *a, image: x}}", bomb()[:200], "services: {a: {image: b}}",
		"a: |\n  b\n", "? a\n: b\n", "!!str a: !reset b", "%YAML 1.2\n---\na: b\n...\n", "- [a, {b: c}]", "a: \"\\u00e9\"\n", "\xff\xfe", "a: ~\n", "0\r#00\r000", "* 000000\n\r00",
		svc("requires: {db: {tags: {a: {regex: x}, b: [c]}, on_change: HUP}}", "ports: ['80-82:80-82/udp', {target: 1}]", "volumes: ['d:/d:ro', ./x:/y]", "secrets: [a]") + "volumes: {d: {size: 1g, events: {type: a, match: [b], depth: 3}}}\nsecrets: {a: {external: true}}\nstacks: {s: {packages: [a]}}\n",
		"services: {a: {image: b, extends: c, depends_on: {c: {condition: service_healthy}}, healthcheck: {test: [CMD, x]}, networks: {n: {aliases: [z]}}}, c: {image: d, deploy: {replicas: 2, resources: {limits: {memory: 5m}}}, ulimits: {nofile: {soft: 1, hard: 2}}, tmpfs: /t:size=1m}}\nnetworks: {n: }",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("m.yaml", data, Options{})
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("kind %s: %v", mayfly.KindOf(err), err)
			}
			if strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		for _, fn := range append(m.Functions, m.Services...) {
			if err := mayfly.CheckName("function", fn.Name); err != nil {
				t.Error(err)
			}
			if fn.App != m.Name {
				t.Errorf("%s is of app %q", fn.Name, fn.App)
			}
			if (fn.Image == "") == (fn.Stack == "") {
				t.Errorf("%s has image %q and stack %q", fn.Name, fn.Image, fn.Stack)
			}
			if fn.CodeDir != "" && !filepath.IsLocal(fn.CodeDir) {
				t.Errorf("code of %s leaves the folder: %q", fn.Name, fn.CodeDir)
			}
		}
	})
}
