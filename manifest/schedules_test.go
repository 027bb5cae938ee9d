package manifest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

func TestSchedules(t *testing.T) {
	noon := time.Date(2031, 1, 31, 12, 0, 0, 0, time.UTC)
	tests := []struct {
		name, text string
		want       []mayfly.Schedule
	}{
		{"a line of cron", `schedules: ["0 3 * * *", "@daily"]`, []mayfly.Schedule{{Name: "f", Cron: "0 3 * * *"}, {Name: "f-2", Cron: "@daily"}}},
		{"a zone", `schedules: [{cron: "0 3 * * *", tz: Europe/Berlin}]`, []mayfly.Schedule{{Name: "f", Cron: "0 3 * * *", TimeZone: "Europe/Berlin"}}},
		{"every", "schedules: [{every: 90s, name: poll, times: 3, overlap: queue, jitter: 5s, catchUp: 1h}]",
			[]mayfly.Schedule{{Name: "poll", Every: 90 * time.Second, Times: 3, Overlap: mayfly.OverlapQueue, Jitter: 5 * time.Second, CatchUp: time.Hour}}},
		{"at", "schedules: [{at: 2031-01-31T12:00:00Z, payload: hello}]",
			[]mayfly.Schedule{{Name: "f", At: noon, Task: mayfly.Submission{Payload: []byte("hello")}}}},
		{"times in the zone", `schedules: [{cron: "@daily", tz: Asia/Tokyo, start: 2031-01-31T21:00, end: "2031-01-31 22:00:00"}]`,
			[]mayfly.Schedule{{Name: "f", Cron: "@daily", TimeZone: "Asia/Tokyo", Start: noon, End: noon.Add(time.Hour)}}},
		{"a payload that is no text", "schedules: [{every: 1m, payload: {b: [1, x], a: true}}]",
			[]mayfly.Schedule{{Name: "f", Every: time.Minute, Task: mayfly.Submission{Payload: []byte(`{"a":true,"b":[1,"x"]}`)}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, err := Parse("m.yaml", []byte(one("image: a", test.text)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, m.Functions[0].Schedules); diff != "" {
				t.Error("(-want +got):\n" + diff)
			}
		})
	}
}

func TestScheduleErrors(t *testing.T) {
	tests := []struct{ text, want string }{
		{"schedules: daily", `function "f": schedules must be a list`},
		{"schedules: [1]", `function "f": a schedule must be a mapping or a line of cron`},
		{`schedules: ["0 25 * * *"]`, `function "f": cron "0 25 * * *": hour "25" is none`},
		{`schedules: [{cron: "0 25 * * *"}]`, `4:24: function "f": cron "0 25 * * *": hour "25" is none; allowed are 0-23`},
		{`schedules: [{crom: "@daily"}]`, `function "f": unknown key "crom"`},
		{`schedules: [{cron: "@daily", tz: Berlin}]`, `4:38: function "f": time zone "Berlin" is not known`},
		{`schedules: [{cron: "@daily", every: 1h}]`, `schedule f: it needs one of cron, every and at; it has 2`},
		{`schedules: [{name: x}]`, `schedule x: it needs one of cron, every and at; it has 0`},
		{`schedules: [{name: X, every: 1h}]`, `schedule "X" is not a valid name`},
		{`schedules: [{every: 100ms}]`, `every 100ms is too often; the least is 1s`},
		{`schedules: [{every: 1h, tz: Europe/Berlin}]`, `a time zone goes with cron only`},
		{`schedules: [{every: 1h, start: noon}]`, `4:36: function "f": start "noon" is not a time`},
		{`schedules: [{every: 1h, overlap: twice}]`, `overlap cannot be "twice"`},
		{`schedules: [{every: 1h, catchUp: 1s}]`, `catch-up 1s is too short`},
		{`schedules: [{every: 1h, times: 0}]`, `times must be a whole number from 1`},
		{`schedules: [{every: 1h, name: a}, {every: 2h, name: a}]`, `function "f": there are two schedules "a"`},
	}
	for _, test := range tests {
		_, err := Parse("m.yaml", []byte(one("image: a", test.text)), Options{})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s:\n got %v\nwant %s", test.text, err, test.want)
		}
	}
}

func TestSchedulesOfTwoFunctionsHaveNamesOfTheirOwn(t *testing.T) {
	text := "functions:\n  a: {image: x, schedules: [{every: 1h, name: b}]}\n  b: {image: x, schedules: [{every: 1h}]}\n"
	_, err := Parse("m.yaml", []byte(text), Options{})
	if err == nil || !strings.Contains(err.Error(), `function "b": there are two schedules "b"`) {
		t.Errorf("got %v", err)
	}
}
