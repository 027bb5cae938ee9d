package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

// Bounds of what the dispatcher does at once.
const (
	dispatchEvents = 256
	dispatchBytes  = 8 << 20
	saveEvery      = 250 * time.Millisecond // progress, at most
)

// Labels of tasks that are deliveries.
const (
	LabelMapping = "mayfly.mapping" // the mapping's id
	LabelEvent   = "mayfly.event"   // the event's key
)

// dispatch gives events to those who want them, until ctx ends. What it starts is
// waited for in parts.
func (e *Events) dispatch(ctx context.Context, parts *sync.WaitGroup) {
	changes := e.changes()
	e.startLines(ctx, parts)
	for ctx.Err() == nil {
		e.startLines(ctx, parts)
		more, err := e.dispatchSome(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			e.log.Warn("events wait on; it is tried again", "error", err)
			pause(ctx, retryPause)
			continue
		case more:
			continue
		}
		select {
		case <-e.wake:
		case <-changes:
			changes = e.changes()
		case <-ctx.Done():
		}
	}
}

// changes is closed when the mappings may have changed.
func (e *Events) changes() <-chan struct{} {
	return e.store.EventMappings.Changed()
}

// dispatchSome gives the next events on, and reports whether there were any.
func (e *Events) dispatchSome(ctx context.Context) (more bool, err error) {
	e.mu.Lock()
	cursor := e.cursor
	e.mu.Unlock()
	var list []mayfly.AcceptedEvent
	bytes := 0
	last, end, whole := cursor, e.journal.Last(), true
	err = e.journal.After(ctx, cursor, func(r bus.Record) bool {
		last = r.Position
		a, err := decode(&r)
		if err != nil {
			e.log.Error("an event is passed over", "error", err)
			return true
		}
		list = append(list, a)
		bytes += len(r.Data) + len(r.Head)
		whole = len(list) < dispatchEvents && bytes < dispatchBytes
		return whole
	})
	if err != nil {
		return false, unavailable("read the events", err)
	}
	if whole {
		last = max(last, end) // where there is nothing more
	}
	if last == cursor {
		return false, nil
	}
	if err := e.give(ctx, list); err != nil {
		return false, err
	}
	e.mu.Lock()
	e.cursor = last
	e.mu.Unlock()
	wakeUp(e.dirty)
	return len(list) > 0, nil
}

// delivery is an event for a mapping.
type delivery struct {
	m     *mapping
	event *mayfly.AcceptedEvent
}

// give gives events to mappings and to those who look on.
func (e *Events) give(ctx context.Context, list []mayfly.AcceptedEvent) error {
	all := e.current()
	var out []delivery
	targets := map[string]uint64{}
	for i := range list {
		all.matching(&list[i], func(m *mapping) {
			if m.lined() {
				targets[m.ID] = list[i].Number
			} else {
				out = append(out, delivery{m, &list[i]})
			}
		})
	}
	for len(out) > 0 {
		n, size := 0, 0
		for n < len(out) && n < queue.MaxBatch && (n == 0 || size < dispatchBytes) {
			size += len(out[n].event.Event.Data)
			n++
		}
		if err := e.submit(ctx, out[:n]); err != nil {
			return err
		}
		out = out[n:]
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, number := range targets {
		if l := e.lines[id]; l != nil {
			l.reach(number)
		}
	}
	for t := range e.tails {
		t.offer(list)
	}
	return nil
}

// submit makes tasks of deliveries, and fails when the queue cannot take them
// now. One that it never will is noted, and passed over.
func (e *Events) submit(ctx context.Context, list []delivery) error {
	subs := make([]mayfly.Submission, len(list))
	for i, d := range list {
		subs[i] = submission(d)
	}
	answers := e.queue.Submit(ctx, subs)
	if answers[0].Err != nil && len(list) > 1 { // one may be to blame for all
		for i := range subs {
			answers[i] = e.queue.Submit(ctx, subs[i:i+1])[0]
		}
	}
	var again error
	for i, a := range answers {
		again = errors.Join(again, e.submitted(list[i], a))
	}
	return again
}

// submitted notes what became of a delivery. Its error is for what is to be tried
// again.
func (e *Events) submitted(d delivery, a queue.Accepted) error {
	switch kind := mayfly.KindOf(a.Err); {
	case a.Err == nil:
		if a.New {
			e.count(d.m.ID, func(s *stat) { s.delivered++ })
		}
		return nil
	case kind == mayfly.Unavailable || kind == mayfly.Busy || kind == mayfly.Internal || kind == mayfly.TimedOut:
		return a.Err
	default:
		e.failed(d.m, fmt.Sprintf("event %d made no task: %s", d.event.Number, a.Err))
		e.count(d.m.ID, func(s *stat) { s.refuse(d.event.Number, a.Err) })
		return nil
	}
}

// submission is the task that a delivery is.
func submission(d delivery) mayfly.Submission {
	m, ev := d.m, &d.event.Event
	sub := mayfly.Submission{
		Space: m.Space, Workload: m.Workload, Payload: ev.Data, Request: Request(ev),
		Key:    deliveryKey(m, d.event),
		Labels: map[string]string{LabelMapping: m.ID, LabelEvent: d.event.Key},
	}
	sub.Retries.Max = m.Retries
	if m.Concurrency > 0 {
		sub.Limit = mayfly.KeyLimit{Field: "mapping:" + m.ID, Max: m.Concurrency}
	}
	return sub
}

// deliveryKey keeps the task of a delivery single.
func deliveryKey(m *mapping, a *mayfly.AcceptedEvent) string { return "event/" + m.ID + "/" + a.Key }

// Request is the HTTP request that carries an event in binary mode.
func Request(ev *mayfly.Event) *mayfly.Request {
	r := &mayfly.Request{Target: "/", Header: map[string]string{}}
	ev.Attributes(func(name, value string) {
		if name == "datacontenttype" {
			r.Header["Content-Type"] = value
			return
		}
		r.Header[http.CanonicalHeaderKey("ce-"+name)] = mayfly.HeaderValue(value)
	})
	return r
}

// cursorRecord is how far the dispatcher has come.
type cursorRecord struct {
	Cursor uint64 `json:"cursor"`
}

// cursorName stands for a mapping in the subject of the cursor, in no space.
const cursorName = "cursor"

func (e *Events) loadCursor(ctx context.Context) error {
	if err := e.readProgress(ctx, noSpace, cursorName, &e.saved); err != nil {
		return err
	}
	e.cursor = e.saved.Cursor
	return nil
}

// noSpace stands for a space in what is of none.
const noSpace = "_"

// readProgress reads a record of progress, and leaves into as it is where there
// is none.
func (e *Events) readProgress(ctx context.Context, space, name string, into any) error {
	msg, err := e.bus.Last(ctx, bus.DeliveriesStream, bus.DeliveredSubject(space, name))
	if errors.Is(err, bus.ErrNoMessage) {
		return nil
	}
	if err != nil {
		return unavailable("read how far events were delivered", err)
	}
	if err := json.Unmarshal(msg.Data, into); err != nil {
		return fmt.Errorf("read how far events were delivered to %s: %w", name, err)
	}
	return nil
}

func (e *Events) writeProgress(ctx context.Context, space, name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode progress: %w", err)
	}
	return e.publish(ctx, bus.DeliveredSubject(space, name), data)
}

