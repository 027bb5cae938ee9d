package client

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Submit submits one task. When it returns, the task is on disk. With a key it
// is safe to submit it again after a lost answer: the same key and payload are
// the same task. A full queue is Busy.
func (c *Client) Submit(ctx context.Context, sub mayfly.Submission) (mayfly.Task, error) {
	made, err := c.SubmitAll(ctx, []mayfly.Submission{sub})
	if err != nil {
		return mayfly.Task{}, err
	}
	return made[0].Task, nil
}

// SubmitAll submits up to MaxTasks tasks, all or none, and returns them in
// their order. The error names the first that was refused.
func (c *Client) SubmitAll(ctx context.Context, subs []mayfly.Submission) ([]Submitted, error) {
	in := SubmitRequest{Tasks: make([]TaskRequest, len(subs))}
	for i, sub := range subs {
		if sub.Space == "" {
			sub.Space = c.space
		}
		if err := c.uploadLarge(ctx, &sub); err != nil {
			return nil, err
		}
		in.Tasks[i].Submission = sub
	}
	out, err := ask[SubmitAnswer](ctx, c, call{method: http.MethodPost, path: []string{"tasks"}, send: in})
	if err != nil {
		return nil, err
	}
	if len(out.Tasks) != len(subs) {
		return nil, mayfly.Errorf(mayfly.Internal, "the daemon answered for %d tasks of %d", len(out.Tasks), len(subs))
	}
	return out.Tasks, nil
}

// RawTask is a task whose payload is sent as it is. The zero value of each
// field is left out.
type RawTask struct {
	Workload string
	Priority int           // 0 to 9, 9 first
	Delay    time.Duration // before its turn can come
	Timeout  time.Duration // of one attempt
	Retries  int           // attempts after the first
	Key      string        // the same key is the same task
	Labels   map[string]string
	Callback string // URL that is told of the end
}

// SubmitRaw submits one task whose payload is read from payload.
func (c *Client) SubmitRaw(ctx context.Context, t RawTask, payload io.Reader) (AcceptedTask, error) {
	query := url.Values{}
	set := func(name, value string, given bool) {
		if given {
			query.Add(name, value)
		}
	}
	set("priority", strconv.Itoa(t.Priority), t.Priority != 0)
	set("delay", t.Delay.String(), t.Delay != 0)
	set("timeout", t.Timeout.String(), t.Timeout != 0)
	set("retries", strconv.Itoa(t.Retries), t.Retries != 0)
	set("key", t.Key, t.Key != "")
	set("callback", t.Callback, t.Callback != "")
	addLabels(query, t.Labels)
	return ask[AcceptedTask](ctx, c, call{method: http.MethodPost, path: []string{"workloads", t.Workload, "tasks", "webhook"}, query: query, raw: payload})
}

func addLabels(query url.Values, labels map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		query.Add("label", name+"="+labels[name])
	}
}

// GetTask returns a task as it is now.
func (c *Client) GetTask(ctx context.Context, id string) (mayfly.Task, error) {
	return ask[mayfly.Task](ctx, c, call{method: http.MethodGet, path: []string{"tasks", id}})
}

// TaskFilter chooses tasks. The zero value chooses the first hundred.
type TaskFilter struct {
	Workload string             // of all if empty
	States   []mayfly.TaskState // in all if empty
	Labels   map[string]string  // that they have
	Since    time.Time          // accepted then or later
	Until    time.Time          // accepted before; up to now if zero
	Limit    int                // most tasks; 100 if zero
}

