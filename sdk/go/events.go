package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
)

// ContentBatch is the media type of several events.
const ContentBatch = "application/cloudevents-batch+json"

// MaxEvents is how many events are emitted at once at most.
const MaxEvents = 1000

// EventsAccepted says what became of events that were emitted together.
type EventsAccepted struct {
	Accepted int `json:"accepted" doc:"events that are on disk now"`
	Known    int `json:"known" doc:"that were there already, by source and id"`
}

// Emit emits events, at most MaxEvents, in their order. What is returned for is on
// disk. An event without an ID gets a new one, and one without a Time the present,
// in what is sent. Emitting the same ID and Source again is safe. In a container an
// event without a Source gets the workload's.
func (c *Client) Emit(ctx context.Context, events ...mayfly.Event) (EventsAccepted, error) {
	list := make([]mayfly.Event, len(events))
	for i, ev := range events {
		if ev.ID == "" {
			ev.ID = mayfly.NewID()
		}
		if ev.Time.IsZero() {
			ev.Time = time.Now().UTC()
		}
		list[i] = ev
	}
	body, err := json.Marshal(list)
	if err != nil {
		return EventsAccepted{}, fmt.Errorf("encode events: %w", err)
	}
	return ask[EventsAccepted](ctx, c, call{
		method: http.MethodPost, path: []string{"events"}, raw: bytes.NewReader(body), size: int64(len(body)), content: ContentBatch,
	})
}

// EventFilter selects events. Empty fields select all.
type EventFilter struct {
	Type    string            // whole, or a prefix and *
	Source  string            // the same
	ID      string            // the event's own id, or its key
	Filter  map[string]string // attributes, or else fields of JSON data
	SQL     string            // a CloudEvents SQL expression
	Since   time.Time         // accepted then or later
	Until   time.Time         // accepted before
	Limit   int               // 100 if zero
	Replays bool              // those that were accepted for a replay, too
}

func (f *EventFilter) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{"type": f.Type, "source": f.Source, "id": f.ID, "sql": f.SQL} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range f.Filter {
		query.Add("filter", name+"="+value)
	}
	return query
}

// ListEvents returns events, the newest first.
func (c *Client) ListEvents(ctx context.Context, f EventFilter) ([]mayfly.AcceptedEvent, error) {
	query := f.query()
	if !f.Since.IsZero() {
		query.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		query.Set("until", f.Until.Format(time.RFC3339Nano))
	}
	if f.Replays {
		query.Set("replays", strconv.FormatBool(true))
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	return first[mayfly.AcceptedEvent](ctx, c, "events", query, limit)
}

// GetEvent returns an event by its id, the newest of that id, or by its key.
func (c *Client) GetEvent(ctx context.Context, id string) (mayfly.AcceptedEvent, error) {
	return ask[mayfly.AcceptedEvent](ctx, c, call{method: http.MethodGet, path: []string{"events", id}})
}

// TailEvents gives events to each as they are delivered, from now on, until ctx
// ends or each fails. Where events come faster than each takes them, some are left
// out: dropped says how many before the event, which is nil then.
func (c *Client) TailEvents(ctx context.Context, f EventFilter, each func(ev *mayfly.AcceptedEvent, dropped int) error) error {
	k := call{method: http.MethodGet, path: []string{"watch", "events"}, query: f.query()}
	return c.stream(ctx, k, func(m Message) error {
		if m.Event == nil && m.Dropped == 0 {
			return nil
		}
		return each(m.Event, m.Dropped)
	}, nil)
}

// Replay says which events are to be delivered again. One of Since, ID and From is
// set.
type Replay struct {
	Since time.Time `json:"since,omitzero" doc:"those accepted then or later"`
	ID    string    `json:"id,omitempty" doc:"this one only, by id or key"`
	From  string    `json:"from,omitempty" doc:"this one, by id or key, and those after it"`
	To    time.Time `json:"to,omitzero" doc:"those accepted before; now if it is left out"`
	Type  string    `json:"type,omitempty" doc:"whole, or a prefix and *"`
	Map   string    `json:"map,omitempty" doc:"the mapping that gets them, by its id, function or URL; all that match if it is left out"`
}

// EventReplay says what a replay has done.
type EventReplay struct {
	ID     string `json:"id"`
	Events int    `json:"events" doc:"that are delivered again"`
}

// ReplayEvents has events delivered again.
func (c *Client) ReplayEvents(ctx context.Context, r Replay) (EventReplay, error) {
	return ask[EventReplay](ctx, c, call{method: http.MethodPost, path: []string{"events", "replay"}, send: r})
}

// MapEvent keeps a mapping, which gets what is accepted from now on. One with the
// same target, type, source and filter is replaced.
func (c *Client) MapEvent(ctx context.Context, m mayfly.EventMapping) (mayfly.EventMapping, error) {
	return ask[mayfly.EventMapping](ctx, c, call{method: http.MethodPost, path: []string{"event-mappings"}, send: m})
}

// Unmapped says how many mappings were taken away.
type Unmapped struct {
	Mappings int `json:"mappings"`
}

// UnmapEvent takes away the mappings to a function, or a URL, that are of a type;
// all of them where it is empty. The target may be a mapping's id too.
func (c *Client) UnmapEvent(ctx context.Context, target, eventType string) (Unmapped, error) {
	query := url.Values{"target": {target}}
	if eventType != "" {
		query.Set("type", eventType)
	}
	return ask[Unmapped](ctx, c, call{method: http.MethodDelete, path: []string{"event-mappings"}, query: query})
}

// Triggers returns the mappings of events, each with how far it has come.
func (c *Client) Triggers(ctx context.Context) ([]mayfly.TriggerState, error) {
	return all[mayfly.TriggerState](ctx, c, "triggers", nil)
}
