package container

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
)

// Pooled is what a Pool keeps waiting: a sandbox, or something around one.
type Pooled interface {
	Ended() <-chan struct{}
	Memory() int64 // bytes that it takes while it waits
	Remove()
}

// Maker makes one sandbox that is ready to be handed out. It is called from
// several goroutines at once.
type Maker[S Pooled] interface {
	Make(ctx context.Context) (S, error)
}

// PoolOptions tune a Pool. The zero value is fit for production.
type PoolOptions struct {
	Max      int           // most that wait unused; 32 if zero, none if negative
	Least    int           // that always wait, whether anybody asks or not; beyond Max and Budget
	Most     int           // that there may be, those that were handed out included; no limit if zero
	Idle     time.Duration // without a Get for so long, none is kept but Least; 5 min if zero
	MaxQueue int           // callers of Get that may wait at once; 1000 if zero
	Making   chan struct{} // a slot for each sandbox being made, shared by the pools of a node; required
	Budget   *Budget       // memory for what waits, shared by the pools of a node; nil: no limit
	Cost     int64         // bytes that one waiting sandbox takes from Budget at least
}

// Pool keeps sandboxes of one release waiting: as many as arrive in the time
// that it takes to make one, and when nobody asks, Least. Each is handed out once,
// unless it is given back unused.
//
// Everything that the pool does by itself happens in Run; Get without it
// blocks.
type Pool[S Pooled] struct {
	opts     PoolOptions
	front[S] // its mutex guards what follows too

	idle  []shelved[S] // the newest last
	lent  int          // handed out, and neither given back nor gone
	ahead int          // that are to wait for what is queued
	last  time.Time    // of the last Get, which forgets failed
	rate  float64      // Gets per second, smoothed
	cost  float64      // seconds to make one, smoothed
	ends  scale.Rate
}

// shelved is a sandbox that waits, and what it took from the budget.
type shelved[S Pooled] struct {
	s    S
	size int64
}

// ErrClosed means that a pool has ended.
var ErrClosed = errors.New("the pool of sandboxes has ended")

// patience is how long a caller waits for a place in a sandbox that serves others
// before another one is made.
const patience = 10 * time.Millisecond

// NewPool returns an empty pool.
func NewPool[S Pooled](m Maker[S], o PoolOptions) *Pool[S] {
	if o.Max == 0 {
		o.Max = 32
	}
	if o.Idle == 0 {
		o.Idle = 5 * time.Minute
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 1000
	}
	return &Pool[S]{opts: o, front: newFront(m, o.Making, o.Cost)}
}

// Get hands out a sandbox: one that waits, or else the first of those being
// made that no earlier caller is waiting for. An error of kind Busy means that
// too many wait already, ErrClosed that the pool has ended; any other is why
// one could not be made.
func (p *Pool[S]) Get(ctx context.Context) (S, error) {
	var none S
	p.mu.Lock()
	now := time.Now()
	p.arrived(now)
	if s, ok := p.take(); ok {
		p.lent++
		p.mu.Unlock()
		wake(p.wake)
		return s, nil
	}
	if p.closed {
		p.mu.Unlock()
		return none, ErrClosed
	}
	if len(p.waiters) >= p.opts.MaxQueue {
		n := len(p.waiters)
		after := p.ends.Time(n, now)
		p.mu.Unlock()
		return none, mayfly.Errorf(mayfly.Busy, "%d calls are waiting for a sandbox already", n).WithRetry(after)
	}
	given := p.waiters.join(now)
	p.mu.Unlock()
	return p.await(ctx, given, p.Put)
}

// Put gives a sandbox back: to whoever waits longest, or else to the shelf, as
// far as that may be.
func (p *Pool[S]) Put(s S) {
	p.mu.Lock()
	p.lent--
	p.put(s)
	p.mu.Unlock()
	wake(p.wake)
}

// Gone says that a sandbox that was handed out will not be given back.
func (p *Pool[S]) Gone() {
	p.mu.Lock()
	p.lent--
	if len(p.waiters) > 0 {
		p.ends.Count(time.Now())
	}
	p.mu.Unlock()
	wake(p.wake)
}

func (p *Pool[S]) put(s S) {
	if p.waiters.give(result[S]{s: s}) {
		p.lent++
		return
	}
	p.size = max(s.Memory(), p.opts.Cost)
	must := len(p.idle) < p.opts.Least
	size := p.size
	switch {
	case p.closed || p.drained || len(p.idle) >= p.opts.Max && !must:
		s.Remove()
		return
	case p.opts.Budget.take(size):
	case must:
		size = 0
	default:
		s.Remove()
		return
	}
	p.idle = append(p.idle, shelved[S]{s, size})
}

// take removes the newest living sandbox from the shelf.
func (p *Pool[S]) take() (s S, ok bool) {
	for len(p.idle) > 0 {
		last := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.opts.Budget.give(last.size)
		if s = last.s; !ended(s) {
			return s, true
		}
		s.Remove()
	}
	return s, false
}

