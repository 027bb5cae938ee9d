package queue

import (
	"context"
	"errors"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/schedule"
)

// Add keeps a schedule, whose ticks count from now on. One of the same name is a
// Conflict, unless it is to be replaced: then it goes on from where it is, but
// for what says when, a change of which begins anew. Whether it is paused stays
// as it is. The workload must be there, and a tick must be left.
func (s *Schedules) Add(ctx context.Context, want mayfly.Schedule, replace bool) (mayfly.Scheduled, error) {
	want.Manifest = ""
	if err := s.check(ctx, want); err != nil {
		return mayfly.Scheduled{}, err
	}
	return s.change(ctx, schedule.Name{Space: want.Space, Name: want.Name}, func(old *definition) (mayfly.Schedule, error) {
		switch {
		case old != nil && old.Manifest != "":
			return want, ofManifest(old.Schedule)
		case old != nil && !replace:
			return want, mayfly.Errorf(mayfly.Conflict, "there is a schedule %q already", want.Name).
				WithHint("remove it, or replace it")
		case old != nil:
			want.Paused = old.Paused
		}
		return want, nil
	})
}

// check refuses what can never make a task.
func (s *Schedules) check(ctx context.Context, want mayfly.Schedule) error {
	if want.Created.IsZero() {
		want.Created = s.opts.Now()
	}
	if _, err := schedule.NewTimetable(want, &s.zones); err != nil {
		return err
	}
	if want.Task.PayloadRef != "" {
		return mayfly.Errorf(mayfly.Invalid, "an upload is for one task, and schedule %s makes many", want.Name).WithHint("give it a payload")
	}
	if n := len(want.Task.Payload); n > MaxSchedulePayload {
		return mayfly.Errorf(mayfly.TooLarge, "the payload of schedule %s has %d bytes, and the limit is %d", want.Name, n, MaxSchedulePayload).
			WithHint("put it where the task can fetch it, and give its address")
	}
	if want.Emit != nil {
		return nil // it was checked with the times
	}
	if err := checkSubmission(schedule.TickSubmission(want, time.Time{})); err != nil {
		return mayfly.Errorf(mayfly.KindOf(err), "schedule %s: %w", want.Name, err)
	}
	var err error
	switch {
	case want.Manifest != "": // its workload may be about to come
	case want.Task.Workload != "":
		_, err = s.record.Function(want.Space, want.Task.Workload)
	case s.images != nil:
		_, err = s.images.Resolve(ctx, want.Task.Image)
	}
	return err
}

// Pause lets ticks pass without a task until Resume, which does not catch them
// up. What was submitted goes on.
func (s *Schedules) Pause(ctx context.Context, space, name string) (mayfly.Scheduled, error) {
	return s.setPaused(ctx, space, name, true)
}

// Resume undoes Pause.
func (s *Schedules) Resume(ctx context.Context, space, name string) (mayfly.Scheduled, error) {
	return s.setPaused(ctx, space, name, false)
}

func (s *Schedules) setPaused(ctx context.Context, space, name string, paused bool) (mayfly.Scheduled, error) {
	if err := checkScheduleName(space, name); err != nil {
		return mayfly.Scheduled{}, err
	}
	return s.change(ctx, schedule.Name{Space: space, Name: name}, func(old *definition) (mayfly.Schedule, error) {
		if old == nil {
			return mayfly.Schedule{}, noSchedule(name)
		}
		want := old.Schedule
		want.Paused = paused
		return want, nil
	})
}

// change makes of what is kept under a name what decide says. The old definition
// is nil when there is none.
func (s *Schedules) change(ctx context.Context, name schedule.Name, decide func(old *definition) (mayfly.Schedule, error)) (mayfly.Scheduled, error) {
	e := s.lock(name)
	defer s.unlock(e)
	var old *definition
	def, _, err := s.refresh(ctx, e)
	switch kind := mayfly.KindOf(err); {
	case err == nil:
		old = &def
	case kind != mayfly.NotFound:
		return mayfly.Scheduled{}, err
	}
	want, err := decide(old)
	if err != nil {
		return mayfly.Scheduled{}, err
	}
	next, err := s.define(want, old)
	if err != nil {
		return mayfly.Scheduled{}, err
	}
	if old == nil {
		err = s.room(0) // it is in the map already
	}
	if err != nil {
		return mayfly.Scheduled{}, err
	}
	if old == nil || !next.same(*old) {
		if err := s.put(ctx, e, next); err != nil {
			return mayfly.Scheduled{}, err
		}
	}
	return s.view(e, next, 1), nil
}

// room refuses so many more schedules when there would be too many.
func (s *Schedules) room(more int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all)+more > s.opts.Max {
		return mayfly.Errorf(mayfly.Busy, "there are more than %d schedules then", s.opts.Max).WithHint("remove some")
	}
	return nil
}

