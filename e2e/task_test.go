package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// shell deploys a function that runs a script for each task or call.
func (n *node) shell(name, script string, change func(*mayfly.Workload)) {
	n.t.Helper()
	w := mayfly.Workload{Name: name, Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"sh", "-c", script}}}
	if change != nil {
		change(&w)
	}
	n.deploy(w)
}

// handler deploys a handler on the host's interpreter.
func (n *node) handler(name, file, code, handler string, i mayfly.Isolation) {
	n.t.Helper()
	digest, err := n.PutCode(n.t.Context(), bytes.NewReader(tarOf(n.t, map[string]string{file: code})))
	if err != nil {
		n.t.Fatal(err)
	}
	w := mayfly.Workload{Name: name, Stack: "host", Code: digest, Protocol: mayfly.Handler, Handler: handler, Isolation: i}
	if _, err := n.Deploy(n.t.Context(), w, "", func(client.Progress) {}); err != nil {
		n.t.Fatalf("deploy %s: %v", name, err)
	}
}

func (n *node) submit(sub mayfly.Submission) mayfly.Task {
	n.t.Helper()
	task, err := n.Submit(n.t.Context(), sub)
	if err != nil {
		n.t.Fatalf("submit %s%s: %v", sub.Workload, sub.Image, err)
	}
	return task
}

func (n *node) waitTask(id string) mayfly.Task {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	task, err := n.WaitTask(ctx, id)
	if err != nil {
		now, _ := n.GetTask(n.t.Context(), id)
		n.t.Fatalf("wait for %s: %v; it is %+v", id, err, now)
	}
	return task
}

// untilTask watches a task until what is asked for holds.
func (n *node) untilTask(id string, holds func(mayfly.Task) bool) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	enough := fmt.Errorf("enough")
	last, err := n.WatchTask(ctx, id, func(t mayfly.Task) error {
		if holds(t) {
			return enough
		}
		return nil
	})
	if err == nil && !holds(last) {
		n.t.Fatalf("task %s ended otherwise: %+v", id, last)
	} else if err != nil && !strings.Contains(err.Error(), "enough") {
		n.t.Fatal(err)
	}
}

func (n *node) result(id string) string {
	n.t.Helper()
	data, err := n.TaskResult(n.t.Context(), id)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

func (n *node) taskLog(id string) string {
	n.t.Helper()
	var b strings.Builder
	err := n.TaskLogs(n.t.Context(), id, 0, mayfly.LogOptions{Tail: -1, Follow: true}, func(e mayfly.LogEntry) error {
		b.Write(e.Data)
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return b.String()
}

const tellAll = `echo "$MAYFLY_ATTEMPT $MAYFLY_WORKLOAD $MAYFLY_SPACE"; test -n "$MAYFLY_DEADLINE" && test -n "$MAYFLY_RUN" && cat; cat /run/mayfly/payload`

// taskEnd is a task and how it is to end.
type taskEnd struct {
	name   string
	sub    mayfly.Submission
	state  mayfly.TaskState
	code   int
	result string // of one that succeeded; not looked at if empty
	detail string // part of the exit's detail
}

// ends submits tasks one by one and looks how each ends.
func (n *node) ends(t *testing.T, cases []taskEnd) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			n := n.with(t)
			task := n.waitTask(n.submit(c.sub).ID)
			if len(task.Attempts) == 0 {
				t.Fatalf("no attempt: %+v", task)
			}
			last := task.Attempts[len(task.Attempts)-1]
			if task.State != c.state || last.Exit.Code != c.code || !strings.Contains(last.Exit.Detail, c.detail) {
				t.Errorf("%s: %+v", task.State, last.Exit)
			}
			if last.Node == "" || last.Instance == "" || last.Started.IsZero() || last.Ended.IsZero() || last.Number != task.Attempt {
				t.Errorf("the last attempt is %+v of attempt %d", last, task.Attempt)
			}
			if task.State == mayfly.TaskSucceeded && c.result != "" && n.result(task.ID) != c.result {
				t.Errorf("result %q, want %q", n.result(task.ID), c.result)
			}
		})
	}
}

