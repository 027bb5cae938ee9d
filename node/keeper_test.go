package node

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// The record of a replica becomes what it is, although the engine did not answer
// when it was written before: the write was done, or it was not.
func TestAReplicaIsOnRecordAfterALostAnswer(t *testing.T) {
	n, end := recordNode(t, t.TempDir())
	defer end()
	k := newKeeper(&replicas{node: n}, mayfly.Assignment{ID: "a1", Space: "default", Workload: "web", Replica: 1})
	recorded := func(want mayfly.ReplicaState) {
		t.Helper()
		rec, _ := n.store.Replicas.Find("default", "a1")
		if rec.Value.State != want || rec.Revision != k.rev {
			t.Errorf("state %q of revision %d is on record, not %q of %d", rec.Value.State, rec.Revision, want, k.rev)
		}
	}
	k.set(t.Context(), mayfly.ReplicaStarting, "")
	before := k.rev
	k.set(t.Context(), mayfly.ReplicaReady, "")
	k.rev = before // as it were without the answer
	k.set(t.Context(), mayfly.ReplicaUnready, "")
	recorded(mayfly.ReplicaUnready)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	k.set(gone, mayfly.ReplicaStopped, "")
	k.set(t.Context(), mayfly.ReplicaStopped, "")
	recorded(mayfly.ReplicaStopped)
}

// What a ready replica lacks is written when it still does a while later, and not
// at all when it is there again before.
func TestAReasonThatPassesIsNotRecorded(t *testing.T) {
	n, end := recordNode(t, t.TempDir())
	defer end()
	k := newKeeper(&replicas{node: n}, mayfly.Assignment{ID: "a1", Space: "default", Workload: "web", Replica: 1})
	k.set(t.Context(), mayfly.ReplicaReady, "")
	before := k.rev
	k.set(t.Context(), mayfly.ReplicaReady, "it lacks db")
	k.set(t.Context(), mayfly.ReplicaReady, "")
	if k.due() != nil || k.rev != before {
		t.Errorf("it is to be written, or was: revision %d, not %d", k.rev, before)
	}
	k.set(t.Context(), mayfly.ReplicaReady, "it lacks db")
	k.settle(t.Context())
	rec, _ := n.store.Replicas.Find("default", "a1")
	if rec.Value.Reason != "it lacks db" {
		t.Errorf("the reason on record is %q", rec.Value.Reason)
	}
	again := newKeeper(&replicas{node: n}, mayfly.Assignment{ID: "a1", Space: "default", Workload: "web", Replica: 1})
	again.set(t.Context(), mayfly.ReplicaReady, "")
	again.settle(t.Context())
	rec, _ = n.store.Replicas.Find("default", "a1")
	if rec.Value.Reason != "" {
		t.Errorf("the next daemon leaves %q on record", rec.Value.Reason)
	}
}

// Neither what is said meanwhile nor being asked again puts off when it is written.
func TestARecordThatIsOwedIsNotPutOff(t *testing.T) {
	n, end := recordNode(t, t.TempDir())
	defer end()
	k := newKeeper(&replicas{node: n}, mayfly.Assignment{ID: "a1", Space: "default", Workload: "web", Replica: 1})
	k.set(t.Context(), mayfly.ReplicaReady, "")
	k.set(t.Context(), mayfly.ReplicaReady, "it lacks db")
	due := k.owes
	k.set(t.Context(), mayfly.ReplicaReady, "it lacks db and cache")
	for range 2 {
		if k.due(); k.owes != due || due.IsZero() {
			t.Fatalf("it is to be written at %v, not %v", k.owes, due)
		}
	}
	k.owes = time.Now() // as it were a while later
	if at := <-k.due(); at.IsZero() {
		t.Error("it is not due")
	}
}

// How the one that is waited for gets on is no news of who waits.
func TestWaitingIsNewsOnce(t *testing.T) {
	for _, c := range []struct {
		before, now string
		news        bool
	}{
		{"it requires service db, which is not ready (starting)", "it requires service db, which is not ready (starting: port 80 has not been asked yet)", false},
		{"it requires service db, which is not ready (starting)", "it requires service db, which has no instance", true},
		{"it requires service db, which is not deployed", "it requires service cache, which is not deployed", true},
		{"it comes after service db, which has yet to be ready", "it comes after service db, which has yet to be ready (waiting)", false},
	} {
		if got := awaited(c.before) != awaited(c.now); got != c.news {
			t.Errorf("%q after %q: news %v", c.now, c.before, got)
		}
	}
}

// A record that has another revision than its keeper knows does not stay.
func TestAReplicaIsForgottenAfterALostAnswer(t *testing.T) {
	n, end := recordNode(t, t.TempDir())
	defer end()
	k := newKeeper(&replicas{node: n}, mayfly.Assignment{ID: "a1", Space: "default", Workload: "web", Replica: 1})
	k.set(t.Context(), mayfly.ReplicaReady, "")
	known := k.rev
	k.set(t.Context(), mayfly.ReplicaStopped, "")
	n.forgetReplica(t.Context(), "default", "a1", known)
	if rec, ok := n.store.Replicas.Find("default", "a1"); ok {
		t.Errorf("%+v is left", rec)
	}
}
