package node

import (
	"context"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/claim"
	"github.com/mayfly-run/mayfly/material"
	"github.com/mayfly-run/mayfly/store"
)

// recordNode is a node with nothing but a record, volumes and secrets, in dir.
func recordNode(t *testing.T, dir string) (n *Node, end func()) {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Name: "here"}
	if err := defaults(&o); err != nil {
		t.Fatal(err)
	}
	vs, err := claim.Open(dir, s, claim.Options{Node: o.Name})
	if err != nil {
		t.Fatal(err)
	}
	ms, err := material.Open(dir, s, o.Name)
	if err != nil {
		t.Fatal(err)
	}
	return &Node{dir: dir, opts: o, store: s, volumes: vs, material: ms}, func() {
		s.Close()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// heldUp are volumes of which a release waits until it is let.
type heldUp struct {
	Volumes
	let chan struct{}
}

func (h heldUp) Release(ctx context.Context, instance string) error {
	<-h.let
	return h.Volumes.Release(ctx, instance)
}

// Who is told of an instance's end can have its volumes.
func TestAnEndIsToldWhenItsVolumesAreFree(t *testing.T) {
	n, end := recordNode(t, t.TempDir())
	defer end()
	if err := n.volumes.Recover(t.Context(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	mounts := []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}
	if err := n.volumes.Define(t.Context(), "default", mounts); err != nil {
		t.Fatal(err)
	}
	rec := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Workload: "db", Replica: 1}
	rev, err := n.store.PutInstance(t.Context(), rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.volumes.Claim(t.Context(), rec, mounts); err != nil {
		t.Fatal(err)
	}
	in := newInstance(store.Instance{Instance: rec, Revision: rev})
	held := heldUp{n.volumes, make(chan struct{})}
	n.volumes = held
	recorded := make(chan error, 1)
	go func() { recorded <- n.recordEnd(t.Context(), in, mayfly.Exit{Reason: mayfly.Succeeded}) }()
	if _, err := n.store.Wait(t.Context(), func(s *store.Snapshot) bool { return s.Instances[rec.ID].State == mayfly.Exited }); err != nil {
		t.Error(err)
	}
	select {
	case <-in.recorded:
		t.Error("it was told before")
	case <-time.After(20 * time.Millisecond):
	}
	close(held.let)
	<-in.recorded
	next := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Workload: "db", Replica: 2}
	if _, err := n.volumes.Claim(t.Context(), next, mounts); err != nil {
		t.Error(err)
	}
	if err := <-recorded; err != nil {
		t.Error(err)
	}
}
