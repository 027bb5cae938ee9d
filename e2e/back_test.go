package e2e

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// A kill -9 can bring back the record of an instance that was removed long before.
// It is removed again, and did not end for that.
func TestARemovedInstanceStaysRemoved(t *testing.T) {
	n := start(t)
	kept, err := n.CreateInstance(t.Context(), mayfly.InstanceSpec{Image: "app", Process: mayfly.Process{Command: []string{"sleep", "1000"}}}, "")
	if err == nil {
		err = n.StartInstance(t.Context(), kept.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.kill()
	back := kept
	back.ID, back.Name, back.Created = mayfly.NewID(), "back", time.Now().Add(-time.Hour)
	lost := back
	lost.ID, lost.Name, lost.Created = mayfly.NewID(), "lost", time.Now() // its daemon died before it was made
	n.record(back, lost)
	n.up()
	if _, err := n.GetInstance(t.Context(), "back"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what had been removed: %v", err)
	}
	if in, err := n.GetInstance(t.Context(), "lost"); err != nil || in.Exit == nil || in.Exit.Reason != mayfly.Lost {
		t.Errorf("what was not made: %+v, %v", in, err)
	}
	if in, err := n.GetInstance(t.Context(), kept.ID); err != nil || in.State != mayfly.Running {
		t.Errorf("what runs: %+v, %v", in, err)
	}
}

// record writes instances into the record of a node whose daemon is dead.
func (n *node) record(list ...mayfly.Instance) {
	n.t.Helper()
	b, err := bus.Open(n.t.Context(), n.dir+"/data", bus.Options{})
	if err != nil {
		n.t.Fatal(err)
	}
	s, err := store.Open(n.t.Context(), b, store.Options{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, in := range list {
		if _, err := s.PutInstance(n.t.Context(), in); err != nil {
			n.t.Error(err)
		}
	}
	s.Close()
	if err := b.Close(); err != nil {
		n.t.Fatal(err)
	}
}
