package container

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
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
	Reuse    bool          // what is handed out comes back, so none is made but for callers who wait
	Idle     time.Duration // without a Get for so long, none is kept; 5 min if zero
	MaxQueue int           // callers of Get that may wait at once; 1000 if zero
	Making   chan struct{} // a slot for each sandbox being made, shared by the pools of a node; required
	Budget   *Budget       // memory for what waits, shared by the pools of a node; nil: no limit
	Cost     int64         // bytes that one waiting sandbox takes from Budget at least
}

// Pool keeps sandboxes of one release waiting: as many as arrive in the time
// that it takes to make one, none when nobody asks. Each is handed out once,
// unless it is given back. Where they are to be given back (Reuse), one is made
// when there is none, and another only when somebody has waited for a while.
//
// Everything that the pool does by itself happens in Run; Get without it
// blocks.
type Pool[S Pooled] struct {
	maker Maker[S]
	opts  PoolOptions
	wake  chan struct{}

	mu      sync.Mutex
	idle    []shelved[S] // the newest last
	waiters []waiter[S]
	making  int
	lent    int  // handed out, and neither given back nor gone
	failed  bool // the last try; nothing is made for the shelf until the next Get
	drained bool // Drain was called
	closed  bool
	last    time.Time // of the last Get
	rate    float64   // Gets per second, smoothed
	cost    float64   // seconds to make one, smoothed
	size    int64     // bytes that the last one took
}

// shelved is a sandbox that waits, and what it took from the budget.
type shelved[S Pooled] struct {
	s    S
	size int64
}

type waiter[S Pooled] struct {
	given chan result[S]
	since time.Time
}

type result[S Pooled] struct {
	s   S
	err error
}

// ErrClosed means that a pool has ended.
var ErrClosed = errors.New("the pool of sandboxes has ended")

// patience is how long a caller waits for a sandbox to come back before
// another is made.
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
	return &Pool[S]{maker: m, opts: o, wake: make(chan struct{}, 1), size: o.Cost}
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
		p.signal()
		return s, nil
	}
	if p.closed {
		p.mu.Unlock()
		return none, ErrClosed
	}
	if len(p.waiters) >= p.opts.MaxQueue {
		n := len(p.waiters)
		p.mu.Unlock()
		return none, mayfly.Errorf(mayfly.Busy, "%d calls are waiting for a sandbox already", n)
	}
	w := make(chan result[S], 1)
	p.waiters = append(p.waiters, waiter[S]{w, now})
	p.mu.Unlock()
	p.signal()
	select {
	case r := <-w:
		return r.s, r.err
	case <-ctx.Done():
		return none, p.abandon(w, context.Cause(ctx))
	}
}

// abandon takes a caller off the queue, and puts back what it was given
// meanwhile.
func (p *Pool[S]) abandon(w chan result[S], err error) error {
	p.mu.Lock()
	for i, v := range p.waiters {
		if v.given == w {
			p.waiters = append(p.waiters[:i], p.waiters[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	select {
	case r := <-w:
		if r.err == nil {
			p.Put(r.s)
		}
	default:
	}
	return err
}

// Put gives a sandbox back: to whoever waits longest, or else to the shelf, as
// far as that may be.
func (p *Pool[S]) Put(s S) {
	p.mu.Lock()
	p.lent--
	p.put(s)
	p.mu.Unlock()
	p.signal()
}

// Gone says that a sandbox that was handed out will not be given back.
func (p *Pool[S]) Gone() {
	p.mu.Lock()
	p.lent--
	p.mu.Unlock()
	p.signal()
}

func (p *Pool[S]) put(s S) {
	if len(p.waiters) > 0 {
		p.lent++
		p.waiters[0].given <- result[S]{s: s}
		p.waiters = p.waiters[1:]
		return
	}
	p.size = max(s.Memory(), p.opts.Cost)
	if p.closed || p.drained || len(p.idle) >= p.opts.Max || !p.opts.Budget.take(p.size) {
		s.Remove()
		return
	}
	p.idle = append(p.idle, shelved[S]{s, p.size})
}

// take removes the newest living sandbox from the shelf.
func (p *Pool[S]) take() (s S, ok bool) {
	for len(p.idle) > 0 {
		last := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.opts.Budget.give(last.size)
		s = last.s
		select {
		case <-s.Ended():
			s.Remove()
		default:
			return s, true
		}
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
	p.failed = false
}

// target is how many should wait now: one, and those that will be asked for
// while the next is being made, and half as many again.
func (p *Pool[S]) target(now time.Time) int {
	if p.drained || p.last.IsZero() || now.Sub(p.last) >= p.opts.Idle {
		return 0
	}
	rate := p.rate * math.Exp(-now.Sub(p.last).Seconds())
	return max(min(1+int(rate*p.cost*1.5), p.opts.Max), 0)
}

// wanted is how many more should be made now.
func (p *Pool[S]) wanted(now time.Time, target int) int {
	want := len(p.waiters)
	switch {
	case p.opts.Reuse:
		want = 0
		for want < len(p.waiters) && now.Sub(p.waiters[want].since) >= patience {
			want++
		}
		if p.lent == 0 {
			want = max(want, min(len(p.waiters), 1))
		}
	case !p.failed && p.opts.Budget.room(p.size):
		want += target - len(p.idle)
	}
	return want - p.making
}

// Drain lets the pool end: nothing waits any more, those who have asked are
// still served, and then Run returns.
func (p *Pool[S]) Drain() {
	p.mu.Lock()
	p.drained = true
	p.mu.Unlock()
	p.signal()
}

// Waiting is how many are on the shelf.
func (p *Pool[S]) Waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func (p *Pool[S]) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run makes sandboxes as they are needed until ctx ends or the pool is drained.
// Then it refuses who waits and removes what waits.
func (p *Pool[S]) Run(ctx context.Context) error {
	var makers sync.WaitGroup
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for p.balance(ctx, &makers, timer) {
		select {
		case <-p.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
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
	if ctx.Err() != nil || p.drained && len(p.waiters)+p.making == 0 {
		return false
	}
	now := time.Now()
	target := p.target(now)
	for range min(p.wanted(now, target), cap(p.opts.Making)-p.making) {
		p.making++
		makers.Add(1)
		go func() {
			defer makers.Done()
			p.makeOne(ctx)
		}()
	}
	for len(p.idle) > target && target == 0 {
		if s, ok := p.take(); ok {
			s.Remove()
		}
	}
	if len(p.idle) > 0 {
		timer.Reset(p.opts.Idle - now.Sub(p.last) + time.Millisecond)
	}
	for _, w := range p.waiters {
		if left := patience - now.Sub(w.since); p.opts.Reuse && left > 0 {
			timer.Reset(left)
			break
		}
	}
	return true
}

func (p *Pool[S]) makeOne(ctx context.Context) {
	var s S
	var err error
	var took time.Duration
	select {
	case p.opts.Making <- struct{}{}:
		start := time.Now()
		s, err = p.maker.Make(ctx)
		took = time.Since(start)
		<-p.opts.Making
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	p.making--
	switch {
	case err == nil:
		p.cost += (took.Seconds() - p.cost) / 4
		p.put(s)
	default:
		p.failed = true
		if len(p.waiters) > 0 {
			p.waiters[0].given <- result[S]{err: err}
			p.waiters = p.waiters[1:]
		}
	}
	p.mu.Unlock()
	p.signal()
}

func (p *Pool[S]) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for {
		s, ok := p.take()
		if !ok {
			break
		}
		s.Remove()
	}
	for _, w := range p.waiters {
		w.given <- result[S]{err: ErrClosed}
	}
	p.waiters = nil
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