// TestTasks: every kind of function gets its payload and gives its result, and
// every end has its state and reason.
func TestTasks(t *testing.T) {
	n := start(t)
	n.shell("words", tellAll, nil)
	n.shell("fails", "echo trying >&2; exit 7", nil)
	n.shell("final", "exit 9", nil)
	n.shell("sleeps", "trap 'exit 3' TERM; echo asleep; while :; do sleep 0.1; done", nil)
	n.shell("hungry", `a=x; while [ "$MAYFLY_ATTEMPT" -lt 3 ]; do a=$a$a; done; echo fed`,
		func(w *mayfly.Workload) { w.Memory = 24 << 20 })
	n.deploy(mayfly.Workload{Name: "absent", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"/nonesuch"}}})
	n.deploy(mayfly.Workload{Name: "web"})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance})
	n.deploy(mayfly.Workload{Name: "cgi", Protocol: mayfly.CGI, Process: mayfly.Process{
		Command: []string{"sh", "-c", `printf 'Content-Type: text/plain\r\n\r\n'; cat`}}})
	large := strings.Repeat("mayfly ", 100_000)
	n.ends(t, []taskEnd{
		{"stdin and file", mayfly.Submission{Workload: "words", Payload: []byte("x")}, mayfly.TaskSucceeded, 0, "1 words default\nxx", ""},
		{"no payload", mayfly.Submission{Workload: "words"}, mayfly.TaskSucceeded, 0, "1 words default\n", ""},
		{"image", mayfly.Submission{Image: "app", Argv: []string{"wc", "-c"}, Payload: []byte(large)}, mayfly.TaskSucceeded, 0, "700000\n", ""},
		{"image with a variable", mayfly.Submission{Image: "app", Argv: []string{"sh", "-c", "echo $A"}, Env: map[string]string{"A": "b"}}, mayfly.TaskSucceeded, 0, "b\n", ""},
		{"image that fails", mayfly.Submission{Image: "app", Argv: []string{"sh", "-c", "exit 4"}}, mayfly.TaskFailed, 4, "", ""},
		{"exit code", mayfly.Submission{Workload: "fails"}, mayfly.TaskFailed, 7, "", "trying"},
		{"no program", mayfly.Submission{Workload: "absent"}, mayfly.TaskFailed, 127, "", "cannot execute /nonesuch"},
		{"retries used up", mayfly.Submission{Workload: "fails", Retries: mayfly.Retries{Max: 2, Delays: []time.Duration{time.Millisecond}}}, mayfly.TaskBuried, 7, "", ""},
		{"a final exit", mayfly.Submission{Workload: "final", Retries: mayfly.Retries{Max: 2, Final: []int{9}}}, mayfly.TaskFailed, 9, "", ""},
		{"out of memory", mayfly.Submission{Workload: "hungry"}, mayfly.TaskOutOfMemory, 137, "", "memory limit"},
		{"http", mayfly.Submission{Workload: "web", Payload: []byte("x")}, mayfly.TaskSucceeded, 0, "x", ""},
		{"http instance", mayfly.Submission{Workload: "kept", Payload: []byte("x")}, mayfly.TaskSucceeded, 0, "x", ""},
		{"cgi", mayfly.Submission{Workload: "cgi", Payload: []byte("x")}, mayfly.TaskSucceeded, 0, "x", ""},
	})

	t.Run("memory doubled", func(t *testing.T) {
		n := n.with(t)
		task := n.waitTask(n.submit(mayfly.Submission{Workload: "hungry",
			Retries: mayfly.Retries{Max: 3, Delays: []time.Duration{time.Millisecond}, MemoryUpTo: 64 << 20}}).ID)
		if task.State != mayfly.TaskSucceeded || task.Attempt != 3 || task.Memory != 64<<20 || n.result(task.ID) != "fed\n" {
			t.Errorf("%+v", task)
		}
	})
	t.Run("its time runs out", func(t *testing.T) {
		n := n.with(t)
		for timeout := 300 * time.Millisecond; ; timeout *= 4 {
			task := n.waitTask(n.submit(mayfly.Submission{Workload: "sleeps", Timeout: timeout}).ID)
			exit := task.Attempts[0].Exit
			if task.State != mayfly.TaskTimedOut || !strings.Contains(exit.Detail, fmt.Sprint("timeout of ", timeout)) {
				t.Fatalf("%s: %+v", task.State, exit)
			}
			if exit.Code == 3 {
				break
			}
			if log := n.taskLog(task.ID); log != "" || timeout > time.Minute { // else it did not come to its trap in that time
				t.Fatalf("%+v, and it wrote %q", exit, log)
			}
		}
	})
	t.Run("cancelled while it runs", func(t *testing.T) {
		n := n.with(t)
		id := n.submit(mayfly.Submission{Workload: "sleeps"}).ID
		n.untilTask(id, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
		if task, err := n.CancelTask(t.Context(), id); err != nil || task.State != mayfly.TaskCancelled {
			t.Errorf("%+v, %v", task, err)
		}
		if log := n.taskLog(id); log != "" && !strings.HasPrefix(log, "asleep\n") {
			t.Errorf("log %q", log)
		}
	})
	t.Run("the log of every attempt", func(t *testing.T) {
		n := n.with(t)
		id := n.submit(mayfly.Submission{Workload: "fails", Retries: mayfly.Retries{Max: 2, Delays: []time.Duration{time.Millisecond}}}).ID
		n.waitTask(id)
		if log := n.taskLog(id); log != strings.Repeat("trying\n", 3) {
			t.Errorf("log %q", log)
		}
		if _, err := n.RetryTask(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if task := n.waitTask(id); task.State != mayfly.TaskBuried || task.Attempt != 6 {
			t.Errorf("%+v", task)
		}
		if task, err := n.PurgeTask(t.Context(), id); err != nil || task.State != mayfly.TaskFailed {
			t.Errorf("%+v, %v", task, err)
		}
	})
}

// TestHandlerTasks: a handler gets the decoded payload and gives a value, whether
// its container serves this task alone or many.
func TestHandlerTasks(t *testing.T) {
	n := start(t)
	py := "import sys\nprint('imported')\ndef handle(event, context):\n    print('at work')\n    if event == 'bad': raise ValueError('no good')\n    return {'got': event, 'attempt': context.attempt}\n"
	n.handler("py", "main.py", py, "main.handle", mayfly.IsolationRun)
	n.handler("py-kept", "main.py", py, "main.handle", mayfly.IsolationInstance)
	js := "console.log('imported')\nexport async function handle (event, context) {\n  console.log('at work')\n  if (event === 'bad') throw new Error('no good')\n  return { got: event, attempt: context.attempt }\n}\n"
	n.handler("js", "main.mjs", js, "main.handle", mayfly.IsolationRun)

	handled := `{"got": "x", "attempt": 1}`
	n.ends(t, []taskEnd{
		{"python", mayfly.Submission{Workload: "py", Payload: []byte(`"x"`)}, mayfly.TaskSucceeded, 0, handled, ""},
		{"python instance", mayfly.Submission{Workload: "py-kept", Payload: []byte(`"x"`)}, mayfly.TaskSucceeded, 0, handled, ""},
		{"python raises", mayfly.Submission{Workload: "py", Payload: []byte(`"bad"`)}, mayfly.TaskFailed, 1, "", "ValueError: no good"},
		{"python instance raises", mayfly.Submission{Workload: "py-kept", Payload: []byte(`"bad"`)}, mayfly.TaskFailed, 500, "", "ValueError: no good"},
		{"javascript", mayfly.Submission{Workload: "js", Payload: []byte(`"x"`)}, mayfly.TaskSucceeded, 0, `{"got":"x","attempt":1}`, ""},
		{"javascript raises", mayfly.Submission{Workload: "js", Payload: []byte(`"bad"`)}, mayfly.TaskFailed, 1, "", "Error: no good"},
	})
}

// TestTasksThatWereRequests: a function gets the path, the query and the headers of
// the content.
func TestTasksThatWereRequests(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web"})
	n.deploy(mayfly.Workload{Name: "kept", Isolation: mayfly.IsolationInstance})
	n.deploy(mayfly.Workload{Name: "cgi", Protocol: mayfly.CGI, Process: mayfly.Process{
		Command: []string{"sh", "-c", `printf 'Content-Type: text/plain\r\n\r\n'; printf "%s " "$REQUEST_METHOD" "$REQUEST_URI" "$CONTENT_TYPE" "$HTTP_CE_ID"; cat`}}})
	sub := mayfly.Submission{Payload: []byte("x"), Request: &mayfly.Request{
		Target: "/request?a=b%20c", Header: map[string]string{"Content-Type": "text/csv", "Ce-Id": "7"}}}
	var cases []taskEnd
	for _, name := range []string{"web", "kept", "cgi"} {
		sub.Workload = name
		cases = append(cases, taskEnd{name, sub, mayfly.TaskSucceeded, 0, "POST /request?a=b%20c text/csv 7 x", ""})
	}
	n.ends(t, cases)
}

// TestTasksOutliveTheDaemon: what runs goes on when the daemon is killed, is
// adopted, and has its whole result, and is not run again.
func TestTasksOutliveTheDaemon(t *testing.T) {
	n := start(t)
	n.shell("slow", "echo attempt $MAYFLY_ATTEMPT; sleep 2; cat; exit 0", nil)
	outlives(n, map[string]mayfly.Submission{
		"attempt 1\nin": {Workload: "slow", Payload: []byte("in")},
		"1\n":           {Image: "app", Argv: []string{"sh", "-c", "sleep 1; echo $MAYFLY_ATTEMPT"}},
	})
}

// TestHandlersOutliveTheDaemon: so does a handler that was called for a task.
func TestHandlersOutliveTheDaemon(t *testing.T) {
	n := start(t)
	py := "import time\ndef handle(event, context):\n    time.sleep(2)\n    return [event, context.attempt]\n"
	n.handler("py", "main.py", py, "main.handle", mayfly.IsolationRun)
	outlives(n, map[string]mayfly.Submission{"[7, 1]": {Workload: "py", Payload: []byte("7")}})
}

// outlives submits tasks by their results, and ends the daemon while they run,
// unless the machine was so slow that they have ended.
func outlives(n *node, tasks map[string]mayfly.Submission) {
	n.t.Helper()
	for _, end := range []func(){n.kill, n.stop} {
		ids := map[string]string{}
		for want, sub := range tasks {
			ids[n.submit(sub).ID] = want
		}
		for id := range ids {
			n.untilTask(id, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning || t.State.Ended() })
		}
		end()
		n.up()
		for id, want := range ids {
			task := n.waitTask(id)
			if task.State != mayfly.TaskSucceeded || task.Attempt != 1 || n.result(id) != want {
				n.t.Errorf("%+v with %q", task, n.result(id))
			}
		}
	}
}

