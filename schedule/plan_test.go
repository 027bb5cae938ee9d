package schedule_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

// noon is when the schedules of these tests are created.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func nightly(change func(*mayfly.Schedule)) mayfly.Schedule {
	s := mayfly.Schedule{Space: "default", Name: "nightly", Task: mayfly.Submission{Workload: "report"}, Created: noon}
	change(&s)
	return s
}

func timetable(t interface{ Fatalf(string, ...any) }, change func(*mayfly.Schedule)) *schedule.Timetable {
	tt, err := schedule.NewTimetable(nightly(change), new(schedule.Zones))
	if err != nil {
		t.Fatalf("%v", err)
	}
	return tt
}

func TestWrongSchedulesAreRefusedInOneLine(t *testing.T) {
	type S = mayfly.Schedule
	cases := []struct {
		change func(*S)
		want   string
	}{
		{func(s *S) { s.Cron = "@daily"; s.Name = "Nightly" }, `schedule "Nightly" is not a valid name; use 1 to 63`},
		{func(s *S) { s.Cron = "@daily"; s.Space = "" }, `space "" is not a valid name`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Workload = "" }, `schedule nightly: it needs a workload or an image, and not both`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Image = "debian" }, `it needs a workload or an image`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Workload = "a b" }, `workload "a b" is not a valid name`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Argv = []string{"ls"} }, `argv goes with an image only; a workload has its own command; give it a payload`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Key = "mine" }, `key, time and parents of a task cannot be set; each tick sets its own`},
		{func(s *S) { s.Cron = "@daily"; s.Task.Space = "other" }, `its tasks are of its own space, not of "other"`},
		{func(s *S) {}, `it needs one of cron, every and at; it has 0`},
		{func(s *S) { s.Cron = "@daily"; s.Every = time.Hour }, `it needs one of cron, every and at; it has 2`},
		{func(s *S) { s.Cron = "0 25 * * *" }, `cron "0 25 * * *": hour "25" is none; allowed are 0-23`},
		{func(s *S) { s.Cron = "@daily"; s.TimeZone = "Europe/Atlantis" }, `time zone "Europe/Atlantis" is not known; use a name of the IANA database`},
		{func(s *S) { s.Every = time.Hour; s.TimeZone = "Europe/Berlin" }, `a time zone goes with cron only`},
		{func(s *S) { s.Every = time.Second - 1 }, `every 999.999999ms is too often; the least is 1s`},
		{func(s *S) { s.Every = -time.Hour }, `every -1h0m0s is too often`},
		{func(s *S) { s.Every = time.Hour; s.Created = time.Time{} }, `every needs a start`},
		{func(s *S) { s.At = noon; s.End = noon }, `start and end do not go with at`},
		{func(s *S) { s.At = time.Date(1066, 10, 14, 0, 0, 0, 0, time.UTC) }, `1066-10-14T00:00:00Z is not a time of the years 1970 to 9999`},
		{func(s *S) { s.Cron = "@daily"; s.Start = noon; s.End = noon.Add(-time.Second) }, `start 2026-11-21T12:00:00Z is after end 2026-11-21T11:59:59Z`},
		{func(s *S) { s.Cron = "@daily"; s.Times = -1 }, `times -1 is less than none; 0 is without limit`},
		{func(s *S) { s.Cron = "@daily"; s.Jitter = 25 * time.Hour }, `jitter 25h0m0s is not between 0 and 24h0m0s`},
		{func(s *S) { s.Cron = "@daily"; s.CatchUp = time.Second }, `catch-up 1s is too short, ticks would be lost when another node takes over; use 10s or more`},
		{func(s *S) { s.Cron = "@daily"; s.Overlap = "kill" }, `overlap "kill" is none; use skip, queue or replace`},
	}
	for _, c := range cases {
		_, err := schedule.NewTimetable(nightly(c.change), new(schedule.Zones))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestSchedulesThatNeverFireAreRefused(t *testing.T) {
	type S = mayfly.Schedule
	cases := []struct {
		change func(*S)
		want   string
	}{
		{func(s *S) { s.At = noon }, "schedule nightly never fires: at 2026-11-21T12:00:00Z is in the past"},
		{func(s *S) { s.Cron = "@daily"; s.End = noon }, "never fires: end 2026-11-21T12:00:00Z is in the past"},
		{func(s *S) { s.Cron = "@yearly"; s.End = noon.Add(24 * time.Hour) }, "never fires: no tick is before its end, 2026-11-22T12:00:00Z"},
		{func(s *S) { s.Every = time.Hour; s.End = noon.Add(time.Minute) }, "never fires: no tick is before its end"},
		{func(s *S) { s.At = noon.Add(1) }, ""},
		{func(s *S) { s.Cron = "@daily"; s.Start = noon; s.End = noon.Add(12 * time.Hour) }, ""},
	}
	for _, c := range cases {
		_, err := timetable(t, c.change).FirstAfter(noon)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || mayfly.KindOf(err) != mayfly.Invalid) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func TestTicksOfEachKind(t *testing.T) {
	type S = mayfly.Schedule
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := []struct {
		name   string
		change func(*S)
		want   string // from noon on
	}{
		{"every, from its creation", func(s *S) { s.Every = 90 * time.Minute }, "2026-11-21T13:30:00Z 2026-11-21T15:00:00Z 2026-11-21T16:30:00Z"},
		{"every, created within a second", func(s *S) { s.Every = time.Second; s.Created = noon.Add(999 * time.Millisecond) }, "2026-11-21T12:00:01Z 2026-11-21T12:00:02Z"},
		{"every, from a start to come", func(s *S) { s.Every = time.Hour; s.Start = at("2026-11-24T08:10:00Z") }, "2026-11-24T08:10:00Z 2026-11-24T09:10:00Z"},
		{"every, from a start long gone", func(s *S) { s.Every = 24 * time.Hour; s.Start = at("2020-01-01T06:00:00Z") }, "2026-11-22T06:00:00Z 2026-11-23T06:00:00Z"},
		{"every, to its end", func(s *S) { s.Every = time.Hour; s.End = at("2026-11-21T14:00:00Z") }, "2026-11-21T13:00:00Z 2026-11-21T14:00:00Z none"},
		{"at", func(s *S) { s.At = at("2026-12-24T18:00:00+01:00") }, "2026-12-24T17:00:00Z none"},
		{"cron in a zone", func(s *S) { s.Cron = "0 3 * * *"; s.TimeZone = "Europe/Berlin" }, "2026-11-22T02:00:00Z 2026-11-23T02:00:00Z"},
		{"cron with start and end on ticks", func(s *S) {
			s.Cron, s.Start, s.End = "0 3 * * *", at("2026-12-01T03:00:00Z"), at("2026-12-02T03:00:00Z")
		}, "2026-12-01T03:00:00Z 2026-12-02T03:00:00Z none"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tt, now := timetable(t, c.change), noon
			var got []string
			for range strings.Fields(c.want) {
				if now = tt.Next(now); now.IsZero() {
					got = append(got, "none")
					break
				}
				got = append(got, now.UTC().Format(time.RFC3339Nano))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
		})
	}
}

// minutes and the rest write plans short: times are minutes after noon.
func minutes(ts ...float64) (out []time.Time) {
	for _, m := range ts {
		out = append(out, noon.Add(time.Duration(m*float64(time.Minute))))
	}
	return out
}

func TestPlans(t *testing.T) {
	type S = mayfly.Schedule
	minutely := func(s *S) { s.Cron = "* * * * *" }
	with := func(change ...func(*S)) func(*S) {
		return func(s *S) {
			for _, c := range change {
				c(s)
			}
		}
	}
	state := func(last float64, count int) schedule.State {
		return schedule.State{Since: noon, Last: minutes(last)[0], Count: count}
	}
	fresh := schedule.NewState(noon)
	cases := []struct {
		name   string
		change func(*S)
		state  schedule.State
		now    float64
		ticks  []float64
		wake   float64 // -1: never
		missed int
		done   bool
	}{
		{"nothing yet", minutely, fresh, 0.5, nil, 1, 0, false},
		{"on time", minutely, fresh, 1, []float64{1}, 2, 0, false},
		{"fired already", minutely, state(1, 1), 1.5, nil, 2, 0, false},
		{"a few late", minutely, state(1, 1), 4.5, []float64{2, 3, 4}, 5, 0, false},
		{"as late as the window", minutely, state(1, 1), 7, []float64{2, 3, 4, 5, 6, 7}, 8, 0, false},
		{"later than the window", minutely, state(1, 1), 9.5, []float64{5, 6, 7, 8, 9}, 10, 3, false},
		{"a window of its own", with(minutely, func(s *S) { s.CatchUp = time.Minute }), state(1, 1), 9.5, []float64{9}, 10, 7, false},
		{"a daily one missed by an hour", func(s *S) { s.Cron = "10 12 * * *" }, fresh, 70, nil, 1450, 1, false},
		{"a daily one with a window of an hour", func(s *S) { s.Cron = "10 12 * * *"; s.CatchUp = time.Hour }, fresh, 70, []float64{10}, 1450, 0, false},
		{"at, not yet", func(s *S) { s.At = minutes(3)[0] }, fresh, 2, nil, 3, 0, false},
		{"at, years late", func(s *S) { s.At = minutes(3)[0] }, fresh, 2e6, []float64{3}, -1, 0, true},
		{"at, with a window", func(s *S) { s.At = minutes(3)[0]; s.CatchUp = time.Minute }, fresh, 5, nil, -1, 1, true},
		{"at, fired", func(s *S) { s.At = minutes(3)[0] }, state(3, 1), 4, nil, -1, 0, true},
		{"paused", with(minutely, func(s *S) { s.Paused = true }), fresh, 3, nil, -1, 0, false},
		{"resumed", minutely, schedule.NewState(minutes(3)[0]), 4, []float64{4}, 5, 0, false},
		{"at most three times, two are left", with(minutely, func(s *S) { s.Times = 3 }), state(1, 1), 4, []float64{2, 3}, 4, 0, false},
		{"at most three times, none is left", with(minutely, func(s *S) { s.Times = 3 }), state(3, 3), 4, nil, -1, 0, true},
		{"the last before its end", with(minutely, func(s *S) { s.End = minutes(2)[0] }), state(1, 1), 2, []float64{2}, -1, 0, true},
		{"after its end", with(minutely, func(s *S) { s.End = minutes(2)[0] }), state(2, 2), 3, nil, -1, 0, true},
		{"before its start", with(minutely, func(s *S) { s.Start = minutes(30)[0] }), fresh, 3, nil, 30, 0, false},
		{"the clock went back a little", minutely, state(2, 2), 1.5, nil, 3, 0, false},
		{"the clock had been a year ahead", minutely, state(525600, 2), 1.5, []float64{1}, 2, 0, false},
		{"the clock had been a year ahead, years after", minutely, state(1e6, 2), 1e5, []float64{99996, 99997, 99998, 99999, 100000}, 100001, 0, false},
		{"at was fired under a clock a year ahead", func(s *S) { s.At = minutes(525600)[0] }, state(525600, 1), 1.5, nil, -1, 0, true},
		{"added under a clock a year ahead", minutely, schedule.NewState(minutes(525600)[0]), 1.5, []float64{-3, -2, -1, 0, 1}, 2, 0, false},
		{"every minute and a half", func(s *S) { s.Every = 90 * time.Second }, fresh, 3, []float64{1.5, 3}, 4.5, 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := minutes(c.now)[0]
			p := timetable(t, c.change).Plan(c.state, now)
			var got []time.Time
			for _, tick := range p.Ticks {
				if !tick.Due.Equal(tick.Time) {
					t.Errorf("%v is due at %v without jitter", tick.Time, tick.Due)
				}
				got = append(got, tick.Time.UTC())
			}
			if want := minutes(c.ticks...); !slices.EqualFunc(got, want, time.Time.Equal) {
				t.Errorf("ticks %v, want %v", got, want)
			}
			if c.wake < 0 && !p.Wake.IsZero() || c.wake >= 0 && !p.Wake.Equal(minutes(c.wake)[0]) {
				t.Errorf("wake %v, want %v minutes after noon", p.Wake, c.wake)
			}
			if p.Missed != c.missed || p.Done != c.done || p.Missed > 0 != !p.MissedUntil.IsZero() {
				t.Errorf("missed %d until %v, done %v; want %d, %v", p.Missed, p.MissedUntil, p.Done, c.missed, c.done)
			}
			if after := c.state.AfterMisses(p); timetable(t, c.change).Plan(after, now).Missed != 0 {
				t.Error("what was missed and recorded is missed again")
			}
		})
	}
}

func TestAPlanIsBoundedHoweverLongTheDowntime(t *testing.T) {
	tenYears := noon.AddDate(10, 0, 0)
	for _, jitter := range []time.Duration{0, time.Hour} {
		tt := timetable(t, func(s *mayfly.Schedule) { s.Cron, s.Jitter = "* * * * * *", jitter })
		state := schedule.NewState(noon)
		p := tt.Plan(state, tenYears)
		if p.Missed != 1000 || len(p.Ticks) != 100 || p.Wake.After(tenYears) {
			t.Fatalf("missed %d, %d ticks, wake %v", p.Missed, len(p.Ticks), p.Wake)
		}
		for state = state.AfterMisses(p); ; p = tt.Plan(state, tenYears) {
			for _, tick := range p.Ticks {
				state = state.AfterRun(tick.Time)
			}
			if p.Wake.After(tenYears) {
				break
			}
		}
		if state.Count < 300 || state.Count > 302 || state.Misses != 1000 {
			t.Errorf("jitter %v: %+v: want all of the last five minutes", jitter, state)
		}
	}
}

func TestWhatIsTooLateDoesNotDependOnHowMuchWasMissed(t *testing.T) {
	tt := timetable(t, func(s *mayfly.Schedule) { s.Cron, s.Jitter = "* * * * *", time.Hour })
	for second := range 60 {
		now := noon.AddDate(1, 0, 0).Add(time.Duration(second) * time.Second)
		long := tt.Plan(schedule.NewState(noon), now)
		short := tt.Plan(schedule.NewState(now.Add(-2*time.Hour)), now)
		if !slices.Equal(long.Ticks, short.Ticks) || !long.Wake.Equal(short.Wake) || long.Missed != 1000 || short.Missed > 120 {
			t.Fatalf("at %v\nafter a year:    %d missed, %v\nafter two hours: %d missed, %v", now, long.Missed, long.Ticks, short.Missed, short.Ticks)
		}
	}
}

func TestJitterIsTheSameEverywhereAndKeepsTheOrder(t *testing.T) {
	make := func(name string) *schedule.Timetable {
		return timetable(t, func(s *mayfly.Schedule) { s.Name, s.Cron, s.Jitter = name, "0,1,30 * * * *", 20*time.Minute })
	}
	a, again, other := make("a"), make("a"), make("b")
	tick, before, late, same := noon, time.Time{}, time.Duration(0), 0
	for range 300 {
		tick = a.Next(tick)
		due := a.Due(tick)
		if !due.Equal(again.Due(tick.In(time.FixedZone("", 3600)))) {
			t.Fatalf("%v is due at %v or at %v", tick, due, again.Due(tick))
		}
		if due.Equal(other.Due(tick)) {
			same++
		}
		if due.Before(tick) || due.Sub(tick) >= 20*time.Minute || !due.Before(a.Next(tick)) || !due.After(before) {
			t.Fatalf("%v is due at %v, the one before at %v", tick, due, before)
		}
		before, late = due, max(late, due.Sub(tick))
	}
	if same > 3 || late < 15*time.Minute {
		t.Errorf("%d of 300 are the same for another schedule; the latest is %v late", same, late)
	}
}

func TestATickSubmitsTheSameTaskWhoeverFiresIt(t *testing.T) {
	s := nightly(func(s *mayfly.Schedule) { s.Cron, s.Task.Labels = "@daily", map[string]string{"team": "red"} })
	sub := schedule.TickSubmission(s, noon)
	if again := schedule.TickSubmission(s, noon.In(location(t, "Asia/Kathmandu"))); again.Key != sub.Key {
		t.Errorf("the zone that a time is written in changes the key: %q, %q", sub.Key, again.Key)
	}
	if sub.Space != "default" || sub.Workload != "report" || sub.Key != "schedule/default/nightly/2026-11-21T12:00:00Z" ||
		sub.Labels["team"] != "red" || sub.Labels[schedule.Label] != "nightly" || len(s.Task.Labels) != 1 {
		t.Errorf("%+v of %+v", sub, s.Task)
	}
	seen := map[string]bool{sub.Key: true}
	for _, other := range []string{schedule.TickKey("other", "nightly", noon), schedule.TickKey("default", "weekly", noon), schedule.TickKey("default", "nightly", noon.Add(time.Second))} {
		if seen[other] {
			t.Errorf("%q is the key of two ticks", other)
		}
		seen[other] = true
	}
}

func TestOverlap(t *testing.T) {
	cases := []struct {
		overlap    mayfly.Overlap
		unfinished int
		want       schedule.Action
	}{
		{"", 0, schedule.Fire}, {"", 1, schedule.Skip},
		{mayfly.OverlapSkip, 0, schedule.Fire}, {mayfly.OverlapSkip, 2, schedule.Skip},
		{mayfly.OverlapQueue, 0, schedule.Fire}, {mayfly.OverlapQueue, 1, schedule.Queue},
		{mayfly.OverlapReplace, 0, schedule.Fire}, {mayfly.OverlapReplace, 1, schedule.Replace},
	}
	for _, c := range cases {
		if got := schedule.Decide(c.overlap, c.unfinished); got != c.want {
			t.Errorf("%q with %d unfinished: %s, want %s", c.overlap, c.unfinished, got, c.want)
		}
	}
}

// TestEachTickRunsOnceWhateverLeadersDo lets leaders come and go, plan from
// old records, and die between submitting and recording.
func TestEachTickRunsOnceWhateverLeadersDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tt := timetable(t, func(s *mayfly.Schedule) {
			if rapid.Bool().Draw(t, "cron") {
				s.Cron = rapid.SampledFrom([]string{"* * * * *", "*/7 * * * *", "0,1,2,30 * * * *", "*/20 * * * * *"}).Draw(t, "line")
			} else {
				s.Every = rapid.SampledFrom([]time.Duration{7 * time.Second, time.Minute, 11 * time.Minute}).Draw(t, "every")
			}
			s.Jitter = rapid.SampledFrom([]time.Duration{0, 5 * time.Second, 10 * time.Minute}).Draw(t, "jitter")
			s.CatchUp = rapid.SampledFrom([]time.Duration{0, 30 * time.Second, time.Hour}).Draw(t, "catchUp")
		})
		record := schedule.NewState(noon)
		stale, queued, planned := record, map[string]int{}, []time.Time{}
		for now := noon; now.Before(noon.Add(3 * time.Hour)); {
			state := record
			if rapid.IntRange(0, 4).Draw(t, "old") == 0 {
				state = stale // a leader that does not know that it leads no more
			}
			p := tt.Plan(state, now)
			state = state.AfterMisses(p)
			for _, tick := range p.Ticks {
				if tick.Due.After(now) {
					t.Fatalf("%v is fired at %v, before it is due at %v", tick.Time, now, tick.Due)
				}
				queued[schedule.TickKey("default", "nightly", tick.Time)]++
				state = state.AfterRun(tick.Time)
			}
			planned = append(planned, now)
			stale = record
			if rapid.IntRange(0, 4).Draw(t, "dies") > 0 && !state.Last.Before(record.Last) {
				record = state
			}
			pause := time.Duration(rapid.Int64Range(1, int64(8*time.Minute)).Draw(t, "pause"))
			if rapid.Bool().Draw(t, "punctual") && p.Wake.After(now) {
				pause = p.Wake.Sub(now)
			}
			now = now.Add(pause)
		}
		expect(t, tt, queued, planned)
	})
}

