package event

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

// stat is what is known of a mapping since the daemon started.
type stat struct {
	delivered, failures int64
	failing             bool // the last delivery that ended did not succeed
	buried              bool // it is a dead letter, if nobody has dealt with that
	err                 string
	last, retry         time.Time
	refused             map[uint64]string // events that made no task, by number, and why
}

// maxRefused is how many refused events are remembered.
const maxRefused = 256

// refuse notes that an event made no task, and never will.
func (s *stat) refuse(number uint64, why error) {
	if s.refused == nil || len(s.refused) >= maxRefused {
		s.refused = map[uint64]string{}
	}
	s.refused[number] = "it made no task: " + shortError(why)
}

// count changes what is known of a mapping.
func (e *Events) count(id string, change func(*stat)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.stats[id]
	if s == nil {
		s = &stat{}
		e.stats[id] = s
	}
	change(s)
}

// noteEnd notes how a delivery to a function ended.
func (e *Events) noteEnd(id string, task *mayfly.Task) {
	e.count(id, func(s *stat) {
		s.last = task.Ended
		if task.State == mayfly.TaskSucceeded {
			s.failing = false
			return
		}
		s.failing, s.buried = true, task.State == mayfly.TaskBuried
		if task.State != mayfly.TaskCancelled {
			s.failures++
		}
		s.err = endText(task)
	})
}

// endText says how a delivery to a function failed.
func endText(task *mayfly.Task) string {
	text := "task " + task.ID + " is " + string(task.State)
	if n := len(task.Attempts); n > 0 && task.Attempts[n-1].Exit != nil {
		if detail := task.Attempts[n-1].Exit.Detail; detail != "" {
			text += ": " + detail
		}
	}
	return text
}

// Triggers returns the mappings of a space, by target and type, each with how far
// it has come.
func (e *Events) Triggers(ctx context.Context, space string) ([]mayfly.TriggerState, error) {
	all := e.current()
	list := []mayfly.TriggerState{}
	for _, m := range all.byID {
		if m.Space == space {
			list = append(list, mayfly.TriggerState{EventMapping: m.EventMapping, State: "active"})
		}
	}
	slices.SortFunc(list, func(a, b mayfly.TriggerState) int {
		return cmp.Or(cmp.Compare(a.Target(), b.Target()), cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	})
	counts, err := e.countTasks(ctx, space, list)
	if err != nil {
		return nil, err
	}
	behind, err := e.behind(ctx, all, list)
	if err != nil {
		return nil, err
	}
	for i := range list {
		t := &list[i]
		t.Lag = behind[t.ID]
		if c := counts[t.ID]; c != nil {
			t.Lag, t.InFlight, t.Dead = t.Lag+c.waiting, c.running, c.dead
			if c.dead > 0 { // all that is known after a restart
				t.State, t.LastError, t.LastTime = "failing", endText(&c.last), c.last.Ended
			}
		}
		e.mu.Lock()
		if l := e.lines[t.ID]; l != nil {
			l.describe(t)
		}
		if s := e.stats[t.ID]; s != nil {
			t.Delivered, t.Failures = s.delivered, s.failures
			if !s.last.IsZero() {
				t.State, t.LastError, t.LastTime, t.Retry = "active", s.err, s.last, time.Time{}
			}
			if s.failing && (!s.buried || t.Dead > 0) {
				t.State, t.Retry = "failing", s.retry
			}
		}
		e.mu.Unlock()
		if t.Workload != "" && e.queue.Paused(space, t.Workload) {
			t.State = "paused"
		}
	}
	return list, nil
}

// describe adds what is in the line.
func (l *line) describe(t *mayfly.TriggerState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range l.window {
		if !it.started {
			t.Lag++
		}
	}
	if l.m.URL == "" {
		return
	}
	t.InFlight = l.calls
	for _, it := range l.window { // of which the mapping's own figures know nothing after a restart
		due := it.due
		if due.Before(l.quiet) {
			due = l.quiet
		}
		if it.tries > 0 && !it.started && (t.Retry.IsZero() || due.Before(t.Retry)) {
			t.State, t.LastError, t.Retry = "failing", it.err, due
		}
	}
}

// Bounds of what is counted: beyond it, counts are at least that.
const countMost = 10_000

type taskCount struct {
	waiting, running, dead int
	last                   mayfly.Task // of the dead ones
}

// countTasks counts the tasks of mappings that have not ended, or were buried.
func (e *Events) countTasks(ctx context.Context, space string, list []mayfly.TriggerState) (map[string]*taskCount, error) {
	counts := map[string]*taskCount{}
	done := map[string]bool{}
	for _, t := range list {
		if t.Workload == "" || done[t.Workload] {
			continue
		}
		done[t.Workload] = true
		f := queue.Filter{
			Space: space, Workload: t.Workload, Limit: 1000,
			States: []mayfly.TaskState{mayfly.TaskQueued, mayfly.TaskStarting, mayfly.TaskRunning, mayfly.TaskBuried},
		}
		for seen := 0; seen < countMost; {
			page, err := e.queue.List(ctx, f)
			if err != nil {
				return nil, err
			}
			for _, task := range page.Tasks {
				seen++
				if id := task.Labels[LabelMapping]; id != "" {
					c := counts[id]
					if c == nil {
						c = &taskCount{}
						counts[id] = c
					}
					switch task.State {
					case mayfly.TaskBuried:
						if c.dead++; !task.Ended.Before(c.last.Ended) {
							c.last = task
						}
					case mayfly.TaskQueued:
						c.waiting++
					default:
						c.running++
					}
				}
			}
			if f.After = page.Next; f.After == "" {
				break
			}
		}
	}
	return counts, nil
}

// behind counts the events that match and that neither the dispatcher nor the
// mapping's line has taken yet.
func (e *Events) behind(ctx context.Context, all *mappings, list []mayfly.TriggerState) (map[string]int, error) {
	counts := map[string]int{}
	e.mu.Lock()
	low, cursor := e.cursor, e.cursor
	next := map[string]uint64{}
	for id, l := range e.lines {
		l.mu.Lock()
		if l.next < l.target {
			next[id] = l.next
			low = min(low, l.next)
		}
		l.mu.Unlock()
	}
	e.mu.Unlock()
	if low >= e.journal.Last() && len(next) == 0 {
		return counts, nil
	}
	seen := 0
	return counts, e.journal.After(ctx, low, func(r bus.Record) bool {
		a, err := decode(&r)
		if err != nil {
			return true
		}
		all.matching(&a, func(m *mapping) {
			from, lagging := next[m.ID]
			if lagging && a.Number > from || !lagging && a.Number > cursor {
				counts[m.ID]++
			}
		})
		seen++
		return seen < countMost
	})
}