// publish writes a record of progress over the one before.
func (e *Events) publish(ctx context.Context, subject string, data []byte) error {
	if _, err := e.bus.JetStream().PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}); err != nil {
		return unavailable("write how far events were delivered", err)
	}
	return nil
}

// dropProgress removes the record of a mapping that is gone.
func (e *Events) dropProgress(ctx context.Context, space, name string) error {
	stream, err := e.deliveriesStream(ctx)
	if err != nil {
		return err
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(bus.DeliveredSubject(space, name))); err != nil {
		return unavailable("remove how far events were delivered", err)
	}
	return nil
}

// runSaves writes down how far all have come, now and then: not at once, for the
// disk has then to do with what the deliveries have become.
func (e *Events) runSaves(ctx context.Context) {
	for {
		select {
		case <-e.dirty:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, saveEvery) {
			return
		}
		e.save(ctx)
	}
}

// save writes down how far all have come. A line that cannot be written stays as
// it was on disk, and what it did since is repeated after a crash.
func (e *Events) save(ctx context.Context) {
	e.mu.Lock()
	cursor := e.cursor
	before := e.saved.Cursor
	lines := make([]*line, 0, len(e.lines))
	for _, l := range e.lines {
		lines = append(lines, l)
	}
	e.mu.Unlock()
	for _, l := range lines {
		if err := l.save(ctx, cursor); err != nil && ctx.Err() == nil {
			e.log.Warn("how far a mapping has come is not on disk; it is tried again", "mapping", l.id, "error", err)
			wakeUp(e.dirty)
		}
	}
	if cursor == before {
		return
	}
	if err := e.writeProgress(ctx, noSpace, cursorName, cursorRecord{cursor}); err != nil {
		if ctx.Err() == nil {
			e.log.Warn("how far events were delivered is not on disk; it is tried again", "error", err)
			wakeUp(e.dirty)
		}
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.saved.Cursor = cursor
}

// keepEvery is how often what is kept is looked at.
const keepEvery = time.Minute

// runKeep drops events that are too old or too many, and that nobody waits for.
func (e *Events) runKeep(ctx context.Context) {
	for {
		if err := e.keep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			e.log.Warn("old events cannot be dropped; it is tried again", "error", err)
		}
		if !pause(ctx, keepEvery) {
			return
		}
	}
}

// keep drops what is too much at a time.
func (e *Events) keep(ctx context.Context, at time.Time) error {
	oldest, bytes, err := e.journal.Oldest(ctx)
	if err != nil || oldest.IsZero() {
		return err
	}
	part := 0.0
	if bytes > e.opts.KeepBytes {
		part = 1 - float64(e.opts.KeepBytes)/float64(bytes)
	}
	before := at.Add(-e.opts.KeepAge)
	if part == 0 && !oldest.Before(before) {
		return nil
	}
	return e.journal.Drop(ctx, before, part, e.floor())
}

// floor is the first event that somebody has not taken, or behind the last.
func (e *Events) floor() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	low := e.cursor + 1
	for _, l := range e.lines {
		low = min(low, l.floor(e.cursor))
	}
	return low
}
