// Package scale says how many instances a workload needs.
//
// It is arithmetic only: the same load and the same past always give the same
// answer. It reads no clock.
//
// More are wanted as soon as there is more to do than those that there are can
// serve at once; all that are needed at once, not one by one. Fewer are wanted
// when fewer have been needed for a while (Bounds.Idle): what was needed within
// that is still wanted. So load that comes and goes within that time changes
// nothing, and what is in flight always counts.
package scale

import (
	"cmp"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds are what a workload says of its scale.
type Bounds struct {
	Min, Max int           // instances; Max 0: no limit
	Each     int           // runs or requests that one serves at once; 0: no limit
	Places   int           // tasks that run at once at most: those beyond that which are queued need nothing yet; 0: no limit
	Idle     time.Duration // what was needed so long ago is not wanted any more
	Cooldown time.Duration // between one instance that goes and the next; 0: all at once
}

// Of returns the bounds of a workload, with what it leaves open filled in.
func Of(w *mayfly.Workload) Bounds {
	s := w.Scale
	b := Bounds{Min: s.Min, Max: s.Max, Each: w.PerInstance(), Idle: cmp.Or(s.Idle, mayfly.DefaultIdle), Cooldown: s.Cooldown}
	if w.Service != nil {
		b.Min, b.Max = s.Count(), s.Most()
	}
	return b
}

func (b Bounds) clamp(n int) int {
	if b.Max > 0 {
		n = min(n, b.Max)
	}
	return max(n, b.Min)
}

// Load is what there is to do.
type Load struct {
	InFlight int           // is served
	Waiting  int           // waits for an instance
	Oldest   time.Duration // that the first of those has waited
	Queued   int           // tasks that wait for nothing but their turn
	QueueAge time.Duration // that the first of those has waited
}

// Needed is what a load needs, and needed lately.
type Needed struct {
	Load
	Held  int       // instances: the most that were needed within Idle, or are now, without an age and bounds
	Until time.Time // when that many were last needed, if it is more than now
}

// lateAfter is the wait from which on more is asked for than places for all that
// there is to do: those that there are do not get on.
const lateAfter = time.Second

// Level is how many instances serve so many runs or requests at once, each of
// them as many as it may.
func Level(work, each int) int {
	switch {
	case work <= 0:
		return 0
	case each <= 0:
		return 1
	}
	return (work + each - 1) / each
}

// Need is how many instances a load needs, within the bounds: a place for all
// that there is to do, and, when something has waited for a second, one more for
// that and for each doubling of the wait. It is never more than there is to do,
// or, of tasks that are queued, than there are places for.
func Need(b Bounds, l Load) int {
	work := l.InFlight + l.Waiting
	if sum := work + l.Queued; b.Places == 0 {
		work = sum
	} else {
		work = max(work, min(sum, b.Places))
	}
	n := Level(work, b.Each)
	wait := time.Duration(0)
	if l.Waiting > 0 {
		wait = l.Oldest
	}
	if l.Queued > 0 {
		wait = max(wait, l.QueueAge)
	}
	return b.clamp(min(n+late(wait), max(work, 0)))
}

// late is how many instances more a wait asks for.
func late(wait time.Duration) (n int) {
	for ; wait >= lateAfter; wait /= 2 {
		n++
	}
	return n
}

// Later is how long it takes until a wait asks for another instance.
func Later(wait time.Duration) time.Duration {
	next := lateAfter
	for next <= wait {
		next *= 2
	}
	return next - wait
}

// Peaks remembers what was needed lately. Its zero value remembers nothing.
type Peaks struct {
	list []peak // the highest first, and the one that was first over
}

type peak struct {
	need  int
	until time.Time
}

// Note says that so many were needed until then, which is not before what was
// noted last.
func (p *Peaks) Note(need int, until time.Time) {
	for n := len(p.list); n > 0 && p.list[n-1].need <= need; n-- {
		p.list = p.list[:n-1]
	}
	p.list = append(p.list, peak{need, until})
}

// Held is the most that was needed after since, or is now. It forgets what was
// before.
func (p *Peaks) Held(now int, since time.Time) int {
	over := 0
	for over < len(p.list) && !p.list[over].until.After(since) {
		over++
	}
	p.list = append(p.list[:0], p.list[over:]...)
	if len(p.list) > 0 {
		return max(now, p.list[0].need)
	}
	return now
}

// Until is when the most that is remembered was over, if that is more than what
// is needed now; else zero.
func (p *Peaks) Until(now int) time.Time {
	if len(p.list) > 0 && p.list[0].need > now {
		return p.list[0].until
	}
	return time.Time{}
}

// State is how many instances are wanted.
type State struct {
	Count int
	Down  time.Time // when they last became fewer
}

// Next is what is wanted from now on, of what is needed now and of what was held
// needed lately, which is not less. Unless it is zero, wake is when there is to be
// another look although nothing happens.
func Next(b Bounds, s State, need, held int, now time.Time) (next State, wake time.Time) {
	need, held = b.clamp(need), b.clamp(max(held, need))
	switch {
	case need > s.Count:
		return State{need, s.Down}, wake
	case held >= s.Count:
		return s, wake
	case b.Max > 0 && s.Count > b.Max: // as somebody says, not for want of work
		s.Count = b.Max
	}
	if b.Cooldown == 0 {
		if held < s.Count {
			return State{held, now}, wake
		}
		return s, wake
	}
	if held < s.Count && !now.Before(s.Down.Add(b.Cooldown)) {
		s.Count--
		s.Down = now
	}
	if held < s.Count {
		wake = s.Down.Add(b.Cooldown)
	}
	return s, wake
}
