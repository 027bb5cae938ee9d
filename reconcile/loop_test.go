package reconcile

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// stage is a clock that stands still until it is set.
type stage struct {
	mu    sync.Mutex
	now   time.Time
	looks int
	waits map[chan time.Time]time.Time
	asked chan time.Time // gets each time that somebody waits for
}

func newStage() *stage {
	return &stage{now: noon, waits: map[chan time.Time]time.Time{}, asked: make(chan time.Time, 100)}
}

func (c *stage) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	return c.now
}

func (c *stage) At(t time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.waits[ch] = t
	select {
	case c.asked <- t:
	default:
	}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waits, ch)
	}
}

func (c *stage) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
	for ch, at := range c.waits {
		if !at.After(t) {
			ch <- t
			delete(c.waits, ch)
		}
	}
}

func TestADeadlineWakesTheLoop(t *testing.T) {
	s := openStore(t, openBus(t))
	clock := newStage()
	start(t, s, clock)
	addNode(t, s, "a")
	deploy(t, s, "web", mayfly.Workload{Service: &mayfly.Service{Update: mayfly.Update{Timeout: time.Minute}}})
	for due := range clock.asked {
		if due.Equal(noon.Add(time.Minute)) {
			break
		}
	}
	clock.set(noon.Add(time.Minute))
	until(t, s, "nothing became ready", rolloutIs(s, "web", mayfly.RolloutFailed, 1))
	ro, _ := s.Rollouts.Find("default", "web")
	if want := "replica 1 was not ready within 1m0s: its node did not answer"; ro.Value.Reason != want {
		t.Errorf("the reason is %q, want %q", ro.Value.Reason, want)
	}
}

// TestTwoLoopsDoNoHarm runs two loops over one record, each with a memory of its
// own, and a node that acts at once.
func TestTwoLoopsDoNoHarm(t *testing.T) {
	b := openBus(t)
	s, other := openStore(t, b), openStore(t, b)
	node := act(t, openStore(t, b), nil)
	start(t, s, nil)
	start(t, other, nil)
	addNode(t, s, "a")
	const services, releases, count = 5, 6, 3
	for range releases {
		for i := range services {
			deploy(t, s, fmt.Sprint("s", i), probed(count))
		}
	}
	until(t, s, "all are at their last release", func() bool {
		for i := range services {
			if !rolloutIs(s, fmt.Sprint("s", i), mayfly.RolloutDone, releases)() {
				return false
			}
		}
		return len(s.Assignments.List("")) == services*count
	})
	numbers := map[string]bool{}
	for _, rec := range s.Assignments.List("") {
		key := fmt.Sprint(rec.Value.Workload, "/", rec.Value.Replica)
		if numbers[key] {
			t.Errorf("%s is there twice", key)
		}
		numbers[key] = true
	}
	node.mu.Lock()
	defer node.mu.Unlock()
	for name, most := range node.most {
		if most > count+1 {
			t.Errorf("%s had %d instances at one time, with a surge of one", name, most)
		}
	}
	news := map[string]int{}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, _ := s.News(store.NewsFilter{Type: "rollout.done"}, 0)
	for _, n := range list {
		if news[fmt.Sprint(n.Subject, n.Release)]++; news[fmt.Sprint(n.Subject, n.Release)] > 1 {
			t.Errorf("told twice: %+v", n)
		}
	}
}

// TestWhatWasDecidedTooLongAgoIsNotWritten has another loop write between looking
// and writing.
func TestWhatWasDecidedTooLongAgoIsNotWritten(t *testing.T) {
	b := openBus(t)
	s := openStore(t, b)
	addNode(t, s, "a")
	deploy(t, s, "web", probed(2))
	late, first := Open(s, Options{}), Open(s, Options{})
	old, err := late.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	changes, _ := plan(old)
	for _, c := range changes {
		if err := late.write(t.Context(), old, []change{c}); !store.Lost(err) {
			t.Errorf("%s was written late: %v", c, err)
		}
	}
	if n := len(s.Assignments.List("")); n != 2 {
		t.Errorf("%d assignments, want 2", n)
	}
}

