package queue

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

// MaxNext is how many ticks to come are told at most.
const MaxNext = 1000

// Get returns a schedule of a space, with at most so many of its ticks to come.
func (s *Schedules) Get(ctx context.Context, space, name string, next int) (mayfly.Scheduled, error) {
	if err := checkScheduleName(space, name); err != nil {
		return mayfly.Scheduled{}, err
	}
	e := s.lock(schedule.Name{Space: space, Name: name})
	defer s.unlock(e)
	def, _, err := s.refresh(ctx, e)
	if err != nil {
		return mayfly.Scheduled{}, err
	}
	return s.view(e, def, min(next, MaxNext)), nil
}

// List returns at most limit schedules of a space whose names are after a given
// one, by name, each with its next tick. There are no more when there are fewer
// than the limit.
func (s *Schedules) List(ctx context.Context, space, after string, limit int) ([]mayfly.Scheduled, error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = pageDefault
	}
	limit = min(limit, pageMax)
	var names []string
	s.mu.Lock()
	for name := range s.all {
		if name.Space == space && name.Name > after {
			names = append(names, name.Name)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(names, strings.Compare)
	var list []mayfly.Scheduled
	for _, name := range names {
		if len(list) == limit {
			break
		}
		got, err := s.glance(ctx, schedule.Name{Space: space, Name: name})
		if mayfly.KindOf(err) == mayfly.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, got)
	}
	return list, nil
}

// glance returns a schedule with its next tick, and with what this process knows
// of how far it has come.
func (s *Schedules) glance(ctx context.Context, name schedule.Name) (mayfly.Scheduled, error) {
	e := s.lock(name)
	defer s.unlock(e)
	def, msg, err := s.read(ctx, name)
	if err == nil && msg.Sequence != e.seq {
		def, _, err = s.refresh(ctx, e)
	}
	if err != nil {
		return mayfly.Scheduled{}, err
	}
	return s.view(e, def, 1), nil
}

// view is a schedule as others see it. The caller holds its mutex.
func (s *Schedules) view(e *scheduled, def definition, next int) mayfly.Scheduled {
	t := e.ticks
	got := mayfly.Scheduled{
		Schedule: def.Schedule, Last: t.Ran, LastTask: t.LastTask,
		Count: t.Count, Skips: t.Skips, Misses: t.Misses,
		Waiting: len(t.Waiting), Error: t.Error, Failed: t.Failed,
	}
	left := max(next, 1)
	if def.Times > 0 {
		left = min(left, def.Times-t.Count)
	}
	at := s.opts.Now()
	from := at.Add(-def.Jitter)
	for _, done := range []time.Time{t.State.Last, t.Since} {
		if done.After(from) && !done.After(at) {
			from = done
		}
	}
	for range left {
		tick := e.timetable.Next(from)
		if tick.IsZero() {
			break
		}
		got.Next = append(got.Next, tick)
		from = tick
	}
	// What is due at this moment may not have been fired yet.
	got.Ended = len(got.Next) == 0 && (def.Times > 0 && t.Count >= def.Times || !e.due(at))
	if def.Paused || next == 0 {
		got.Next = nil
	}
	return got
}

// due reports whether a tick is to be fired at the time, or tried again.
func (e *scheduled) due(at time.Time) bool {
	return len(e.timetable.Plan(e.ticks.State, at).Ticks) > 0
}
