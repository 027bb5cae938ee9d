package queue

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/quick"
	"time"

	"github.com/mayfly-run/mayfly"
)

// What is submitted while a start still looks what is there comes after what
// is older, and only after that.
func TestArrivalsDuringTheScan(t *testing.T) {
	n := newNode(t, Options{})
	old := n.submit(work("a"), work("a"))
	n = n.crash(Options{})
	n.mu.Lock()
	n.scanning, n.scanned = true, make(chan struct{}) // as if there were more of it
	n.mu.Unlock()
	later := n.submit(work("a"))[0]
	n.start()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if g, err := n.Next(ctx, "node"); err == nil {
		t.Errorf("task %s was granted during the scan", g.Task.ID)
	}
	if err := n.scanSome(t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	for i, want := range []mayfly.Task{old[0], old[1], later} {
		if g := n.next(); g.Task.ID != want.ID {
			t.Errorf("grant %d is of task %s, want %s", i, g.Task.ID, want.ID)
		}
	}
}

// A start with more tasks than Open looks at loses none, and none twice.
func TestScanBeyondOpen(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 12,000 tasks")
	}
	n := newNode(t, Options{})
	const count = 12
	for i := range count {
		subs := make([]mayfly.Submission, MaxBatch)
		for j := range subs {
			subs[j] = work(fmt.Sprintf("w%d", (i+j)%50))
		}
		n.submit(subs...)
	}
	n = n.crash(Options{})
	n.start()
	granted := map[string]bool{}
	for range count * MaxBatch {
		id := n.next().Task.ID
		if granted[id] {
			t.Fatalf("task %s was granted twice", id)
		}
		granted[id] = true
	}
	n.idle()
}

// An attempt that was adopted, and fails, leaves its payload for the next one,
// whether its task was in memory or not.
func TestAdoptKeepsThePayload(t *testing.T) {
	for _, size := range []int{10, 2 * maxHeld} {
		n := newNode(t, Options{})
		n.start()
		sub := work("a")
		sub.Payload = bytes.Repeat([]byte("x"), size)
		sub.Retries = mayfly.Retries{Max: 1, Backoff: 1}
		n.submit(sub)
		first := n.next()
		n = n.crash(Options{})
		g, err := n.Adopt(context.Background(), home, first.Task.ID, first.Attempt)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(g.Payload, sub.Payload) {
			t.Errorf("the adopted attempt has %d bytes of payload", len(g.Payload))
		}
		n.start()
		n.done(g, mayfly.ExitedNonZero)
		if g = n.next(); g.Attempt.Number != 2 || !bytes.Equal(g.Payload, sub.Payload) {
			t.Errorf("attempt %d has %d bytes of payload", g.Attempt.Number, len(g.Payload))
		}
	}
}

// Sequences are a set in order, however they are changed.
func TestSequences(t *testing.T) {
	check := func(changes []int16) bool {
		var s sequences
		want := map[uint64]bool{}
		for _, c := range changes {
			if c > 0 {
				s.insert(uint64(c))
				want[uint64(c)] = true
			} else if c < -30000 && s.len() > 0 {
				first := s.first(1)[0]
				s.remove(first)
				delete(want, first)
			} else {
				s.remove(uint64(-int32(c)))
				delete(want, uint64(-int32(c)))
			}
		}
		all := s.first(s.len())
		if len(all) != len(want) || !slices.IsSorted(all) {
			return false
		}
		for _, seq := range all {
			if !want[seq] {
				return false
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCountScale: 20}); err != nil {
		t.Error(err)
	}
	var s sequences
	for i := range uint64(5000) {
		s.insert(i + 1)
	}
	for i := range uint64(4000) {
		s.remove(i + 1)
	}
	if s.len() != 1000 || s.first(1)[0] != 4001 || cap(s.list) > 4000 {
		t.Errorf("%d are left from %d, in room for %d", s.len(), s.first(1)[0], cap(s.list))
	}
}

// A task is found wherever it is: in memory, unread, and out of the way.
func TestFindWhatIsNotInMemory(t *testing.T) {
	n := newNode(t, Options{})
	n.mu.Lock()
	n.most = 10
	n.mu.Unlock()
	var tasks []mayfly.Task
	for i := range 20 {
		tasks = append(tasks, n.submit(work("a"), work("b"), work(fmt.Sprintf("c%d", i)))...)
	}
	check := func() {
		t.Helper()
		for i, task := range tasks {
			got, err := n.Get(t.Context(), home, task.ID)
			if err != nil || got.ID != task.ID || got.State != mayfly.TaskQueued {
				t.Errorf("task %d is %s, %v", i, got.State, err)
			}
		}
	}
	check()
	n = n.crash(Options{})
	check()
	if _, err := n.Cancel(t.Context(), home, tasks[40].ID); err != nil {
		t.Error(err)
	}
	if got := n.state(tasks[40].ID); got != mayfly.TaskCancelled {
		t.Errorf("it is %s after it was cancelled", got)
	}
	if _, err := n.Get(t.Context(), home, mayfly.NewID()); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what is not there: %v", err)
	}
}
