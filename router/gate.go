package router

import (
	"cmp"
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
	"github.com/mayfly-run/mayfly/store"
)

// Demand is told that the requests of a service need more instances than it has
// been asked for so far: also the first one, of a service that sleeps. It must
// not block; what is needed is asked for with Needed. The reconcile package
// implements it.
type Demand interface {
	Wake(space, workload string)
}

// gate lets requests of a service through: as many at once as its ready
// instances serve, the others in the order in which they came. While it has no
// ready instance, all wait.
type gate struct {
	wake func() // more instances are needed than were asked for; or nil

	mu      sync.Mutex
	open    int       // ready instances
	each    int       // requests that one serves at once; 0: no limit
	most    int       // requests that wait at once
	running int       // requests that were let through
	queue   list.List // of *waiting, the first that came in front
	need    int       // instances for all of them
	asked   int       // of which Demand knows
	peaks   scale.Peaks
	rate    scale.Rate // of requests that end
}

type waiting struct {
	turn  chan struct{}
	since time.Time
}

// pass is enter where nothing has to be waited for, and reports whether that is so.
func (g *gate) pass() bool {
	g.mu.Lock()
	if g.queue.Len() > 0 || !g.room() {
		g.mu.Unlock()
		return false
	}
	g.running++
	wake := g.changed()
	g.mu.Unlock()
	g.tell(wake)
	return true
}

// enter waits until there is a ready instance with room. leave is to be called
// when the request has ended. An error of kind Busy means that too many wait.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.queue.Len() == 0 && g.room() {
		g.running++
		wake := g.changed()
		g.mu.Unlock()
		g.tell(wake)
		return nil
	}
	if n := g.queue.Len(); n >= cmp.Or(g.most, mayfly.DefaultQueue) { // 0: nobody has said yet
		err := mayfly.Errorf(mayfly.Busy, "%d requests are under way and %d wait", g.running, n).WithRetry(g.rate.Time(n, time.Now()))
		g.mu.Unlock()
		return err
	}
	w := &waiting{make(chan struct{}), time.Now()}
	at := g.queue.PushBack(w)
	wake := g.changed()
	g.mu.Unlock()
	g.tell(wake)
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
		g.forget(at, w)
		return context.Cause(ctx)
	}
}

// forget takes a request off the queue that does not wait any more, or gives back
// the place that it got in the same moment.
func (g *gate) forget(at *list.Element, w *waiting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-w.turn:
		g.running--
		g.admit()
	default:
		g.queue.Remove(at)
	}
	g.changed()
}

// leave counts a request that was let through and has ended.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.queue.Len() > 0 {
		g.rate.Count(time.Now())
		g.admit()
	}
	g.changed()
}

// set says how many instances are ready, how many requests each serves at once,
// and how many may wait.
func (g *gate) set(open, each, most int) {
	g.mu.Lock()
	g.open, g.each, g.most = open, each, most
	g.admit()
	wake := g.changed()
	g.mu.Unlock()
	g.tell(wake)
}

// room reports whether another request may go through. g.mu is held.
func (g *gate) room() bool {
	return g.open > 0 && (g.each == 0 || g.running < g.open*g.each)
}

// admit lets those at the head of the queue through. g.mu is held.
func (g *gate) admit() {
	for g.queue.Len() > 0 && g.room() {
		g.running++
		close(g.queue.Remove(g.queue.Front()).(*waiting).turn)
	}
}

// changed notes how many instances are needed now, and reports whether more are
// than anybody knows. g.mu is held.
func (g *gate) changed() bool {
	need := scale.Level(g.running+g.queue.Len(), g.each)
	if need == g.need {
		return false
	}
	if need < g.need {
		g.peaks.Note(g.need, time.Now())
	}
	g.need = need
	more := need > g.asked
	g.asked = max(g.asked, need)
	return more
}

func (g *gate) tell(wake bool) {
	if wake && g.wake != nil {
		g.wake()
	}
}

// quiet reports whether nothing goes through or waits.
func (g *gate) quiet() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running+g.queue.Len() == 0
}

// load is what there is to do.
func (g *gate) load(now time.Time) scale.Load {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.loadLocked(now)
}

func (g *gate) loadLocked(now time.Time) scale.Load {
	l := scale.Load{InFlight: g.running, Waiting: g.queue.Len()}
	if first := g.queue.Front(); first != nil {
		l.Oldest = now.Sub(first.Value.(*waiting).since)
	}
	return l
}

// needed also notes how many instances there are to be, so that Demand hears only
// of more than that.
func (g *gate) needed(idle time.Duration, now time.Time, decide func(scale.Needed) int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := scale.Needed{Load: g.loadLocked(now)}
	n.Held = g.peaks.Held(g.need, now.Add(-idle))
	n.Until = g.peaks.Until(g.need)
	g.asked = decide(n)
}

// gate returns the one of a service.
func (r *Router) gate(w *mayfly.Workload) *gate {
	key := store.Key{Space: w.Space, Name: w.Name}
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.gates[key]
	if g == nil {
		g = &gate{}
		if d := r.opts.Demand; d != nil {
			g.wake = func() { d.Wake(key.Space, key.Name) }
		}
		g.queue.Init()
		r.gates[key] = g
	}
	return g
}

// Needed gives decide what the requests of a service need, of what they needed
// within idle the most. It returns how many instances there are to be, and Demand
// hears of it when more than that are needed.
func (r *Router) Needed(space, workload string, idle time.Duration, decide func(scale.Needed) int) {
	r.gate(&mayfly.Workload{Space: space, Name: workload}).needed(idle, time.Now(), decide)
}
