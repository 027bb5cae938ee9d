package store

import (
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func TestInstanceOfAService(t *testing.T) {
	s := open(t)
	whole := func(id string) string { return id + "00000000000000000000"[len(id):] }
	put := func(id, name, workload string, replica int, state mayfly.State, more func(*mayfly.Instance)) {
		t.Helper()
		in := mayfly.Instance{ID: whole(id), Space: "default", Name: name, Workload: workload, Replica: replica, State: state, Created: time.Now()}
		if more != nil {
			more(&in)
		}
		if _, err := s.PutInstance(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	sidecar := func(in *mayfly.Instance) { in.Sidecar, in.Beside = "log", whole("b1") }
	put("a1", "web-1-old", "web", 1, mayfly.Exited, nil)
	put("a2", "web-1", "web", 1, mayfly.Running, nil)
	put("b1", "web-2", "web", 2, mayfly.Running, nil)
	put("b2", "web-2-log", "web", 2, mayfly.Running, sidecar)
	put("c1", "web-3", "web", 3, mayfly.Exited, nil)
	put("d1", "db-1", "db", 1, mayfly.Exited, nil)
	put("d2", "db-1-next", "db", 1, mayfly.Exited, nil)
	put("e1", "call", "function", 0, mayfly.Running, nil)
	put("f1", "web2", "", 0, mayfly.Running, nil)
	if _, err := s.Replicas.Put(t.Context(), "default", "x", mayfly.Replica{Instance: whole("a2"), State: mayfly.ReplicaReady}, 0); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"web": "a2", "web/1": "a2", "web/2": "b1", "web/3": "c1", "db": "d2", "db/1": "d2",
		"web2": "f1", "web-2-log": "b2", "b2": "b2", "e": "e1",
	} {
		if in, err := s.InstanceOf("default", ref); err != nil || in.ID != whole(want) {
			t.Errorf("%s is %s, %v; want %s", ref, in.ID, err, want)
		}
	}
	for ref, kind := range map[string]mayfly.Kind{
		"web/4": mayfly.NotFound, "web/0": mayfly.Invalid, "web/x": mayfly.Invalid, "function": mayfly.NotFound, "nosuch": mayfly.NotFound, "": mayfly.NotFound,
	} {
		_, err := s.InstanceOf("default", ref)
		if mayfly.KindOf(err) != kind {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