// TestDownEndsTasks: taking the node down stops what runs, which runs again
// when the node is back.
func TestDownEndsTasks(t *testing.T) {
	n := start(t)
	n.shell("slow", `test "$MAYFLY_ATTEMPT" -gt 1 || sleep 1000; echo done`, nil)
	id := n.submit(mayfly.Submission{Workload: "slow"}).ID
	n.untilTask(id, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
	if err := n.Down(t.Context(), func(client.Progress) {}); err != nil {
		t.Fatal(err)
	}
	n.cmd.Wait()
	n.up()
	task := n.waitTask(id)
	if task.State != mayfly.TaskSucceeded || task.Attempts[0].Exit.Reason != mayfly.Lost {
		t.Errorf("%+v", task)
	}
}

// TestTasksPinTheirRelease: a task runs what was active when it was accepted,
// however many releases come after it.
func TestTasksPinTheirRelease(t *testing.T) {
	n := start(t)
	n.shell("f", "echo first", nil)
	if err := n.PauseQueue(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	old := n.submit(mayfly.Submission{Workload: "f"})
	for i := range 12 {
		n.shell("f", fmt.Sprintf("echo later %d", i), nil)
	}
	young := n.submit(mayfly.Submission{Workload: "f"})
	if err := n.ResumeQueue(t.Context(), "f"); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{old.ID: "first\n", young.ID: "later 11\n"} {
		if task := n.waitTask(id); task.State != mayfly.TaskSucceeded || n.result(id) != want {
			t.Errorf("%+v with %q", task, n.result(id))
		}
	}
}

// TestTasksAfterOthers: a task that comes after others has their results at
// hand, and one whose parent failed does not run.
func TestTasksAfterOthers(t *testing.T) {
	n := start(t)
	n.shell("double", "read n; sleep 0.2; echo $((2 * n))", nil)
	n.shell("sum", "cd /run/mayfly/results; s=0; for f in *; do read n <$f; s=$((s + n)); done; echo $s", nil)
	n.shell("fails", "exit 1", nil)
	var parts []string
	for i := range 5 {
		parts = append(parts, n.submit(mayfly.Submission{Workload: "double", Payload: fmt.Appendf(nil, "%d\n", i)}).ID)
	}
	sum := n.submit(mayfly.Submission{Workload: "sum", After: parts})
	last := n.submit(mayfly.Submission{Workload: "sum", After: []string{sum.ID}})
	for id, want := range map[string]string{sum.ID: "20\n", last.ID: "20\n"} {
		if task := n.waitTask(id); task.State != mayfly.TaskSucceeded || n.result(id) != want {
			t.Errorf("%+v with %q", task, n.result(id))
		}
	}
	if err := n.PauseQueue(t.Context(), "fails"); err != nil { // nothing can be said to come after what has failed
		t.Fatal(err)
	}
	failed := n.submit(mayfly.Submission{Workload: "fails"})
	child := n.submit(mayfly.Submission{Workload: "sum", After: []string{last.ID, failed.ID}})
	grandchild := n.submit(mayfly.Submission{Workload: "sum", After: []string{child.ID}})
	if err := n.ResumeQueue(t.Context(), "fails"); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{child.ID, grandchild.ID} {
		if task := n.waitTask(id); task.State != mayfly.TaskCancelled {
			t.Errorf("%+v", task)
		}
	}
}
