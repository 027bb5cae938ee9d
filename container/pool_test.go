package container

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-run/mayfly"
)

// thing is what the pool keeps in these tests; a real sandbox needs the kernel,
// whose time cannot be held.
type thing struct {
	ended   chan struct{}
	once    sync.Once
	removed atomic.Bool
	handed  atomic.Int32
	memory  int64
}

func (s *thing) Ended() <-chan struct{} { return s.ended }
func (s *thing) Memory() int64          { return s.memory }
func (s *thing) Remove()                { s.removed.Store(true); s.once.Do(func() { close(s.ended) }) }

type workshop struct {
	takes  time.Duration
	err    error
	memory int64 // of each

	mu   sync.Mutex
	made []*thing
	busy int
	most int
}

func (w *workshop) Make(ctx context.Context) (*thing, error) {
	w.mu.Lock()
	w.busy++
	w.most = max(w.most, w.busy)
	w.mu.Unlock()
	time.Sleep(w.takes)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy--
	if w.err != nil {
		return nil, w.err
	}
	s := &thing{ended: make(chan struct{}), memory: w.memory}
	w.made = append(w.made, s)
	return s, nil
}

func (w *workshop) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.made)
}

// inPool runs f with a pool over w in a bubble of fake time.
func inPool(t *testing.T, w *workshop, o PoolOptions, f func(p *Pool[*thing])) {
	synctest.Test(t, func(t *testing.T) {
		o.Making = make(chan struct{}, 4)
		p := NewPool(w, o)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		f(p)
		cancel()
		<-done
		for _, s := range w.made {
			if s.handed.Load() == 0 && !s.removed.Load() {
				t.Error("a sandbox was neither handed out nor removed")
			}
			if s.handed.Load() > 1 {
				t.Error("a sandbox was handed out twice")
			}
		}
	})
}

func get(t *testing.T, p *Pool[*thing]) *thing {
	t.Helper()
	s, err := p.Get(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	s.handed.Add(1)
	return s
}

func TestPoolKeepsOneWaitingAfterACall(t *testing.T) {
	inPool(t, &workshop{takes: 10 * time.Millisecond}, PoolOptions{}, func(p *Pool[*thing]) {
		if p.Waiting() != 0 {
			t.Error("something waits before anybody asked")
		}
		get(t, p)
		synctest.Wait()
		time.Sleep(time.Second)
		if n := p.Waiting(); n != 1 {
			t.Errorf("%d wait, not 1", n)
		}
	})
}

func TestPoolGrowsWithTheRateAndShrinksToZero(t *testing.T) {
	inPool(t, &workshop{takes: 20 * time.Millisecond}, PoolOptions{Idle: time.Minute}, func(p *Pool[*thing]) {
		for range 200 {
			get(t, p)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(100 * time.Millisecond) // for those being made
		if n := p.Waiting(); n < 3 || n > 5 {
			t.Errorf("%d wait at 100 calls a second and 20 ms to make one", n)
		}
		time.Sleep(61 * time.Second)
		if n := p.Waiting(); n != 0 {
			t.Errorf("%d wait though nobody has asked for a minute", n)
		}
	})
}

func TestPoolBurstIsServedInParallelWithinItsBound(t *testing.T) {
	w := &workshop{takes: 20 * time.Millisecond}
	inPool(t, w, PoolOptions{}, func(p *Pool[*thing]) {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { get(t, p) })
		}
		all.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.most != 4 {
			t.Errorf("%d were made at once, not 4", w.most)
		}
	})
}

func TestPoolRefusesWhenTheQueueIsFull(t *testing.T) {
	inPool(t, &workshop{takes: time.Second}, PoolOptions{MaxQueue: 2}, func(p *Pool[*thing]) {
		var busy atomic.Int32
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				s, err := p.Get(context.Background())
				if mayfly.KindOf(err) == mayfly.Busy {
					busy.Add(1)
				} else if err == nil {
					s.handed.Add(1)
				}
			})
		}
		all.Wait()
		if busy.Load() != 3 {
			t.Errorf("%d were refused, not 3", busy.Load())
		}
	})
}

