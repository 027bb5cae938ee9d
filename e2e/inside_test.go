package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// insideAsk has a function ask the API at its socket.
func (n *node) insideAsk(function, method, path, body string) string {
	n.t.Helper()
	status, text, _ := n.post(function, "/ask?method="+method+"&path="+path, strings.NewReader(body))
	if status != 200 {
		n.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	return text
}

// identity is what came with a status 200.
func identity(t *testing.T, answer string) (who mayfly.Identity) {
	t.Helper()
	text, ok := strings.CutPrefix(answer, "200 ")
	if !ok || json.NewDecoder(strings.NewReader(text)).Decode(&who) != nil {
		t.Fatalf("got %s", answer)
	}
	return who
}

// TestInside: a function, and what `mayfly run` runs, know who they are at
// their socket, call other functions, and may do nothing else.
func TestInside(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web", Process: mayfly.Process{User: "1234:1234"}})
	n.deploy(mayfly.Workload{Name: "other"})
	who := identity(t, n.insideAsk("web", "GET", "/v1/self", ""))
	if who.Space != "default" || who.Workload != "web" || who.Release != 1 || who.Run == "" || who.Instance == "" || who.Attempt != 1 || who.Task {
		t.Errorf("a function is %+v", who)
	}
	if r := n.runOf(who.Run); r.Instance != who.Instance {
		t.Errorf("%+v is the run of %s", r, who.Instance)
	}
	if got := n.insideAsk("web", "POST", "/v1/workloads/other/call/count", "12345"); !strings.HasPrefix(got, "200 5") {
		t.Errorf("a call answers %s", got)
	}
	for _, denied := range [][2]string{{"GET", "/v1/instances"}, {"POST", "/v1/down"}, {"GET", "/v1/self?space=other"}} {
		if got := n.insideAsk("web", denied[0], denied[1], ""); !strings.HasPrefix(got, "403 ") {
			t.Errorf("%s %s answers %s", denied[0], denied[1], got)
		}
	}
	in := n.runDetached("one", "/app", "ask", "GET", "/v1/self")
	if _, err := n.WaitInstance(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	if who := identity(t, n.log("one")); who.Instance != in.ID || who.Space != "default" || who.Workload != "" || who.Run != "" {
		t.Errorf("an instance is %+v", who)
	}
	n.runDetached("own", "sh", "-c", "echo $MAYFLY_HOST")
	if _, err := n.WaitInstance(t.Context(), "own"); err != nil || n.log("own") != "unix:///run/mayfly/api.sock\n" {
		t.Errorf("MAYFLY_HOST is %q", n.log("own"))
	}
	n.until("sockets are left of those that wait, and two that have ended", func() bool {
		left, _ := filepath.Glob(n.dir + "/data/*/*/run/api.sock")
		return len(left) <= 6
	})
}

// TestInsideSurvives: the socket of a container that goes on works again when
// there is another daemon.
func TestInsideSurvives(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	in, err := n.CreateInstance(t.Context(), mayfly.InstanceSpec{
		Name: "on", Image: "app", Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		Process: mayfly.Process{Command: []string{"sh", "-c", "/app ask GET /v1/self; while [ ! -e /shared/go ]; do sleep 0.02; done; exec /app ask GET /v1/self"}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.StartInstance(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	var line string
	enough := errors.New("enough")
	if err := n.InstanceLogs(t.Context(), "on", mayfly.LogOptions{Tail: -1, Follow: true}, func(e mayfly.LogEntry) error {
		if line += string(e.Data); strings.HasSuffix(line, "\n") {
			return enough
		}
		return nil
	}); err != enough {
		t.Fatal(err)
	}
	first := identity(t, line)
	n.kill()
	n.up()
	if err := os.WriteFile(shared+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if in, err := n.WaitInstance(t.Context(), "on"); err != nil || in.Exit.Code != 0 {
		t.Fatalf("%+v, %v", in.Exit, err)
	}
	_, second, _ := strings.Cut(n.log("on"), "\n")
	if who := identity(t, second); !reflect.DeepEqual(who, first) {
		t.Errorf("it is %+v after %+v", who, first)
	}
}

// TestInsideOfATask: the program of a task says how far it is, before and after
// a kill of the daemon, and its socket still knows it.
func TestInsideOfATask(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	n.shell("work", `/app ask PUT /v1/self/progress '{"percent":10,"message":"begun"}'
while [ ! -e /shared/go ]; do sleep 0.02; done
/app ask PUT /v1/self/progress '{"percent":90}'
/app ask PUT /v1/self/progress '{"percent":900}'
/app ask GET /v1/self`, func(w *mayfly.Workload) {
		w.Mounts = []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}}
	})
	task := n.submit(mayfly.Submission{Workload: "work"})
	n.untilTask(task.ID, func(t mayfly.Task) bool {
		return t.Progress != nil && t.Progress.Percent == 10 && t.Progress.Message == "begun"
	})
	n.kill()
	n.up()
	if err := os.WriteFile(shared+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if done := n.waitTask(task.ID); done.State != mayfly.TaskSucceeded || done.Attempt != 1 {
		t.Fatalf("%+v", done)
	}
	out, err := n.TaskResult(t.Context(), task.ID)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	if len(lines) < 4 || lines[0] != "204 " || lines[1] != "204 " || !strings.HasPrefix(lines[2], "400 ") {
		t.Fatalf("got %s", out)
	}
	if who := identity(t, lines[3]); who.Run != task.ID || !who.Task || who.Attempt != 1 || who.Workload != "work" {
		t.Errorf("it is %+v", who)
	}
}

// TestInsideOfASpace: what one space has, the containers of another can neither
// see nor use.
func TestInsideOfASpace(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "secret"})
	task := n.submit(mayfly.Submission{Workload: "secret", NotBefore: time.Now().Add(time.Hour)})
	other := mayfly.Workload{Name: "web", Image: "app", Process: mayfly.Process{Command: []string{"/app"}}, Routes: []mayfly.Route{{Host: "web.test", Path: "/"}}}
	if _, err := n.WithSpace("blog").Deploy(t.Context(), other, "", func(client.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if who := identity(t, n.insideAsk("web", "GET", "/v1/self", "")); who.Space != "blog" {
		t.Fatalf("it is %+v", who)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"GET", "/v1/tasks/" + task.ID, "", "404 "},
		{"GET", "/v1/tasks/" + task.ID + "%3Fspace=default", "", "403 "},
		{"POST", "/v1/tasks/" + task.ID + "/cancel", "", "404 "},
		{"GET", "/v1/tasks/" + task.ID + "/result", "", "404 "},
		{"GET", "/v1/tasks", "", `200 {"items":[]`},
		{"POST", "/v1/workloads/secret/call", "", "404 "},
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"secret"}]}`, "404 "},
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"secret","space":"default"}]}`, "400 "},
		{"POST", "/v1/tasks%3Fspace=default", `{"tasks":[{"workload":"secret"}]}`, "403 "},
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"web","after":["` + task.ID + `"]}]}`, "404 "},
		{"POST", "/v1/tasks", `{"tasks":[{"workload":"web","delay":"1h"}]}`, "201 "},
	} {
		if got := n.insideAsk("web", c.method, c.path, c.body); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s %s %s answers %s", c.method, c.path, c.body, got)
		}
	}
	if status, text, _ := n.get("web", "/client"); status != 200 || text != "blog web <nil>\nblog queued <nil>\n<nil> conflict\ndenied\n" {
		t.Errorf("the client says %d %s", status, text)
	}
	if now, err := n.GetTask(t.Context(), task.ID); err != nil || now.State != mayfly.TaskQueued {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestATaskThatWaitsMakesRoom: where one task may run at once, a task can still
// wait for another that waits for a third.
func TestATaskThatWaitsMakesRoom(t *testing.T) {
	n := start(t, "--tasks", "1")
	const parent = `out=$(/app ask POST /v1/tasks '{"tasks":[{"workload":"%s"}]}')
id=${out#*\"id\":\"}; id=${id%%%%\"*}
/app ask GET /v1/tasks/$id/wait >/dev/null; echo %s`
	n.shell("third", "sleep 0.1; echo third", nil)
	n.shell("second", fmt.Sprintf(parent, "third", "second"), nil)
	n.shell("first", fmt.Sprintf(parent, "second", "first"), nil)
	var ids []string
	for range 3 {
		ids = append(ids, n.submit(mayfly.Submission{Workload: "first"}).ID)
	}
	for _, id := range ids {
		if task := n.waitTask(id); task.State != mayfly.TaskSucceeded || n.result(id) != "first\n" {
			t.Errorf("%+v with %q", task, n.result(id))
		}
	}
	all, err := n.ListTasks(t.Context(), client.TaskFilter{States: []mayfly.TaskState{mayfly.TaskSucceeded}})
	if err != nil || len(all) != 9 {
		t.Errorf("%d tasks have succeeded, %v", len(all), err)
	}
}
