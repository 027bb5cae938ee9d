package store

import (
	"fmt"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// Every store here is another one on the same bus, as on another machine: they
// share no lock, only the record.

func TestOneOfManyDeploysWinsARoute(t *testing.T) {
	const writers = 8
	first := open(t)
	for round := range 5 {
		var wg sync.WaitGroup
		errs := make([]error, writers)
		for i := range writers {
			s := openOn(t, first.bus)
			w := mayfly.Workload{Space: fmt.Sprintf("r%d", round), Name: fmt.Sprintf("w%d", i), Routes: []mayfly.Route{{Path: fmt.Sprintf("/same%d", round)}}}
			rel, err := s.PutRelease(t.Context(), w, "sha256:1")
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { _, errs[i] = s.SetWorkload(t.Context(), w.Space, w.Name, rel.Number, 0) })
		}
		wg.Wait()
		oneWins(t, errs)
	}
}

func TestOneOfManyDeploysOfAWorkloadWins(t *testing.T) {
	const writers = 8
	first := open(t)
	var wg sync.WaitGroup
	errs := make([]error, writers)
	numbers := make([]int, writers)
	for i := range writers {
		s := openOn(t, first.bus)
		wg.Go(func() {
			rel, err := s.PutRelease(t.Context(), thumb(), "sha256:1")
			if err != nil {
				t.Error(err)
				return
			}
			numbers[i] = rel.Number
			_, errs[i] = s.SetWorkload(t.Context(), "default", "thumb", rel.Number, 0)
		})
	}
	wg.Wait()
	oneWins(t, errs)
	seen := map[int]bool{}
	for _, n := range numbers {
		if seen[n] {
			t.Errorf("release number %d was given twice", n)
		}
		seen[n] = true
	}
}

func TestOneOfManyInstancesGetsAName(t *testing.T) {
	const writers = 8
	first := open(t)
	for round := range 5 {
		var wg sync.WaitGroup
		errs := make([]error, writers)
		for i := range writers {
			s := openOn(t, first.bus)
			in := instance(fmt.Sprintf("n%d", round))
			wg.Go(func() { _, errs[i] = s.PutInstance(t.Context(), in) })
		}
		wg.Wait()
		oneWins(t, errs)
		fresh := openOn(t, first.bus)
		if n := len(fresh.Instances("")); n != round+1 {
			t.Fatalf("%d instances are recorded, want %d", n, round+1)
		}
	}
}

func TestUpdatesOfAnInstanceAreOrdered(t *testing.T) {
	const writers, updates = 4, 25
	first := open(t)
	in := instance("")
	if _, err := first.PutInstance(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range writers {
		s := openOn(t, first.bus)
		wg.Go(func() {
			for done := 0; done < updates; {
				snap := s.Snapshot()
				now := *snap.Instances[in.ID]
				now.Release++
				switch _, err := s.UpdateInstance(t.Context(), now.Instance, now.Revision); mayfly.KindOf(err) {
				case "":
					done++
				case mayfly.Conflict:
					<-snap.Changed() // somebody else's write, which is on its way
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	got, err := openOn(t, first.bus).Instance("default", in.ID)
	if err != nil || got.Release != writers*updates {
		t.Fatalf("%d of %d updates are there, %v", got.Release, writers*updates, err)
	}
}

func oneWins(t *testing.T, errs []error) {
	t.Helper()
	won := 0
	for _, err := range errs {
		switch mayfly.KindOf(err) {
		case "":
			won++
		case mayfly.Conflict:
		default:
			t.Errorf("neither won nor lost: %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d writers won", won)
	}
}

func TestWatchSeesAll(t *testing.T) {
	const count = 300
	writer := open(t)
	reader := openOn(t, writer.bus)
	go func() {
		for i := range count {
			in := instance("")
			in.Release = i
			if _, err := writer.PutInstance(t.Context(), in); err != nil {
				t.Error(err)
			}
		}
	}()
	revision, size := uint64(0), 0
	_, err := reader.Wait(t.Context(), func(snap *Snapshot) bool {
		if snap.Revision < revision || len(snap.Instances) < size {
			t.Errorf("went back from %d to %d", revision, snap.Revision)
		}
		revision, size = snap.Revision, len(snap.Instances)
		return size == count
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotNeverChanges(t *testing.T) {
	s := open(t)
	before := s.Snapshot()
	deploy(t, s, thumb())
	if _, err := s.PutInstance(t.Context(), instance("")); err != nil {
		t.Fatal(err)
	}
	<-before.Changed()
	if len(before.Workloads) != 0 || len(before.Instances) != 0 {
		t.Error("an old snapshot has changed")
	}
	now := s.Snapshot()
	if len(now.Workloads) != 1 || len(now.Instances) != 1 || now != s.Snapshot() {
		t.Error("the snapshot is not the newest, or is made anew without a change")
	}
}

// The server may forget the watch, as when it was restarted: it is taken up
// again where it ended.
func TestWatchIsTakenUpAgain(t *testing.T) {
	s := open(t)
	deploy(t, s, thumb())
	info, err := s.cons.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.bus.JetStream().DeleteConsumer(t.Context(), info.Stream, info.Name); err != nil {
		t.Fatal(err)
	}
	if w := deploy(t, s, thumb()); w.Number != 2 {
		t.Fatalf("release %d", w.Number)
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	s := open(t)
	done := make(chan error)
	go func() {
		_, err := s.Wait(t.Context(), func(*Snapshot) bool { return false })
		done <- err
	}()
	s.Close()
	wantKind(t, <-done, mayfly.Unavailable)
}