func TestPoolTellsWhyNoneCouldBeMade(t *testing.T) {
	why := errors.New("no such image")
	w := &workshop{err: why}
	inPool(t, w, PoolOptions{}, func(p *Pool[*thing]) {
		for range 3 {
			if _, err := p.Get(context.Background()); !errors.Is(err, why) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestPoolPassesOverTheDead(t *testing.T) {
	w := &workshop{takes: time.Millisecond}
	inPool(t, w, PoolOptions{}, func(p *Pool[*thing]) {
		get(t, p)
		time.Sleep(time.Second)
		w.mu.Lock()
		waiting := w.made[len(w.made)-1]
		w.mu.Unlock()
		waiting.once.Do(func() { close(waiting.ended) })
		if s := get(t, p); s == waiting {
			t.Error("a dead sandbox was handed out")
		}
	})
}

func TestPoolTakesBackFromACallerWhoLeft(t *testing.T) {
	inPool(t, &workshop{takes: 100 * time.Millisecond}, PoolOptions{}, func(p *Pool[*thing]) {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := p.Get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		get(t, p) // the one that was being made
	})
}

func TestPoolStaysWithinItsBudget(t *testing.T) {
	b := NewBudget(10)
	inPool(t, &workshop{takes: 100 * time.Millisecond}, PoolOptions{Budget: b, Cost: 4}, func(p *Pool[*thing]) {
		for range 50 {
			get(t, p)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := p.Waiting(); n > 2 {
			t.Errorf("%d wait in a budget for 2", n)
		}
	})
	if !b.room(10) {
		t.Error("the budget was not given back whole")
	}
}

func TestPoolBudgetsWhatEachReallyTakes(t *testing.T) {
	b := NewBudget(100)
	w := &workshop{takes: 100 * time.Millisecond, memory: 30}
	inPool(t, w, PoolOptions{Budget: b, Cost: 4}, func(p *Pool[*thing]) {
		for range 50 {
			get(t, p)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := p.Waiting(); n != 3 {
			t.Errorf("%d wait of 30 bytes each in a budget of 100", n)
		}
		made := w.count()
		time.Sleep(time.Minute)
		if n := w.count(); n != made {
			t.Errorf("%d more were made for which there is no room", n-made)
		}
	})
	if !b.room(100) {
		t.Error("the budget was not given back whole")
	}
}

func TestPoolKeepsNoneWhereNoneShallWait(t *testing.T) {
	inPool(t, &workshop{takes: time.Millisecond}, PoolOptions{Max: -1}, func(p *Pool[*thing]) {
		s := get(t, p)
		p.Put(s)
		if p.Waiting() != 0 || !s.removed.Load() {
			t.Error("what was put back is kept")
		}
		get(t, p)
		time.Sleep(time.Second)
		if n := p.Waiting(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

func TestPoolKeepsItsLeastAndNoMoreThanItsMost(t *testing.T) {
	w := &workshop{takes: 10 * time.Millisecond, memory: 100}
	inPool(t, w, PoolOptions{Least: 2, Most: 3, Idle: time.Minute, Budget: NewBudget(50)}, func(p *Pool[*thing]) {
		time.Sleep(time.Second)
		if n := p.Waiting(); n != 2 {
			t.Errorf("%d wait before anybody asked", n)
		}
		var got []*thing
		for range 3 {
			got = append(got, get(t, p))
		}
		time.Sleep(time.Second)
		if n := p.Waiting(); n != 0 || w.count() != 3 {
			t.Errorf("%d wait, %d were made, and 3 may be there", n, w.count())
		}
		var all sync.WaitGroup
		all.Go(func() { get(t, p) })
		synctest.Wait()
		p.Gone()
		all.Wait()
		p.Gone()
		p.Gone()
		p.Gone()
		time.Sleep(time.Hour)
		if n := p.Waiting(); n != 2 {
			t.Errorf("%d wait after an hour", n)
		}
		for _, s := range got {
			s.Remove()
		}
	})
}

func TestPoolTriesItsLeastAgain(t *testing.T) {
	w := &workshop{err: errors.New("no such image")}
	inPool(t, w, PoolOptions{Least: 1}, func(p *Pool[*thing]) {
		time.Sleep(time.Minute)
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		time.Sleep(time.Minute)
		if n := p.Waiting(); n != 1 {
			t.Errorf("%d wait when it could be made", n)
		}
	})
}

func TestPoolServesThoseWhoWaitBeforeItEnds(t *testing.T) {
	inPool(t, &workshop{takes: 100 * time.Millisecond}, PoolOptions{}, func(p *Pool[*thing]) {
		get(t, p)
		time.Sleep(time.Second) // one is on the shelf
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { get(t, p) })
		}
		synctest.Wait()
		p.Drain()
		all.Wait()
		synctest.Wait()
		if n := p.Waiting(); n != 0 {
			t.Errorf("%d wait in a pool that was drained", n)
		}
		if _, err := p.Get(context.Background()); err != ErrClosed {
			t.Errorf("then: %v", err)
		}
	})
}
