package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	source "github.com/mayfly-run/mayfly/build"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// mayfly runs a verb as a person does, and returns what it wrote.
func (n *node) mayfly(args ...string) (stdout, stderr string, err error) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST="+n.Host())
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	err = cmd.Run()
	return out.String(), told.String(), err
}

// push pushes a folder.
func (n *node) push(name, dir string, flags ...string) string {
	n.t.Helper()
	out, told, err := n.mayfly(append([]string{"push", name, dir, "--host", name + ".test"}, flags...)...)
	if err != nil {
		n.t.Fatalf("push %s: %v\n%s%s", name, err, out, told)
	}
	return told
}

// folder makes a folder of files, from pairs of name and content.
func folder(t testing.TB, pairs ...string) string {
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

// TestHello: examples/hello is one file for each function, and nothing else. From
// push to the first answer takes what is logged here, where the stack is there.
func TestHello(t *testing.T) {
	n := start(t)
	n.stacks("go", "python", "node")
	for _, language := range []string{"py", "node", "go"} {
		name := "hello-" + language
		dir, err := filepath.Abs("../examples/hello/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Fatalf("%s has %v, %v", dir, files, err)
		}
		begun := time.Now()
		var flags []string
		if language == "go" { // a program that brings all it needs; this saves building the stack static
			flags = []string{"--stack", "python"}
		}
		told := n.push(name, dir, flags...)
		if out, said, err := n.mayfly("map-route", name, "--path", "/"+language); err != nil {
			t.Fatalf("map-route: %v\n%s%s", err, out, said)
		}
		resp, err := http.Post(n.url+"/"+language, "application/json", strings.NewReader(`{"name": "Ada"}`))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		t.Logf("%s: %v from push to the first answer", name, time.Since(begun).Round(time.Millisecond))
		var answer struct{ Hello string }
		if err := errors.Join(err, json.Unmarshal(body, &answer)); err != nil || resp.StatusCode != 200 || answer.Hello != "Ada" {
			t.Errorf("%s answered %d %s, %v", name, resp.StatusCode, body, err)
		}
		if !strings.Contains(told, name+" is a ") || !strings.Contains(told, "runs on stack ") {
			t.Errorf("push did not say what it found: %s", told)
		}
	}
}

// stacks builds stacks, two at a time.
func (n *node) stacks(names ...string) {
	n.t.Helper()
	errs := make(chan error, len(names))
	for _, name := range names {
		go func() {
			_, err := n.BuildStack(n.t.Context(), name, false, func(client.Progress) {})
			errs <- err
		}()
	}
	for range names {
		if err := <-errs; err != nil {
			n.t.Fatal(err)
		}
	}
}

// script is a package whose build is a shell script. What it may do is what any
// code may do that is pushed.
func script(t testing.TB, text string) string {
	return folder(t, "package.json", `{"scripts": {"build": "sh ./build.sh"}}`, "build.sh", text, "run.sh", "cat out.txt\n")
}

// build pushes a folder whose build is to be run on the machine's own programs.
func (n *node) build(ctx context.Context, name, dir string, fresh bool, say func(string)) (mayfly.Release, error) {
	n.t.Helper()
	digest, err := n.PutCode(ctx, bytes.NewReader(packed(n.t, dir)))
	if err != nil {
		return mayfly.Release{}, err
	}
	return n.Deploy(ctx, mayfly.Workload{
		Name: name, Stack: "host", Code: digest, Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"sh", "run.sh"}},
		Build: &mayfly.Build{Recipe: "npm", Target: "build", Fresh: fresh}, Routes: []mayfly.Route{{Host: name + ".test", Path: "/"}},
	}, "", func(p client.Progress) { say(p.Text) })
}

