package schedule_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

func mustCron(t testing.TB, line string) schedule.Cron {
	t.Helper()
	c, err := schedule.ParseCron(line)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ticks returns the next n ticks as texts, and "none" where they end.
func ticks(c schedule.Cron, after time.Time, zone *time.Location, n int) (got []string) {
	for range n {
		if after = c.Next(after, zone); after.IsZero() {
			return append(got, "none")
		}
		got = append(got, after.Format(time.RFC3339))
	}
	return got
}

func TestCronLinesFireAsCrontabSays(t *testing.T) {
	cases := []struct{ line, after, want string }{
		// 1 November 2026 is a Sunday.
		{"* * * * *", "2026-11-21T10:00:30Z", "2026-11-21T10:01:00Z 2026-11-21T10:02:00Z"},
		{"* * * * *", "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"},
		{"*/15 9-10 * * *", "2026-11-21T09:44:00Z", "2026-11-21T09:45:00Z 2026-11-21T10:00:00Z"},
		{"5/20 3 * * *", "2026-11-21T00:00:00Z", "2026-11-21T03:05:00Z 2026-11-21T03:25:00Z 2026-11-21T03:45:00Z 2026-11-22T03:05:00Z"},
		{"10,40-42/2,59 0 * * *", "2026-11-21T00:00:00Z", "2026-11-21T00:10:00Z 2026-11-21T00:40:00Z 2026-11-21T00:42:00Z 2026-11-21T00:59:00Z"},
		{"*/10 0 0 1 1 *", "2026-11-21T00:00:00Z", "2027-01-01T00:00:00Z 2027-01-01T00:00:10Z"},
		{"* * * * * *", "2026-12-31T23:59:58.5Z", "2026-12-31T23:59:59Z 2027-01-01T00:00:00Z"},
		{"59 59 23 31 12 *", "2026-12-31T23:59:59Z", "2027-12-31T23:59:59Z"},

		{"0 0 * * 0", "2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z"},
		{"0 0 * * 7", "2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z"},
		{"0 0 * * Sun", "2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z"},
		{"0 0 * * 5-7", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z 2026-11-07T00:00:00Z 2026-11-08T00:00:00Z 2026-11-13T00:00:00Z"},
		{"0 0 * * fri-SUN", "2026-11-07T00:00:00Z", "2026-11-08T00:00:00Z 2026-11-13T00:00:00Z"},
		{"0 0 * * */2", "2026-11-01T00:00:00Z", "2026-11-03T00:00:00Z 2026-11-05T00:00:00Z 2026-11-07T00:00:00Z 2026-11-08T00:00:00Z"},
		{"0 0 1 JAN,jul *", "2026-11-01T00:00:00Z", "2027-01-01T00:00:00Z 2027-07-01T00:00:00Z"},
		{"0 0 1 nov-dec *", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z 2027-11-01T00:00:00Z"},

		// Either kind of day, when both are restricted; both, when one begins with *.
		{"0 0 13 * 5", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z 2026-11-13T00:00:00Z 2026-11-20T00:00:00Z 2026-11-27T00:00:00Z 2026-12-04T00:00:00Z 2026-12-11T00:00:00Z 2026-12-13T00:00:00Z"},
		{"30 4 1,15 * 5", "2026-11-01T00:00:00Z", "2026-11-01T04:30:00Z 2026-11-06T04:30:00Z 2026-11-13T04:30:00Z 2026-11-15T04:30:00Z"},
		{"0 0 */2 * 1", "2026-11-01T00:00:00Z", "2026-11-09T00:00:00Z 2026-11-23T00:00:00Z 2026-12-07T00:00:00Z"},
		{"0 0 13 * */5", "2026-11-01T00:00:00Z", "2026-11-13T00:00:00Z 2026-12-13T00:00:00Z"},
		{"0 0 1-7 * 0-6", "2026-11-10T00:00:00Z", "2026-11-11T00:00:00Z 2026-11-12T00:00:00Z"},
		{"0 0 30 2 1", "2026-11-01T00:00:00Z", "2027-02-01T00:00:00Z 2027-02-08T00:00:00Z"},
		{"0 12 ? * 2", "2026-11-01T00:00:00Z", "2026-11-03T12:00:00Z"},
		{"0 12 3 * ?", "2026-11-01T00:00:00Z", "2026-11-03T12:00:00Z"},

		{"0 0 L * *", "2027-12-31T00:00:00Z", "2028-01-31T00:00:00Z 2028-02-29T00:00:00Z 2028-03-31T00:00:00Z"},
		{"0 0 15,l 2 *", "2026-11-01T00:00:00Z", "2027-02-15T00:00:00Z 2027-02-28T00:00:00Z"},
		{"0 0 * * 5L", "2026-11-01T00:00:00Z", "2026-11-27T00:00:00Z 2026-12-25T00:00:00Z 2027-01-29T00:00:00Z"},
		{"0 0 * * 1L", "2026-11-01T00:00:00Z", "2026-11-30T00:00:00Z 2026-12-28T00:00:00Z"},
		{"0 0 * * tue#2", "2026-11-01T00:00:00Z", "2026-11-10T00:00:00Z 2026-12-08T00:00:00Z"},
		{"0 0 * * 7#5", "2026-11-01T00:00:00Z", "2026-11-29T00:00:00Z 2027-01-31T00:00:00Z"},
		{"0 0 1 * 1#1", "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z 2026-12-01T00:00:00Z 2026-12-07T00:00:00Z"},

		{"@hourly", "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"},
		{"@Daily", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z"},
		{"@midnight", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z"},
		{"@weekly", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z"},
		{" @monthly ", "2026-11-21T10:00:00Z", "2026-12-01T00:00:00Z"},
		{"@yearly", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z"},
		{"@annually", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z"},

		// Rare, and never again.
		{"0 0 29 2 *", "2026-11-21T00:00:00Z", "2028-02-29T00:00:00Z 2032-02-29T00:00:00Z"},
		{"0 0 29 2 *", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"},
		{"0 0 ? 2 1#5", "2024-03-01T00:00:00Z", "2044-02-29T00:00:00Z 2072-02-29T00:00:00Z 2112-02-29T00:00:00Z"},
		{"0 0 1 1 *", "9998-06-01T00:00:00Z", "9999-01-01T00:00:00Z none"},
		{"0 0 1 1 *", "1969-06-01T00:00:00Z", "1970-01-01T00:00:00Z"},
		{"1 0 0 1 1 *", "0001-01-01T00:00:00Z", "0001-01-01T00:00:01Z"},
	}
	for _, c := range cases {
		t.Run(c.line+" after "+c.after, func(t *testing.T) {
			after, err := time.Parse(time.RFC3339, c.after)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Fields(c.want)
			if got := ticks(mustCron(t, c.line), after, time.UTC, len(want)); strings.Join(got, " ") != c.want {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestBadCronLinesSayWhichFieldAndWhatIsAllowed(t *testing.T) {
	cases := []struct{ line, want string }{
		{"61 * * * *", `cron "61 * * * *": minute "61" is none; allowed are 0-59, *, ranges a-b, steps */n and a-b/n, and lists of these`},
		{"* 24 * * *", `hour "24" is none; allowed are 0-23`},
		{"* * 0 * *", `day of month "0" is none; allowed are 1-31, L`},
		{"* * * 13 *", `month "13" is none; allowed are 1-12 or jan-dec`},
		{"* * * * 8", `day of week "8" is none; allowed are 0-7 or sun-sat, 5L, 5#2`},
		{"60 * * * * *", `second "60" is none`},
		{"*,99 * * * *", `minute "99" is none`},
		{"JANFEB * * * *", `minute "JANFEB" is none`},
		{"* * * january *", `month "january" is none`},
		{"MON * * * *", `minute "MON" is none`},
		{"? * * * *", `minute "?" is none`},
		{"1- * * * *", `minute "1-" is none`},
		{"-1 * * * *", `minute "-1" is none`},
		{"+1 * * * *", `minute "+1" is none`},
		{"1-2-3 * * * *", `minute "1-2-3" is none`},
		{"1,,2 * * * *", `minute "" is none`},
		{"*/ * * * *", `minute "*/" is none`},
		{"*/5/3 * * * *", `minute "*/5/3" is none`},
		{"*/0 * * * *", `minute "*/0": a step is at least 1`},
		{"*/90 * * * *", `minute "*/90": a step of 90 is more than the 60 that there are; for longer intervals use every, as in every: 90m`},
		{"0 22-3 * * *", `hour "22-3" goes backwards; write it as two, 22-23,0-3`},
		{"0 0 * * 5#6", `day of week "5#6" is none`},
		{"0 0 * * 5#", `day of week "5#" is none`},
		{"0 0 * * L", `day of week "L" is none`},
		{"0 0 5L * *", `day of month "5L" is none`},
		{"0 0 30 2 *", `it never fires: no month that it names has such a day`},
		{"0 0 31 2,4,6,9,11 *", `it never fires`},
		{"0 0 */30 2 5#5", `it never fires`},
		{"", `it has 0 fields, not 5; write minute, hour, day of month, month, day of week; seconds may stand in front`},
		{"* * * *", `it has 4 fields`},
		{"0 0 * * * * 2026", `it has 7 fields`},
		{"TZ=Europe/Berlin 0 3 * * *", `a line holds no time zone; set the schedule's time zone beside it`},
		{"@every 5m", `use every: 5m in its place`},
		{"@reboot", `not a time`},
		{"@often", `unknown name; use @hourly`},
		{strings.Repeat("1,", 200) + "1 * * * *", `has 409 characters; at most 256 are read`},
	}
	for _, c := range cases {
		_, err := schedule.ParseCron(c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) || mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%q: %v\nwant %s", c.line, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %v", c.line, err)
		}
	}
}

func FuzzParseCron(f *testing.F) {
	for _, line := range []string{"* * * * *", "*/15 9-17 * * mon-fri", "0 0 29 2 *", "0 0 L * 5#2,6L", "@daily", "59 59 23 31 12 7", "0 0 30 2 *", "5/20 ? * ? *", "0 22-3 * * *"} {
		f.Add(line, int64(1774746000))
	}
	zone := location(f, "Australia/Lord_Howe")
	f.Fuzz(func(t *testing.T, line string, unix int64) {
		c, err := schedule.ParseCron(line)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%q: %v", line, err)
			}
			return
		}
		after := time.Unix(unix%250_000_000_000, 0)
		next := c.Next(after, zone)
		if next.IsZero() {
			t.Fatalf("%q was accepted but has no tick after %v", line, after)
		}
		if !next.After(after) || next.Nanosecond() != 0 {
			t.Fatalf("%q: the tick after %v is %v", line, after, next)
		}
		if again := c.Next(next.Add(-1), zone); !again.Equal(next) {
			t.Fatalf("%q: %v is a tick, but the first not before it is %v", line, next, again)
		}
	})
}

func BenchmarkCronNext(b *testing.B) {
	zone := location(b, "Europe/Berlin")
	for _, line := range []string{"* * * * *", "30 3 * * *", "0 9 * * mon-fri", "0 0 29 2 *", "0 0 ? 2 1#5"} {
		b.Run(strings.ReplaceAll(line, "/", "÷"), func(b *testing.B) {
			c, at := mustCron(b, line), time.Date(2026, 11, 21, 5, 0, 0, 0, time.UTC)
			b.ReportAllocs()
			for b.Loop() {
				c.Next(at, zone)
			}
		})
	}
	b.Run("refuse", func(b *testing.B) {
		for b.Loop() {
			if _, err := schedule.ParseCron("0 0 30 2 *"); err == nil {
				b.Fatal("accepted")
			}
		}
	})
}

func ExampleCron_Next() {
	c, err := schedule.ParseCron("30 2 * * *")
	if err != nil {
		panic(err)
	}
	zone, err := new(schedule.Zones).Load("Europe/Berlin")
	if err != nil {
		panic(err)
	}
	at := time.Date(2026, 3, 27, 12, 0, 0, 0, zone)
	for range 3 {
		at = c.Next(at, zone)
		fmt.Println(at)
	}
	// On the 29th, clocks go from 2 to 3.

	// Output:
	// 2026-03-28 02:30:00 +0100 CET
	// 2026-03-29 03:00:00 +0200 CEST
	// 2026-03-30 02:30:00 +0200 CEST
}