// ListTasks returns tasks: those that wait, then the buried ones, each the
// oldest first, then those that have ended, the newest first.
func (c *Client) ListTasks(ctx context.Context, f TaskFilter) ([]mayfly.Task, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	query := url.Values{}
	if f.Workload != "" {
		query.Set("workload", f.Workload)
	}
	for _, s := range f.States {
		query.Add("state", string(s))
	}
	addLabels(query, f.Labels)
	if !f.Since.IsZero() {
		query.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		query.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	return first[mayfly.Task](ctx, c, "tasks", query, f.Limit)
}

// WaitTask returns the task when it has ended or was buried.
func (c *Client) WaitTask(ctx context.Context, id string) (mayfly.Task, error) {
	return follow[mayfly.Task](ctx, c, call{method: http.MethodGet, path: []string{"tasks", id, "wait"}}, nil)
}

// WatchTask gives the task to each as it is, and again after each change of its
// state, attempt or progress, and returns it when it has ended or was buried.
func (c *Client) WatchTask(ctx context.Context, id string, each func(mayfly.Task) error) (mayfly.Task, error) {
	return follow[mayfly.Task](ctx, c, call{method: http.MethodGet, path: []string{"tasks", id, "watch"}}, func(m Message) error {
		if m.Task == nil {
			return nil
		}
		return each(*m.Task)
	})
}

// TaskResult returns what a task that has ended returned: what its program
// wrote to stdout, or the handler's value. One that has not is a Conflict.
func (c *Client) TaskResult(ctx context.Context, id string) ([]byte, error) {
	return c.bytes(ctx, []string{"tasks", id, "result"})
}

// bytes gets an answer as it is.
func (c *Client) bytes(ctx context.Context, path []string) ([]byte, error) {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: path})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, c.sendError(ctx, err)
	}
	if len(data) > maxAnswer {
		return nil, mayfly.Errorf(mayfly.TooLarge, "the daemon's answer is longer than %d bytes", maxAnswer)
	}
	return data, nil
}

// TaskLogs gives each entry of the logs of a task's attempts to each, one
// attempt after the other, or of one attempt where it is not 0. With Follow it
// returns after the task has ended and all was given.
func (c *Client) TaskLogs(ctx context.Context, id string, attempt int, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	query := url.Values{}
	if attempt != 0 {
		query.Set("attempt", strconv.Itoa(attempt))
	}
	return c.logsOf(ctx, []string{"tasks", id, "logs"}, query, opts, each)
}

// CancelTask cancels a task that has not ended. Its outcome is on disk when it
// returns; a program that runs may take a while to end.
func (c *Client) CancelTask(ctx context.Context, id string) (mayfly.Task, error) {
	return ask[mayfly.Task](ctx, c, call{method: http.MethodPost, path: []string{"tasks", id, "cancel"}})
}

// RetryTask brings a buried task back, with all its retries.
func (c *Client) RetryTask(ctx context.Context, id string) (mayfly.Task, error) {
	return ask[mayfly.Task](ctx, c, call{method: http.MethodPost, path: []string{"tasks", id, "retry"}})
}

// PurgeTask ends a buried task: its last failure is its outcome.
func (c *Client) PurgeTask(ctx context.Context, id string) (mayfly.Task, error) {
	return ask[mayfly.Task](ctx, c, call{method: http.MethodDelete, path: []string{"tasks", id}})
}

// RetryDead brings many buried tasks back.
func (c *Client) RetryDead(ctx context.Context, which DeadTasks, report func(Progress)) (DeadDone, error) {
	return c.dead(ctx, "retry", which, report)
}

// PurgeDead ends many buried tasks.
func (c *Client) PurgeDead(ctx context.Context, which DeadTasks, report func(Progress)) (DeadDone, error) {
	return c.dead(ctx, "purge", which, report)
}

func (c *Client) dead(ctx context.Context, verb string, which DeadTasks, report func(Progress)) (DeadDone, error) {
	return follow[DeadDone](ctx, c, call{method: http.MethodPost, path: []string{"tasks", "dead", verb}, send: which}, progress(report))
}

// TaskProgress says how far an attempt of a task is, from within. An attempt of
// 0 is the one that runs.
func (c *Client) TaskProgress(ctx context.Context, id string, p ProgressRequest) error {
	return c.do(ctx, call{method: http.MethodPut, path: []string{"tasks", id, "progress"}, send: p}, nil)
}

// PauseQueue has no task of a workload started until ResumeQueue. What runs goes
// on, and tasks are accepted.
func (c *Client) PauseQueue(ctx context.Context, workload string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"workloads", workload, "queue", "pause"}}, nil)
}

// ResumeQueue has tasks of a workload started again.
func (c *Client) ResumeQueue(ctx context.Context, workload string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"workloads", workload, "queue", "resume"}}, nil)
}

// GetQueue says whether the tasks of a workload are started.
func (c *Client) GetQueue(ctx context.Context, workload string) (TaskQueue, error) {
	return ask[TaskQueue](ctx, c, call{method: http.MethodGet, path: []string{"workloads", workload, "queue"}})
}

// CallbackSecret returns what the callbacks of the space are signed with, as
// libraries for Standard Webhooks take it.
func (c *Client) CallbackSecret(ctx context.Context) (string, error) {
	s, err := ask[CallbackSecret](ctx, c, call{method: http.MethodGet, path: []string{"callbacks", "secret"}})
	return s.Secret, err
}
