package router

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// ListRuns returns runs, newest first: those under way before those on record.
func (r *Router) ListRuns(ctx context.Context, space, workload string, limit int, before string) ([]mayfly.Run, error) {
	list := []mayfly.Run{}
	if before == "" {
		list = r.underWay(func(x *mayfly.Run) bool {
			return x.Space == space && (workload == "" || x.Workload == workload)
		})
	}
	if limit > 0 && len(list) >= limit {
		return list[:limit], nil
	}
	if limit > 0 {
		limit -= len(list)
	}
	past, err := r.store.Runs(ctx, space, workload, limit, before)
	return append(list, past...), err
}

// GetRun returns a run by its id or the beginning of one.
func (r *Router) GetRun(ctx context.Context, space, ref string) (mayfly.Run, error) {
	now := r.underWay(func(x *mayfly.Run) bool { return x.Space == space && strings.HasPrefix(x.ID, ref) })
	if len(now) == 1 {
		return now[0], nil
	}
	return r.store.Run(ctx, space, ref)
}

// RunLogs passes on what the program of a run wrote.
func (r *Router) RunLogs(ctx context.Context, space, ref string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	x, err := r.GetRun(ctx, space, ref)
	if err != nil {
		return err
	}
	if x.Instance == "" {
		return nil
	}
	rel, err := r.store.Release(ctx, x.Space, x.Workload, x.Release)
	if err != nil || rel.Workload.Isolation != mayfly.IsolationInstance || x.Handler == 0 && x.Exit != nil {
		return r.logs.SandboxLogs(ctx, x.Instance, o, each)
	}
	return r.logs.SandboxLogs(ctx, x.Instance, within(&x, o), func(e mayfly.LogEntry) error {
		if x.Exit != nil && e.Time.After(x.Exit.Time.Add(moment)) {
			return nil
		}
		return each(e)
	})
}

// within narrows what is read of the log of an instance that serves many runs to
// the time that one of them was in it. What others wrote meanwhile is there too:
// a program that is to tell them apart writes its run's id, which it is given with
// its input. A tail is of the instance's log.
func within(x *mayfly.Run, o mayfly.LogOptions) mayfly.LogOptions {
	if handed := x.Started.Add(x.Queue + x.Sandbox); o.Since.Before(handed) {
		o.Since = handed
	}
	return o
}

// underWay returns the runs that have not ended and that match, newest first.
func (r *Router) underWay(match func(*mayfly.Run) bool) []mayfly.Run {
	list := []mayfly.Run{}
	r.mu.Lock()
	for _, x := range r.active {
		x.mu.Lock()
		if match(&x.record) {
			list = append(list, x.record)
		}
		x.mu.Unlock()
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b mayfly.Run) int { return cmp.Compare(b.ID, a.ID) })
	return list
}
