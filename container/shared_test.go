package container

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-run/mayfly"
)

// inShared runs f with a shared pool over w in a bubble of fake time.
func inShared(t *testing.T, w *workshop, o SharedOptions[*thing], f func(p *SharedPool[*thing])) {
	synctest.Test(t, func(t *testing.T) {
		o.Making = make(chan struct{}, 4)
		p := NewSharedPool(w, o)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { p.Run(ctx); close(done) }()
		f(p)
		cancel()
		<-done
		for _, s := range w.made {
			if !s.removed.Load() {
				t.Error("an instance is left")
			}
		}
	})
}

func place(t *testing.T, p *SharedPool[*thing]) *thing {
	t.Helper()
	s, err := p.Get(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSharedFirstRunsShareTheFirstInstance(t *testing.T) {
	w := &workshop{takes: time.Second}
	inShared(t, w, SharedOptions[*thing]{Each: 100}, func(p *SharedPool[*thing]) {
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				s := place(t, p)
				time.Sleep(time.Second)
				p.Put(s, true)
			})
		}
		all.Wait()
		if n := w.count(); n != 1 {
			t.Errorf("%d were made for as many runs as one serves", n)
		}
	})
}

func TestSharedBurstMakesAllThatItNeeds(t *testing.T) {
	w := &workshop{takes: 20 * time.Millisecond}
	inShared(t, w, SharedOptions[*thing]{Each: 10, Idle: time.Minute}, func(p *SharedPool[*thing]) {
		var all sync.WaitGroup
		begun := time.Now()
		for range 95 {
			all.Go(func() {
				s := place(t, p)
				time.Sleep(time.Hour)
				p.Put(s, true)
			})
		}
		time.Sleep(200 * time.Millisecond)
		if l := p.Load(); l.InFlight != 95 || l.Waiting != 0 || l.Instances != 10 || l.Capacity != 100 {
			t.Errorf("after %v: %+v", time.Since(begun), l)
		}
		all.Wait()
		time.Sleep(59 * time.Second)
		if n := p.Load().Instances; n != 10 {
			t.Errorf("%d after 59 s without a run", n)
		}
		time.Sleep(2 * time.Second)
		if n := p.Load().Instances; n != 0 {
			t.Errorf("%d after a minute without a run", n)
		}
	})
}

