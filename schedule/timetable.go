package schedule

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"time"

	"github.com/mayfly-run/mayfly"
)

// The bounds of a schedule.
const (
	MinEvery       = time.Second
	MaxJitter      = 24 * time.Hour
	MinCatchUp     = 10 * time.Second // the time of an election: less would lose ticks whenever a leader goes
	DefaultCatchUp = 5 * time.Minute

	anyTime = time.Duration(math.MaxInt64) // of a catch-up window: a tick is never too late
)

// Timetable is the arithmetic of one schedule: when its ticks are. It reads
// no clock, holds no payload and does not change, so many may use it at once.
type Timetable struct {
	space   string
	name    string
	cron    Cron
	zone    *time.Location
	every   time.Duration
	first   time.Time // of every
	at      time.Time
	start   time.Time
	end     time.Time
	times   int
	jitter  time.Duration
	catchUp time.Duration
	paused  bool
}

// NewTimetable checks a schedule and returns its timetable. Errors are Invalid
// and name the part that is wrong. What a task may be it leaves to Submit, but
// for whose it is; and it does not ask whether a tick is left: FirstAfter
// does, which only a new or a changed schedule needs.
func NewTimetable(s mayfly.Schedule, zones *Zones) (*Timetable, error) {
	if err := checkSchedule(s); err != nil {
		return nil, err
	}
	t := &Timetable{
		space: s.Space, name: s.Name, zone: time.UTC,
		every: s.Every, at: s.At, start: s.Start, end: s.End,
		times: s.Times, jitter: s.Jitter, catchUp: s.CatchUp, paused: s.Paused,
	}
	var err error
	if s.Cron != "" {
		if t.cron, err = ParseCron(s.Cron); err != nil {
			return nil, err
		}
		if t.zone, err = zones.Load(s.TimeZone); err != nil {
			return nil, err
		}
	}
	if t.first = s.Start; t.first.IsZero() {
		t.first = s.Created.Truncate(time.Second).Add(s.Every)
	}
	if t.catchUp == 0 {
		t.catchUp = DefaultCatchUp
		if !s.At.IsZero() {
			t.catchUp = anyTime
		}
	}
	return t, nil
}

// checkSchedule looks at everything but the cron line and its zone.
func checkSchedule(s mayfly.Schedule) error {
	if err := mayfly.CheckName("space", s.Space); err != nil {
		return err
	}
	if err := mayfly.CheckName("schedule", s.Name); err != nil {
		return err
	}
	bad := func(format string, args ...any) *mayfly.Error {
		return mayfly.Errorf(mayfly.Invalid, "schedule "+s.Name+": "+format, args...)
	}
	switch sub := s.Task; {
	case s.Emit != nil:
		if sub.Workload != "" || sub.Image != "" || sub.Payload != nil {
			return bad("it either emits an event or makes a task")
		}
		if ev := TickEvent(s, time.Unix(0, 0)); s.Emit.ID != "" || !s.Emit.Time.IsZero() {
			return bad("the id and the time of its events follow from its ticks")
		} else if err := ev.Check(); err != nil {
			return bad("%w", err)
		}
	case (sub.Workload == "") == (sub.Image == ""):
		return bad("it needs a workload or an image, and not both")
	case sub.Image == "" && len(sub.Argv) > 0:
		return bad("argv goes with an image only").WithHint("a workload has its own command; give it a payload")
	case sub.Space != "" && sub.Space != s.Space:
		return bad("its tasks are of its own space, not of %q", sub.Space)
	case sub.Key != "" || !sub.NotBefore.IsZero() || len(sub.After) > 0:
		return bad("key, time and parents of a task cannot be set").WithHint("each tick sets its own")
	case sub.Workload != "":
		if err := mayfly.CheckName("workload", sub.Workload); err != nil {
			return err
		}
	}
	if err := checkWhen(s, bad); err != nil {
		return err
	}
	switch s.Overlap {
	case "", mayfly.OverlapSkip, mayfly.OverlapQueue, mayfly.OverlapReplace:
		return nil
	}
	return bad("overlap %q is none", string(s.Overlap)).WithHint("use skip, queue or replace")
}

// checkWhen looks at the parts that say when.
func checkWhen(s mayfly.Schedule, bad func(string, ...any) *mayfly.Error) error {
	ways := 0
	for _, set := range []bool{s.Cron != "", s.Every != 0, !s.At.IsZero()} {
		if set {
			ways++
		}
	}
	for _, t := range []time.Time{s.At, s.Start, s.End} {
		if y := t.Year(); !t.IsZero() && (y < 1970 || y > 9999) {
			return bad("%s is not a time of the years 1970 to 9999", t.Format(time.RFC3339))
		}
	}
	switch {
	case ways != 1:
		return bad("it needs one of cron, every and at; it has %d", ways)
	case s.TimeZone != "" && s.Cron == "":
		return bad("a time zone goes with cron only")
	case s.Every != 0 && s.Every < MinEvery:
		return bad("every %v is too often; the least is %v", s.Every, MinEvery)
	case s.Every != 0 && s.Start.IsZero() && s.Created.IsZero():
		return bad("every needs a start, or the time the schedule was created at, to count from")
	case !s.At.IsZero() && (!s.Start.IsZero() || !s.End.IsZero()):
		return bad("start and end do not go with at, which is one time")
	case !s.Start.IsZero() && !s.End.IsZero() && s.Start.After(s.End):
		return bad("start %s is after end %s", s.Start.Format(time.RFC3339), s.End.Format(time.RFC3339))
	case s.Times < 0:
		return bad("times %d is less than none; 0 is without limit", s.Times)
	case s.Jitter < 0 || s.Jitter > MaxJitter:
		return bad("jitter %v is not between 0 and %v", s.Jitter, MaxJitter)
	case s.CatchUp != 0 && s.CatchUp < MinCatchUp:
		return bad("catch-up %v is too short, ticks would be lost when another node takes over", s.CatchUp).
			WithHint("use %v or more, or leave it out for %v", MinCatchUp, DefaultCatchUp)
	}
	return nil
}

