package manifest

import (
	"maps"
	"slices"
	"strconv"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/cesql"
)

const (
	maxEvents   = 100 // mappings of one function
	eventHint   = `write events: [{type: photo.uploaded, filter: {bucket: holiday}}]`
	emitHint    = `write emit: TYPE, or emit: {type: TYPE, subject: ...}`
	maxDelivery = 10_000 // at once
)

// events reads which events run a function.
func (d *decoder) events(m map[string]any) []mayfly.EventMapping {
	var all []mayfly.EventMapping
	for i, item := range d.list(m, "events", maxEvents, eventHint) {
		sub := d.item("events", i)
		under, ok := item.(map[string]any)
		if name, text := item.(string); text {
			under, ok = map[string]any{"type": name}, true
			sub.at = d.at.child("events") // of the list, as the name has no keys
		}
		if !ok {
			sub.fail("", eventHint, "an event must be a mapping or a type")
			d.done(sub)
			return nil
		}
		all = append(all, sub.event(under))
		d.done(sub)
	}
	return all
}

// checkLimits refuses a key beside a mapping's concurrency: a task counts for one of
// them only.
func (d *decoder) checkLimits(f *Workload) {
	for i := range f.Events {
		if d.err == nil && f.Key.Max > 0 && f.Events[i].Concurrency > 0 {
			d.fail("key", "leave one of the two out, or set the concurrency of the function, which holds beside its key",
				"key and the concurrency of an event exclude each other")
		}
	}
}

func (d *decoder) event(m map[string]any) (e mayfly.EventMapping) {
	if d.err = d.keys(m, []string{"type", "source", "filter", "concurrency", "retries", "orderBy"}, nil); d.err != nil {
		return e
	}
	e.Type, e.Source, e.OrderBy = d.text(m, "type"), d.text(m, "source"), d.text(m, "orderBy")
	if e.Type == "" {
		d.fail("", eventHint, "the type of an event is missing")
	}
	e.Concurrency = int(d.integer(m, "concurrency", 1, maxDelivery))
	if m["retries"] != nil {
		if e.Retries = int(d.integer(m, "retries", 0, maxRetries)); e.Retries == 0 {
			e.Retries = -1
		}
	}
	switch filter := m["filter"].(type) {
	case nil:
	case string:
		if _, err := cesql.Parse(filter); err != nil {
			d.failAs("filter", err)
		}
		e.SQL = filter
	case map[string]any:
		e.Filter = d.under("filter").scalars(d, filter)
	default:
		d.fail("filter", "write filter: {NAME: VALUE}, or an expression of CloudEvents SQL", "filter cannot be a list")
	}
	return e
}

// scalars are the texts of a mapping; its error is parent's.
func (d *decoder) scalars(parent *decoder, m map[string]any) map[string]string {
	all := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		switch v := m[name].(type) {
		case string:
			all[name] = v
		case bool:
			all[name] = strconv.FormatBool(v)
		default:
			all[name] = d.text(m, name)
		}
	}
	parent.done(d)
	return all
}

// emit reads the event of a schedule.
func (d *decoder) emit(m map[string]any) *mayfly.Event {
	switch v := m["emit"].(type) {
	case nil:
		return nil
	case string:
		return d.checkEmit(m, "emit", &mayfly.Event{Type: v})
	case map[string]any:
		sub := d.under("emit")
		if sub.err = sub.keys(v, []string{"type", "source", "subject", "data", "contentType", "extensions"}, nil); sub.err != nil {
			d.done(sub)
			return nil
		}
		ev := &mayfly.Event{Type: sub.text(v, "type"), Source: sub.text(v, "source"), Subject: sub.text(v, "subject"), DataContentType: sub.text(v, "contentType")}
		if v["data"] != nil {
			ev.Data = sub.payload(map[string]any{"payload": v["data"]})
			if _, text := v["data"].(string); !text && ev.DataContentType == "" {
				ev.DataContentType = "application/json"
			} else if ev.DataContentType == "" {
				ev.DataContentType = "text/plain; charset=utf-8"
			}
		}
		if extensions, ok := v["extensions"].(map[string]any); ok {
			ev.Extensions = sub.under("extensions").scalars(sub, extensions)
		}
		d.done(sub)
		return d.checkEmit(m, "emit", ev)
	}
	d.fail("emit", emitHint, "emit must be a type or a mapping")
	return nil
}

// checkEmit checks an event as it would be with what a tick adds.
func (d *decoder) checkEmit(m map[string]any, key string, ev *mayfly.Event) *mayfly.Event {
	whole := *ev
	whole.ID = "tick"
	if whole.Source == "" {
		whole.Source = "/"
	}
	if err := whole.Check(); d.err == nil && err != nil {
		d.failAs(key, err)
	}
	return ev
}
