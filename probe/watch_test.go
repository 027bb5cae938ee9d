package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TestWatch says for each probe, and for a program that is well in some spans
// of time, when its watch told what. Time is synctest's.
func TestWatch(t *testing.T) {
	cases := []struct {
		name  string
		probe mayfly.Probe
		well  string // "from-to,from-to" in which the program is well
		known bool   // it is believed to be well at first
		took  time.Duration
		want  string // time and news, then how often it was asked
	}{
		{name: "well at once", well: "0-60s", want: "0s well; 6 tries"},
		{name: "well after a while", well: "300ms-60s", want: "341ms well; 17 tries"},
		{name: "a slow start is asked each second", well: "10s-60s", want: "10.623s well; 29 tries"},
		{name: "never well", well: "", want: "30.623s not well: sick; 74 tries"},
		{name: "never well, with grace", probe: mayfly.Probe{Grace: 20 * time.Second}, want: "50.623s not well: sick; 74 tries"},
		{name: "its own patience", probe: mayfly.Probe{Every: 100 * time.Millisecond, Failures: 5}, want: "526ms not well: sick; 608 tries"},
		{name: "one failure is none", well: "0-19s,20500ms-60s", want: "0s well; 7 tries"},
		{name: "three are one, soon after each other", well: "0-12s,28s-60s", want: "0s well, 22s not well: sick, 28s well; 14 tries"},
		{name: "at the first", probe: mayfly.Probe{Failures: 1, Every: 100 * time.Millisecond}, well: "0-12050ms", want: "0s well, 12.1s not well: sick; 600 tries"},
		{name: "two to be well", probe: mayfly.Probe{Successes: 2}, well: "0-60s", want: "2ms well; 7 tries"},
		{name: "a life", known: true, well: "0-60s", want: "; 6 tries"},
		{name: "a death", known: true, well: "0-20s", want: "22s not well: sick; 42 tries"},
		{name: "a death within the grace", known: true, probe: mayfly.Probe{Grace: 30 * time.Second}, want: "32s not well: sick; 33 tries"},
		{name: "tries that take long", took: 400 * time.Millisecond, well: "2s-60s", want: "2.2s well; 8 tries"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				c.probe.Exec = []string{"ask"}
				target := Target{Exec: func(context.Context, []string) (int, string, error) {
					time.Sleep(c.took)
					if within(time.Since(began), c.well) {
						return 0, "", nil
					}
					return 1, "sick", nil
				}}
				var news []string
				tries := 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute-time.Millisecond)
				defer cancel()
				err := Watch(ctx, target, c.probe, Options{Well: c.known, Tried: func(error) { tries++ }}, func(well bool, reason error) {
					text := "well"
					if !well {
						text = "not well: " + reason.Error()[len("exec ask: exit code 1: "):]
					}
					news = append(news, fmt.Sprintf("%s %s", time.Since(began).Truncate(time.Millisecond), text))
				})
				if err != context.DeadlineExceeded {
					t.Errorf("Watch ended with %v", err)
				}
				if got := fmt.Sprintf("%s; %d tries", strings.Join(news, ", "), tries); got != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
			})
		})
	}
}

// within says whether a time is in one of the spans.
func within(at time.Duration, spans string) bool {
	return slices.ContainsFunc(strings.Split(spans, ","), func(span string) bool {
		from, to, found := strings.Cut(span, "-")
		if from == "0" {
			from = "0s"
		}
		begin, _ := time.ParseDuration(from)
		end, _ := time.ParseDuration(to)
		return found && begin <= at && at < end
	})
}
