package queue

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Bounds of one page.
const (
	pageDefault = 50
	pageMax     = 1000
	scanMax     = 10_000 // messages looked at
	readBatch   = 256    // of outcomes
)

// Filter selects tasks of a space.
type Filter struct {
	Space    string
	Workload string             // any if empty
	States   []mayfly.TaskState // any if empty
	Labels   map[string]string  // all of them
	Since    time.Time          // accepted then or later
	Until    time.Time          // accepted before; no limit if zero
	Limit    int                // tasks of a page: 50 if zero, 1000 at most
	After    string             // Next of the page before
}

// Page is a part of a list. It may be short, or empty, when much had to be
// looked at; the list has ended when Next is empty.
type Page struct {
	Tasks []mayfly.Task
	Next  string
}

// List returns the tasks that a filter selects: those that wait their turn,
// then those that wait for a time, or for other tasks, then the buried ones, each
// the oldest first, then those that ended, the newest first. A task that moves
// meanwhile may be listed twice or not.
func (q *Queue) List(ctx context.Context, f Filter) (Page, error) {
	if err := checkQueue(f.Space, f.Workload); err != nil {
		return Page{}, err
	}
	if f.Limit <= 0 {
		f.Limit = pageDefault
	}
	f.Limit = min(f.Limit, pageMax)
	l := lister{q: q, filter: f, budget: scanMax}
	at, seq, err := parseCursor(f.After)
	if err != nil {
		return Page{}, err
	}
	if f.underWay() {
		if next := l.listGranted(seq); next != 0 {
			return Page{Tasks: l.tasks, Next: fmt.Sprintf("0.%d", next)}, nil
		}
		return Page{Tasks: l.tasks}, nil
	}
	for i := at; i < len(listOrder); i, seq = i+1, 0 {
		if !f.wants(listOrder[i]) {
			continue
		}
		next, err := l.list(ctx, listOrder[i], seq)
		if err != nil {
			return Page{}, err
		}
		if next != 0 {
			return Page{Tasks: l.tasks, Next: fmt.Sprintf("%d.%d", i, next)}, nil
		}
	}
	return Page{Tasks: l.tasks}, nil
}

var listOrder = [...]place{inPending, inLater, inHeld, inDead, inOutcome}

// wants reports whether a place can hold tasks that the filter selects.
func (f Filter) wants(p place) bool {
	for _, s := range f.States {
		switch {
		case s == mayfly.TaskBuried:
			if p == inDead {
				return true
			}
		case s.Ended():
			if p == inOutcome {
				return true
			}
		case p == inPending, (p == inLater || p == inHeld) && s == mayfly.TaskQueued:
			return true
		}
	}
	return len(f.States) == 0
}

func (f Filter) matches(t mayfly.Task) bool {
	if t.Accepted.Before(f.Since) || !f.Until.IsZero() && !t.Accepted.Before(f.Until) || f.Workload != "" && t.Workload != f.Workload {
		return false
	}
	for k, v := range f.Labels {
		if got, ok := t.Labels[k]; !ok || got != v {
			return false
		}
	}
	for _, s := range f.States {
		if t.State == s {
			return true
		}
	}
	return len(f.States) == 0
}

func parseCursor(s string) (at int, seq uint64, err error) {
	if s == "" {
		return 0, 0, nil
	}
	first, second, _ := strings.Cut(s, ".")
	at, err1 := strconv.Atoi(first)
	seq, err2 := strconv.ParseUint(second, 10, 64)
	if err1 != nil || err2 != nil || at < 0 || at >= len(listOrder) {
		return 0, 0, mayfly.Errorf(mayfly.Invalid, "%q does not continue a list", s)
	}
	return at, seq, nil
}

// lister fills one page.
type lister struct {
	q      *Queue
	filter Filter
	tasks  []mayfly.Task
	budget int // messages that may be looked at yet
}

// list reads a place on from a sequence, 0 being its beginning. It returns where
// to go on, or 0 at the end.
func (l *lister) list(ctx context.Context, p place, seq uint64) (next uint64, err error) {
	if p == inOutcome {
		return l.listOutcomes(ctx, seq)
	}
	queue := "*"
	if l.filter.Workload != "" {
		queue = l.filter.Workload
	}
	var failed error
	err = l.q.each(ctx, p, l.filter.Space, queue, seq, l.budget+1, func(list []kept) bool {
		next, failed = l.addAll(ctx, p, list)
		return next == 0 && failed == nil
	})
	if err == nil {
		err = failed
	}
	return next, err
}

