package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// A workload, or a space, that queues much takes no turns from the others.
func TestFairShares(t *testing.T) {
	n := newNode(t, Options{})
	var subs []mayfly.Submission
	for i := range 300 {
		sub := work("greedy")
		if i >= 280 {
			sub = work(fmt.Sprintf("w%d", i%2))
		}
		if i >= 290 {
			sub.Space = "other"
		}
		subs = append(subs, sub)
	}
	n.submit(subs...)
	n.start()
	turns := map[string]int{}
	for range 40 {
		g := n.next()
		turns[g.Task.Space+"/"+g.Task.Workload]++ // none ends, so all count the same
	}
	for _, who := range []string{"default/w0", "default/w1", "other/w0", "other/w1"} {
		if turns[who] != 5 {
			t.Errorf("%s had %d turns of its 5 in the first 40: %v", who, turns[who], turns)
		}
	}
}

// A step of priority is worth half a minute, and no more.
func TestAging(t *testing.T) {
	f := &flow{}
	now := time.Now()
	for p, age := range map[int]time.Duration{9: 0, 5: 2*time.Minute + time.Second, 0: 4 * time.Minute} {
		l := f.lane(p)
		l.window = entryHeap{{task: mayfly.Task{Priority: p}, since: now.Add(-age)}}
	}
	for _, want := range []int{5, 9, 0} {
		l := f.first()
		if l.priority != want {
			t.Errorf("priority %d is first, want %d", l.priority, want)
		}
		l.window = nil
	}
}

// Many tasks that wait cost the queue no memory and hold nobody up.
func TestManyPaused(t *testing.T) {
	const count = 160 * windowPaused
	n := startNode(t)
	if err := n.Pause(t.Context(), home, "paused"); err != nil {
		t.Fatal(err)
	}
	for range count / MaxBatch {
		subs := make([]mayfly.Submission, MaxBatch)
		for i := range subs {
			subs[i] = work("paused")
		}
		n.submit(subs...)
	}
	n.submit(work("w"))
	if g := n.next(); g.Task.Workload != "w" {
		t.Fatalf("granted a task of %s", g.Task.Workload)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.entries) > 2*windowPaused {
		t.Errorf("%d entries in memory", len(n.entries))
	}
}

// Granting in order holds while the window is left and read on.
func TestOrderBeyondTheWindow(t *testing.T) {
	n := newNode(t, Options{})
	n.mu.Lock()
	n.most = 40
	n.mu.Unlock()
	var ids []string
	for range 5 {
		subs := make([]mayfly.Submission, 100)
		for i := range subs {
			subs[i] = work("w")
		}
		for _, task := range n.submit(subs...) {
			ids = append(ids, task.ID)
		}
	}
	n.start()
	for i, id := range ids {
		g := n.next()
		if g.Task.ID != id {
			t.Fatalf("turn %d is that of another task", i)
		}
		n.done(g, mayfly.Succeeded)
	}
	n.idle()
	n = n.crash(Options{})
	n.start()
	n.submit(work("w"))
	n.done(n.next(), mayfly.Succeeded)
	n.idle()
}
