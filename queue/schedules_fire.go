package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/schedule"
)

// How long after a failure a tick is tried again: the first doubles with each
// up to the longest.
const (
	firstRetry   = time.Second
	longestRetry = time.Minute
)

// fire deals with a schedule's ticks that are due, and returns when to look at it
// next. The caller holds its mutex.
func (s *Schedules) fire(ctx context.Context, e *scheduled) time.Time {
	s.mu.Lock()
	e.poked = false
	s.mu.Unlock()
	if e.paused {
		return time.Time{}
	}
	at := s.opts.Now()
	plan := e.timetable.Plan(e.ticks.State, at)
	if len(plan.Ticks) == 0 && len(e.ticks.Waiting) == 0 {
		// What was missed is not written: it is found again.
		e.ticks.State = e.ticks.AfterMisses(plan)
		return plan.Wake
	}
	def, changed, err := s.refresh(ctx, e)
	if e.seq == 0 || e.paused {
		return time.Time{}
	}
	if changed {
		plan = e.timetable.Plan(e.ticks.State, at)
	}
	if err == nil {
		err = s.deal(ctx, e, def, plan)
	}
	if err == nil {
		e.failures = 0
		if len(e.ticks.Waiting) > 0 && (plan.Wake.IsZero() || plan.Wake.Sub(at) > longestSleep) {
			return at.Add(longestSleep) // should nobody tell of the end that they wait for
		}
		return plan.Wake
	}
	if ctx.Err() == nil && !errors.Is(err, bus.ErrExists) && e.failures == 0 {
		s.log.Warn("a tick has made no task; it is tried again", "space", e.name.Space, "schedule", e.name.Name, "error", err)
	}
	delay := min(firstRetry<<min(e.failures, 10), longestRetry)
	e.failures++
	return at.Add(delay)
}

// deal submits what is due, and records it. An error leaves what is not done for
// the next time.
func (s *Schedules) deal(ctx context.Context, e *scheduled, def definition, plan schedule.Plan) error {
	next := e.ticks
	next.State = next.AfterMisses(plan)
	next.Waiting = slices.Clone(next.Waiting)
	var err error
	if next.Tasks, err = s.unfinished(ctx, e.name.Space, next.Tasks); err == nil {
		err = s.dealTicks(ctx, def, plan.Ticks, &next)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case err == nil:
		next.Error, next.Failed = "", time.Time{}
	case next.Error == "":
		next.Failed = s.opts.Now()
		fallthrough
	default:
		next.Error = cut(err.Error(), maxScheduleError)
	}
	if next.same(e.ticks) {
		return err
	}
	if writeErr := s.writeTicks(ctx, e, next); errors.Is(writeErr, bus.ErrExists) {
		_, _, readErr := s.refresh(ctx, e) // another leader's work stands
		return errors.Join(writeErr, readErr)
	} else if writeErr != nil {
		// Whoever asks is told, though it is not on disk.
		e.ticks.Error, e.ticks.Failed = cut(writeErr.Error(), maxScheduleError), s.opts.Now()
		return writeErr
	}
	return err
}

// same reports whether there is nothing to record. The rest changes with these.
func (t ticks) same(old ticks) bool {
	return t.Last.Equal(old.Last) && t.Error == old.Error && len(t.Waiting) == len(old.Waiting) && len(t.Tasks) == len(old.Tasks)
}

// dealTicks submits the tick that has waited longest, when there is nothing left
// that it waits for, and then what is due.
func (s *Schedules) dealTicks(ctx context.Context, def definition, due []schedule.Tick, next *ticks) error {
	if len(next.Waiting) > 0 && len(next.Tasks) == 0 {
		if _, err := s.submit(ctx, def, next.Waiting[0], next); err != nil {
			return err
		}
		next.Waiting = next.Waiting[1:]
	}
	last := next.Last
	for i, tick := range due {
		action := schedule.Decide(def.Overlap, len(next.Tasks)+len(next.Waiting))
		switch {
		case action == schedule.Skip,
			action == schedule.Queue && len(next.Waiting) == maxWaiting,
			def.Overlap == mayfly.OverlapReplace && i < len(due)-1: // the last would cancel it at once
			next.State = next.AfterSkip(tick.Time)
			continue
		case action == schedule.Queue:
			next.Waiting = append(next.Waiting, tick.Time.UTC())
			next.State = next.AfterRun(tick.Time)
			continue
		case action == schedule.Replace:
			if err := s.cancelAll(ctx, def.Space, next.Tasks); err != nil {
				return err
			}
			next.Tasks = nil
		}
		fresh, err := s.submit(ctx, def, tick.Time, next)
		if err != nil {
			return err
		}
		next.State = next.AfterRun(tick.Time)
		if !fresh && !tick.Time.After(last) {
			next.Count-- // it was counted before the clock was set back
		}
	}
	return nil
}

// submit submits a tick's task, and reports whether there was none before.
// Another payload under the same key means that the tick was fired before the
// schedule was changed, and bus.ErrExists that another leader fires it at this moment.
func (s *Schedules) submit(ctx context.Context, def definition, tick time.Time, next *ticks) (fresh bool, err error) {
	if def.Emit != nil {
		next.LastTask = ""
		return s.emit(ctx, def.Space, schedule.TickEvent(def.Schedule, tick))
	}
	sub := schedule.TickSubmission(def.Schedule, tick)
	got := s.tasks.Submit(ctx, []mayfly.Submission{sub})[0]
	switch {
	case mayfly.KindOf(got.Err) == mayfly.Conflict || errors.Is(got.Err, bus.ErrExists):
		got.Task.ID = keyID(sub.Space, queueName(sub.Workload), sub.Key)
	case got.Err != nil:
		return false, got.Err
	}
	next.LastTask = got.Task.ID
	if !got.Task.State.Ended() {
		next.follow(got.Task.ID)
	}
	return got.New, nil
}

// emit emits an event, and reports whether it is new.
func (s *Schedules) emit(ctx context.Context, space string, ev mayfly.Event) (fresh bool, err error) {
	if s.opts.Emit == nil {
		return false, mayfly.Errorf(mayfly.Unavailable, "this node has no events")
	}
	return s.opts.Emit(ctx, space, ev)
}

// follow remembers a task that has not ended.
func (t *ticks) follow(id string) {
	t.Tasks = append(t.Tasks[:len(t.Tasks):len(t.Tasks)], id)
	if over := len(t.Tasks) - maxFollowed; over > 0 {
		t.Tasks = t.Tasks[over:]
	}
}

// unfinished returns those of the tasks that have not ended.
func (s *Schedules) unfinished(ctx context.Context, space string, ids []string) ([]string, error) {
	var left []string
	for _, id := range ids {
		task, err := s.tasks.Get(ctx, space, id)
		switch {
		case mayfly.KindOf(err) == mayfly.NotFound:
		case err != nil:
			return ids, err
		case !task.State.Ended():
			left = append(left, id)
		}
	}
	return left, nil
}

func (s *Schedules) cancelAll(ctx context.Context, space string, ids []string) error {
	for _, id := range ids {
		_, err := s.tasks.Cancel(ctx, space, id)
		if kind := mayfly.KindOf(err); err != nil && kind != mayfly.Conflict && kind != mayfly.NotFound {
			return err
		}
	}
	return nil
}
