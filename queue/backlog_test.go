package queue

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// backlogIs fails the test unless so many tasks wait for nothing but a place.
func (n *node) backlogIs(what, workload string, want int) {
	n.t.Helper()
	if got, age := n.Backlog(home, workload); got != want || age < 0 || got == 0 && age > 0 {
		n.t.Errorf("%s: %d wait for a place, for %v, not %d", what, got, age, want)
	}
}

func TestBacklogIsWhatWaitsForAPlace(t *testing.T) {
	n := startNode(t)
	n.backlogIs("what nobody knows", "none", 0)
	n.deploy(mayfly.Workload{Name: "w"})
	later := work("w")
	later.NotBefore = time.Now().Add(time.Hour)
	parent := n.submit(work("parent"))[0]
	n.submit(work("w"), work("w"), work("w"), later, after("w", parent))
	n.backlogIs("three of five", "w", 3)
	if err := n.Pause(t.Context(), home, "w"); err != nil {
		t.Fatal(err)
	}
	n.backlogIs("paused", "w", 0)
	if err := n.Resume(t.Context(), home, "w"); err != nil {
		t.Fatal(err)
	}
	n.deploy(mayfly.Workload{Name: "w", Concurrency: 2})
	n.submit(work("w"))
	n.backlogIs("two at once", "w", 2)
	n.done(n.next(), mayfly.Succeeded) // the parent
	g := n.next()
	n.backlogIs("one of two runs", "w", 1)
	n.done(g, mayfly.Succeeded)
	n.deploy(mayfly.Workload{Name: "rated", Rate: mayfly.Rate{PerSecond: 1e-9, Burst: 1}})
	n.submit(work("rated"), work("rated"), work("rated"))
	n.backlogIs("as many as the rate lets start", "rated", 1)
	n.deploy(mayfly.Workload{Name: "keyed", Key: mayfly.KeyLimit{Field: "k", Max: 1}})
	one := work("keyed")
	one.Payload = []byte(`{"k": "a"}`)
	n.submit(one, one, one)
	n.backlogIs("none of them runs", "keyed", 3)
	for {
		g := n.next()
		if g.Task.Workload == "keyed" {
			n.backlogIs("one of the key runs", "keyed", 0)
			if queued, running, age := n.Load(home, "keyed"); queued != 2 || running != 1 || age <= 0 {
				t.Errorf("%d wait, the first for %v, and %d run", queued, age, running)
			}
			return
		}
		n.done(g, mayfly.Succeeded)
	}
}

func TestBacklogIsToldOnceAndOnlyWhereItGrows(t *testing.T) {
	n := newNode(t, Options{})
	var told []string
	n.OnBacklog(3, func(_, workload string) { told = append(told, workload) })
	telling := func(what string, want int) {
		t.Helper()
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(told) != want {
			t.Errorf("%s: it was told %d times: %v", what, len(told), told)
		}
		told = nil
	}
	n.deploy(mayfly.Workload{Name: "w"})
	n.submit(work("w"))
	telling("before it runs", 0)
	n.start()
	n.submit(work("w"))
	telling("one more than there was when it began, and that", 2)
	n.submit(work("w"), work("w"), work("w"))
	telling("no more than anybody cares for", 1)
	n.backlogIs("all", "w", 5)
	n.submit(work("w"))
	telling("more than that", 0)
	for range 6 {
		n.done(n.next(), mayfly.Succeeded)
	}
	n.backlogIs("nothing", "w", 0)
	n.submit(work("w"))
	telling("again, from nothing", 1)
	n.done(n.next(), mayfly.Succeeded)
}
