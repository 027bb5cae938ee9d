package schedule_test

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // so that the tests run where the machine has no zones

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly/schedule"
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	zone, err := new(schedule.Zones).Load(name)
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func TestTurnedClocksMakeNoTickLostOrDoubled(t *testing.T) {
	cases := []struct{ name, zone, line, after, want string }{
		// Berlin: 29 March 2026 2:00 -> 3:00, 25 October 2026 3:00 -> 2:00.
		{"fixed, in the gap", "Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:30:00+02:00"},
		{"several in the gap are one", "Europe/Berlin", "0,20,40 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
		{"gap and its end are one", "Europe/Berlin", "0 2,3 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
		{"every minute of one hour, in the gap", "Europe/Berlin", "* 2 * * *", "2026-03-28T12:00:00+01:00", "2026-03-29T03:00:00+02:00 2026-03-30T02:00:00+02:00"},
		{"another weekday's gap", "Europe/Berlin", "30 2 * * 1", "2026-03-28T12:00:00+01:00", "2026-03-30T02:30:00+02:00"},
		{"after the gap", "Europe/Berlin", "30 2 * * *", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"},
		{"every hour, over the gap", "Europe/Berlin", "30 * * * *", "2026-03-29T00:45:00+01:00", "2026-03-29T01:30:00+01:00 2026-03-29T03:30:00+02:00"},
		{"every minute, over the gap", "Europe/Berlin", "* * * * *", "2026-03-29T01:58:00+01:00", "2026-03-29T01:59:00+01:00 2026-03-29T03:00:00+02:00 2026-03-29T03:01:00+02:00"},
		{"every two hours, over the gap", "Europe/Berlin", "0 */2 * * *", "2026-03-28T23:00:00+01:00", "2026-03-29T00:00:00+01:00 2026-03-29T03:00:00+02:00 2026-03-29T04:00:00+02:00"},
		{"fixed, repeated", "Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00+02:00", "2026-10-25T02:30:00+02:00 2026-10-26T02:30:00+01:00"},
		{"fixed, from within the repetition", "Europe/Berlin", "30 2 * * *", "2026-10-25T02:10:00+01:00", "2026-10-26T02:30:00+01:00"},
		{"fixed, right after the repetition", "Europe/Berlin", "0 2,3 * * *", "2026-10-25T02:00:00+02:00", "2026-10-25T03:00:00+01:00"},
		{"every hour, repeated", "Europe/Berlin", "30 * * * *", "2026-10-25T01:45:00+02:00", "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00 2026-10-25T03:30:00+01:00"},
		{"minutes of one hour, repeated", "Europe/Berlin", "*/30 2 * * *", "2026-10-25T01:45:00+02:00", "2026-10-25T02:00:00+02:00 2026-10-25T02:30:00+02:00 2026-10-25T02:00:00+01:00 2026-10-25T02:30:00+01:00 2026-10-26T02:00:00+01:00"},
		{"every two hours, repeated", "Europe/Berlin", "0 */2 * * *", "2026-10-25T00:00:00+02:00", "2026-10-25T02:00:00+02:00 2026-10-25T04:00:00+01:00"},
		{"every second of one minute, repeated", "Europe/Berlin", "*/30 30 2 * * *", "2026-10-25T02:00:00+02:00", "2026-10-25T02:30:00+02:00 2026-10-25T02:30:30+02:00 2026-10-26T02:30:00+01:00"},

		// New York: 8 March 2026 2:00 -> 3:00, 1 November 2026 2:00 -> 1:00.
		{"fixed, in the gap", "America/New_York", "15 2 * * *", "2026-03-07T12:00:00-05:00", "2026-03-08T03:00:00-04:00 2026-03-09T02:15:00-04:00"},
		{"fixed, repeated", "America/New_York", "15 1 * * *", "2026-10-31T12:00:00-04:00", "2026-11-01T01:15:00-04:00 2026-11-02T01:15:00-05:00"},

		// Lord Howe: half an hour. 4 October 2026 2:00 -> 2:30, 5 April 2026 2:00 -> 1:30.
		{"in the half hour", "Australia/Lord_Howe", "10 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:30:00+11:00 2026-10-05T02:10:00+11:00"},
		{"after the half hour", "Australia/Lord_Howe", "45 2 * * *", "2026-10-03T12:00:00+10:30", "2026-10-04T02:45:00+11:00"},
		{"the repeated half hour", "Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00+11:00", "2026-04-05T01:45:00+11:00 2026-04-06T01:45:00+10:30"},
		{"not in the repeated half hour", "Australia/Lord_Howe", "15 1 * * *", "2026-04-04T12:00:00+11:00", "2026-04-05T01:15:00+11:00 2026-04-06T01:15:00+10:30"},
		{"every hour, the repeated half hour", "Australia/Lord_Howe", "45 * * * *", "2026-04-05T00:50:00+11:00", "2026-04-05T01:45:00+11:00 2026-04-05T01:45:00+10:30 2026-04-05T02:45:00+10:30"},

		// Of leap years from 2038 on, Go gives no end of the offset on the last day.
		{"the last day of a leap year", "Europe/Berlin", "0 */11 * * *", "2040-12-30T23:00:00+01:00", "2040-12-31T00:00:00+01:00 2040-12-31T11:00:00+01:00 2040-12-31T22:00:00+01:00 2041-01-01T00:00:00+01:00"},
		{"over decades", "Europe/Berlin", "0 0 ? 2 1#5", "2026-11-21T00:00:00+01:00", "2044-02-29T00:00:00+01:00 2072-02-29T00:00:00+01:00"},

		// Kathmandu: a quarter hour off, never turned since 1986.
		{"a quarter of an hour off", "Asia/Kathmandu", "0 0 * * *", "2026-11-20T18:14:59Z", "2026-11-21T00:00:00+05:45 2026-11-22T00:00:00+05:45"},
		{"the quarter that it skipped", "Asia/Kathmandu", "5 0 1 1 *", "1985-12-31T00:00:00Z", "1986-01-01T00:15:00+05:45 1987-01-01T00:05:00+05:45"},

		// Apia had no 30 December 2011; Cairo and Beirut turn at midnight.
		{"the day that was not", "Pacific/Apia", "0 3 * * *", "2011-12-29T00:00:00-10:00", "2011-12-29T03:00:00-10:00 2011-12-31T03:00:00+14:00"},
		{"only on the day that was not", "Pacific/Apia", "0 3 30 12 *", "2011-12-01T00:00:00-10:00", "2012-12-30T03:00:00+14:00"},
		{"every hour, over the day that was not", "Pacific/Apia", "0 * * * *", "2011-12-29T22:30:00-10:00", "2011-12-29T23:00:00-10:00 2011-12-31T00:00:00+14:00"},
		{"midnight in the gap", "Africa/Cairo", "@daily", "2026-04-23T12:00:00+02:00", "2026-04-24T01:00:00+03:00 2026-04-25T00:00:00+03:00"},
		{"every six hours, midnight in the gap", "Africa/Cairo", "0 */6 * * *", "2026-04-23T17:00:00+02:00", "2026-04-23T18:00:00+02:00 2026-04-24T01:00:00+03:00 2026-04-24T06:00:00+03:00"},
		{"before midnight, repeated", "Africa/Cairo", "30 23 * * *", "2026-10-29T12:00:00+03:00", "2026-10-29T23:30:00+03:00 2026-10-30T23:30:00+02:00"},
	}
	for _, c := range cases {
		t.Run(c.zone+" "+c.name, func(t *testing.T) {
			after, err := time.Parse(time.RFC3339, c.after)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(c.want)
			if got := ticks(mustCron(t, c.line), after, location(t, c.zone), len(want)); !slices.Equal(got, want) {
				t.Errorf("%s\ngot  %v\nwant %v", c.line, got, want)
			}
		})
	}
}

// oracle is a line as it was made up, and answers by looking at every minute.
type oracle struct {
	text string
	sets [5]map[int]bool // minute, hour, day of month, month, day of week
	star [5]bool
}

func (o *oracle) matches(wall time.Time) bool {
	day, weekday := o.sets[2][wall.Day()], o.sets[4][int(wall.Weekday())]
	dayOK := day || weekday
	if o.star[2] || o.star[4] {
		dayOK = day && weekday
	}
	return dayOK && o.sets[0][wall.Minute()] && o.sets[1][wall.Hour()] && o.sets[3][int(wall.Month())]
}

// ticks returns all ticks not before from and before to, found minute by minute in
// UTC. It begins two days earlier to know what the clocks have shown.
func (o *oracle) ticks(zone *time.Location, from, to int64) (all []int64) {
	everyHour := len(o.sets[1]) == 24
	onWall := func(wall int64) bool { return o.matches(time.Unix(wall, 0).UTC()) }
	begin := from - 2*86400
	var last, latest int64
	for at := begin; at < to; at += 60 {
		_, offset := time.Unix(at, 0).In(zone).Zone()
		wall := at + int64(offset)
		if at == begin {
			last, latest = wall-60, wall-60
		}
		hit := onWall(wall) && (wall > latest || everyHour || o.star[0])
		if skipped := wall - last - 60; skipped > 0 && skipped < 86400 && !everyHour {
			for w := last + 60; w < wall; w += 60 {
				hit = hit || onWall(w)
			}
		}
		if hit && at >= from {
			all = append(all, at)
		}
		last, latest = wall, max(latest, wall)
	}
	return all
}

// check compares the oracle with Next from from to to.
func (o *oracle) check(t interface{ Fatalf(string, ...any) }, zone *time.Location, from, to int64) {
	c, err := schedule.ParseCron(o.text)
	if err != nil {
		if strings.Contains(err.Error(), "never fires") && len(o.ticks(time.UTC, from, to)) == 0 {
			return
		}
		t.Fatalf("%v", err)
	}
	var got []int64
	for at := time.Unix(from-1, 0); ; {
		at = c.Next(at, zone)
		if at.IsZero() || at.Unix() >= to {
			break
		}
		got = append(got, at.Unix())
	}
	if want := o.ticks(zone, from, to); !slices.Equal(got, want) {
		t.Fatalf("%s in %v from %v to %v\ngot  %v\nwant %v", o.text, zone, time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC(), times(got), times(want))
	}
}

func times(unix []int64) (out []string) {
	for _, u := range unix {
		out = append(out, time.Unix(u, 0).UTC().Format(time.RFC3339))
	}
	return out
}

// makeOracle makes a line up; intn is the source of chance.
func makeOracle(intn func(n int) int) *oracle {
	o := &oracle{}
	var texts []string
	for i, b := range [5][2]int{{0, 59}, {0, 23}, {1, 31}, {1, 12}, {0, 6}} {
		o.sets[i] = map[int]bool{}
		var items []string
		for range 1 + intn(3)/2 {
			lo := b[0] + intn(b[1]-b[0]+1)
			hi, step := lo, 1
			text := fmt.Sprint(lo)
			kind := intn(6)
			if i >= 2 {
				kind = max(0, kind-1) // most days and months are *, or hardly a line would fire
			}
			switch kind {
			case 0, 1:
				lo, hi, text = b[0], b[1], "*"
			case 2:
				hi = lo + intn(b[1]-lo+1)
				text = fmt.Sprintf("%d-%d", lo, hi)
			case 3:
				hi, step = lo+intn(b[1]-lo+1), 1+intn(b[1]-b[0])
				text = fmt.Sprintf("%d-%d/%d", lo, hi, step)
			case 4:
				lo, hi, step = b[0], b[1], 1+intn(b[1]-b[0])
				text = fmt.Sprintf("*/%d", step)
			}
			for v := lo; v <= hi; v += step {
				o.sets[i][v] = true
			}
			items = append(items, text)
		}
		o.star[i] = items[0][0] == '*'
		texts = append(texts, strings.Join(items, ","))
	}
	o.text = strings.Join(texts, " ")
	return o
}

func TestNextIsWhatEveryMinuteLookedAtGives(t *testing.T) {
	zones := []*time.Location{time.UTC, location(t, "Europe/Berlin"), location(t, "America/New_York"),
		location(t, "Australia/Lord_Howe"), location(t, "Asia/Kathmandu"), location(t, "Pacific/Apia"), location(t, "Africa/Cairo")}
	rapid.Check(t, func(t *rapid.T) {
		o := makeOracle(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "n") })
		zone := zones[rapid.IntRange(0, len(zones)-1).Draw(t, "zone")]
		from := rapid.Int64Range(0, 4_200_000_000/60).Draw(t, "minute") * 60
		o.check(t, zone, from, from+10*86400)
	})
}

// transition is a turn of clocks; many zones share one.
type transition struct {
	at            int64
	before, after int
}

// transitions finds every turn of every zone that the machine knows, in the
// given years, by looking every six hours.
func transitions(t *testing.T, firstYear, lastYear int) map[transition]*time.Location {
	found := map[transition]*time.Location{}
	from := time.Date(firstYear, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	to := time.Date(lastYear+1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	for _, name := range zoneNames(t) {
		zone, err := time.LoadLocation(name)
		if err != nil {
			continue // a table, not a zone
		}
		offset := func(at int64) int {
			_, o := time.Unix(at, 0).In(zone).Zone()
			return o
		}
		last := offset(from)
		for at := from; at < to; at += 6 * 3600 {
			o := offset(at)
			if o == last {
				continue
			}
			lo, hi := at-6*3600, at
			for hi-lo > 1 {
				if mid := (lo + hi) / 2; offset(mid) == last {
					lo = mid
				} else {
					hi = mid
				}
			}
			found[transition{hi, last, o}] = zone
			last = o
		}
	}
	return found
}

// zoneNames are those of the machine, or a few if it has none.
func zoneNames(t *testing.T) (names []string) {
	dir := os.DirFS("/usr/share/zoneinfo")
	fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir
		case d.IsDir() && (p == "posix" || p == "right"):
			return fs.SkipDir
		case !d.IsDir() && p[0] >= 'A' && p[0] <= 'Z':
			names = append(names, p)
		}
		return nil
	})
	if len(names) < 100 {
		t.Log("this machine has no zones of its own: only a few are tried")
		names = []string{"Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/Nuuk",
			"Australia/Lord_Howe", "Antarctica/Troll", "Antarctica/Casey", "Asia/Tehran", "Asia/Gaza", "Africa/Cairo", "Africa/Casablanca", "Pacific/Apia"}
	}
	return names
}