// expect compares what was queued with every tick that somebody could plan
// between its due time and the end of the window.
func expect(t *rapid.T, tt *schedule.Timetable, queued map[string]int, planned []time.Time) {
	last, i := planned[len(planned)-1], 0
	for tick := tt.Next(noon); !tick.After(last); tick = tt.Next(tick) {
		due, key := tt.Due(tick), schedule.TickKey("default", "nightly", tick)
		for i < len(planned) && planned[i].Before(due) {
			i++
		}
		if i == len(planned) {
			break
		}
		inTime := len(tt.Plan(schedule.State{Since: tick.Add(-1)}, planned[i]).Ticks) > 0 &&
			tt.Plan(schedule.State{Since: tick.Add(-1)}, planned[i]).Missed == 0
		if inTime != (queued[key] > 0) {
			t.Fatalf("%s, due at %v, first planned at %v: queued %d times", key, due, planned[i], queued[key])
		}
		delete(queued, key)
	}
	if len(queued) > 0 {
		t.Fatalf("queued though no tick: %v", queued)
	}
}

func FuzzParseState(f *testing.F) {
	for _, s := range []string{`{"since":"2026-11-21T12:00:00Z"}`, `{"since":"2026-11-21T12:00:00Z","last":"2026-11-21T13:00:00Z","count":3}`,
		`{"since":"9999-12-31T23:59:59Z","count":9223372036854775807}`, `{"since":"0001-01-01T00:00:01Z","misses":1}`, `{}`, `[]`, `{"count":-1}`} {
		f.Add([]byte(s))
	}
	tables := []*schedule.Timetable{
		timetable(f, func(s *mayfly.Schedule) { s.Cron, s.TimeZone, s.Jitter = "* * * * *", "Europe/Berlin", time.Hour }),
		timetable(f, func(s *mayfly.Schedule) { s.Every, s.Times = time.Second, 5 }),
		timetable(f, func(s *mayfly.Schedule) { s.At = noon }),
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		state, err := schedule.ParseState(data)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Fatal(err)
			}
			return
		}
		for i, tt := range tables {
			p := tt.Plan(state, noon)
			if len(p.Ticks) > 100 || p.Missed > 1000 || p.Done && !p.Wake.IsZero() {
				t.Fatalf("timetable %d: %+v", i, p)
			}
			for _, tick := range p.Ticks {
				if tick.Due.After(noon) {
					t.Fatalf("timetable %d: %v is due later", i, tick)
				}
				state = state.AfterRun(tick.Time)
			}
		}
		text, err := json.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := schedule.ParseState(text); err != nil || fmt.Sprint(again) != fmt.Sprint(state) {
			t.Fatalf("%s is read as %+v (%v), was %+v", text, again, err, state)
		}
	})
}

func TestAScheduleAndItsStateSurviveJSON(t *testing.T) {
	s := nightly(func(s *mayfly.Schedule) {
		s.Cron, s.TimeZone, s.Task.Payload, s.Overlap = "0 3 * * *", "Europe/Berlin", []byte("\x00\xff"), mayfly.OverlapQueue
		s.Start, s.Jitter = noon, time.Minute
	})
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back mayfly.Schedule
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if again, _ := json.Marshal(back); string(again) != string(text) {
		t.Errorf("%s became %s", text, again)
	}
	state := schedule.NewState(noon).AfterRun(noon.Add(time.Hour)).AfterSkip(noon.Add(2 * time.Hour))
	text, _ = json.Marshal(state)
	if want := `{"since":"2026-11-21T12:00:00Z","last":"2026-11-21T14:00:00Z","ran":"2026-11-21T13:00:00Z","count":1,"skips":1}`; string(text) != want {
		t.Errorf("state %s\nwant  %s", text, want)
	}
}
