package api_test

import (
	"context"
	"encoding/json"
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
	dir  string // of its data
	mu   sync.Mutex
	logs map[string][]mayfly.LogEntry // by instance
	open map[string]chan struct{}     // instances that run
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
func (q *tasks) write(instance, text string) { q.writeAt(time.Now(), instance, text) }

func (q *tasks) writeAt(at time.Time, instance, text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.logs[instance] = append(q.logs[instance], mayfly.LogEntry{Time: at, Stream: "stdout", Data: []byte(text + "\n")})
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
func deploy(t testing.TB, record *store.Store) {
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

func serveTasks(t testing.TB, opts queue.Options) (*server, *tasks) {
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
	all := &tasks{Queue: q, dir: b.Dir(), logs: map[string][]mayfly.LogEntry{}, open: map[string]chan struct{}{}}
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
	before := time.Now()
	_, _, text := post(t, up.tcp+"/v1/tasks", `{"tasks": [{"workload": "w", "delay": "1h"}]}`, nil)
	var answer client.SubmitAnswer
	if err := json.Unmarshal([]byte(text), &answer); err != nil || len(answer.Tasks) != 1 {
		t.Fatalf("delayed: %s, %v", text, err)
	}
	if at := answer.Tasks[0].Task.NotBefore; at.Before(before.Add(time.Hour-time.Second)) || at.After(time.Now().Add(time.Hour+time.Second)) {
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
		{"a bad priority among good ones", "/v1/tasks", `{"tasks": [{"workload": "w"}, {"workload": "w", "priority": 10}, {"workload": "w"}]}`, nil, 400, "task 2 of 3: priority 10"},
		{"no such workload", "/v1/tasks", `{"tasks": [{"workload": "w"}, {"workload": "nobody"}]}`, nil, 404, `task 2 of 2: there is no workload "nobody"`},
		{"too large a payload", "/v1/tasks", `{"tasks": [{"workload": "w"}, {"workload": "w", "text": "` + strings.Repeat("x", 1000001) + `"}]}`, nil, 413, "task 2 of 2: the payload has 1000001 bytes"},
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
		{"a webhook to nobody", "/v1/workloads/nobody/tasks/webhook", `x`, nil, 404, `there is no workload "nobody"`},
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
	status, header, text := post(t, up.tcp+"/v1/workloads/w/tasks/webhook?priority=7&delay=2h&timeout=30s&retries=2&label=a=b&label=c=d=e&callback=http://x/y&space=other", body,
		http.Header{"X-Event": {"push"}, "Cookie": {"a=b"}, "X-Api-Key": {"secret"}})
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
	if r := task.Request; r == nil || r.Target != "/" || r.Header["X-Event"] != "push" || r.Header["Cookie"]+r.Header["X-Api-Key"] != "" {
		t.Errorf("of the request is kept %+v", r)
	}
	if payload, err := c.TaskPayload(t.Context(), made.ID); err != nil || string(payload) != body {
		t.Errorf("got %q, %v", payload, err)
	}
}
