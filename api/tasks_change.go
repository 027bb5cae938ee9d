package api

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Bounds of what is done to many buried tasks at once.
const (
	deadAtOnce   = 16
	deadIDs      = 10_000
	deadFailures = 100
	deadReport   = 1000 // tasks between two reports
)

func (r *router) taskChanges() {
	service := r.services.Tasks
	answerWith(r, operation{id: "cancel-task", route: "POST /v1/tasks/{id}/cancel", summary: "Cancel a task that has not ended",
		detail: "A program that runs gets SIGTERM and, after a while, SIGKILL. The outcome is on disk when this is answered."},
		func(ctx context.Context, in *TaskRef) (mayfly.Task, error) {
			return service.Cancel(ctx, in.Space, in.ID)
		})
	answerWith(r, operation{id: "retry-task", route: "POST /v1/tasks/{id}/retry", summary: "Bring a buried task back, with all its retries"},
		func(ctx context.Context, in *TaskRef) (mayfly.Task, error) {
			return service.Retry(ctx, in.Space, in.ID)
		})
	answerWith(r, operation{id: "purge-task", route: "DELETE /v1/tasks/{id}", summary: "End a buried task: its last failure is its outcome"},
		func(ctx context.Context, in *TaskRef) (mayfly.Task, error) {
			return service.Purge(ctx, in.Space, in.ID)
		})
	done(r, operation{id: "task-progress", route: "PUT /v1/tasks/{id}/progress", summary: "Say how far a running task is"},
		func(ctx context.Context, in *struct {
			TaskRef
			Body client.ProgressRequest
		}) error {
			attempt := in.Body.Attempt
			if attempt == 0 {
				task, err := service.Get(ctx, in.Space, in.ID)
				if err != nil {
					return err
				}
				attempt = task.Attempt
			}
			p := mayfly.Progress{Percent: in.Body.Percent, Message: in.Body.Message, Time: time.Now().UTC()}
			return service.Progress(ctx, in.Space, in.ID, attempt, p)
		})
	r.deadTasks("retry", "Bring buried tasks back", func(ctx context.Context, space, id string) error {
		_, err := service.Retry(ctx, space, id)
		return err
	})
	r.deadTasks("purge", "End buried tasks", func(ctx context.Context, space, id string) error {
		_, err := service.Purge(ctx, space, id)
		return err
	})
}

// deadTasks registers something that is done to many buried tasks.
func (r *router) deadTasks(verb, summary string, do func(ctx context.Context, space, id string) error) {
	streamed(r, operation{id: verb + "-dead-tasks", route: "POST /v1/tasks/dead/" + verb, summary: summary,
		detail: "Those with the ids, or all of the workload and the labels. A task that is no longer buried is passed over."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.DeadTasks
		}, out *stream) (none client.DeadDone, err error) {
			b := &deadBatch{do: func(ctx context.Context, id string) error { return do(ctx, in.Space, id) }, out: out}
			chosen := in.Body.Workload != "" || len(in.Body.Labels) > 0
			switch {
			case len(in.Body.IDs) > deadIDs:
				return none, mayfly.Errorf(mayfly.TooLarge, "body.ids: %d ids, and the limit is %d", len(in.Body.IDs), deadIDs)
			case len(in.Body.IDs) > 0 && (chosen || in.Body.All):
				return none, mayfly.Errorf(mayfly.Invalid, "ids and the others exclude each other").WithHint("keep one of them")
			case len(in.Body.IDs) > 0:
				b.strict = true
				return b.each(ctx, in.Body.IDs)
			case !chosen && !in.Body.All:
				return none, mayfly.Errorf(mayfly.Invalid, "nothing says which tasks").WithHint("send ids, workload, labels, or all: true")
			}
			return b.every(ctx, r.services.Tasks, queue.Filter{Space: in.Space, Workload: in.Body.Workload, Labels: in.Body.Labels})
		})
}

// deadBatch does something to many buried tasks.
type deadBatch struct {
	do     func(ctx context.Context, id string) error
	out    *stream
	strict bool // one that is not buried is a failure

	mu     sync.Mutex
	result client.DeadDone
}

// every goes through the list of the buried. One that comes to be buried again
// meanwhile is not done again.
func (b *deadBatch) every(ctx context.Context, tasks Tasks, f queue.Filter) (client.DeadDone, error) {
	f.States, f.Limit = []mayfly.TaskState{mayfly.TaskBuried}, deadReport
	begun := time.Now()
	for {
		page, err := tasks.List(ctx, f)
		if err != nil {
			return b.result, err
		}
		var ids []string
		for _, t := range page.Tasks {
			if !t.Ended.After(begun) {
				ids = append(ids, t.ID)
			}
		}
		if _, err := b.each(ctx, ids); err != nil {
			return b.result, err
		}
		if f.After = page.Next; f.After == "" {
			return b.result, nil
		}
		b.out.say(fmt.Sprintf("%d tasks", b.result.Tasks))
	}
}

func (b *deadBatch) each(ctx context.Context, ids []string) (client.DeadDone, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deadAtOnce)
	for _, id := range ids {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return b.note(ctx, id, b.do(ctx, id))
		})
	}
	err := group.Wait()
	return b.result, err
}

// note counts what became of a task. What would fail for every other too is
// returned.
func (b *deadBatch) note(ctx context.Context, id string, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	kind := mayfly.KindOf(err)
	switch {
	case err == nil:
		b.result.Tasks++
	case ctx.Err() != nil, kind == mayfly.Unavailable, kind == mayfly.Busy, kind == mayfly.Internal:
		return err
	case !b.strict && (kind == mayfly.Conflict || kind == mayfly.NotFound): // somebody else was quicker
	default:
		b.result.Failed++
		if len(b.result.Failures) < deadFailures {
			b.result.Failures = append(b.result.Failures, client.TaskFailure{ID: id, Error: *client.NewProblem(err)})
		}
	}
	return nil
}

func (r *router) taskQueues() {
	service := r.services.Tasks
	answerWith(r, operation{id: "callback-secret", route: "GET /v1/callbacks/secret", summary: "Get what the callbacks of a space are signed with",
		detail: "The signature is that of Standard Webhooks, in webhook-signature. Programs in containers may not ask for it."},
		func(ctx context.Context, in *InSpace) (client.CallbackSecret, error) {
			secret, err := service.Secret(ctx, in.Space)
			return client.CallbackSecret{Secret: secret}, err
		})
	answerWith(r, operation{id: "get-queue", route: "GET /v1/workloads/{name}/queue", summary: "Whether a workload's tasks are started"},
		func(_ context.Context, in *WorkloadRef) (client.TaskQueue, error) {
			return client.TaskQueue{Workload: in.Name, Paused: service.Paused(in.Space, in.Name)}, nil
		})
	done(r, operation{id: "pause-queue", route: "POST /v1/workloads/{name}/queue/pause", summary: "Start no task of a workload until it is resumed"},
		func(ctx context.Context, in *WorkloadRef) error {
			if r.services.Workloads != nil { // a name that was mistyped must not pass for one that is paused
				if _, err := r.services.Workloads.GetWorkload(ctx, in.Space, in.Name); err != nil {
					return err
				}
			}
			return service.Pause(ctx, in.Space, in.Name)
		})
	done(r, operation{id: "resume-queue", route: "POST /v1/workloads/{name}/queue/resume", summary: "Start tasks of a workload again"},
		func(ctx context.Context, in *WorkloadRef) error {
			return service.Resume(ctx, in.Space, in.Name)
		})
}
