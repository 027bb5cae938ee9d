package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/bus/bustest"
)

func TestKillLosesNothingAcknowledged(t *testing.T) {
	if dir := bustest.Doomed(); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	acked := map[string]string{} // the last acknowledged value of each thing
	for round, lines := range []int{1, 40, 400} {
		for _, line := range bustest.KillAfter(t, "TestKillLosesNothingAcknowledged", dir, lines) {
			what, value, _ := strings.Cut(line, " ")
			acked[what] = value
		}
		verifyAcked(t, dir, acked)
		t.Logf("round %d: %d things acknowledged so far", round, len(acked))
	}
}

func writeUntilKilled(t *testing.T, dir string) {
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "i-" + mayfly.NewID(), State: mayfly.Starting}
		rev, err := s.PutInstance(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		bustest.Acknowledge(in.ID, mayfly.Starting)
		in.State = mayfly.Running
		if _, err := s.UpdateInstance(context.Background(), in, rev); err != nil {
			t.Fatal(err)
		}
		bustest.Acknowledge(in.ID, mayfly.Running)
		w := deploy(t, s, mayfly.Workload{Space: "default", Name: "w" + strconv.Itoa(i%3)})
		bustest.Acknowledge(w.Workload.Name, w.Number)
	}
}

func verifyAcked(t *testing.T, dir string, acked map[string]string) {
	t.Helper()
	b, err := bus.Open(t.Context(), dir, bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for what, value := range acked {
		if number, err := strconv.Atoi(value); err == nil {
			if w, err := s.Workload("default", what); err != nil || w.Number < number {
				t.Errorf("workload %s: release %d, %v; %d was acknowledged", what, w.Number, err, number)
			}
			continue
		}
		in, err := s.Instance("default", what)
		if err != nil || value == string(mayfly.Running) && in.State != mayfly.Running {
			t.Errorf("instance %s: %q, %v; %q was acknowledged", what, in.State, err, value)
		}
	}
}

// The marker of what was removed stays, for without it a kill -9 brings back what it
// took the place of. Only of instances, of which there are ever new ones, it goes.
func TestRemovalHasNoEnd(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	seq, err := s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 1}, 0)
	if err := errors.Join(err, s.Wishes.Delete(ctx, "default", "db", seq)); err != nil {
		t.Fatal(err)
	}
	in := mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: "one"}
	_, err = s.PutInstance(ctx, in)
	if err := errors.Join(err, s.DeleteInstance(ctx, "default", in.ID)); err != nil {
		t.Fatal(err)
	}
	for key, goes := range map[string]bool{
		bus.TableKey("default", s.Wishes.kind, "db"): false,
		bus.InstanceKey("default", in.ID):            true,
		bus.NameKey("default", "one"):                true,
	} {
		last, err := s.bus.Last(ctx, bus.StateStream, bus.StateSubject(key))
		if err != nil || !removed(last.Header) || (last.Header.Get("Nats-TTL") != "") != goes {
			t.Errorf("%s: what is left is %+v, %v", key, last, err)
		}
	}
}
