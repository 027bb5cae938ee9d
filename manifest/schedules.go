package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

const (
	maxSchedules = 100 // of one function
	scheduleHint = `write schedules: [{cron: "0 3 * * *", tz: Europe/Berlin}]`
)

// schedules reads when tasks of a function are submitted by themselves. The
// first that has no name is called like the function, others get a number.
func (r *reader) schedules(d *decoder, m map[string]any, function string) []mayfly.Schedule {
	var all []mayfly.Schedule
	for i, item := range d.list(m, "schedules", maxSchedules, scheduleHint) {
		sub := d.item("schedules", i)
		under, ok := item.(map[string]any)
		if line, text := item.(string); text {
			under, ok = map[string]any{"cron": line}, true
			sub.at = d.at.child("schedules") // of the list, as the line has no keys
		}
		if !ok {
			sub.fail("", scheduleHint, "a schedule must be a mapping or a line of cron")
			d.done(sub)
			return nil
		}
		s := r.schedule(sub, under)
		switch {
		case s.Name == "" && i == 0:
			s.Name = function
		case s.Name == "":
			s.Name = fmt.Sprintf("%s-%d", function, i+1)
		}
		sub.checkSchedule(s, function)
		for _, other := range append(r.allSchedules(), all...) {
			if other.Name == s.Name {
				sub.fail("", "give one another name", "there are two schedules %q", s.Name)
			}
		}
		d.done(sub)
		all = append(all, s)
	}
	return all
}

func (r *reader) allSchedules() (all []mayfly.Schedule) {
	for _, f := range r.out.Functions {
		all = append(all, f.Schedules...)
	}
	return all
}

func (r *reader) schedule(d *decoder, m map[string]any) (s mayfly.Schedule) {
	if d.err = d.keys(m, []string{"name", "cron", "tz", "every", "at", "start", "end", "times", "jitter", "overlap", "catchUp", "payload", "emit"}, nil); d.err != nil {
		return s
	}
	s.Name, s.Cron, s.TimeZone = d.text(m, "name"), d.text(m, "cron"), d.text(m, "tz")
	zone := d.cron(m, s)
	s.Every = d.duration(m, "every", math.MaxInt64)
	s.At, s.Start, s.End = d.time(m, "at", zone), d.time(m, "start", zone), d.time(m, "end", zone)
	s.Times = int(d.integer(m, "times", 1, math.MaxInt32))
	s.Jitter = d.duration(m, "jitter", schedule.MaxJitter)
	s.CatchUp = d.duration(m, "catchUp", math.MaxInt64)
	s.Overlap = mayfly.Overlap(d.oneOf(m, "overlap", "skip", "queue", "replace"))
	s.Task.Payload = d.payload(m)
	s.Emit = d.emit(m)
	return s
}

// cron checks the line and its zone, which it returns.
func (d *decoder) cron(m map[string]any, s mayfly.Schedule) *time.Location {
	if m["cron"] != nil {
		if _, err := schedule.ParseCron(s.Cron); err != nil {
			d.failAs("cron", err)
		}
	}
	zone, err := new(schedule.Zones).Load(s.TimeZone)
	if err != nil {
		d.failAs("tz", err)
	}
	return zone
}

// checkSchedule checks what belongs together.
func (d *decoder) checkSchedule(s mayfly.Schedule, function string) {
	s.Space, s.Task.Workload, s.Created = mayfly.DefaultSpace, function, time.Unix(0, 0)
	if s.Emit != nil {
		s.Task.Workload = ""
	}
	if _, err := schedule.NewTimetable(s, new(schedule.Zones)); err != nil {
		d.failAs("", err)
	}
}

// failAs sets the error to one that says what is wrong, and what to do.
func (d *decoder) failAs(key string, err error) {
	var e *mayfly.Error
	if !errors.As(err, &e) {
		d.fail(key, "", "%s", err)
		return
	}
	said := *e
	said.Hint = ""
	d.fail(key, e.Hint, "%s", said.Error())
}

// time reads a time that is in the zone unless it names one.
func (d *decoder) time(m map[string]any, key string, zone *time.Location) time.Time {
	if m[key] == nil {
		return time.Time{}
	}
	text := d.text(m, key)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if zone == nil {
			break // it has failed already
		}
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t.UTC()
		}
	}
	d.fail(key, "write it like 2026-01-31T12:00:00Z", "%s %q is not a time", key, text)
	return time.Time{}
}

// payload is a text as it is, and anything else as JSON.
func (d *decoder) payload(m map[string]any) []byte {
	switch v := m["payload"].(type) {
	case nil:
		return nil
	case string:
		return []byte(v)
	default:
		text, err := json.Marshal(v)
		if err != nil {
			d.fail("payload", "", "payload cannot be written as JSON: %s", err)
		}
		return text
	}
}
