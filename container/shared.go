package container

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
)

// SharedOptions tune a SharedPool. The zero value is fit for production.
type SharedOptions[S Pooled] struct {
	Each     int           // runs that an instance serves at once; 1 if zero
	Least    int           // instances that there always are
	Most     int           // instances that there may be, those that leave not counted; no limit if zero
	Idle     time.Duration // an instance that serves nobody for so long goes; 5 min if zero
	Cooldown time.Duration // between one instance that goes so and the next
	MaxQueue int           // callers of Get that may wait at once; 1000 if zero
	Making   chan struct{} // a slot for each instance being made, shared by the pools of a node; required
	Budget   *Budget       // memory for those that serve nobody, shared by the pools of a node; nil: no limit
	Cost     int64         // bytes that one of them takes from Budget at least

	// Retire ends an instance that has served. It does not block. Remove, if nil.
	Retire func(S)
}

// SharedPool keeps instances that serve many runs each: several at once, one after
// the other.
//
// A run gets a place in an instance that is there. When none has room, it waits for
// one; the first one of all is made at once, and further ones when somebody has
// waited for a moment, as many as all of those who have need. Where tasks wait in
// their queue, those that they will need are made before they come (Expect).
//
// Runs are spread evenly over as few instances as can serve them, the oldest
// first. So each has little to do, and those that are not needed have nothing to
// do and go after a while. An instance with a run in it never goes: it takes no new
// one, and leaves with the last.
//
// Everything that the pool does by itself happens in Run; Get without it blocks.
type SharedPool[S Pooled] struct {
	opts     SharedOptions[S]
	ended    chan struct{} // closed when Run makes no more
	front[S]               // its mutex guards what follows too

	members []*member[S] // the oldest first; those that leave are not among them
	leaving []*member[S]
	lent    int        // places in members
	look    time.Time  // when Run looks at it again by itself; zero: never
	down    time.Time  // when a member last went because it was not needed
	ahead   int        // instances that are needed with what is queued; 0: nothing is
	needed  time.Time  // when so many were last needed as there are, for that
	rate    scale.Rate // of runs that end while somebody waits
}

// member is an instance and what it does.
type member[S Pooled] struct {
	s    S
	uses int
	idle time.Time     // since when it serves nobody; valid while uses is 0
	size int64         // bytes that it takes from the budget; 0 while it serves
	gone chan struct{} // closed when it takes no further run

	attended bool
}

// NewSharedPool returns an empty pool.
func NewSharedPool[S Pooled](m Maker[S], o SharedOptions[S]) *SharedPool[S] {
	if o.Each == 0 {
		o.Each = 1
	}
	if o.Idle == 0 {
		o.Idle = mayfly.DefaultIdle
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = mayfly.DefaultQueue
	}
	if o.Retire == nil {
		o.Retire = func(s S) { s.Remove() }
	}
	return &SharedPool[S]{opts: o, ended: make(chan struct{}), front: newFront(m, o.Making, o.Cost)}
}

// Get gives a place in an instance, which Put gives back. Errors are as for a
// Pool's.
func (p *SharedPool[S]) Get(ctx context.Context) (S, error) {
	var none S
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return none, ErrClosed
	}
	if m := p.pick(); m != nil && len(p.waiters) == 0 {
		p.use(m)
		p.mu.Unlock()
		return m.s, nil
	}
	now := time.Now()
	if n := len(p.waiters); n >= p.opts.MaxQueue {
		err := mayfly.Errorf(mayfly.Busy, "%d runs are under way and %d wait", p.lent, n).WithRetry(p.rate.Time(n, now))
		p.mu.Unlock()
		return none, err
	}
	given := p.waiters.join(now)
	p.mu.Unlock()
	return p.await(ctx, given, func(s S) { p.Put(s, true) })
}

// pick is the instance for the next run; nil if none has room. p.mu is held.
func (p *SharedPool[S]) pick() (best *member[S]) {
	needed := max(scale.Level(p.lent+1, p.opts.Each), p.ahead)
	for i, m := range p.members {
		if best != nil && i >= needed {
			break
		}
		if m.uses < p.opts.Each && !ended(m.s) && (best == nil || m.uses < best.uses) {
			best = m
		}
	}
	return best
}

func ended[S Pooled](s S) bool {
	select {
	case <-s.Ended():
		return true
	default:
		return false
	}
}