// FirstAfter returns the first tick after now, or an Invalid error that says
// why the schedule would never fire.
func (t *Timetable) FirstAfter(now time.Time) (time.Time, error) {
	if tick := t.Next(now); !tick.IsZero() {
		return tick, nil
	}
	why := "no tick is before the year 10000"
	switch {
	case !t.at.IsZero():
		why = "at " + t.at.Format(time.RFC3339) + " is in the past"
	case !t.end.IsZero() && !t.end.After(now):
		why = "end " + t.end.Format(time.RFC3339) + " is in the past"
	case !t.end.IsZero():
		why = "no tick is before its end, " + t.end.Format(time.RFC3339)
	}
	return time.Time{}, mayfly.Errorf(mayfly.Invalid, "schedule %s never fires: %s", t.name, why)
}

// Next returns the first tick after the given time, and the zero time if none
// is left. It is the nominal time: Due adds the jitter. It heeds start and
// end, which are ticks themselves if they fall on one, but neither Times nor
// Paused.
func (t *Timetable) Next(after time.Time) time.Time {
	if !t.start.IsZero() && after.Before(t.start) {
		after = t.start.Add(-1)
	}
	var tick time.Time
	switch {
	case t.every != 0:
		tick = t.nextEvery(after)
	case t.at.IsZero():
		tick = t.cron.Next(after, t.zone)
	case t.at.After(after):
		tick = t.at
	}
	if !t.end.IsZero() && tick.After(t.end) {
		return time.Time{}
	}
	return tick
}

// nextEvery counts in real seconds: no clock that is turned touches it. It
// ends 292 years after its start.
func (t *Timetable) nextEvery(after time.Time) time.Time {
	passed := after.Sub(t.first)
	switch {
	case passed < 0:
		return t.first
	case passed > math.MaxInt64-t.every:
		return time.Time{}
	}
	return t.first.Add(passed - passed%t.every + t.every)
}

// Due returns when a tick's task is submitted: at the tick, or later by a part
// of the jitter. The part follows from the schedule's name and the tick alone,
// so that every node comes to the same; it never reaches the next tick, so the
// order of ticks is that of their due times.
func (t *Timetable) Due(tick time.Time) time.Time {
	span := t.jitter
	if span == 0 {
		return tick
	}
	if next := t.Next(tick); !next.IsZero() {
		span = min(span, next.Sub(tick))
	}
	sum := sha256.Sum256([]byte("jitter/" + t.space + "/" + t.name + "/" + nominal(tick)))
	late := binary.BigEndian.Uint64(sum[:8]) % uint64(max(span, 1))
	return tick.Add(time.Duration(late).Truncate(time.Millisecond))
}

// The labels of a schedule's tasks.
const (
	Label     = "mayfly.schedule" // the name of its schedule
	TickLabel = "mayfly.tick"     // the nominal time of its tick, RFC 3339 in UTC
)

// TickSubmission is what to submit for a tick: the schedule's task with the
// tick's key and labels.
func TickSubmission(s mayfly.Schedule, tick time.Time) mayfly.Submission {
	sub := RunSubmission(s)
	sub.Key = TickKey(s.Space, s.Name, tick)
	sub.Labels[TickLabel] = nominal(tick)
	return sub
}

// TickEvent is what to emit for a tick. Its id follows from the names and the
// tick's nominal time alone, as a task's key does.
func TickEvent(s mayfly.Schedule, tick time.Time) mayfly.Event {
	ev := *s.Emit
	ev.ID, ev.Time = nominal(tick), tick.UTC()
	ev.Source = cmp.Or(ev.Source, "/mayfly/"+s.Space+"/schedules/"+s.Name)
	return ev
}

// RunSubmission is what to submit out of turn: it is of no tick.
func RunSubmission(s mayfly.Schedule) mayfly.Submission {
	sub := s.Task
	sub.Space = s.Space
	sub.Labels = maps.Clone(sub.Labels)
	if sub.Labels == nil {
		sub.Labels = map[string]string{}
	}
	sub.Labels[Label] = s.Name
	return sub
}

// TickKey is the idempotency key of a tick's task. It follows from the names
// and the tick's nominal time alone, so two leaders that fire the same tick
// submit the same task, of which the queue keeps one. Conflict from Submit
// means that the tick was fired before the schedule's payload changed.
func TickKey(space, schedule string, tick time.Time) string {
	return "schedule/" + space + "/" + schedule + "/" + nominal(tick)
}

// nominal writes a tick the same way whatever its zone.
func nominal(tick time.Time) string { return tick.UTC().Format(time.RFC3339Nano) }
