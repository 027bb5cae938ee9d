package schedule

import (
	"encoding/json"
	"time"

	"github.com/mayfly-run/mayfly"
)

const (
	maxTicks  = 100  // of one plan
	maxMisses = 1000 // counted by one plan

	// clockSlack is how far in the future what was recorded may be before it
	// is taken for the work of a wrong clock.
	clockSlack = time.Minute

	maxState = 4 << 10 // bytes
	maxCount = 1 << 53 // what JSON's numbers hold everywhere; no schedule lives so long
)

// State is how far a schedule has come. It is a small JSON value for
// the record; each method returns what to record next.
type State struct {
	Since  time.Time `json:"since"`            // ticks up to here are none of it: when it was added, changed or resumed
	Last   time.Time `json:"last,omitzero"`    // the last tick that was dealt with, its nominal time
	Ran    time.Time `json:"ran,omitzero"`     // the last tick that made a task, its nominal time
	Count  int       `json:"count,omitempty"`  // ticks that made a task
	Skips  int       `json:"skips,omitempty"`  // ticks that made none because of the overlap policy
	Misses int       `json:"misses,omitempty"` // ticks that nobody was there for; counted up to 1000 at a time
}

// NewState is the state of a schedule that is added, or resumed, now: what has
// passed is none of it.
func NewState(now time.Time) State {
	return State{Since: now.UTC().Truncate(time.Second)}
}

// ParseState reads a recorded state. It takes what is whole and makes
// sense, and refuses all else as Invalid.
func ParseState(data []byte) (State, error) {
	var s State
	if len(data) > maxState {
		return s, mayfly.Errorf(mayfly.Invalid, "state of a schedule has %d bytes; at most %d are read", len(data), maxState)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return State{}, mayfly.Errorf(mayfly.Invalid, "state of a schedule: %w", err)
	}
	if s.Since.IsZero() {
		return State{}, mayfly.Errorf(mayfly.Invalid, "state of a schedule does not say since when")
	}
	for _, n := range []int{s.Count, s.Skips, s.Misses} {
		if n < 0 || n > maxCount {
			return State{}, mayfly.Errorf(mayfly.Invalid, "state of a schedule counts %d ticks", n)
		}
	}
	return s, nil
}

// AfterRun is the state when the tick has made a task.
func (s State) AfterRun(tick time.Time) State {
	s.Last, s.Ran = tick.UTC(), tick.UTC()
	s.Count++
	return s
}

// AfterSkip is the state when the tick was skipped.
func (s State) AfterSkip(tick time.Time) State {
	s.Last = tick.UTC()
	s.Skips++
	return s
}

// AfterMisses is the state when what the plan found missed has been passed over.
func (s State) AfterMisses(p Plan) State {
	if p.Missed > 0 {
		s.Last = p.MissedUntil.UTC()
		s.Misses += p.Missed
	}
	return s
}

// Tick is one tick of a schedule.
type Tick struct {
	Time time.Time // nominal
	Due  time.Time // with jitter: when its task is submitted
}

// Plan is what to do for a schedule now, and when to look again.
type Plan struct {
	Missed      int       // ticks too late for the catch-up window; counted up to 1000
	MissedUntil time.Time // no tick up to here is still run; zero if none was missed
	Ticks       []Tick    // to fire now, oldest first; at most 100, then Wake is at once
	Wake        time.Time // when to plan again; zero if only a change of the schedule can bring a tick
	Done        bool      // no tick follows Ticks: the schedule has ended
}

// Plan says which ticks to fire at the time now, and when to wake next. All
// ticks within the catch-up window are fired, each once; older ones are
// missed. A schedule of at most n times is done when n ticks have made tasks:
// with Ticks in hand that is not known yet, so the plan may wake once too often.
//
// The caller records AfterMisses, then AfterRun or AfterSkip for each tick,
// in this order, after the task was submitted. If it dies in between, the next
// leader plans the same ticks again, and their TickKey keeps the tasks single.
func (t *Timetable) Plan(state State, now time.Time) (p Plan) {
	if t.paused {
		return p
	}
	if !t.at.IsZero() && state.Last.Equal(t.at) {
		return Plan{Done: true}
	}
	room := maxTicks
	if t.times > 0 {
		room = min(room, t.times-state.Count)
		if room <= 0 {
			return Plan{Done: true}
		}
	}
	tick := t.passMissed(&p, t.Next(t.from(state, now)), now)
	for ; !tick.IsZero(); tick = t.Next(tick) {
		if tick.After(now) && t.jitter == 0 || len(p.Ticks) == room {
			p.Wake = t.Due(tick)
			return p
		}
		due := t.Due(tick)
		if due.After(now) {
			p.Wake = due
			return p
		}
		p.Ticks = append(p.Ticks, Tick{tick, due})
	}
	p.Done = true
	return p
}

// from is the time after which ticks are still to come. What lies far in the
// future was recorded under a wrong clock and would silence the schedule until
// then, so it does not count: the window alone says how far back to look. A
// tick that this repeats has the key that it had, and is not run again.
func (t *Timetable) from(state State, now time.Time) (from time.Time) {
	wrong := false
	for _, at := range []time.Time{state.Since, state.Last} {
		if at.Sub(now) > clockSlack {
			wrong = true
		} else if at.After(from) {
			from = at
		}
	}
	if oldest := now.Add(-t.catchUp); wrong && t.catchUp != anyTime && oldest.After(from) {
		from = oldest
	}
	return from
}

// passMissed counts the ticks that are too late, from the given one on, and
// returns the first that is not.
func (t *Timetable) passMissed(p *Plan, tick, now time.Time) time.Time {
	if t.catchUp == anyTime {
		return tick
	}
	oldest := now.Add(-t.catchUp)
	for !tick.IsZero() && t.Due(tick).Before(oldest) {
		p.MissedUntil = tick
		if p.Missed < maxMisses {
			p.Missed++
		} else if far := oldest.Add(-t.jitter - 1); far.After(tick) {
			p.MissedUntil = far // years of seconds are not worth counting
		}
		tick = t.Next(p.MissedUntil)
	}
	return tick
}

// Action is what to do with a tick.
type Action string

// The actions.
const (
	Fire    Action = "fire"    // submit its task
	Skip    Action = "skip"    // submit nothing
	Queue   Action = "queue"   // submit its task to wait for the unfinished ones
	Replace Action = "replace" // cancel the unfinished ones, then submit its task
)

// Decide says what to do with a tick while so many tasks of earlier ticks of
// its schedule are unfinished: queued, starting, running, or waiting for a retry.
func Decide(overlap mayfly.Overlap, unfinished int) Action {
	switch {
	case unfinished <= 0:
		return Fire
	case overlap == mayfly.OverlapQueue:
		return Queue
	case overlap == mayfly.OverlapReplace:
		return Replace
	default:
		return Skip
	}
}