func TestNextHoldsAtEveryTurnOfEveryZone(t *testing.T) {
	first, last := 1980, 2045
	if testing.Short() {
		first, last = 2020, 2041
	}
	all := transitions(t, first, last)
	keys := slices.SortedFunc(maps.Keys(all), func(a, b transition) int { return int(a.at - b.at) })
	r := rand.New(rand.NewPCG(1, 2))
	for _, turn := range keys {
		if turn.at%60 != 0 || turn.before%60 != 0 || turn.after%60 != 0 {
			continue // the oracle looks at whole minutes
		}
		for range 2 {
			o := makeOracle(r.IntN)
			near := time.Unix(turn.at+int64(turn.before)-3600+int64(r.IntN(3))*3600, 0).UTC()
			if r.IntN(3) > 0 { // mostly an hour close to the turn
				fields := strings.Fields(o.text)
				fields[1], o.sets[1], o.star[1] = fmt.Sprint(near.Hour()), map[int]bool{near.Hour(): true}, false
				o.text = strings.Join(fields, " ")
			}
			o.check(t, all[turn], turn.at-86400, turn.at+86400)
		}
	}
	t.Logf("%d turns of clocks from %d to %d", len(keys), first, last)
}

func TestZonesAreThoseOfTheDatabaseOnly(t *testing.T) {
	var zones schedule.Zones
	for _, name := range []string{"Europe/Berlin", "America/Argentina/Buenos_Aires", "UTC", "", "GMT", "Etc/GMT+5"} {
		a, err := zones.Load(name)
		if err != nil {
			t.Error(err)
		}
		if b, _ := zones.Load(name); a != b {
			t.Errorf("%q was read twice", name)
		}
	}
	for _, name := range []string{"Europe/Atlantis", "Local", "localtime", "right/Europe/Berlin", "posixrules", "../../etc/passwd", "/etc/localtime", "zone.tab", "Europe", "CEST", "UTC+2", "x\ny", strings.Repeat("A", 5000)} {
		_, err := zones.Load(name)
		if err == nil || !strings.Contains(err.Error(), "is not known; use a name of the IANA database") || strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v", name, err)
		}
	}
}