// TestSharedSpreadsOverAsFewAsAreNeeded is why those that are not needed can go,
// though there is always something to do.
func TestSharedSpreadsOverAsFewAsAreNeeded(t *testing.T) {
	w := &workshop{}
	inShared(t, w, SharedOptions[*thing]{Each: 4, Idle: time.Minute, Cooldown: 10 * time.Second}, func(p *SharedPool[*thing]) {
		var held []*thing
		for range 20 {
			held = append(held, place(t, p))
		}
		for _, s := range held {
			p.Put(s, true)
		}
		uses := map[*thing]int{}
		held = nil
		for range 6 {
			s := place(t, p)
			uses[s]++
			held = append(held, s)
		}
		if len(uses) != 2 || uses[w.made[0]]+uses[w.made[1]] != 6 || uses[w.made[0]] < 2 || uses[w.made[0]] > 4 {
			t.Errorf("six runs are in %v", uses)
		}
		time.Sleep(59 * time.Second)
		for want := 5; want >= 2; want-- {
			if n := p.Load().Instances; n != want {
				t.Errorf("%d instances, not %d", n, want)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(time.Hour)
		if l := p.Load(); l.Instances != 2 || l.InFlight != 6 {
			t.Errorf("with runs in flight: %+v", l)
		}
		for _, s := range held {
			p.Put(s, true)
		}
	})
}

func TestSharedWaitsInOrderWithinItsBounds(t *testing.T) {
	w := &workshop{takes: 10 * time.Millisecond}
	inShared(t, w, SharedOptions[*thing]{Each: 2, Most: 3, MaxQueue: 5}, func(p *SharedPool[*thing]) {
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 11 {
			all.Go(func() {
				s := place(t, p)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				p.Put(s, true)
			})
			time.Sleep(30 * time.Millisecond)
		}
		_, err := p.Get(context.Background())
		if mayfly.KindOf(err) != mayfly.Busy {
			t.Errorf("the 12th: %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		time.Sleep(700 * time.Millisecond) // the first have ended
		if _, err := p.Get(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("who has left: %v", err)
		}
		all.Wait()
		for i := range order {
			if order[i] != i {
				t.Errorf("served in the order %v", order)
				break
			}
		}
		if w.count() != 3 {
			t.Errorf("%d instances", w.count())
		}
	})
}

func TestSharedKeepsItsLeast(t *testing.T) {
	w := &workshop{takes: 10 * time.Millisecond}
	inShared(t, w, SharedOptions[*thing]{Least: 2, Idle: time.Minute}, func(p *SharedPool[*thing]) {
		time.Sleep(time.Second)
		if n := p.Load().Instances; n != 2 {
			t.Errorf("%d before anybody asked", n)
		}
		w.made[0].Remove() // it crashes
		time.Sleep(time.Hour)
		if n := p.Load().Instances; n != 2 || w.count() != 3 {
			t.Errorf("%d after one has crashed, and %d were made", n, w.count())
		}
	})
}

func TestSharedTriesItsLeastAgain(t *testing.T) {
	w := &workshop{err: errors.New("no such image")}
	inShared(t, w, SharedOptions[*thing]{Least: 1}, func(p *SharedPool[*thing]) {
		if _, err := p.Get(context.Background()); err == nil {
			t.Error("there was one")
		}
		time.Sleep(time.Minute)
		w.mu.Lock()
		w.err = nil
		w.mu.Unlock()
		time.Sleep(time.Minute)
		if n := p.Load().Instances; n != 1 {
			t.Errorf("%d when it could be made", n)
		}
	})
}

func TestSharedInstanceThatIsIllEndsWithItsLastRun(t *testing.T) {
	w := &workshop{}
	inShared(t, w, SharedOptions[*thing]{Each: 3}, func(p *SharedPool[*thing]) {
		a, b := place(t, p), place(t, p)
		p.Put(a, false)
		c := place(t, p)
		if a != b || c == b {
			t.Error("a new run came into it")
		}
		if a.removed.Load() {
			t.Error("it went with a run in it")
		}
		p.Put(b, true)
		if !a.removed.Load() {
			t.Error("it stayed after its last run")
		}
		p.Leave(c)
		if c.removed.Load() {
			t.Error("one that was told to leave went with a run in it")
		}
		p.Put(c, true)
		if !c.removed.Load() {
			t.Error("one that was told to leave stayed")
		}
	})
}

func TestSharedEndsAfterThoseWhoAsked(t *testing.T) {
	w := &workshop{takes: time.Second}
	synctest.Test(t, func(t *testing.T) {
		p := NewSharedPool(w, SharedOptions[*thing]{Making: make(chan struct{}, 1), Each: 2})
		done := make(chan struct{})
		go func() { p.Run(context.Background()); close(done) }()
		got := make(chan *thing)
		go func() { got <- place(t, p) }()
		synctest.Wait()
		p.Drain()
		s := <-got
		<-done
		if _, err := p.Get(context.Background()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if s.removed.Load() {
			t.Error("it went with a run in it")
		}
		p.Put(s, true)
		if !s.removed.Load() {
			t.Error("it is left")
		}
	})
}

// TestSharedUnderLoad has runs come and go, instances crash and fall ill, and
// holds what is promised at every moment.
func TestSharedUnderLoad(t *testing.T) {
	for seed := range uint64(20) {
		w := &workshop{takes: 50 * time.Millisecond}
		const each, most = 3, 5
		o := SharedOptions[*thing]{Each: each, Most: most, Least: int(seed % 2), Idle: 2 * time.Second, MaxQueue: 1 << 20}
		if seed%3 == 0 {
			o.Cooldown = time.Second
		}
		var inside sync.Map // of each instance, how many runs
		o.Retire = func(s *thing) {
			if n, _ := inside.Load(s); n != nil && n.(*atomic.Int32).Load() > 0 {
				t.Errorf("seed %d: an instance went with %d runs in it", seed, n.(*atomic.Int32).Load())
			}
			s.Remove()
		}
		inShared(t, w, o, func(p *SharedPool[*thing]) {
			random := rand.New(rand.NewPCG(seed, 1))
			var all sync.WaitGroup
			var served, queued atomic.Int32
			places := NewPlaces(8)
			for range 300 {
				if seed%4 > 1 && random.IntN(5) == 0 { // tasks come and go
					queued.Store(int32(random.IntN(12)))
					p.Expect(Backlog{places, func() (int, time.Duration) { return int(queued.Load()), 3 * time.Second }})
				}
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				takes, ill, crash := time.Duration(random.IntN(1000))*time.Millisecond, random.IntN(20) == 0, random.IntN(40) == 0
				all.Go(func() {
					s := place(t, p)
					n, _ := inside.LoadOrStore(s, new(atomic.Int32))
					if now := n.(*atomic.Int32).Add(1); now > each {
						t.Errorf("seed %d: %d runs in one instance", seed, now)
					}
					if l := p.Load(); l.Instances > most || l.Capacity != l.Instances*each {
						t.Errorf("seed %d: %+v", seed, l)
					}
					time.Sleep(takes)
					if crash {
						s.once.Do(func() { close(s.ended) })
					}
					n.(*atomic.Int32).Add(-1)
					p.Put(s, !ill)
					served.Add(1)
				})
			}
			all.Wait()
			queued.Store(0)
			if served.Load() != 300 {
				t.Errorf("seed %d: %d served", seed, served.Load())
			}
			time.Sleep(time.Minute)
			if l := p.Load(); l.Instances != o.Least || l.InFlight != 0 || l.Waiting != 0 {
				t.Errorf("seed %d: in the end %+v", seed, l)
			}
			if places.Left() != 8 {
				t.Errorf("seed %d: %d of 8 places are left in the end", seed, places.Left())
			}
		})
	}
}