// use gives a place away. p.mu is held.
func (p *SharedPool[S]) use(m *member[S]) {
	p.opts.Budget.give(m.size)
	m.size = 0
	m.uses++
	p.lent++
}

// Put gives a place back. An instance that is not well takes no new run, and goes
// with the last.
func (p *SharedPool[S]) Put(s S, well bool) {
	p.mu.Lock()
	matters := p.put(s, well)
	p.mu.Unlock()
	if matters {
		wake(p.wake)
	}
}

// put reports whether Run has something to do, which it has after few runs: one
// that leaves its instance with nothing to do need not be told of while Run looks
// for such by itself. p.mu is held.
func (p *SharedPool[S]) put(s S, well bool) (matters bool) {
	m := p.find(s)
	if m == nil {
		return false
	}
	m.uses--
	if !slices.Contains(p.members, m) {
		p.leave(m)
		return true
	}
	p.lent--
	if !well || ended(s) || p.closed || p.drained && len(p.waiters) == 0 {
		p.leave(m)
		return true
	}
	if len(p.waiters) > 0 {
		p.rate.Count(time.Now())
	}
	p.admit()
	stays := p.rest(m)
	return !stays || len(p.waiters) > 0 || m.uses == 0 && p.look.IsZero()
}

// rest notes that an instance serves nobody, if that is so, and has it go where
// there is no memory for it. It reports whether it stays. p.mu is held.
func (p *SharedPool[S]) rest(m *member[S]) bool {
	if m.uses > 0 {
		return true
	}
	m.idle = time.Now()
	p.size = max(m.s.Memory(), p.opts.Cost)
	if p.opts.Budget.take(p.size) {
		m.size = p.size
	} else if len(p.members) > p.opts.Least {
		p.leave(m)
		return false
	}
	return true
}

// leave has an instance take no further run, and retires it when it serves none.
// p.mu is held.
func (p *SharedPool[S]) leave(m *member[S]) {
	if i := slices.Index(p.members, m); i >= 0 {
		p.members = slices.Delete(p.members, i, i+1)
		p.leaving = append(p.leaving, m)
		p.lent -= m.uses
		p.opts.Budget.give(m.size)
		m.size = 0
		close(m.gone)
	}
	if m.uses == 0 {
		p.leaving = slices.DeleteFunc(p.leaving, func(o *member[S]) bool { return o == m })
		p.opts.Retire(m.s)
	}
}

func (p *SharedPool[S]) find(s S) *member[S] {
	for _, m := range p.members {
		if any(m.s) == any(s) {
			return m
		}
	}
	for _, m := range p.leaving {
		if any(m.s) == any(s) {
			return m
		}
	}
	return nil
}

// Leave has the instance of a place that is still to be given back take no further
// run.
func (p *SharedPool[S]) Leave(s S) {
	p.mu.Lock()
	if m := p.find(s); m != nil && slices.Contains(p.members, m) {
		p.leave(m)
	}
	p.mu.Unlock()
	wake(p.wake)
}

// add takes in a new instance. p.mu is held.
func (p *SharedPool[S]) add(s S, _ time.Duration) {
	if p.closed || p.drained && len(p.waiters) == 0 {
		s.Remove()
		return
	}
	m := &member[S]{s: s, gone: make(chan struct{})}
	p.members = append(p.members, m)
	p.admit()
	p.rest(m)
}

// admit gives places to those who wait, in order. p.mu is held.
func (p *SharedPool[S]) admit() {
	for len(p.waiters) > 0 {
		m := p.pick()
		if m == nil {
			return
		}
		p.use(m)
		p.waiters.give(result[S]{s: m.s})
	}
}

// Load is what the pool has to do, and what it has for that.
func (p *SharedPool[S]) Load() (l mayfly.Load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.InFlight, l.Waiting, l.Starting, l.Instances = p.lent, len(p.waiters), p.making, len(p.members)
	for _, m := range p.leaving {
		l.InFlight += m.uses
	}
	l.Oldest = p.waiters.oldest()
	l.Capacity = l.Instances * p.opts.Each
	l.Wanted = max(p.opts.Least, p.ahead)
	return l
}

// Run makes instances as they are needed, and lets those go that are not, until
// ctx ends or the pool is drained. Then it refuses who waits; instances that serve
// go when they have served.
func (p *SharedPool[S]) Run(ctx context.Context) error {
	var all sync.WaitGroup
	p.run(ctx, func(t *time.Timer) bool { return p.balance(ctx, &all, t) })
	close(p.ended)
	all.Wait()
	p.close()
	return nil
}

