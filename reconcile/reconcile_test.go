package reconcile

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openBus(t testing.TB) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openStore(t testing.TB, b *bus.Bus) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// start runs a loop until the test ends.
func start(t testing.TB, s *store.Store, clock Clock) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Open(s, Options{Clock: clock}).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func addNode(t testing.TB, s *store.Store, name string) {
	t.Helper()
	if _, err := s.Nodes.Put(t.Context(), store.NodeSpace, name, mayfly.NodeInfo{Name: name, Epoch: 1, Memory: 8 << 30, CPUs: 2}, 0); err != nil {
		t.Fatal(err)
	}
}

func deploy(t testing.TB, s *store.Store, name string, w mayfly.Workload) int {
	t.Helper()
	w.Space, w.Name, w.Image = "default", name, "x"
	rel, err := s.PutRelease(t.Context(), w, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	var seen uint64
	if old, err := s.Workload("default", name); err == nil {
		seen = old.Revision
	}
	if _, err := s.SetWorkload(t.Context(), "default", name, rel.Number, seen); err != nil {
		t.Fatal(err)
	}
	return rel.Number
}

// probed is a service of which it is asked whether it is well.
func probed(count int) mayfly.Workload {
	return mayfly.Workload{Scale: mayfly.Scale{Min: count}, Service: &mayfly.Service{Ready: &mayfly.Probe{}}}
}

// until waits until the record is as is asks.
func until(t testing.TB, s *store.Store, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := s.Wait(ctx, func(*store.Snapshot) bool { return is() }); err != nil {
		for _, a := range s.Assignments.List("") {
			t.Logf("%+v", a.Value)
		}
		for _, ro := range s.Rollouts.List("") {
			t.Logf("%s: %+v", ro.Name, ro.Value)
		}
		t.Fatalf("%s: %v", what, err)
	}
}

func rolloutIs(s *store.Store, name, state string, release int) func() bool {
	return func() bool {
		ro, _ := s.Rollouts.Find("default", name)
		return ro.Value.State == state && ro.Value.Release == release
	}
}

// actor is a node that carries out its assignments at once: good releases become
// ready, bad ones crash. It ends with the test.
type actor struct {
	store *store.Store
	bad   func(mayfly.Assignment) bool

	mu   sync.Mutex
	most map[string]int // by workload: most assignments at one time
}

func act(t testing.TB, s *store.Store, bad func(mayfly.Assignment) bool) *actor {
	a := &actor{store: s, bad: bad, most: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return a
}

func (a *actor) run(ctx context.Context) error {
	for {
		snap := a.store.Snapshot()
		list := a.store.Assignments.List("")
		known := map[string]bool{}
		counts := map[string]int{}
		for _, rec := range list {
			known[rec.Name] = true
			counts[rec.Value.Workload]++
			if err := a.carryOut(ctx, rec.Value); err != nil && !store.Lost(err) {
				return err
			}
		}
		a.mu.Lock()
		for name, n := range counts {
			a.most[name] = max(a.most[name], n)
		}
		a.mu.Unlock()
		for _, rec := range a.store.Replicas.List("") {
			if _, ok := a.store.Assignments.Find(rec.Space, rec.Name); !ok && !known[rec.Name] {
				if err := a.store.Replicas.Delete(ctx, rec.Space, rec.Name, rec.Revision); err != nil && !store.Lost(err) {
					return err
				}
			}
		}
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return nil
		}
	}
}

func (a *actor) carryOut(ctx context.Context, as mayfly.Assignment) error {
	_, err := a.store.Replicas.Update(ctx, as.Space, as.ID, func(r mayfly.Replica, found bool) (mayfly.Replica, bool, error) {
		state := mayfly.ReplicaReady
		switch {
		case as.Stop:
			state = mayfly.ReplicaStopped
		case a.bad != nil && a.bad(as):
			state = mayfly.ReplicaBackoff
		}
		if found && r.State == state {
			return r, false, nil
		}
		r = mayfly.Replica{Assignment: as.ID, Space: as.Space, Workload: as.Workload, Release: as.Release, Number: as.Replica, Node: as.Node, State: state, Since: time.Now()}
		switch state {
		case mayfly.ReplicaReady:
			r.Ready = r.Since
		case mayfly.ReplicaBackoff:
			r.Failures, r.Reason = 3, "the program ended with 1"
		}
		return r, true, nil
	})
	return err
}

func TestAServiceIsStartedUpdatedScaledAndDeleted(t *testing.T) {
	b := openBus(t)
	s := openStore(t, b)
	node := act(t, s, func(a mayfly.Assignment) bool { return a.Release == 3 })
	start(t, s, nil)
	addNode(t, s, "a")
	w := probed(3)
	deploy(t, s, "web", w)
	until(t, s, "the first release", rolloutIs(s, "web", mayfly.RolloutDone, 1))
	deploy(t, s, "web", w)
	until(t, s, "the second release", rolloutIs(s, "web", mayfly.RolloutDone, 2))
	deploy(t, s, "web", w)
	until(t, s, "the third, which is bad", rolloutIs(s, "web", mayfly.RolloutRolledBack, 3))
	runs := func(count, release int) func() bool {
		return func() bool {
			list := s.Assignments.List("")
			for _, a := range list {
				if a.Value.Release != release || a.Value.Stop {
					return false
				}
			}
			return len(list) == count
		}
	}
	until(t, s, "the second is back", runs(3, 2))
	ro, _ := s.Rollouts.Find("default", "web")
	if ro.Value.Stable != 2 || ro.Value.Reason != "replica 1 failed 3 times in a row: the program ended with 1" {
		t.Errorf("rolled back: %+v", ro.Value)
	}
	two := 2
	if _, err := s.Wishes.Put(t.Context(), "default", "web", mayfly.Wish{Scale: &two}, 0); err != nil {
		t.Fatal(err)
	}
	until(t, s, "scaled down", runs(2, 2))
	node.mu.Lock()
	most := node.most["web"]
	node.mu.Unlock()
	if most > 4 {
		t.Errorf("%d at one time, with a surge of 1", most)
	}
	wl, err := s.Workload("default", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteWorkload(t.Context(), "default", "web", wl.Revision); err != nil {
		t.Fatal(err)
	}
	until(t, s, "deleted", func() bool {
		return len(s.Assignments.List("")) == 0 && len(s.Rollouts.List("")) == 0 && len(s.Wishes.List("")) == 0
	})
}
