package api_test

import (
	"context"
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
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

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
	if err := c.PauseQueue(ctx, "w"); err != nil || !all.Paused("team", "w") || all.Paused("default", "w") {
		t.Error(err)
	}
	if q, err := c.GetQueue(ctx, "w"); err != nil || !q.Paused || q.Workload != "w" {
		t.Error(q, err)
	}
	task, err := c.Submit(ctx, mayfly.Submission{Workload: "w"})
	if err != nil {
		t.Fatal(err)
	}
	half := client.ProgressRequest{Percent: 12.5, Message: "on the way"}
	if err := c.TaskProgress(ctx, task.ID, half); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("before it runs: %v", err)
	}
	if err := c.ResumeQueue(ctx, "w"); err != nil || all.Paused("team", "w") {
		t.Error(err)
	}
	g, err := all.Next(ctx, "here")
	if err != nil {
		t.Fatal(err)
	}
	seen, moved := make(chan mayfly.Task, 10), make(chan mayfly.Task, 1)
	go func() {
		task, err := c.WatchTask(ctx, task.ID, func(t mayfly.Task) error { seen <- t; return nil })
		if err != nil {
			t.Error(err)
		}
		moved <- task
	}()
	if task := <-seen; task.State != mayfly.TaskStarting || task.Progress != nil {
		t.Errorf("got %+v", task)
	}
	if err := c.TaskProgress(ctx, task.ID, half); err != nil {
		t.Error(err)
	}
	if task := <-seen; task.Progress == nil || task.Progress.Percent != 12.5 || task.Progress.Message != "on the way" || task.Progress.Time.IsZero() {
		t.Errorf("got %+v", task.Progress)
	}
	for _, p := range []client.ProgressRequest{{Percent: 101}, {Percent: -1}, {Message: strings.Repeat("x", 1001)}} {
		if err := c.TaskProgress(ctx, task.ID, p); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("got %v", err)
		}
	}
	if err := c.TaskProgress(ctx, task.ID, client.ProgressRequest{Attempt: 2}); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("of another attempt: %v", err)
	}
	if _, err := all.Done(ctx, g, mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded}}); err != nil {
		t.Error(err)
	}
	if task := <-moved; task.State != mayfly.TaskSucceeded || task.Progress == nil {
		t.Errorf("got %+v", task)
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

// reused says of every workload that its containers run one task after another.
type reused struct{ api.Workloads }

func (reused) GetWorkload(_ context.Context, space, name string) (mayfly.Release, error) {
	return mayfly.Release{Workload: mayfly.Workload{Space: space, Name: name, Isolation: mayfly.IsolationInstance}}, nil
}

func TestTaskLogsOfAContainerThatGoesOn(t *testing.T) {
	_, all := serveTasks(t, queue.Options{})
	up := serveAll(t, api.Services{Tasks: all, Logs: all, Workloads: reused{}}, api.Options{})
	ctx, c := t.Context(), up.client
	task, err := c.Submit(ctx, mayfly.Submission{Workload: "w"})
	if err != nil {
		t.Fatal(err)
	}
	all.open["c"] = make(chan struct{}) // it never ends
	all.write("c", "of another task")
	g, err := all.Next(ctx, "here")
	if err != nil {
		t.Fatal(err)
	}
	all.Started(g, "c")
	all.write("c", "a")
	read := func(follow bool, first func()) string {
		t.Helper()
		var got strings.Builder
		err := c.TaskLogs(ctx, task.ID, 0, mayfly.LogOptions{Follow: follow, Tail: -1}, func(e mayfly.LogEntry) error {
			if got.Len() == 0 {
				first()
			}
			got.Write(e.Data)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return strings.ReplaceAll(got.String(), "\n", " ")
	}
	got := read(true, func() {
		all.write("c", "b")
		done, err := all.Done(ctx, g, mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded}, Instance: "c"})
		if err != nil {
			t.Error(err)
		}
		all.writeAt(done.Ended.Add(time.Second), "c", "of the next task")
	})
	if got != "a b " {
		t.Errorf("followed: %q", got)
	}
	if got := read(false, func() {}); got != "a b " {
		t.Errorf("afterwards: %q", got)
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

func TestCallbackSecret(t *testing.T) {
	up, _ := serveTasks(t, queue.Options{})
	secret := func(c *client.Client) string {
		t.Helper()
		s, err := c.CallbackSecret(t.Context())
		if err != nil || !strings.HasPrefix(s, "whsec_") {
			t.Errorf("got %q, %v", s, err)
		}
		return s
	}
	first := secret(up.client)
	if secret(up.client) != first || secret(up.client.WithSpace("team")) == first {
		t.Error("a space has not the same secret always, or the secret of another")
	}
}
