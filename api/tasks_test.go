package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// tasks is a real queue, of which no node asks: a test runs its tasks with run.
type tasks struct {
	*queue.Queue
	mu       sync.Mutex
	paused   map[string]bool
	progress []mayfly.Progress
	logs     map[string][]mayfly.LogEntry // by instance
	open     map[string]chan struct{}     // instances that run
}

func (q *tasks) Watch(ctx context.Context, space, id string, seen mayfly.Task) (mayfly.Task, error) {
	return q.Wait(ctx, space, id)
}
func (q *tasks) Pause(_ context.Context, space, workload string) error {
	q.paused[space+"/"+workload] = true
	return nil
}
func (q *tasks) Resume(_ context.Context, space, workload string) error {
	delete(q.paused, space+"/"+workload)
	return nil
}
func (q *tasks) Paused(space, workload string) bool { return q.paused[space+"/"+workload] }
func (q *tasks) Progress(_ context.Context, space, id string, attempt int, p mayfly.Progress) error {
	q.progress = append(q.progress, p)
	return nil
}
func (q *tasks) SandboxLogs(ctx context.Context, id string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	q.mu.Lock()
	entries, ended := q.logs[id], q.open[id]
	q.mu.Unlock()
	if o.Tail >= 0 && len(entries) > o.Tail {
		entries = entries[len(entries)-o.Tail:]
	}
	for _, e := range entries {
		if e.Time.Before(o.Since) {
			continue
		}
		if err := each(e); err != nil {
			return err
		}
	}
	if o.Follow && ended != nil {
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// write adds to the log of an instance.
func (q *tasks) write(instance, text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.logs[instance] = append(q.logs[instance], mayfly.LogEntry{Time: time.Now(), Stream: "stdout", Data: []byte(text + "\n")})
}

// run runs the next task as if it ended so.
func (q *tasks) run(t *testing.T, instance string, exit mayfly.Exit, output string) mayfly.Task {
	t.Helper()
	g, err := q.Next(t.Context(), "here")
	if err != nil {
		t.Fatal(err)
	}
	task, err := q.Done(t.Context(), g, mayfly.Result{Exit: exit, Output: []byte(output), Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// deploy makes the workloads that the tests submit to.
func deploy(t *testing.T, record *store.Store) {
	t.Helper()
	for _, space := range []string{mayfly.DefaultSpace, "other", "team"} {
		for _, name := range []string{"w", "w0", "w1", "good", "bad", "later"} {
			rel, err := record.PutRelease(t.Context(), mayfly.Workload{Space: space, Name: name}, "sha256:x")
			if err == nil {
				_, err = record.SetWorkload(t.Context(), space, name, rel.Number, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func serveTasks(t *testing.T, opts queue.Options) (*server, *tasks) {
	t.Helper()
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	record, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		b.Close()
		t.Fatal(err)
	}
	deploy(t, record)
	q, err := queue.Open(t.Context(), b, record, opts)
	if err != nil {
		record.Close()
		b.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	finished := make(chan error, 1)
	go func() { finished <- q.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-finished
		q.Close()
		record.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	all := &tasks{Queue: q, paused: map[string]bool{}, logs: map[string][]mayfly.LogEntry{}, open: map[string]chan struct{}{}}
	return serveAll(t, api.Services{Tasks: all, Logs: all}, api.Options{MaxTasks: 4 << 20}), all
}

// post posts a body and returns the status, the headers and the answer.
func post(t *testing.T, url, body string, header http.Header) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestSubmitByHand(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	cases := []struct{ name, task, payload string }{
		{"nothing", `{"workload": "w"}`, ""},
		{"base64", `{"workload": "w", "payload": "aGVsbG8="}`, "hello"},
		{"text", `{"workload": "w", "text": "hé\n"}`, "hé\n"},
		{"no text", `{"workload": "w", "text": ""}`, ""},
		{"an object", `{"workload": "w", "json": {"a": [1, 2.50], "b": "<"}}`, `{"a": [1, 2.50], "b": "<"}`},
		{"a null", `{"workload": "w", "json": null}`, "null"},
		{"a number", `{"workload": "w", "json": 1e400}`, "1e400"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, header, text := post(t, up.tcp+"/v1/tasks", `{"tasks": [`+c.task+`]}`, nil)
			var answer client.SubmitAnswer
			if err := json.Unmarshal([]byte(text), &answer); err != nil || status != 201 || header.Get("Content-Type") != "application/json" || len(answer.Tasks) != 1 {
				t.Fatalf("%d %s, %v", status, text, err)
			}
			task := answer.Tasks[0].Task
			if !answer.Tasks[0].Created || task.State != mayfly.TaskQueued || task.Workload != "w" || task.Size != len(c.payload) {
				t.Errorf("got %+v", answer.Tasks[0])
			}
			payload, err := up.client.TaskPayload(t.Context(), task.ID)
			if err != nil || string(payload) != c.payload {
				t.Errorf("payload %q, %v", payload, err)
			}
			if _, err := all.Cancel(t.Context(), "default", task.ID); err != nil {
				t.Error(err)
			}
		})
	}
	_, _, text := post(t, up.tcp+"/v1/tasks", `{"tasks": [{"workload": "w", "delay": "1h"}]}`, nil)
	if at := strings.Contains(text, `"notBefore":"`+time.Now().Add(time.Hour).UTC().Format("2006-01-02")); !at {
		t.Errorf("delayed: %s", text)
	}
}

func TestSubmitsThatAreRefused(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	key := http.Header{"Idempotency-Key": {"k"}}
	cases := []struct {
		name, path, body string
		header           http.Header
		status           int
		want             string
	}{
		{"no body", "/v1/tasks", "", nil, 400, "body is required"},
		{"no JSON", "/v1/tasks", "tasks", nil, 400, "body: invalid character"},
		{"half of it", "/v1/tasks", `{"tasks": [`, nil, 400, "body: "},
		{"two values", "/v1/tasks", `{"tasks": [{"workload": "w"}]} {}`, nil, 400, "something follows"},
		{"a list", "/v1/tasks", `[]`, nil, 400, "body: a array cannot stand here"},
		{"no task", "/v1/tasks", `{"tasks": []}`, nil, 400, "there is no task"},
		{"an unknown key", "/v1/tasks", `{"tasks": [{"workload": "w", "prio": 1}]}`, nil, 400, `body: unknown field "prio"`},
		{"a wrong type", "/v1/tasks", `{"tasks": [{"workload": 1}]}`, nil, 400, "body.tasks"},
		{"no workload", "/v1/tasks", `{"tasks": [{"text": "x"}]}`, nil, 400, "either a workload or an image"},
		{"a bad one among good ones", "/v1/tasks", `{"tasks": [{"workload": "w"}, {"workload": "w", "delay": "x"}, {"workload": "w"}]}`, nil, 400, "task 2 of 3: delay"},
		{"two payloads", "/v1/tasks", `{"tasks": [{"workload": "w", "text": "x", "json": 1}]}`, nil, 400, "exclude each other"},
		{"not base64", "/v1/tasks", `{"tasks": [{"workload": "w", "payload": "?"}]}`, nil, 400, "body: "},
		{"a release", "/v1/tasks", `{"tasks": [{"workload": "w", "release": 1}]}`, nil, 400, "release"},
		{"another space", "/v1/tasks?space=other", `{"tasks": [{"workload": "w", "space": "mine"}]}`, nil, 400, `the space "mine"`},
		{"no space", "/v1/tasks?space=A%20b", `{"tasks": [{"workload": "w"}]}`, nil, 400, "not a valid name"},
		{"a parameter", "/v1/tasks?x=1", `{"tasks": [{"workload": "w"}]}`, nil, 400, "query.x: unknown query parameter"},
		{"a bad delay", "/v1/tasks", `{"tasks": [{"workload": "w", "delay": "soon"}]}`, nil, 400, `delay "soon" is not a duration`},
		{"one key for two", "/v1/tasks", `{"tasks": [{"workload": "w"}, {"workload": "w"}]}`, key, 400, "Idempotency-Key is for one task"},
		{"two keys", "/v1/tasks", `{"tasks": [{"workload": "w", "key": "other"}]}`, key, 400, "Idempotency-Key says"},
		{"too many", "/v1/tasks", `{"tasks": [` + strings.Repeat(`{"workload": "w"},`, 1000) + `{"workload": "w"}]}`, nil, 413, "1001 tasks, and the limit is 1000"},
		{"too large a request", "/v1/tasks", `{"tasks": [{"workload": "w", "text": "` + strings.Repeat("x", 4<<20) + `"}]}`, nil, 413, "larger than"},
		{"a bad id", "/v1/tasks/x/cancel", ``, nil, 400, `task id "x" is not an id`},
		{"no such task", "/v1/tasks/00000000000000000000/cancel", ``, nil, 404, `no task "00000000000000000000"`},
		{"a webhook's bad priority", "/v1/workloads/w/tasks/webhook?priority=high", `x`, nil, 400, "query.priority: "},
		{"a webhook's bad label", "/v1/workloads/w/tasks/webhook?label=x", `x`, nil, 400, "query.label: "},
		{"a webhook's odd parameter", "/v1/workloads/w/tasks/webhook?who=x", `x`, nil, 400, "query.who: unknown"},
		{"a webhook to a bad name", "/v1/workloads/W/tasks/webhook", `x`, nil, 400, "not a valid name"},
		{"no choice of the dead", "/v1/tasks/dead/retry", `{}`, http.Header{"Content-Type": {"application/json"}}, 400, "nothing says which tasks"},
		{"two choices of the dead", "/v1/tasks/dead/purge", `{"ids": ["x"], "all": true}`, http.Header{"Content-Type": {"application/json"}}, 400, "exclude each other"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			status, _, text := post(t, up.tcp+c.path, c.body, c.header)
			var p client.Problem
			if err := json.Unmarshal([]byte(text), &p); err != nil || status != c.status || p.Status != c.status || !strings.Contains(p.Detail, c.want) {
				t.Errorf("got %d %s, want %d with %q", status, text, c.status, c.want)
			}
		})
	}
	page, err := all.List(t.Context(), queue.Filter{Space: "default"})
	if err != nil || len(page.Tasks) > 0 {
		t.Errorf("%d tasks are half submitted, %v", len(page.Tasks), err)
	}
}

func TestKeysStandForOneTask(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{})
	body := `{"tasks": [{"workload": "w", "text": "x"}]}`
	id := func(path, body string, header http.Header) (got string) {
		t.Helper()
		_, _, text := post(t, up.tcp+path, body, header)
		var answer struct {
			ID    string
			Tasks []client.Submitted
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.Tasks) > 0 {
			return fmt.Sprint(answer.Tasks[0].Task.ID, answer.Tasks[0].Created)
		}
		return answer.ID
	}
	first := id("/v1/tasks", body, http.Header{"Idempotency-Key": {"k"}})
	again := id("/v1/tasks", body, http.Header{"Idempotency-Key": {"k"}})
	if !strings.HasSuffix(first, "true") || again != strings.TrimSuffix(first, "true")+"false" {
		t.Errorf("got %s and %s", first, again)
	}
	task := strings.TrimSuffix(first, "true")
	for name, header := range map[string]http.Header{"/v1/workloads/w/tasks/webhook?key=k": nil, "/v1/workloads/w/tasks/webhook": {"Webhook-Id": {"k"}}} {
		if got := id(name, "x", header); got != task {
			t.Errorf("%s: got %s, want %s", name, got, task)
		}
	}
	status, _, text := post(t, up.tcp+"/v1/workloads/w/tasks/webhook?key=k", "y", nil)
	if status != 409 || !strings.Contains(text, "another payload") {
		t.Errorf("got %d %s", status, text)
	}
}

func TestFullQueue(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{MaxTasks: 2})
	for i := range 3 {
		status, header, text := post(t, up.tcp+"/v1/tasks", `{"tasks": [{"workload": "w"}]}`, nil)
		switch {
		case i < 2 && status != 201:
			t.Fatalf("got %d %s", status, text)
		case i == 2 && (status != 429 || header.Get("Retry-After") == "" || !strings.Contains(text, "the task queue is full")):
			t.Errorf("got %d %v %s", status, header, text)
		}
	}
}

func TestWebhooks(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{})
	body := "any bytes \xff at all"
	status, header, text := post(t, up.tcp+"/v1/workloads/w/tasks/webhook?priority=7&delay=2h&timeout=30s&retries=2&label=a=b&label=c=d=e&callback=http://x/y&space=other", body, nil)
	var made client.AcceptedTask
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != 202 || !made.Created || header.Get("X-Mayfly-Run") != made.ID {
		t.Fatalf("got %d %s", status, text)
	}
	c := up.client.WithSpace("other")
	task, err := c.GetTask(t.Context(), made.ID)
	if err != nil || task.Workload != "w" || task.Priority != 7 || task.Timeout != 30*time.Second || task.Retries.Max != 2 ||
		task.Labels["a"] != "b" || task.Labels["c"] != "d=e" || task.Callback != "http://x/y" || time.Until(task.NotBefore) < time.Hour {
		t.Errorf("got %+v, %v", task, err)
	}
	if payload, err := c.TaskPayload(t.Context(), made.ID); err != nil || string(payload) != body {
		t.Errorf("got %q, %v", payload, err)
	}
}

func TestTasksToTheirEnds(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	c, ctx := up.client, t.Context()
	made, err := c.SubmitAll(ctx, []mayfly.Submission{
		{Workload: "good", Labels: map[string]string{"of": "us"}},
		{Workload: "bad", Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{0}}},
		{Workload: "later", NotBefore: time.Now().Add(time.Hour)},
	})
	if err != nil || len(made) != 3 {
		t.Fatal(made, err)
	}
	good, bad, later := made[0].Task.ID, made[1].Task.ID, made[2].Task.ID
	if _, err := c.TaskResult(ctx, good); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a result before the end: %v", err)
	}
	waited := make(chan mayfly.Task, 1)
	go func() {
		task, err := c.WaitTask(ctx, good)
		if err != nil {
			t.Error(err)
		}
		waited <- task
	}()
	failed := mayfly.Exit{Code: 3, Reason: mayfly.ExitedNonZero}
	for range 3 {
		g, err := all.Next(ctx, "here")
		if err != nil {
			t.Fatal(err)
		}
		exit := failed
		if g.Task.ID == good {
			exit = mayfly.Exit{Reason: mayfly.Succeeded}
		}
		if _, err := all.Done(ctx, g, mayfly.Result{Exit: exit, Output: []byte("out\x00put")}); err != nil {
			t.Fatal(err)
		}
	}
	if task := <-waited; task.State != mayfly.TaskSucceeded || len(task.Attempts) != 1 {
		t.Errorf("got %+v", task)
	}
	if result, err := c.TaskResult(ctx, good); err != nil || string(result) != "out\x00put" {
		t.Errorf("got %q, %v", result, err)
	}
	var seen []mayfly.TaskState
	task, err := c.WatchTask(ctx, bad, func(t mayfly.Task) error { seen = append(seen, t.State); return nil })
	if err != nil || task.State != mayfly.TaskBuried || len(seen) > 0 || len(task.Attempts) != 2 {
		t.Errorf("got %+v after %v, %v", task, seen, err)
	}
	list := func(f client.TaskFilter) (ids string) {
		t.Helper()
		all, err := c.ListTasks(ctx, f)
		if err != nil {
			t.Error(err)
		}
		for _, task := range all {
			ids += task.Workload + " "
		}
		return ids
	}
	for want, f := range map[string]client.TaskFilter{
		"later bad good ": {},
		"later bad ":      {Limit: 2},
		"good ":           {Labels: map[string]string{"of": "us"}},
		"bad ":            {States: []mayfly.TaskState{mayfly.TaskBuried}},
		"later good ":     {States: []mayfly.TaskState{mayfly.TaskQueued, mayfly.TaskSucceeded}},
		"":                {Until: time.Now().Add(-time.Hour)},
	} {
		if got := list(f); got != want {
			t.Errorf("%+v: got %q, want %q", f, got, want)
		}
	}
	if task, err := c.CancelTask(ctx, later); err != nil || task.State != mayfly.TaskCancelled {
		t.Errorf("got %+v, %v", task, err)
	}
	if _, err := c.CancelTask(ctx, later); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("twice: %v", err)
	}
	if task, err := c.RetryTask(ctx, bad); err != nil || task.State != mayfly.TaskQueued || task.Attempt != 3 {
		t.Errorf("got %+v, %v", task, err)
	}
	all.run(t, "", failed, "")
	if task := all.run(t, "", failed, ""); task.State != mayfly.TaskBuried {
		t.Errorf("got %+v", task)
	}
	if task, err := c.PurgeTask(ctx, bad); err != nil || task.State != mayfly.TaskFailed {
		t.Errorf("got %+v, %v", task, err)
	}
	if _, err := c.PurgeTask(ctx, good); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("a good one: %v", err)
	}
}

func TestWaitForAWhile(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{})
	task, err := up.client.Submit(t.Context(), mayfly.Submission{Workload: "w"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(up.tcp + "/v1/tasks/" + task.ID + "/wait?timeout=1ms")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(text), `{"result":{"id":"`+task.ID+`"`) {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestManyDead(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	ctx, c := t.Context(), up.client
	subs := make([]mayfly.Submission, 40)
	for i := range subs {
		subs[i] = mayfly.Submission{Workload: fmt.Sprint("w", i%2), Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{0}}, Labels: map[string]string{"n": fmt.Sprint(i)}}
	}
	if _, err := c.SubmitAll(ctx, subs); err != nil {
		t.Fatal(err)
	}
	for range 2 * len(subs) {
		all.run(t, "", mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero}, "")
	}
	done, err := c.RetryDead(ctx, client.DeadTasks{Labels: map[string]string{"n": "7"}}, nil)
	if err != nil || done.Tasks != 1 {
		t.Errorf("by label: got %+v, %v", done, err)
	}
	done, err = c.RetryDead(ctx, client.DeadTasks{Workload: "w1"}, nil)
	if err != nil || done.Tasks != 19 {
		t.Errorf("by workload: got %+v, %v", done, err)
	}
	dead, err := c.ListTasks(ctx, client.TaskFilter{States: []mayfly.TaskState{mayfly.TaskBuried}})
	if err != nil || len(dead) != 20 {
		t.Fatal(len(dead), err)
	}
	done, err = c.PurgeDead(ctx, client.DeadTasks{IDs: []string{dead[0].ID, "00000000000000000000"}}, nil)
	if err != nil || done.Tasks != 1 || done.Failed != 1 || done.Failures[0].Error.Kind != mayfly.NotFound {
		t.Errorf("by id: got %+v, %v", done, err)
	}
	done, err = c.PurgeDead(ctx, client.DeadTasks{All: true}, nil)
	if err != nil || done.Tasks != 19 {
		t.Errorf("all: got %+v, %v", done, err)
	}
}

func TestPauseResumeProgress(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	ctx, c := t.Context(), up.client.WithSpace("team")
	if err := c.PauseQueue(ctx, "w"); err != nil || !all.paused["team/w"] {
		t.Error(err, all.paused)
	}
	if q, err := c.GetQueue(ctx, "w"); err != nil || !q.Paused || q.Workload != "w" {
		t.Error(q, err)
	}
	if err := c.ResumeQueue(ctx, "w"); err != nil || len(all.paused) > 0 {
		t.Error(err, all.paused)
	}
	task, err := c.Submit(ctx, mayfly.Submission{Workload: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.TaskProgress(ctx, task.ID, client.ProgressRequest{Percent: 12.5, Message: "on the way"}); err != nil ||
		len(all.progress) != 1 || all.progress[0].Percent != 12.5 || all.progress[0].Message != "on the way" || all.progress[0].Time.IsZero() {
		t.Error(all.progress, err)
	}
	if err := c.TaskProgress(ctx, task.ID, client.ProgressRequest{Percent: 101}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestTaskLogs(t *testing.T) {
	up, all := serveTasks(t, queue.Options{})
	ctx, c := t.Context(), up.client
	task, err := c.Submit(ctx, mayfly.Submission{Workload: "w", Retries: mayfly.Retries{Max: 1, Delays: []time.Duration{0}}})
	if err != nil {
		t.Fatal(err)
	}
	read := func(attempt int, opts mayfly.LogOptions) string {
		t.Helper()
		var got strings.Builder
		err := c.TaskLogs(ctx, task.ID, attempt, opts, func(e mayfly.LogEntry) error { got.Write(e.Data); return nil })
		if err != nil {
			t.Error(err)
		}
		return strings.ReplaceAll(got.String(), "\n", " ")
	}
	if got := read(0, mayfly.LogOptions{Tail: -1}); got != "" {
		t.Errorf("before the first: %q", got)
	}
	all.write("one", "a")
	all.write("one", "b")
	all.run(t, "one", mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero}, "")
	followed := make(chan string)
	begun := make(chan struct{})
	go func() {
		var got strings.Builder
		var once sync.Once
		err := c.TaskLogs(ctx, task.ID, 0, mayfly.LogOptions{Follow: true, Tail: -1}, func(e mayfly.LogEntry) error {
			once.Do(func() { close(begun) })
			got.Write(e.Data)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		followed <- strings.ReplaceAll(got.String(), "\n", " ")
	}()
	<-begun
	all.write("two", "c")
	all.write("two", "d")
	all.run(t, "two", mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero}, "")
	if got := <-followed; got != "a b c d " {
		t.Errorf("followed: %q", got)
	}
	for want, opts := range map[string]mayfly.LogOptions{"a b c d ": {Tail: -1}, "d ": {Tail: 1}} {
		if got := read(0, opts); got != want {
			t.Errorf("%+v: %q", opts, got)
		}
	}
	if got := read(1, mayfly.LogOptions{Tail: 1, Follow: true}); got != "b " {
		t.Errorf("the first attempt: %q", got)
	}
	err = c.TaskLogs(ctx, "00000000000000000000", 0, mayfly.LogOptions{}, nil)
	if mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestTaskStreamsEndWithTheServer(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{})
	task, err := up.client.Submit(t.Context(), mayfly.Submission{Workload: "w"})
	if err != nil {
		t.Fatal(err)
	}
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := up.client.WatchTask(t.Context(), task.ID, func(mayfly.Task) error { close(began); return nil })
		ended <- err
	}()
	<-began
	if err := up.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; mayfly.KindOf(err) != mayfly.Unavailable || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