// arrived counts a call: each weighs e^-age, age in seconds, so that the sum is
// the rate of a steady stream.
func (p *Pool[S]) arrived(now time.Time) {
	gap := now.Sub(p.last).Seconds()
	if p.last.IsZero() || gap > 60 {
		p.rate = 1
	} else {
		p.rate = p.rate*math.Exp(-gap) + 1
	}
	p.last = now
	p.failed = 0
}

// target is how many should wait now: one, and those that will be asked for
// while the next is being made, and half as many again; or those that tasks in the
// queue will need.
func (p *Pool[S]) target(now time.Time) int {
	switch {
	case p.drained:
		return 0
	case p.last.IsZero() || now.Sub(p.last) >= p.opts.Idle:
		return max(min(p.ahead, p.opts.Max), p.opts.Least)
	}
	rate := p.rate * math.Exp(-now.Sub(p.last).Seconds())
	return max(min(max(1+int(rate*p.cost*1.5), p.ahead), p.opts.Max), p.opts.Least)
}

// wanted is how many more should be made now.
func (p *Pool[S]) wanted(now time.Time, target int) int {
	want := len(p.waiters)
	switch {
	case p.failed > 0 && now.Before(p.retry):
	case p.opts.Budget.room(p.size):
		want += target - len(p.idle)
	default:
		want += max(p.opts.Least-len(p.idle), 0)
	}
	if p.opts.Most > 0 {
		want = min(want, p.opts.Most-p.lent-len(p.idle))
	}
	return want - p.making
}

// lookAhead looks what waits in the queue, and says after which time to do so
// again. p.mu is held.
func (p *Pool[S]) lookAhead() (again time.Duration) {
	if p.drained {
		p.outlook.nothing()
	}
	b := scale.Bounds{Max: p.opts.Most, Each: 1, Idle: p.opts.Idle}
	n, again := p.outlook.need(b, scale.Load{InFlight: p.lent, Waiting: len(p.waiters)}, false)
	p.ahead = max(n-p.lent-len(p.waiters), 0)
	return again
}

// Load is what the pool has to do, and what it has for that.
func (p *Pool[S]) Load() (l mayfly.Load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.InFlight, l.Waiting, l.Starting, l.Instances = p.lent, len(p.waiters), p.making, p.lent+len(p.idle)
	l.Oldest = p.waiters.oldest()
	l.Capacity = l.Instances
	if l.Wanted = p.opts.Least; p.ahead > 0 {
		l.Wanted = max(l.Wanted, p.lent+p.ahead)
	}
	return l
}

// Waiting is how many are on the shelf.
func (p *Pool[S]) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// Run makes sandboxes as they are needed until ctx ends or the pool is drained.
// Then it refuses who waits and removes what waits.
func (p *Pool[S]) Run(ctx context.Context) error {
	var makers sync.WaitGroup
	p.run(ctx, func(t *time.Timer) bool { return p.balance(ctx, &makers, t) })
	makers.Wait()
	p.close()
	return nil
}

// balance starts makers for those who wait and for the shelf, takes from the
// shelf what is too many, and sets the timer for when that may change. It
// reports whether the pool goes on.
func (p *Pool[S]) balance(ctx context.Context, makers *sync.WaitGroup, timer *time.Timer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over(ctx) {
		return false
	}
	now := time.Now()
	look := p.lookAhead()
	target := p.target(now)
	for range min(p.wanted(now, target), cap(p.opts.Making)-p.making) {
		p.making++
		makers.Go(func() { p.makeOne(ctx, p.made) })
	}
	idle := p.opts.Idle - now.Sub(p.last)
	for len(p.idle) > target && target <= p.opts.Least && (idle <= 0 || p.drained) {
		if s, ok := p.take(); ok {
			s.Remove()
		}
	}
	next := time.Hour
	switch {
	case p.failed > 0 && p.retry.After(now):
		next = p.retry.Sub(now)
	case len(p.idle) > target && idle > 0 || len(p.idle) > p.opts.Least && idle > 0:
		next = idle + time.Millisecond
	}
	if look > 0 {
		next = min(next, look)
	}
	timer.Reset(next)
	return true
}

// made takes in a new sandbox. p.mu is held.
func (p *Pool[S]) made(s S, took time.Duration) {
	p.cost += (took.Seconds() - p.cost) / 4
	p.put(s)
}

func (p *Pool[S]) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.outlook.nothing()
	for {
		s, ok := p.take()
		if !ok {
			break
		}
		s.Remove()
	}
	p.waiters.refuse(ErrClosed)
}

// Budget is an amount of memory that pools share. A nil Budget has no limit.
type Budget struct {
	mu   sync.Mutex
	left int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(bytes int64) *Budget { return &Budget{left: bytes} }

func (b *Budget) take(n int64) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *Budget) give(n int64) {
	if b != nil {
		b.mu.Lock()
		b.left += n
		b.mu.Unlock()
	}
}

func (b *Budget) room(n int64) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left >= n
}