// balance begins with instances that are needed, lets those go that are not, and
// sets the timer for when that may change. It reports whether the pool goes on.
func (p *SharedPool[S]) balance(ctx context.Context, all *sync.WaitGroup, timer *time.Timer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over(ctx) {
		return false
	}
	now := time.Now()
	look := p.lookAhead(now)
	want, next := p.wanted(now)
	if !look.IsZero() && (next.IsZero() || look.Before(next)) {
		next = look
	}
	for range min(want, cap(p.opts.Making)-p.making) {
		p.making++
		all.Go(func() { p.makeOne(ctx, p.add) })
	}
	for _, m := range p.members {
		if !m.attended {
			m.attended = true
			all.Go(func() { p.attend(m) })
		}
	}
	if at := p.shrink(now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
		next = at
	}
	if p.look = next; !next.IsZero() {
		timer.Reset(max(next.Sub(now), time.Millisecond))
	}
	return true
}

// lookAhead looks what waits in the queue, and says when to do so again. p.mu is
// held.
func (p *SharedPool[S]) lookAhead(now time.Time) (again time.Time) {
	p.ahead = 0
	if p.drained {
		p.outlook.nothing()
		return again
	}
	b := scale.Bounds{Max: p.opts.Most, Each: p.opts.Each, Idle: p.opts.Idle}
	calm := p.making == 0 // else it is known why they wait
	n, after := p.outlook.need(b, scale.Load{InFlight: p.lent, Waiting: len(p.waiters)}, calm)
	if p.ahead = n; n > 0 && n >= len(p.members) {
		p.needed = now
	}
	if after > 0 {
		again = now.Add(after)
	}
	return again
}

// least is how many instances there shall be though nobody asks for one, as far
// as there is memory for what is expected. p.mu is held.
func (p *SharedPool[S]) least() int {
	there := len(p.members) + p.making
	n := p.ahead
	for n > there && !p.opts.Budget.room(int64(n-len(p.members))*p.size) {
		n--
	}
	return max(p.opts.Least, n)
}

// wanted is how many more instances should be made now, and when to look again.
// p.mu is held.
func (p *SharedPool[S]) wanted(now time.Time) (n int, again time.Time) {
	patient := 0
	for patient < len(p.waiters) && now.Sub(p.waiters[patient].since) >= patience {
		patient++
	}
	if patient < len(p.waiters) {
		again = p.waiters[patient].since.Add(patience)
	}
	n = scale.Level(patient, p.opts.Each)
	if len(p.members) == 0 && len(p.waiters) > 0 {
		n = max(n, 1)
	}
	n -= p.making
	if short := p.least() - len(p.members) - p.making; short > n && !p.drained {
		if now.Before(p.retry) {
			again = p.retry
		} else {
			n = short
		}
	}
	if p.opts.Most > 0 {
		n = min(n, p.opts.Most-len(p.members)-p.making)
	}
	return n, again
}

// shrink lets instances go that have not been needed for a while, and says when
// the next one may go. p.mu is held.
func (p *SharedPool[S]) shrink(now time.Time) (again time.Time) {
	for len(p.members) > max(p.opts.Least, p.ahead) {
		var longest *member[S]
		for _, m := range p.members { // of several, the newest
			if m.uses == 0 && (longest == nil || !m.idle.After(longest.idle)) {
				longest = m
			}
		}
		if longest == nil {
			return time.Time{}
		}
		due := longest.idle.Add(p.opts.Idle)
		if p.needed.After(longest.idle) {
			due = p.needed.Add(p.opts.Idle)
		}
		if later := p.down.Add(p.opts.Cooldown); p.opts.Cooldown > 0 && later.After(due) {
			due = later
		}
		if now.Before(due) {
			return due
		}
		p.down = now
		p.leave(longest)
	}
	return time.Time{}
}

// attend notices when an instance ends by itself.
func (p *SharedPool[S]) attend(m *member[S]) {
	select {
	case <-m.s.Ended():
		p.mu.Lock()
		if slices.Contains(p.members, m) {
			p.leave(m)
		}
		p.mu.Unlock()
		wake(p.wake)
	case <-m.gone:
	case <-p.ended:
	}
}

func (p *SharedPool[S]) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.outlook.nothing()
	for len(p.members) > 0 {
		p.leave(p.members[0])
	}
	p.waiters.refuse(ErrClosed)
}
