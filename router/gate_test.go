package router

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/scale"
	"github.com/mayfly-run/mayfly/store"
)

// wakes counts what a Demand is told.
type wakes struct{ atomic.Int32 }

func (w *wakes) Wake(space, workload string) {
	if space == "default" && workload == "web" {
		w.Add(1)
	}
}

func newGate(d Demand) (*Router, *gate) {
	r := &Router{opts: Options{Demand: d}, gates: map[store.Key]*gate{}}
	g := r.gate(&mayfly.Workload{Space: "default", Name: "web"})
	return r, g
}

func TestAHundredFirstRequestsWakeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d wakes
		r, g := newGate(&d)
		g.set(0, 200, 1000)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if err := g.enter(t.Context()); err != nil {
					t.Error(err)
					return
				}
				g.leave()
			})
		}
		synctest.Wait()
		if n := d.Load(); n != 1 {
			t.Errorf("%d wakes", n)
		}
		time.Sleep(3 * time.Second)
		r.Needed("default", "web", time.Minute, func(n scale.Needed) int {
			if n.Waiting != 100 || n.InFlight != 0 || n.Oldest != 3*time.Second || n.Held != 1 {
				t.Errorf("%+v", n)
			}
			return 1
		})
		g.set(1, 200, 1000)
		all.Wait()
		if !g.quiet() || d.Load() != 1 {
			t.Errorf("quiet: %v, %d wakes", g.quiet(), d.Load())
		}
		ended := time.Now()
		time.Sleep(59 * time.Second)
		r.Needed("default", "web", time.Minute, func(n scale.Needed) int {
			if n.Held != 1 || !n.Until.Equal(ended) {
				t.Errorf("within idle: %+v", n)
			}
			return 1
		})
		time.Sleep(time.Second)
		r.Needed("default", "web", time.Minute, func(n scale.Needed) int {
			if n.Held != 0 || !n.Until.IsZero() {
				t.Errorf("after it: %+v", n)
			}
			return 0
		})
		g.set(0, 200, 1000)
		ctx, cancel := context.WithCancel(t.Context())
		all.Go(func() { g.enter(ctx) })
		synctest.Wait()
		if d.Load() != 2 {
			t.Errorf("%d wakes after it slept again", d.Load())
		}
		cancel()
		all.Wait()
	})
}

// TestAGateIsNeverWiderThanItsInstances has many come and go, and instances too.
func TestAGateIsNeverWiderThanItsInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d wakes
		_, g := newGate(&d)
		g.set(2, 3, 1000)
		var now, most atomic.Int32
		var order []int
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				if g.enter(t.Context()) != nil {
					t.Error("refused")
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(time.Second)
				now.Add(-1)
				g.leave()
			})
			synctest.Wait()
		}
		all.Wait()
		if most.Load() != 6 {
			t.Errorf("%d at once, and 2 serve 3 each", most.Load())
		}
		for i := range order[:6] {
			if order[i] != i {
				t.Errorf("they came in in the order %v", order)
				break
			}
		}
		if d.Load() == 0 {
			t.Error("nobody was told that more are needed")
		}
		if !g.quiet() {
			t.Error("something is left")
		}
	})
}

func TestWhoIsRefusedIsToldWhenItHelpsToTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, g := newGate(nil)
		g.set(1, 1, 20)
		var all sync.WaitGroup
		enter := func() {
			all.Go(func() {
				if g.enter(t.Context()) == nil {
					time.Sleep(500 * time.Millisecond)
					g.leave()
				}
			})
		}
		for range 21 {
			enter()
		}
		synctest.Wait()
		for range 20 { // one ends each half second, and another comes
			time.Sleep(500 * time.Millisecond)
			synctest.Wait()
			enter()
			synctest.Wait()
		}
		err := g.enter(t.Context())
		if mayfly.KindOf(err) != mayfly.Busy {
			t.Fatal(err)
		}
		if s := mayfly.RetryAfter(err); s < 9 || s > 11 {
			t.Errorf("20 wait, 2 a second end: %d s", s)
		}
		all.Wait()
		if s := mayfly.RetryAfter(errors.New("busy")); s != 1 {
			t.Errorf("where nothing tells: %d s", s)
		}
	})
}

func TestWhoLeavesTheQueueTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, g := newGate(nil)
		g.set(0, 1, 5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		g.set(1, 1, 5)
		if err := g.enter(t.Context()); err != nil {
			t.Error(err)
		}
		g.leave()
		if !g.quiet() {
			t.Error("something is left")
		}
	})
}
