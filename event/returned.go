package event

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Returned accepts what a task has returned, where that is an event, or several: an
// answer in one of the forms of the HTTP binding, or an object or array of objects
// with the specversion 1.0 as the value of a handler or the output of a program. It
// is called before the end of the task is on disk, and again after a crash in
// between; an event of the same task and place is accepted once. An event that lacks
// id, source or time gets those of the task. What is no valid event is passed over.
func (e *Events) Returned(ctx context.Context, task *mayfly.Task, header http.Header, output []byte) error {
	events := returned(task, header, output)
	if len(events) == 0 {
		return nil
	}
	hops := hopsOf(task) + 1
	if hops > e.opts.MaxHops {
		e.log.Warn("what a function returned is not published: it comes of too many deliveries", "task", task.ID, "hops", hops)
		return nil
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	var list []bus.Record
	for i := range min(len(events), MaxBatch) {
		ev := &events[i]
		if hops > 1 {
			ev.SetAttribute(mayfly.HopsAttribute, strconv.Itoa(hops))
		}
		err := ev.Check()
		if err == nil && isPlatform(ev.Type) {
			err = mayfly.Errorf(mayfly.Invalid, "its type is one of the platform's own")
		}
		var rec bus.Record
		if err == nil {
			key := mayfly.IDOf("returned", task.Space, task.ID, strconv.Itoa(i))
			rec, err = encode(task.Space, key, at, ev, nil)
		}
		if err != nil {
			e.log.Warn("what a function returned is not published", "task", task.ID, "number", i+1, "error", err)
			continue
		}
		list = append(list, rec)
	}
	if len(list) == 0 {
		return nil
	}
	_, err := e.accept(ctx, list)
	return err
}

// SourceOf is the source of events of a workload that names none.
func SourceOf(space, workload string) string {
	return "/mayfly/" + url.PathEscape(space) + "/" + url.PathEscape(workload)
}

// returned reads events from what was returned, leniently: what is none is none.
func returned(task *mayfly.Task, header http.Header, output []byte) []mayfly.Event {
	var events []mayfly.Event
	media := header.Get("Content-Type")
	switch {
	case header.Get("Ce-Specversion") != "":
		list, err := Decode(header, output, func(ev *mayfly.Event) { defaults(ev, task, 0) })
		if err != nil {
			return nil
		}
		return list
	case media != "" && !jsonMedia(media):
		return nil
	default:
		events = objects(output)
	}
	for i := range events {
		defaults(&events[i], task, i)
	}
	return events
}

// jsonMedia reports whether events in JSON may stand behind a Content-Type.
func jsonMedia(media string) bool {
	ev := mayfly.Event{DataContentType: media}
	return ev.JSONData()
}

// objects are the events that a JSON text is: one, or an array of nothing else.
func objects(text []byte) []mayfly.Event {
	text = bytes.TrimSpace(text)
	if len(text) == 0 || !bytes.Contains(text, []byte(`"specversion"`)) {
		return nil
	}
	raw := []json.RawMessage{text}
	if text[0] == '[' && json.Unmarshal(text, &raw) != nil || text[0] != '[' && text[0] != '{' {
		return nil
	}
	events := make([]mayfly.Event, len(raw))
	for i, one := range raw {
		if json.Unmarshal(one, &events[i]) != nil {
			return nil
		}
	}
	return events
}

// defaults sets what an event of a task does not say.
func defaults(ev *mayfly.Event, task *mayfly.Task, i int) {
	if ev.ID == "" {
		ev.ID = task.ID
		if i > 0 {
			ev.ID += "-" + strconv.Itoa(i)
		}
	}
	if ev.Source == "" {
		ev.Source = SourceOf(task.Space, task.Workload)
	}
	if ev.Time.IsZero() {
		ev.Time = time.Now().UTC().Truncate(time.Millisecond)
	}
}
