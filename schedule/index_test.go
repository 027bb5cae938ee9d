package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

// many is the number of schedules that must not slow anything down.
const many = 20_000

// fleet is many schedules, each daily at a minute of its own.
func fleet(t testing.TB) (map[schedule.Name]*schedule.Timetable, *schedule.Index) {
	var (
		zones  schedule.Zones
		index  schedule.Index
		tables = make(map[schedule.Name]*schedule.Timetable, many)
	)
	for i := range many {
		s := nightly(func(s *mayfly.Schedule) {
			s.Name = fmt.Sprintf("s%d", i)
			s.Cron, s.TimeZone = fmt.Sprintf("%d %d * * *", i%60, i/60%24), "Europe/Berlin"
		})
		tt, err := schedule.NewTimetable(s, &zones)
		if err != nil {
			t.Fatal(err)
		}
		name := schedule.Name{Space: s.Space, Name: s.Name}
		tables[name] = tt
		index.Set(name, tt.Plan(schedule.NewState(noon), noon).Wake)
	}
	return tables, &index
}

func TestPlanningTouchesOnlyWhatIsDue(t *testing.T) {
	tables, index := fleet(t)
	if index.Len() != many {
		t.Fatalf("%d schedules wait, want %d", index.Len(), many)
	}
	states := map[schedule.Name]schedule.State{}
	planned, fired := 0, 0
	for now := noon; now.Before(noon.Add(time.Hour)); {
		now = index.First()
		for {
			name, ok := index.Pop(now)
			if !ok {
				break
			}
			state, known := states[name]
			if !known {
				state = schedule.NewState(noon)
			}
			p := tables[name].Plan(state, now)
			for _, tick := range p.Ticks {
				state = state.AfterRun(tick.Time)
			}
			states[name] = state
			index.Set(name, p.Wake)
			planned, fired = planned+1, fired+len(p.Ticks)
		}
	}
	// Minutes 780 to 840 of the day in Berlin; of every 1440 schedules, one is due in each.
	want := 0
	for i := range many {
		if m := i % 1440; m > 780 && m <= 840 {
			want++
		}
	}
	if planned != want || fired != want || index.Len() != many {
		t.Errorf("%d plans and %d ticks for %d due; %d schedules wait", planned, fired, want, index.Len())
	}
}

func TestIndexGivesTheEarliest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var index schedule.Index
		model := map[schedule.Name]time.Time{}
		earliest := func() (first schedule.Name, at time.Time) {
			for name, wake := range model {
				if at.IsZero() || wake.Before(at) || wake.Equal(at) && (name.Space+"/"+name.Name) < (first.Space+"/"+first.Name) {
					first, at = name, wake
				}
			}
			return first, at
		}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				name := schedule.Name{Space: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "space"), Name: fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "name"))}
				wake := noon.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "wake")) * time.Second)
				if rapid.IntRange(0, 4).Draw(t, "remove") == 0 {
					wake = time.Time{}
				}
				index.Set(name, wake)
				if model[name] = wake; wake.IsZero() {
					delete(model, name)
				}
			},
			"pop": func(t *rapid.T) {
				now := noon.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "now")) * time.Second)
				want, at := earliest()
				got, ok := index.Pop(now)
				if due := !at.IsZero() && !at.After(now); ok != due || ok && got != want {
					t.Fatalf("at %v: got %v %v, want %v %v", now, got, ok, want, due)
				}
				if ok {
					delete(model, want)
				}
			},
			"": func(t *rapid.T) {
				if _, at := earliest(); !index.First().Equal(at) || index.Len() != len(model) {
					t.Fatalf("first at %v of %d, want %v of %d", index.First(), index.Len(), at, len(model))
				}
			},
		})
	})
}

// BenchmarkPlanOneOf20000 is one due schedule of many: taken out, planned,
// fired and put back.
func BenchmarkPlanOneOf20000(b *testing.B) {
	tables, index := fleet(b)
	b.ReportAllocs()
	for b.Loop() {
		now := index.First()
		name, ok := index.Pop(now)
		if !ok {
			b.Fatal("nothing is due")
		}
		p := tables[name].Plan(schedule.State{Since: now.Add(-time.Second)}, now)
		if len(p.Ticks) != 1 {
			b.Fatalf("%d ticks", len(p.Ticks))
		}
		index.Set(name, p.Wake)
	}
}

// BenchmarkIndexSet is one schedule of many, moved.
func BenchmarkIndexSet(b *testing.B) {
	_, index := fleet(b)
	for i := 0; b.Loop(); i++ {
		index.Set(schedule.Name{Space: "default", Name: fmt.Sprintf("s%d", i%many)}, noon.Add(time.Duration(i*7919%86400)*time.Second))
	}
}
