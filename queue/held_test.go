package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func after(name string, parents ...mayfly.Task) mayfly.Submission {
	sub := work(name)
	for _, p := range parents {
		sub.After = append(sub.After, p.ID)
	}
	return sub
}

// ends waits for tasks to end, and says how.
func (n *node) ends(state mayfly.TaskState, detail string, tasks ...mayfly.Task) {
	n.t.Helper()
	for _, task := range tasks {
		got, err := n.Wait(n.t.Context(), home, task.ID)
		if err != nil || got.State != state || !strings.Contains(got.Detail, detail) {
			n.t.Errorf("%+v, %v, want %s and %q", got, err, state, detail)
		}
	}
}

// A diamond: one, then two, then one that has the results of both.
func TestAfter(t *testing.T) {
	n := startNode(t)
	first := n.submit(work("a"))[0]
	middle := n.submit(after("b", first), after("c", first))
	last := n.submit(after("d", middle...))[0]
	g := n.next()
	n.idle()
	if g.Task.ID != first.ID || n.state(last.ID) != mayfly.TaskQueued {
		t.Fatalf("granted %+v", g.Task)
	}
	n.done(g, mayfly.Succeeded)
	grants := []*Grant{n.next(), n.next()}
	n.done(grants[1], mayfly.Succeeded)
	n.idle()
	if _, err := n.Done(t.Context(), grants[0], mayfly.Result{Exit: mayfly.Exit{Reason: mayfly.Succeeded}, Output: []byte("other")}); err != nil {
		t.Fatal(err)
	}
	g = n.next()
	results, err := n.ParentResults(t.Context(), g)
	if err != nil || g.Task.ID != last.ID || string(g.Payload) != "in d" || len(results) != 2 ||
		string(results[grants[0].Task.ID]) != "other" || string(results[grants[1].Task.ID]) != "out" {
		t.Errorf("granted %+v with %q, %v", g.Task, results, err)
	}
	n.done(g, mayfly.Succeeded)
	n.submit(after("e", first, last)) // both have ended
	n.done(n.next(), mayfly.Succeeded)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting.tasks.Load() != 0 {
		t.Errorf("%d tasks wait", n.waiting.tasks.Load())
	}
}

// What can never run is cancelled, down the chain, and says why.
func TestAfterWhatFailed(t *testing.T) {
	n := startNode(t)
	first := n.submit(work("a"), work("a"), work("a"))
	second := n.submit(after("b", first[0]), after("b", first[1]), after("b", first...))
	third := n.submit(after("c", second[0]), after("c", second[1]), after("c", second...))
	n.done(n.next(), mayfly.ExitedNonZero)
	n.ends(mayfly.TaskCancelled, first[0].ID+", after which it was to run, is failed", second[0], second[2])
	n.ends(mayfly.TaskCancelled, second[0].ID+", after which it was to run, is cancelled", third[0], third[2])
	if _, err := n.Cancel(t.Context(), home, second[1].ID); err != nil {
		t.Fatal(err)
	}
	n.ends(mayfly.TaskCancelled, second[1].ID, third[1])
	want(t, n.Submit(t.Context(), []mayfly.Submission{after("d", first[0])})[0].Err, mayfly.Conflict)
	want(t, n.Submit(t.Context(), []mayfly.Submission{work("d"), after("d", mayfly.Task{ID: mayfly.NewID()})})[0].Err, mayfly.NotFound)
	page, err := n.List(t.Context(), Filter{Space: home, States: []mayfly.TaskState{mayfly.TaskQueued}})
	if err != nil || len(page.Tasks) != 2 {
		t.Errorf("%d tasks wait, %v", len(page.Tasks), err)
	}
}

// A buried task may come back, so what comes after it waits.
func TestAfterWhatWasBuried(t *testing.T) {
	n := startNode(t)
	sub := work("a")
	sub.Retries = mayfly.Retries{Max: 1, Delays: []time.Duration{0}}
	first := n.submit(sub, sub)
	late := after("b", first[0])
	late.NotBefore = time.Now().Add(time.Hour)
	second := n.submit(after("b", first[0]), after("b", first[1]), late)
	for range 4 {
		n.done(n.next(), mayfly.ExitedNonZero)
	}
	for _, task := range second {
		if state := n.state(task.ID); state != mayfly.TaskQueued {
			t.Errorf("it is %s", state)
		}
	}
	if _, err := n.Retry(t.Context(), home, first[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Purge(t.Context(), home, first[1].ID); err != nil {
		t.Fatal(err)
	}
	n.ends(mayfly.TaskCancelled, "is failed", second[1])
	n.done(n.next(), mayfly.Succeeded)
	if g := n.next(); g.Task.ID != second[0].ID {
		t.Errorf("granted %+v", g.Task)
	}
	for {
		got, err := n.get(t.Context(), home, second[2].ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.place == inLater {
			break
		}
	}
}

// Whatever a crash comes between, what was held goes on.
func TestHeldOverACrash(t *testing.T) {
	n := newNode(t, Options{}) // which wakes nothing: Run does
	first := n.submit(work("a"), work("a"))
	var held []mayfly.Task
	for i := range 20 {
		held = append(held, n.submit(after(fmt.Sprint("b", i%3), first[i%2]))...)
	}
	both := n.submit(after("c", first...))[0]
	for _, task := range first {
		g, err := n.Adopt(t.Context(), home, task.ID, mayfly.Attempt{Number: 1})
		if err != nil {
			t.Fatal(err)
		}
		n.done(g, mayfly.Succeeded)
	}
	// One was moved, but is still held as well.
	got, err := n.get(t.Context(), home, held[0].ID)
	if err != nil || got.place != inHeld {
		t.Fatalf("%+v, %v", got, err)
	}
	rec, err := journalRecord(got.task, got.data)
	if err == nil {
		_, err = n.tasks.Put(t.Context(), rec, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	n = n.crash(Options{})
	n.start()
	seen := map[string]bool{}
	for range len(held) + 1 {
		g := n.next()
		seen[g.Task.ID] = true
		n.done(g, mayfly.Succeeded)
	}
	if len(seen) != len(held)+1 || !seen[both.ID] {
		t.Errorf("%d different tasks were granted", len(seen))
	}
	n.idle()
}

// A task submitted as its parent ends is not forgotten.
func TestAfterWhatEndsMeanwhile(t *testing.T) {
	n := startNode(t)
	n.deploy(mayfly.Workload{Name: "b"})
	for range 30 {
		parent := n.submit(work("a"))[0]
		g := n.next()
		ended := make(chan error)
		go func() {
			_, err := n.Done(t.Context(), g, result(mayfly.Succeeded))
			ended <- err
		}()
		n.submit(after("b", parent))
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		n.done(n.next(), mayfly.Succeeded)
	}
}
