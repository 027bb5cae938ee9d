package container

import (
	"context"
	"sync"
	"testing"
	"time"
)

// line is tasks that wait for a place.
type line struct {
	places *Places

	mu    sync.Mutex
	n     int
	since time.Time
}

func (l *line) set(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n == 0 {
		l.since = time.Now()
	}
	l.n = n
}

func (l *line) backlog() Backlog {
	return Backlog{l.places, func() (int, time.Duration) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.n, time.Since(l.since)
	}}
}

func TestSharedIsReadyForWhatIsQueued(t *testing.T) {
	w := &workshop{takes: 100 * time.Millisecond}
	q := &line{places: NewPlaces(16)}
	inShared(t, w, SharedOptions[*thing]{Each: 2, Most: 5, Idle: time.Minute}, func(p *SharedPool[*thing]) {
		q.set(20)
		p.Expect(q.backlog())
		time.Sleep(time.Second)
		if l := p.Load(); l.Instances != 5 || l.Wanted != 5 || l.InFlight != 0 || q.places.Left() != 6 {
			t.Errorf("before the first task comes: %+v, %d places are left", l, q.places.Left())
		}
		time.Sleep(time.Hour)
		if l := p.Load(); l.Instances != 5 || w.count() != 5 {
			t.Errorf("they wait for an hour: %+v, %d were made", l, w.count())
		}
		var held []*thing
		begun := time.Now()
		for range 10 {
			held = append(held, place(t, p))
		}
		q.set(0)
		if took := time.Since(begun); took > 0 {
			t.Errorf("ten tasks waited %v", took)
		}
		for _, s := range held {
			p.Put(s, true)
		}
		time.Sleep(59 * time.Second)
		if l := p.Load(); l.Instances != 5 || l.Wanted != 0 {
			t.Errorf("for a minute they are kept: %+v", l)
		}
		time.Sleep(2 * time.Second)
		if l := p.Load(); l.Instances != 0 || q.places.Left() != 16 {
			t.Errorf("then they go: %+v, %d places are left", l, q.places.Left())
		}
	})
}

// TestSharedSpreadsWhatDoesNotGetOn: where tasks wait though instances have room,
// more of them share the work.
func TestSharedSpreadsWhatDoesNotGetOn(t *testing.T) {
	w := &workshop{takes: 100 * time.Millisecond}
	q := &line{places: NewPlaces(4)}
	inShared(t, w, SharedOptions[*thing]{Each: 10, Idle: time.Minute}, func(p *SharedPool[*thing]) {
		var held []*thing
		for range 4 {
			held = append(held, place(t, p))
		}
		q.set(100)
		p.Expect(q.backlog())
		time.Sleep(500 * time.Millisecond)
		if l := p.Load(); l.Instances != 1 {
			t.Errorf("at first: %+v", l)
		}
		time.Sleep(5 * time.Second)
		if l := p.Load(); l.Instances != 4 {
			t.Errorf("after seconds: %+v", l)
		}
		p.Put(held[0], true)
		if s := place(t, p); s == held[0] {
			t.Error("the next task is in the one that has most to do")
		} else {
			p.Put(s, true)
		}
		q.set(0)
		for _, s := range held[1:] {
			p.Put(s, true)
		}
	})
}

// TestQueuedTasksThatGoNeedNothing: of what was made for them nothing stays.
func TestQueuedTasksThatGoNeedNothing(t *testing.T) {
	w := &workshop{takes: 100 * time.Millisecond}
	q := &line{places: NewPlaces(3)}
	o := SharedOptions[*thing]{Idle: time.Minute, Budget: NewBudget(20), Cost: 10}
	inShared(t, w, o, func(p *SharedPool[*thing]) {
		q.set(20)
		p.Expect(q.backlog())
		time.Sleep(10 * time.Minute)
		if l := p.Load(); l.Instances != 2 || w.count() != 2 {
			t.Errorf("there is memory for two: %+v, %d were made", l, w.count())
		}
		q.set(0) // they were cancelled
		time.Sleep(3 * time.Minute)
		if l := p.Load(); l.Instances != 0 || q.places.Left() != 3 {
			t.Errorf("%+v, %d places are left", l, q.places.Left())
		}
	})
}

func TestPlacesAreTakenOnce(t *testing.T) {
	w, other := &workshop{}, &workshop{}
	places := NewPlaces(4)
	a, b := &line{places: places}, &line{places: places}
	inShared(t, w, SharedOptions[*thing]{Idle: time.Minute}, func(p *SharedPool[*thing]) {
		a.set(3)
		p.Expect(a.backlog())
		time.Sleep(time.Second)
		o := NewPool(other, PoolOptions{Making: make(chan struct{}, 1), Idle: time.Minute})
		done := make(chan struct{})
		go func() { o.Run(context.Background()); close(done) }()
		b.set(3)
		o.Expect(b.backlog())
		time.Sleep(time.Minute)
		if l := p.Load(); l.Instances != 3 || o.Waiting() != 1 {
			t.Errorf("%d and %d for four places", l.Instances, o.Waiting())
		}
		a.set(0)
		time.Sleep(2 * time.Minute)
		if l := p.Load(); l.Instances != 0 || o.Waiting() != 3 {
			t.Errorf("%d and %d when one has nothing to do", l.Instances, o.Waiting())
		}
		b.set(0)
		time.Sleep(2 * time.Minute)
		if o.Waiting() != 0 || places.Left() != 4 {
			t.Errorf("%d wait for nothing, and %d places are left", o.Waiting(), places.Left())
		}
		o.Drain()
		<-done
	})
}
