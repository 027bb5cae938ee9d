package api

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// logSlack is how much later than an attempt's end something that it wrote may
// be noted, where its container goes on. The next attempt may have written some
// of it: better that than to lose the last words of this one.
const logSlack = 250 * time.Millisecond

func (r *router) taskLogs() {
	streamed(r, operation{id: "task-logs", route: "GET /v1/tasks/{id}/logs", summary: "Read the logs of a task's attempts",
		detail: "One after the other. With follow it goes on with those to come until the task has ended. Of the log of the last attempt, tail is the end."},
		func(ctx context.Context, in *struct {
			TaskRef
			LogQuery
			Attempt int `query:"attempt" minimum:"0" doc:"of this attempt only"`
		}, out *stream) (nothing, error) {
			if err := need(r.services.Logs, "logs"); err != nil {
				return nothing{}, err
			}
			l := taskLog{tasks: r.services.Tasks, logs: r.services.Logs, opts: in.options(), only: in.Attempt, each: out.log}
			return nothing{}, l.read(ctx, in.Space, in.ID, r.shared)
		})
}

// shared says whether a task's container runs others too.
func (r *router) shared(ctx context.Context, task mayfly.Task) bool {
	if task.Workload == "" || r.services.Workloads == nil {
		return false
	}
	release, err := r.services.Workloads.GetWorkload(ctx, task.Space, task.Workload)
	return err == nil && release.Workload.Isolation == mayfly.IsolationInstance
}

// taskLog reads the logs of a task's attempts, one after the other.
type taskLog struct {
	tasks  Tasks
	logs   Logs
	opts   mayfly.LogOptions
	only   int  // the attempt; 0: all
	shared bool // the containers run other tasks too: what an attempt wrote is told by its time
	each   func(mayfly.LogEntry) error
	last   time.Time // of what was given of the present attempt
}

func (l *taskLog) read(ctx context.Context, space, id string, shared func(context.Context, mayfly.Task) bool) error {
	task, err := l.tasks.Get(ctx, space, id)
	if err != nil {
		return err
	}
	l.shared = shared(ctx, task)
	done := 0
	if n := len(task.Attempts); l.opts.Tail >= 0 && l.only == 0 && n > 1 {
		done = task.Attempts[n-2].Number
	}
	for ; ; l.opts.Tail = -1 {
		for _, a := range task.Attempts {
			if a.Number <= done || l.only != 0 && a.Number != l.only {
				continue
			}
			if err := l.attempt(ctx, task, a); err != nil {
				return err
			}
			if a.Exit != nil || l.opts.Follow && a.Instance != "" {
				done = a.Number
			}
		}
		if !l.opts.Follow || task.State.Ended() || l.only != 0 && done >= l.only {
			return nil
		}
		if task, err = l.tasks.Watch(ctx, space, id, task); err != nil {
			return err
		}
	}
}

// attempt gives the log of one attempt, of one that runs to its end if that is
// wanted.
func (l *taskLog) attempt(ctx context.Context, task mayfly.Task, a mayfly.Attempt) error {
	if a.Instance == "" {
		return nil
	}
	l.last = time.Time{}
	if a.Exit != nil || !l.opts.Follow {
		return l.part(ctx, a, l.opts, a.Ended)
	}
	if !l.shared {
		return l.part(ctx, a, l.opts, time.Time{})
	}
	// The container outlives the attempt, so its log has no end for us to see.
	following, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var watching sync.WaitGroup
	watching.Go(func() { stop(l.untilMoved(following, task, a)) })
	err := l.part(following, a, l.opts, time.Time{})
	stop(nil)
	watching.Wait()
	if context.Cause(following) != errMoved {
		return err
	}
	rest := mayfly.LogOptions{Tail: -1, Since: l.last}
	now, err := l.tasks.Get(ctx, task.Space, task.ID)
	if err != nil {
		return err
	}
	for _, b := range now.Attempts {
		if b.Number == a.Number {
			a = b
		}
	}
	return l.part(ctx, a, rest, a.Ended)
}

// untilMoved returns errMoved when the attempt has ended.
func (l *taskLog) untilMoved(ctx context.Context, task mayfly.Task, a mayfly.Attempt) error {
	for !task.State.Ended() && task.Attempt == a.Number {
		next, err := l.tasks.Watch(ctx, task.Space, task.ID, task)
		if err != nil {
			return err
		}
		task = next
	}
	return errMoved
}

// part gives what an attempt's container wrote, after what was given before. A
// container of which nothing is kept wrote nothing.
func (l *taskLog) part(ctx context.Context, a mayfly.Attempt, opts mayfly.LogOptions, end time.Time) error {
	before := l.last
	opts.Follow = l.opts.Follow && end.IsZero()
	err := l.logs.SandboxLogs(ctx, a.Instance, opts, func(e mayfly.LogEntry) error {
		switch {
		case !before.IsZero() && !e.Time.After(before):
			return nil
		case l.shared && e.Time.Before(a.Granted):
			return nil
		case l.shared && !end.IsZero() && e.Time.After(end.Add(logSlack)):
			return nil
		}
		l.last = e.Time
		return l.each(e)
	})
	if mayfly.KindOf(err) == mayfly.NotFound {
		return nil
	}
	return err
}