// put writes a definition and has it looked at.
func (s *Schedules) put(ctx context.Context, e *scheduled, next definition) error {
	msg, err := s.writeDefinition(ctx, e, next)
	if errors.Is(err, bus.ErrExists) {
		return mayfly.Errorf(mayfly.Conflict, "schedule %q was changed meanwhile", next.Name).WithHint("look at it, then try again")
	}
	if err == nil {
		_, err = s.take(e, msg)
	}
	if err != nil {
		return err
	}
	s.setWake(e, s.opts.Now())
	wake(s.kick)
	return nil
}

// define makes the definition that follows an old one, nil for none.
func (s *Schedules) define(want mayfly.Schedule, old *definition) (definition, error) {
	at := s.opts.Now()
	want.Task.Space = ""
	want.At, want.Start, want.End = want.At.UTC(), want.Start.UTC(), want.End.UTC()
	next := definition{Schedule: want, Since: at.Truncate(time.Second), Change: mayfly.NewID()}
	next.Created = at
	if old != nil && sameTimes(want, old.Schedule) {
		next.Created, next.Since, next.Change = old.Created, old.Since, old.Change
		if old.Paused && !want.Paused {
			next.Since = at.Truncate(time.Second)
		}
		return next, nil
	}
	timetable, err := schedule.NewTimetable(next.Schedule, &s.zones)
	if err == nil {
		_, err = timetable.FirstAfter(at)
	}
	return next, err
}

// sameTimes reports whether two schedules tick at the same times.
func sameTimes(a, b mayfly.Schedule) bool {
	return a.Cron == b.Cron && a.TimeZone == b.TimeZone && a.Every == b.Every && a.Times == b.Times &&
		a.At.Equal(b.At) && a.Start.Equal(b.Start) && a.End.Equal(b.End)
}

// Remove forgets a schedule. What it submitted goes on; ticks that wait do not.
func (s *Schedules) Remove(ctx context.Context, space, name string) error {
	if err := checkScheduleName(space, name); err != nil {
		return err
	}
	return s.remove(ctx, schedule.Name{Space: space, Name: name}, "")
}

// remove forgets a schedule of a manifest, or of none.
func (s *Schedules) remove(ctx context.Context, name schedule.Name, manifest string) error {
	e := s.lock(name)
	defer s.unlock(e)
	def, _, err := s.read(ctx, name)
	switch kind := mayfly.KindOf(err); {
	case kind == mayfly.NotFound || kind == mayfly.Unavailable || ctx.Err() != nil:
		return err
	case err == nil && def.Manifest != manifest:
		return ofManifest(def.Schedule)
	}
	// What cannot be read is nobody's, and can be removed as well.
	if err := s.erase(ctx, name); err != nil {
		return err
	}
	e.seq = 0
	return nil
}

// RunNow submits a schedule's task now, whatever its times, its overlap policy
// and its pause say. For one that emits an event there is no task, and the id is
// the event's. It is no tick, but ticks to come heed it as they would one.
func (s *Schedules) RunNow(ctx context.Context, space, name string) (mayfly.Task, error) {
	if err := checkScheduleName(space, name); err != nil {
		return mayfly.Task{}, err
	}
	e := s.lock(schedule.Name{Space: space, Name: name})
	defer s.unlock(e)
	def, _, err := s.refresh(ctx, e)
	if err != nil {
		return mayfly.Task{}, err
	}
	if def.Emit != nil {
		ev := schedule.TickEvent(def.Schedule, s.opts.Now())
		ev.ID = mayfly.NewID()
		_, err := s.emit(ctx, def.Space, ev)
		return mayfly.Task{ID: ev.ID, Space: def.Space, State: mayfly.TaskSucceeded, Accepted: ev.Time}, err
	}
	sub := schedule.RunSubmission(def.Schedule)
	got := s.tasks.Submit(ctx, []mayfly.Submission{sub})[0]
	if got.Err != nil {
		return mayfly.Task{}, got.Err
	}
	next := e.ticks
	next.follow(got.Task.ID)
	if err := s.writeTicks(ctx, e, next); err != nil {
		s.log.Warn("a task that was run out of turn is not heeded by the ticks to come", "schedule", name, "task", got.Task.ID, "error", err)
	}
	return got.Task, nil
}

func ofManifest(s mayfly.Schedule) error {
	if s.Manifest == "" {
		return mayfly.Errorf(mayfly.Conflict, "there is a schedule %q that is of no manifest", s.Name).
			WithHint("remove it, or give the other another name")
	}
	return mayfly.Errorf(mayfly.Conflict, "schedule %q is of the manifest of %s", s.Name, s.Manifest).
		WithHint("change it there and deploy, or pause it")
}

func checkScheduleName(space, name string) error {
	if err := mayfly.CheckName("space", space); err != nil {
		return err
	}
	return mayfly.CheckName("schedule", name)
}
