package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/queue"
)

func serveSchedules(t *testing.T) (*server, *tasks) {
	t.Helper()
	_, all := serveTasks(t, queue.Options{})
	schedules, err := queue.OpenSchedules(t.Context(), all.Queue, queue.ScheduleOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return serveAll(t, api.Services{Tasks: all, Schedules: schedules}, api.Options{}), all
}

func TestSchedulesOverHTTP(t *testing.T) {
	up, queued := serveSchedules(t)
	ctx, c := t.Context(), up.client
	want := mayfly.Schedule{
		Name: "nightly", Cron: "0 3 * * *", TimeZone: "Europe/Berlin", Times: 5, Jitter: time.Minute, CatchUp: time.Hour,
		Overlap: mayfly.OverlapQueue, Start: time.Date(2031, 3, 1, 0, 0, 0, 0, time.UTC), End: time.Date(2032, 1, 1, 0, 0, 0, 0, time.UTC),
		Task: mayfly.Submission{Workload: "w", Payload: []byte("in"), Priority: 7, Labels: map[string]string{"a": "b"}},
	}
	made, err := c.AddSchedule(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	want.Space, want.Created = "default", made.Created
	if text, expected := encoded(t, made.Schedule), encoded(t, want); text != expected || made.Created.IsZero() {
		t.Errorf("added %s\nwant  %s", text, expected)
	}
	if _, err := c.AddSchedule(ctx, want); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("added twice: %v", err)
	}
	want.Task.Payload = []byte("other")
	if got, err := c.PutSchedule(ctx, want); err != nil || string(got.Task.Payload) != "other" || !got.Created.Equal(made.Created) {
		t.Errorf("replaced: %+v, %v", got, err)
	}
	got, err := c.GetSchedule(ctx, "nightly", 3)
	if err != nil || len(got.Next) != 3 || got.Next[1].Format(time.RFC3339) != "2031-03-02T03:00:00+01:00" {
		t.Errorf("next ticks %v, %v", got.Next, err)
	}
	task, err := c.RunSchedule(ctx, "nightly")
	if err != nil || task.Priority != 7 || task.Labels["mayfly.schedule"] != "nightly" {
		t.Errorf("run out of turn: %+v, %v", task, err)
	}
	queued.run(t, "i1", mayfly.Exit{Reason: mayfly.Succeeded}, "")
	if got, err := c.PauseSchedule(ctx, "nightly"); err != nil || !got.Paused {
		t.Errorf("paused: %+v, %v", got, err)
	}
	if got, err := c.ResumeSchedule(ctx, "nightly"); err != nil || got.Paused {
		t.Errorf("resumed: %+v, %v", got, err)
	}
	if list, err := c.ListSchedules(ctx); err != nil || len(list) != 1 || len(list[0].Next) != 1 {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := c.RemoveSchedule(ctx, "nightly"); err != nil {
		t.Error(err)
	}
	if _, err := c.GetSchedule(ctx, "nightly", 1); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("one that was removed: %v", err)
	}
}

// TestScheduleForms: a payload may be any JSON or a text, and what is wrong is
// named.
func TestScheduleForms(t *testing.T) {
	up, _ := serveSchedules(t)
	cases := []struct {
		body   string
		status int
		want   string
	}{
		{`{"name":"a","cron":"@daily","task":{"workload":"w","json":{"n":1}}}`, 201, `"payload":"eyJuIjoxfQ=="`},
		{`{"name":"b","every":60000000000,"task":{"workload":"w","text":"x"}}`, 201, `"payload":"eA=="`},
		{`{"name":"c","cron":"0 25 * * *","task":{"workload":"w"}}`, 400, `hour \"25\"`},
		{`{"name":"c","cron":"@daily","task":{"workload":"w","delay":"1h"}}`, 400, `cannot be set`},
		{`{"name":"c","cron":"@daily","task":{"workload":"none"}}`, 404, `no workload \"none\"`},
		{`{"name":"c","cron":"@daily","overlap":"twice","task":{"workload":"w"}}`, 400, `overlap`},
		{`{"name":"c","cron":"@daily","tz":"Berlin","task":{"workload":"w"}}`, 400, `time zone`},
		{`{"name":"c","crom":"@daily","task":{"workload":"w"}}`, 400, `crom`},
		{`{"name":"c","at":"2020-01-01T00:00:00Z","task":{"workload":"w"}}`, 400, `is in the past`},
	}
	for _, c := range cases {
		status, _, text := post(t, up.tcp+"/v1/schedules", c.body, http.Header{"Content-Type": {"application/json"}})
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s; want %d and %s", c.body, status, text, c.status, c.want)
		}
	}
}

func encoded(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
