package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// taskStates are those that a list can be filtered by.
func taskStates() []mayfly.TaskState {
	return []mayfly.TaskState{mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskRunning, mayfly.TaskSucceeded, mayfly.TaskFailed,
		mayfly.TaskTimedOut, mayfly.TaskOutOfMemory, mayfly.TaskCancelled, mayfly.TaskBuried}
}

type listTasksInput struct {
	InSpace
	Limit    int       `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"most tasks to give; a page may have fewer, or none, before the end"`
	Next     string    `query:"next" maxLength:"64" doc:"what the page before gave as next"`
	Workload string    `query:"workload" doc:"of this workload only"`
	State    []string  `query:"state,explode" doc:"in one of these states only; again for more"`
	Label    []string  `query:"label,explode" doc:"NAME=VALUE that they have; again for more"`
	Since    time.Time `query:"since" doc:"accepted then or later"`
	Until    time.Time `query:"until" doc:"accepted before"`
}

func (in *listTasksInput) filter() (f queue.Filter, err error) {
	f = queue.Filter{Space: in.Space, Workload: in.Workload, Since: in.Since, Until: in.Until, Limit: in.Limit, After: in.Next}
	if f.Labels, err = parseLabels(in.Label); err != nil {
		return f, mayflyError(err, "query.label")
	}
	for _, text := range in.State {
		state := mayfly.TaskState(text)
		known := false
		for _, s := range taskStates() {
			known = known || s == state
		}
		if !known {
			return f, mayfly.Errorf(mayfly.Invalid, "query.state: there is no state %q", text).
				WithHint("use one of queued, starting, running, succeeded, failed, timed-out, out-of-memory, cancelled, buried")
		}
		f.States = append(f.States, state)
	}
	return f, nil
}

func (r *router) taskReads() {
	service := r.services.Tasks
	answerWith(r, operation{id: "list-tasks", route: "GET /v1/tasks", summary: "List tasks",
		detail: "Those that wait, then the buried ones, each the oldest first; then those that have ended, the newest first. The list has ended when next is empty."},
		func(ctx context.Context, in *listTasksInput) (client.Page[mayfly.Task], error) {
			f, err := in.filter()
			if err != nil {
				return client.Page[mayfly.Task]{}, err
			}
			page, err := service.List(ctx, f)
			return client.Page[mayfly.Task]{Items: listOf(page.Tasks), Next: page.Next}, err
		})
	answerWith(r, operation{id: "get-task", route: "GET /v1/tasks/{id}", summary: "Get a task"},
		func(ctx context.Context, in *TaskRef) (mayfly.Task, error) {
			return service.Get(ctx, in.Space, in.ID)
		})
	r.taskPayloads()
	r.bytesOf(operation{id: "task-result", route: "GET /v1/tasks/{id}/result", summary: "Get what a task returned",
		detail: "What its program wrote to stdout, or the handler's value. The task says when it was cut. A task that has not ended is a 409."},
		func(ctx context.Context, in *TaskRef) (io.ReadCloser, int64, error) {
			data, err := service.Result(ctx, in.Space, in.ID)
			return io.NopCloser(bytes.NewReader(data)), int64(len(data)), err
		})
	r.taskWaits()
	r.taskLogs()
}

// bytesOf registers an operation that gives bytes of a task as they are.
func (r *router) bytesOf(o operation, open func(context.Context, *TaskRef) (io.ReadCloser, int64, error)) {
	op := o.huma(r)
	op.Responses["200"] = &huma.Response{Description: "the bytes", Content: map[string]*huma.MediaType{
		"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	huma.Register(r.huma, op, func(ctx context.Context, in *TaskRef) (*huma.StreamResponse, error) {
		if err := r.lack(); err != nil {
			return nil, r.problem(err, o.route)
		}
		data, size, err := open(ctx, in)
		if err != nil {
			return nil, r.problem(err, o.route)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			defer data.Close()
			c.SetHeader("Content-Type", "application/octet-stream")
			c.SetHeader("Content-Length", strconv.FormatInt(size, 10))
			c.SetStatus(http.StatusOK)
			io.Copy(c.BodyWriter(), data) // who does not read it has left
		}}, nil
	})
}

func (r *router) taskWaits() {
	service := r.services.Tasks
	streamed(r, operation{id: "wait-task", route: "GET /v1/tasks/{id}/wait", summary: "Wait until a task has ended or was buried"},
		func(ctx context.Context, in *struct {
			TaskRef
			Timeout string `query:"timeout" doc:"as in 30s: then the task is given as it is"`
		}, _ *stream) (task mayfly.Task, err error) {
			if in.Timeout == "" {
				return service.Wait(ctx, in.Space, in.ID)
			}
			timeout, err := parseDuration("query.timeout:", in.Timeout)
			if err != nil {
				return task, err
			}
			limited, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			task, err = service.Wait(limited, in.Space, in.ID)
			if err != nil && limited.Err() != nil && ctx.Err() == nil {
				return service.Get(ctx, in.Space, in.ID)
			}
			return task, err
		})
	streamed(r, operation{id: "watch-task", route: "GET /v1/tasks/{id}/watch", summary: "Watch a task until it has ended or was buried",
		detail: "Each message with task has it as it is then: at first, and after each change of its state, attempt or progress."},
		func(ctx context.Context, in *TaskRef, out *stream) (task mayfly.Task, err error) {
			task, err = service.Get(ctx, in.Space, in.ID)
			for err == nil && !task.State.Ended() {
				if err = out.send(client.Message{Task: &task}); err == nil {
					task, err = service.Watch(ctx, in.Space, in.ID, task)
				}
			}
			return task, err
		})
}

// errMoved ends the reading of an attempt's log when the attempt has ended.
var errMoved = errors.New("the attempt has ended")
