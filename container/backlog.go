package container

import (
	"sync"
	"time"

	"github.com/mayfly-run/mayfly/scale"
)

// Backlog is the tasks of a function that wait for nothing but a place in which to
// run. A pool has instances ready for them before they come.
type Backlog struct {
	Places *Places // in which tasks run, those of other pools too

	// Depth is how many there are, and how long the first has waited. Where it is
	// 0, or less than before, whoever gives it tells by Expect of more.
	Depth func() (n int, age time.Duration)
}

// Places is how many tasks run at once, over all pools. Instances are made ahead
// for no more than that.
type Places struct {
	all int

	mu    sync.Mutex
	left  int
	freed chan struct{}
}

// NewPlaces returns so many places.
func NewPlaces(n int) *Places { return &Places{all: n, left: n, freed: make(chan struct{}, 1)} }

// Left is how many places nobody expects a task in.
func (p *Places) Left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left
}

// Freed says that there are more places left.
func (p *Places) Freed() <-chan struct{} { return p.freed }

// change gives those places back that a pool had, for as many as it wants, or are
// left.
func (p *Places) change(had, want int) (got int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += had
	got = min(max(want, 0), p.left)
	p.left -= got
	if got < had {
		wake(p.freed)
	}
	return got
}

// outlook is what a pool knows of its backlog. The mutex of the pool is held.
type outlook struct {
	backlog  *Backlog // nil: nobody has told of one
	expects  bool     // there may be some
	expected int      // places that were taken for them
}

func (o *outlook) expect(b Backlog) { o.backlog, o.expects = &b, true }

// nothing gives back what was taken.
func (o *outlook) nothing() {
	if o.expected > 0 {
		o.expected = o.backlog.Places.change(o.expected, 0)
	}
	o.expects = false
}

// need is how many instances a load needs with what waits in the queue; 0 if
// nothing does. Then it is to be asked again after a while.
func (o *outlook) need(b scale.Bounds, l scale.Load, calm bool) (n int, again time.Duration) {
	if !o.expects {
		return 0, 0
	}
	queued, age := o.backlog.Depth()
	if queued == 0 {
		o.nothing()
		return 0, 0
	}
	here := l.InFlight + l.Waiting
	room := o.backlog.Places.all - here
	if b.Max > 0 {
		room = min(room, b.Max*b.Each-here)
	}
	o.expected = o.backlog.Places.change(o.expected, min(queued, room))
	again = min(scale.Later(age), max(b.Idle, time.Second))
	if b.Places = here + o.expected; b.Places == 0 {
		return 0, again
	}
	if l.Queued = queued; calm {
		l.QueueAge = age
	}
	return scale.Need(b, l), again
}
