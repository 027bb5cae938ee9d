package store

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

func TestAChainLosesToWhoeverWroteMeanwhile(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	value := &mayfly.Assignment{Node: "a"}
	first, err := s.Assignments.Chain(ctx, "default", "one", value, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Assignments.Chain(ctx, "default", "two", value, 0)
	wantKind(t, err, mayfly.Conflict)
	if !Lost(err) {
		t.Errorf("%v is not a loss", err)
	}
	if _, err := s.Assignments.Chain(ctx, "other", "one", value, 0); err != nil {
		t.Fatalf("another space is another chain: %v", err)
	}
	second, err := s.Assignments.Chain(ctx, "default", "two", value, first)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Assignments.Chain(ctx, "default", "one", nil, first)
	wantKind(t, err, mayfly.Conflict)
	third, err := s.Assignments.Chain(ctx, "default", "one", nil, second)
	if err != nil {
		t.Fatal(err)
	}
	st := s.Assignments.State()
	if len(st.Records) != 2 || st.Records[0].Name != "two" || st.Newest["default"] != third {
		t.Errorf("%+v after %d", st, third)
	}
}

// TestAChainGoesOnWhenAMarkerExpired removes the marker, as its expiry does.
func TestAChainGoesOnWhenAMarkerExpired(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	for _, left := range []int{0, 1} {
		space := fmt.Sprint("s", left)
		var newest uint64
		var err error
		for i := range left + 1 {
			if newest, err = s.Assignments.Chain(ctx, space, fmt.Sprint(i), &mayfly.Assignment{}, newest); err != nil {
				t.Fatal(err)
			}
		}
		if _, err = s.Assignments.Chain(ctx, space, fmt.Sprint(left), nil, newest); err != nil {
			t.Fatal(err)
		}
		stream, err := s.bus.JetStream().Stream(ctx, bus.StateStream)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(bus.StateSubject(bus.TableKey(space, "assignments", fmt.Sprint(left))))); err != nil {
			t.Fatal(err)
		}
		if newest, err = s.Assignments.Chain(ctx, space, "last", &mayfly.Assignment{}, s.Assignments.State().Newest[space]); err != nil {
			t.Fatal(err)
		}
		if got := s.Assignments.State().Newest[space]; got != newest {
			t.Errorf("newest is %d, want %d", got, newest)
		}
	}
}

func TestDeletedIsNotUnheardOf(t *testing.T) {
	s := open(t)
	w := deploy(t, s, mayfly.Workload{Space: "default", Name: "web"})
	if s.Deleted("default", "web") || s.Deleted("default", "other") {
		t.Error("what is there, or was never there, was deleted")
	}
	if err := s.DeleteWorkload(t.Context(), "default", "web", w.Revision); err != nil {
		t.Fatal(err)
	}
	other := openOn(t, s.bus)
	if err := other.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.Deleted("default", "web") || !other.Deleted("default", "web") {
		t.Error("what was deleted is not known to be")
	}
}

func BenchmarkChainAmongThousands(b *testing.B) {
	s := open(b)
	var newest uint64
	var err error
	value := &mayfly.Assignment{Workload: "web", Node: "a"}
	for i := range 5000 {
		if newest, err = s.Assignments.Chain(b.Context(), "default", fmt.Sprint(i), value, newest); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 5000 { // what is newer than the last link
		if _, err := s.Replicas.Put(b.Context(), "default", fmt.Sprint(i), mayfly.Replica{}, 0); err != nil {
			b.Fatal(err)
		}
	}
	for i := 0; b.Loop(); i++ {
		if newest, err = s.Assignments.Chain(b.Context(), "default", fmt.Sprint(i%5000), value, newest); err != nil {
			b.Fatal(err)
		}
	}
}
