package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// record makes runs spread unevenly over spaces and workloads, oldest first.
func record(t *testing.T, s *Store, count int) []mayfly.Run {
	t.Helper()
	var all []mayfly.Run
	for i := range count {
		run := mayfly.Run{ID: mayfly.NewID(), Space: "default", Workload: fmt.Sprintf("w%d", i%3), Started: time.Now().UTC()}
		if i%7 == 0 {
			run.Space = "default2"
		}
		if i%(count/3) == 1 {
			run.Workload = "seldom"
		}
		s.RecordRun(run)
		all = append(all, run)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestPagesOfRuns(t *testing.T) {
	s := open(t)
	all := record(t, s, 1500)
	for _, test := range []struct {
		space, workload string
		limit           int
	}{
		{"default", "", 7}, {"default", "", 1000}, {"default2", "", 50},
		{"default", "w1", 100}, {"default", "seldom", 2}, {"default2", "seldom", 1},
		{"default", "none", 5}, {"nobody", "", 5},
	} {
		t.Run(fmt.Sprintf("%s/%s/%d", test.space, test.workload, test.limit), func(t *testing.T) {
			want := map[string][]string{} // by workload: each has its own order
			for _, run := range slices.Backward(all) {
				if run.Space == test.space && (test.workload == "" || run.Workload == test.workload) {
					want[run.Workload] = append(want[run.Workload], run.ID)
				}
			}
			got := map[string][]string{}
			for _, run := range pages(t, s, test.space, test.workload, test.limit) {
				got[run.Workload] = append(got[run.Workload], run.ID)
			}
			if !maps.EqualFunc(got, want, slices.Equal) {
				t.Fatalf("%d workloads, want %d, each with its runs in their order", len(got), len(want))
			}
		})
	}
}

func pages(t *testing.T, s *Store, space, workload string, limit int) (all []mayfly.Run) {
	t.Helper()
	for before := ""; ; {
		page, err := s.Runs(t.Context(), space, workload, limit, before)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > limit {
			t.Fatalf("%d runs on a page of %d", len(page), limit)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		before = page[len(page)-1].ID
	}
}

func TestRunByID(t *testing.T) {
	s := open(t)
	all := record(t, s, 300)
	for _, i := range []int{0, 150, 299} {
		got, err := s.Run(t.Context(), all[i].Space, all[i].ID)
		if err != nil || got.ID != all[i].ID || got.Workload != all[i].Workload || !got.Started.Equal(all[i].Started) {
			t.Errorf("run %d: %+v, %v", i, got, err)
		}
		if got, err := s.Run(t.Context(), all[i].Space, all[i].ID[:18]); err != nil || got.ID != all[i].ID {
			t.Errorf("run %d by the beginning of its id: %+v, %v", i, got, err)
		}
	}
	for _, test := range []struct {
		name, space, ref string
		kind             mayfly.Kind
	}{
		{"other space", "default2", all[1].ID, mayfly.NotFound},
		{"never made", "default", mayfly.NewID(), mayfly.NotFound},
		{"several", "default", several(t, all), mayfly.Invalid},
		{"short", "default", "0", mayfly.Invalid},
		{"no id", "default", "no-such-run-anywhere", mayfly.Invalid},
		{"wildcard", "*", all[1].ID, mayfly.Invalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.Run(t.Context(), test.space, test.ref)
			wantKind(t, err, test.kind)
		})
	}
}

// several is the beginning of the ids of several runs of the space default.
func several(t *testing.T, all []mayfly.Run) string {
	t.Helper()
	seen := map[string]bool{}
	for _, run := range all {
		begin := run.ID[:8]
		if run.Space == "default" && seen[begin] {
			return begin
		}
		seen[begin] = seen[begin] || run.Space == "default"
	}
	t.Fatal("no two were made at about the same time")
	return ""
}

// Reading must leave no consumer behind on the stream.
func TestReadingRunsMakesNoConsumer(t *testing.T) {
	s := open(t)
	all := record(t, s, 30)
	pages(t, s, "default", "", 4)
	if _, err := s.Run(t.Context(), all[1].Space, all[1].ID); err != nil {
		t.Fatal(err)
	}
	info, err := s.bus.Runs().Info(t.Context())
	if err != nil || info.State.Consumers != 0 {
		t.Fatalf("%d consumers, %v", info.State.Consumers, err)
	}
}

func FuzzIDTime(f *testing.F) {
	for _, seed := range []string{"", "0", mayfly.NewID(), "zzzzzzzz", strings.Repeat("z", 20), "0000000i", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		made, err := idTime(ref)
		if err != nil {
			wantKind(t, err, mayfly.Invalid)
			return
		}
		if made.UnixMilli() < 0 || made.UnixMilli() >= 1<<48 {
			t.Errorf("%q was made at %v", ref, made)
		}
	})
}

func TestIDTime(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	id := mayfly.NewID()
	after := time.Now()
	if made, err := idTime(id); err != nil || made.Before(before) || made.After(after) {
		t.Errorf("made at %v, %v; want between %v and %v", made, err, before, after)
	}
	if made, err := idTime(id[:8]); err != nil || made.After(after) || made.Before(before.Add(-2*time.Second)) {
		t.Errorf("the beginning of an id is from %v, %v", made, err)
	}
}