// packed is a folder as the push of it is sent.
func packed(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := source.Tar(t.Context(), &b, dir); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBuilds(t *testing.T) {
	n := start(t, "--build-memory", "256m")
	var said []string
	say := func(text string) { said = append(said, text) }
	told := func() string { defer func() { said = nil }(); return strings.Join(said, "\n") }

	t.Run("WhatIsBuiltRuns", func(t *testing.T) {
		dir := script(t, "echo building it; id -u >out.txt; ls /sys/class/net >>out.txt; ls /run/mayfly >>out.txt; env >>out.txt")
		if _, err := n.build(t.Context(), "built", dir, false, say); err != nil {
			t.Fatal(err)
		}
		if log := told(); !strings.Contains(log, "building with npm on stack host") || !strings.Contains(log, "  building it") {
			t.Errorf("the log is not told:\n%s", log)
		}
		_, out, _ := n.with(t).get("built", "/")
		if !strings.HasPrefix(out, "65534\nlo\n") || strings.Contains(out, "api.sock") || strings.Contains(out, "MAYFLY_HOST") {
			t.Errorf("a build has more than it needs:\n%s", out)
		}
	})
	t.Run("TheSameCodeGivesTheSameImage", func(t *testing.T) {
		dir := script(t, "for i in 3 1 2; do echo $i >f$i; sleep 0.01; done; mkdir z a; ln f1 a/hard; ln -s ../f2 z/soft; echo same >out.txt")
		first, err := n.build(t.Context(), "same", dir, false, say)
		if err != nil {
			t.Fatal(err)
		}
		told()
		again, err := n.build(t.Context(), "again", dir, false, say)
		if log := told(); err != nil || again.Image != first.Image || !strings.Contains(log, "nothing to build") {
			t.Errorf("%v, %s and %s\n%s", err, first.Image, again.Image, log)
		}
		anew, err := n.build(t.Context(), "anew", dir, true, say)
		if log := told(); err != nil || anew.Image != first.Image || !strings.Contains(log, "building with npm") {
			t.Errorf("built anew: %v, %s and %s\n%s", err, first.Image, anew.Image, log)
		}
		if anew.Workload.Build.Fresh {
			t.Error("that it was to be built anew is kept")
		}
	})
	t.Run("WhatIsInstalledServesUntilItsListChanges", func(t *testing.T) {
		dir := folder(t, "package.json", `{"dependencies": {"dep": "file:dep-1.0.0.tgz"}}`, "dep-1.0.0.tgz", nodePackage(t, "one"), "dep-2.0.0.tgz", nodePackage(t, "two"))
		const built = `{"devDependencies": {"dep": "file:dep-1.0.0.tgz"}, "scripts": {"build": "node build.mjs"}}`
		for _, step := range []struct{ file, text, log, answer string }{
			{"index.mjs", "import dep from 'dep'; export function handle() { return 'first ' + dep }", "building with npm", "first one"},
			{"index.mjs", "import dep from 'dep'; export function handle() { return 'second ' + dep }", "what it needs was installed before", "second one"},
			{"package.json", `{"dependencies": {"dep": "file:dep-2.0.0.tgz"}}`, "building with npm", "second two"},
			{"build.mjs", "import dep from 'dep'; import fs from 'fs'; fs.writeFileSync('index.mjs', `export function handle() { return 'built of ${dep}' }`)", "", "second two"},
			{"package.json", built, "building with npm", "built of one"},
			{"build.mjs", "import dep from 'dep'; import fs from 'fs'; fs.writeFileSync('index.mjs', `export function handle() { return 'built anew of ${dep} ' + " +
				"fs.existsSync('node_modules/dep') }; import fs from 'fs'`)", "what it needs was installed before", "built anew of one false"},
		} {
			b := &mayfly.Build{Recipe: "npm"}
			if text, _ := os.ReadFile(dir + "/package.json"); strings.Contains(string(text), "scripts") || strings.Contains(step.text, "scripts") {
				b.Target = "build"
			}
			if err := os.WriteFile(dir+"/"+step.file, []byte(step.text), 0o644); err != nil {
				t.Fatal(err)
			}
			digest, err := n.PutCode(t.Context(), bytes.NewReader(packed(t, dir)))
			if err != nil {
				t.Fatal(err)
			}
			_, err = n.Deploy(t.Context(), mayfly.Workload{
				Name: "needs", Stack: "host", Code: digest, Protocol: mayfly.Handler, Handler: "index.handle",
				Build: b, Routes: []mayfly.Route{{Host: "needs.test", Path: "/"}},
			}, "", func(p client.Progress) { say(p.Text) })
			if log := told(); err != nil || !strings.Contains(log, step.log) {
				t.Fatalf("%s: %v\n%s", step.answer, err, log)
			}
			if _, got, _ := n.with(t).get("needs", "/"); got != step.answer {
				t.Errorf("it says %q, not %q", got, step.answer)
			}
		}
	})
	for _, tt := range []struct{ name, does, want string }{
		{"Fails", "echo it does not work >&2; exit 3", "the build of bad failed: exit code 3. Its log ends with:|it does not work"},
		{"EatsMemory", "echo eating; head -c 1500000000 /dev/zero >big; echo done", "it ran out of memory: it may use 256 MB"},
		{"LeadsOutside", "ln -s ../../etc/passwd out.txt", `code: "out.txt" is a link to "../../etc/passwd", which leaves the code's folder`},
		{"HidesFilesOfTheStack", "touch .wh.usr", `code: the name ".wh.usr" is reserved`},
		{"BringsAPipe", "mkfifo out.txt", `code: "out.txt" is neither file, folder nor link`},
	} {
		t.Run("ABuildThat"+tt.name, func(t *testing.T) {
			_, err := n.build(t.Context(), "bad", script(t, tt.does), false, say)
			told()
			for _, want := range strings.Split(tt.want, "|") {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant %s", err, want)
				}
			}
			if _, err := n.GetWorkload(t.Context(), "bad"); mayfly.KindOf(err) != mayfly.NotFound {
				t.Errorf("there is a release: %v", err)
			}
		})
	}
	t.Run("ABuildThatIsInterruptedLeavesNothing", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		_, err := n.build(ctx, "bad", script(t, "echo endless; sleep 1000"), false, func(text string) {
			if strings.Contains(text, "endless") {
				interrupt()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		n.with(t).noBuilds()
	})
	t.Run("ADaemonThatIsKilledInTheMiddleLeavesNothing", func(t *testing.T) {
		_, err := n.build(t.Context(), "bad", script(t, "echo endless; sleep 1000"), false, func(text string) {
			if strings.Contains(text, "endless") {
				n.cmd.Process.Kill()
			}
		})
		if err == nil {
			t.Error("the build of a killed daemon succeeded")
		}
		n.cmd.Wait()
		n.up()
		n.with(t).noBuilds()
	})
}

// nodePackage is a package of Node.js, as npm packs it, that exports a text.
func nodePackage(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, content := range map[string]string{"package/package.json": `{"name": "dep", "version": "1.0.0", "main": "index.js"}`, "package/index.js": "module.exports = '" + text + "'"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestABuildHasAnEnd: what never ends, or becomes more and more processes, is ended.
func TestABuildHasAnEnd(t *testing.T) {
	n := start(t, "--build-time", "8s")
	// The shell has what it waits for before there is no room for another process.
	for name, does := range map[string]string{"NeverEnds": "sleep 1000", "Forks": "sleep 1000 & s=$!; f() { f | f & }; f; wait $s"} {
		t.Run(name, func(t *testing.T) {
			_, err := n.build(t.Context(), "bad", script(t, does), false, func(string) {})
			if mayfly.KindOf(err) != mayfly.TimedOut || !strings.Contains(err.Error(), "the build of bad took longer than 8s") {
				t.Errorf("got %v", err)
			}
			n.with(t).noBuilds()
		})
	}
}

// TestABuildWhoseTimeIsOverAtOnce: it says so, wherever the build is then.
func TestABuildWhoseTimeIsOverAtOnce(t *testing.T) {
	n := start(t, "--build-time", "1ms")
	_, err := n.build(t.Context(), "bad", script(t, "sleep 1000"), false, func(string) {})
	if mayfly.KindOf(err) != mayfly.TimedOut || !strings.Contains(err.Error(), "the build of bad took longer than 1ms") {
		t.Errorf("got %v", err)
	}
	n.noBuilds()
}

// TestABuildWithoutANetwork: where nothing can be fetched, one line says that and what
// to do.
func TestABuildWithoutANetwork(t *testing.T) {
	t.Setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9") // nobody listens there, in any container
	n := start(t)
	dir := folder(t, "package.json", `{"dependencies": {"left-pad": "1"}}`, "index.mjs", "export function handle() {}\n")
	digest, err := n.PutCode(t.Context(), bytes.NewReader(packed(t, dir)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Deploy(t.Context(), mayfly.Workload{
		Name: "far", Stack: "host", Code: digest, Protocol: mayfly.Handler, Handler: "index.handle", Build: &mayfly.Build{Recipe: "npm", Fetch: true},
	}, "", func(client.Progress) {})
	want := "the build of far cannot fetch what it needs with npm: ECONNREFUSED; start mayfly up where there is a network, or with NPM_CONFIG_REGISTRY or HTTPS_PROXY "
	if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// noBuilds fails the test if anything is left of a build after a while.
func (n *node) noBuilds() {
	n.t.Helper()
	n.until("no build has a container", func() bool {
		hosts, _ := filepath.Glob(n.dir + "/data/volatile/*/hostname")
		for _, name := range hosts {
			if text, _ := os.ReadFile(name); strings.TrimSpace(string(text)) == "build" {
				return false
			}
		}
		return true
	})
	n.until("no process of it runs", func() bool {
		list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range list {
			if text, _ := os.ReadFile(name); strings.Contains(string(text), "mayfly-build") && strings.Contains(string(text), "npm") {
				if link, _ := os.Readlink(filepath.Dir(name) + "/root"); strings.HasPrefix(link, n.dir) {
					return false
				}
			}
		}
		return true
	})
	n.until("no part of what it makes is there", func() bool {
		parts, _ := filepath.Glob(n.dir + "/data/builds/.part-*")
		return len(parts) == 0
	})
}

// TestReleasesOfAFunction: each push is a release; one can go back to the ten that
// are kept, however many follow.
func TestReleasesOfAFunction(t *testing.T) {
	n := start(t)
	dir := t.TempDir()
	version := func(i int) {
		if err := os.WriteFile(dir+"/main.py", fmt.Appendf(nil, "def handle(event, context):\n    return 'version %d'\n", i), 0o644); err != nil {
			t.Fatal(err)
		}
		n.push("fn", dir, "--stack", "host", "-e", fmt.Sprintf("N=%d", i))
	}
	answers := func(i int) {
		t.Helper()
		if _, body, _ := n.get("fn", "/"); body != fmt.Sprintf("version %d", i) {
			t.Errorf("got %q, not version %d", body, i)
		}
	}
	const pushes = 14
	for i := range pushes {
		version(i + 1)
	}
	answers(pushes)
	list, err := n.Releases(t.Context(), "fn")
	if err != nil || len(list) > 12 || len(list) < 10 || !list[0].Wanted || list[0].Number != pushes {
		t.Fatalf("%d releases, %v", len(list), err)
	}
	if out, told, err := n.mayfly("rollback", "fn"); err != nil || out != "fn release 13\n" {
		t.Errorf("rollback: %v %s%s", err, out, told)
	}
	answers(13)
	oldest := list[len(list)-1].Number
	if _, err := n.Rollback(t.Context(), "fn", oldest, func(client.Progress) {}); err != nil {
		t.Fatal(err)
	}
	answers(oldest)
	_, err = n.Rollback(t.Context(), "fn", 1, func(client.Progress) {})
	if mayfly.KindOf(err) != mayfly.NotFound || !strings.Contains(err.Error(), "there is no release 1 of fn to go back to; there are") {
		t.Errorf("a release that is gone: %v", err)
	}
	out, _, err := n.mayfly("diff", "fn", "13", "14")
	if want := "fn: from release 13 to release 14\n  env.N: 13 -> 14\n  changed main.py\n"; err != nil || out != want {
		t.Errorf("diff: %v\n%s", err, out)
	}
	// A release that does not become ready is given up, and nothing changes.
	if err := os.WriteFile(dir+"/main.py", []byte("def handle(event, context): pass\nraise SystemExit('broken on purpose')\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, told, err := n.mayfly("push", "fn", dir); err == nil || !strings.Contains(told, "broken on purpose") {
		t.Errorf("a broken push: %v\n%s", err, told)
	}
	answers(oldest)
	if list, err := n.Releases(t.Context(), "fn"); err != nil || !list[0].GivenUp || list[0].Wanted {
		t.Errorf("releases after a broken push: %+v, %v", list[0], err)
	}
	version(16) // and settings of earlier pushes are kept
	answers(16)
	if w, err := n.GetWorkload(t.Context(), "fn"); err != nil || w.Workload.Stack != "host" || w.Workload.Env["N"] != "16" || len(w.Workload.Routes) != 1 {
		t.Errorf("%+v, %v", w.Workload, err)
	}
	news, err := n.ListNews(t.Context(), client.NewsFilter{Subject: "fn", Type: "release"})
	if err != nil || len(news) < pushes || news[0].Type != "release.pushed" {
		t.Errorf("%d news, %v", len(news), err)
	}
}