// addAll adds the tasks that the filter selects, and returns where to go on when
// there is no room for more.
func (l *lister) addAll(ctx context.Context, p place, list []kept) (next uint64, err error) {
	elsewhere := map[string]bool{}
	if p == inPending {
		if elsewhere, err = l.q.elsewhere(ctx, l.old(list)); err != nil {
			return 0, err
		}
	}
	for _, k := range list {
		if len(l.tasks) == l.filter.Limit || l.budget == 0 {
			return k.seq, nil
		}
		if err := l.add(ctx, p, k, elsewhere); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// old are the tasks from before Open that are not in memory.
func (l *lister) old(list []kept) (old []mayfly.Task) {
	l.q.mu.Lock()
	defer l.q.mu.Unlock()
	for _, k := range list {
		if k.err == nil && k.seq <= l.q.tasks.Opened() && l.q.entries[entryKey(k.task.Space, k.task.ID)] == nil {
			old = append(old, k.task)
		}
	}
	return old
}

// listOutcomes reads backwards. The cursor is the position before which to go on.
func (l *lister) listOutcomes(ctx context.Context, end uint64) (next uint64, err error) {
	if err := wait(ctx, l.q.outcomes.Loaded()); err != nil {
		return 0, err
	}
	var failed error
	err = l.q.outcomes.Back(ctx, end, func(rec bus.Record) bool {
		if !strings.HasPrefix(rec.Key, l.filter.Space+".") {
			return true
		}
		if len(l.tasks) == l.filter.Limit || l.budget == 0 {
			next = rec.Position + 1
			return false
		}
		task, err := readRecord(rec)
		failed = l.add(ctx, inOutcome, kept{task: task, seq: rec.Position, err: err}, nil)
		return failed == nil
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, unavailable("list tasks", err)
	}
	return next, nil
}

// add adds a task if the filter selects it and it is there.
func (l *lister) add(ctx context.Context, p place, k kept, elsewhere map[string]bool) error {
	l.budget--
	task, err := k.task, k.err
	if err != nil {
		l.q.log.Error("a task that cannot be read is passed over", "sequence", k.seq, "error", err)
		return nil
	}
	switch p {
	case inDead:
		task.State = mayfly.TaskBuried
	case inPending:
		var here bool
		if task, here, err = l.pending(ctx, task, k.seq, elsewhere); err != nil || !here {
			return err
		}
	}
	if l.filter.matches(task) {
		l.tasks = append(l.tasks, task)
	}
	return nil
}

// pending returns a pending task as it is now, and whether it is one.
func (l *lister) pending(ctx context.Context, task mayfly.Task, seq uint64, elsewhere map[string]bool) (mayfly.Task, bool, error) {
	key := entryKey(task.Space, task.ID)
	l.q.mu.Lock()
	e := l.q.entries[key]
	if e != nil && e.seq == seq {
		task = e.view()
	}
	l.q.mu.Unlock()
	if e != nil || !elsewhere[key] {
		return task, e == nil || e.seq == seq, nil
	}
	_, err := l.q.findEnded(ctx, task.Space, task.ID, queueOf(task))
	if mayfly.KindOf(err) == mayfly.NotFound {
		return task, true, nil
	}
	return task, false, err
}

// underWay reports whether a filter selects no tasks but such as have begun.
func (f Filter) underWay() bool {
	for _, s := range f.States {
		if s != mayfly.TaskStarting && s != mayfly.TaskRunning {
			return false
		}
	}
	return len(f.States) > 0
}

// listGranted lists tasks that have begun, which are in memory, from a sequence
// on.
func (l *lister) listGranted(from uint64) (next uint64) {
	type granted struct {
		task mayfly.Task
		seq  uint64
	}
	var list []granted
	l.q.mu.Lock()
	for _, e := range l.q.entries {
		if e.grant != nil && e.seq >= from && e.task.Space == l.filter.Space {
			if task := e.view(); l.filter.matches(task) {
				list = append(list, granted{task, e.seq})
			}
		}
	}
	l.q.mu.Unlock()
	slices.SortFunc(list, func(a, b granted) int { return cmp.Compare(a.seq, b.seq) })
	for _, g := range list {
		if len(l.tasks) == l.filter.Limit {
			return g.seq
		}
		l.tasks = append(l.tasks, g.task)
	}
	return 0
}