func TestNothingIsStoppedThatCannotBeRead(t *testing.T) {
	s := openStore(t, openBus(t))
	addNode(t, s, "a")
	if _, err := s.Assignments.Put(t.Context(), "default", "x", mayfly.Assignment{ID: "x", Space: "default", Workload: "web", Node: "a", Release: 1, Replica: 1}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s, Options{}).pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, err := s.Assignments.Get("default", "x"); err != nil || a.Value.Stop {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWhatWasOnANodeThatIsGoneRunsElsewhere(t *testing.T) {
	s := openStore(t, openBus(t))
	act(t, s, nil)
	start(t, s, nil)
	addNode(t, s, "a")
	deploy(t, s, "web", probed(1))
	until(t, s, "it runs", rolloutIs(s, "web", mayfly.RolloutDone, 1))
	gone := func() {
		rec, _ := s.Nodes.Find(store.NodeSpace, "a")
		if err := s.Nodes.Delete(t.Context(), store.NodeSpace, "a", rec.Revision); err != nil {
			t.Fatal(err)
		}
	}
	gone() // no other is known: it may be ours that cannot be read
	addNode(t, s, "b")
	until(t, s, "it runs on the other", func() bool {
		list := s.Assignments.List("")
		return len(list) == 1 && list[0].Value.Node == "b" && len(s.Replicas.List("")) == 1
	})
}

func TestAServiceThatBecomesAFunctionIsStopped(t *testing.T) {
	s := openStore(t, openBus(t))
	act(t, s, nil)
	start(t, s, nil)
	addNode(t, s, "a")
	deploy(t, s, "web", probed(1))
	until(t, s, "it runs", rolloutIs(s, "web", mayfly.RolloutDone, 1))
	deploy(t, s, "web", mayfly.Workload{})
	until(t, s, "it is stopped", func() bool { return len(s.Assignments.List("")) == 0 && len(s.Rollouts.List("")) == 0 })
}

// TestIdleServicesWakeNobody lets a hundred services come to rest, and writes what
// is none of the loop's business.
func TestIdleServicesWakeNobody(t *testing.T) {
	s := openStore(t, openBus(t))
	node := &actor{store: s, most: map[string]int{}}
	addNode(t, s, "a")
	for i := range 100 {
		deploy(t, s, fmt.Sprint("s", i), probed(1))
	}
	r := Open(s, Options{})
	for {
		seen := r.revisions(s.Snapshot())
		wake, err := r.pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range s.Assignments.List("") {
			if err := node.carryOut(t.Context(), rec.Value); err != nil {
				t.Fatal(err)
			}
		}
		if wake.IsZero() && r.revisions(s.Snapshot()) == seen {
			break
		}
	}
	before := r.revisions(s.Snapshot())
	if _, err := s.Secrets.Put(t.Context(), "default", "x", mayfly.Secret{}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.PutInstance(t.Context(), mayfly.Instance{ID: mayfly.NewID(), Space: "default"}); err != nil {
		t.Fatal(err)
	}
	if after := r.revisions(s.Snapshot()); after != before {
		t.Errorf("the loop wakes up: %v, and then %v", before, after)
	}
	addNode(t, s, "b")
	if after := r.revisions(s.Snapshot()); after == before {
		t.Error("the loop does not see a new node")
	}
}

func BenchmarkPlanOfAThousandServices(b *testing.B) {
	s := openStore(b, openBus(b))
	addNode(b, s, "a")
	node := &actor{store: s, most: map[string]int{}}
	for i := range 1000 {
		deploy(b, s, fmt.Sprint("s", i), probed(2))
	}
	r := Open(s, Options{})
	for range 3 {
		if _, err := r.pass(b.Context()); err != nil {
			b.Fatal(err)
		}
		for _, rec := range s.Assignments.List("") {
			if err := node.carryOut(b.Context(), rec.Value); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			v, err := r.look(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			if changes, _ := plan(v); len(changes) > 0 {
				b.Fatal(changes)
			}
		}
	})
	b.Run("one is scaled", func(b *testing.B) {
		three := 3
		for b.Loop() {
			v, err := r.look(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			v.services[0].wish.Scale = &three
			if changes, _ := plan(v); len(changes) != 1 {
				b.Fatal(changes)
			}
		}
	})
}
