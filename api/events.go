package api

import (
	"cmp"
	"context"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Events takes events in and says where they go. The event package gives it.
type Events interface {
	EventEmitter
	EventReader
	EventMapper
}

// EventEmitter accepts events.
type EventEmitter interface {
	// Emit returns when the events are on disk.
	Emit(ctx context.Context, space string, events []mayfly.Event) (event.Accepted, error)

	// EmitFrom is Emit for a program in a container.
	EmitFrom(ctx context.Context, who mayfly.Identity, events []mayfly.Event) (event.Accepted, error)

	// Replay has events delivered again.
	Replay(ctx context.Context, r event.Replay) (event.Replayed, error)
}

// EventReader tells what events there are.
type EventReader interface {
	// List returns events, the newest first, and the number before which to go on.
	List(ctx context.Context, f event.Filter) (list []mayfly.AcceptedEvent, next uint64, err error)

	// Get returns the newest event of an id, or one by its key.
	Get(ctx context.Context, space, id string) (mayfly.AcceptedEvent, error)

	// Tail lets somebody look on, who closes it.
	Tail(filter mayfly.EventMapping) (*event.Tail, error)
}

// EventMapper keeps mappings.
type EventMapper interface {
	Map(ctx context.Context, m mayfly.EventMapping) (mayfly.EventMapping, error)
	Unmap(ctx context.Context, space, target, eventType string) (int, error)
	Triggers(ctx context.Context, space string) ([]mayfly.TriggerState, error)
}

// events registers everything about events.
func (r *router) events() {
	service := r.services.Events
	r.eventEmits()
	r = needing(r, service, "events")
	r.eventReads(service)
	r.eventMappings(service)
}

func (r *router) eventEmits() {
	text := &huma.Schema{Type: huma.TypeString}
	media := func(schema *huma.Schema) *huma.MediaType { return &huma.MediaType{Schema: schema} }
	one := &huma.Schema{Ref: "#/components/schemas/Event"}
	emit := operation{id: "emit-events", route: "POST /v1/events", summary: "Emit CloudEvents, all or none",
		detail: "CloudEvents 1.0 in the binary, structured or batch form of the HTTP binding. What is answered for is on disk: " +
			"202 where some of it is new, 200 where all of it was known by source and id.",
		body: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			event.ContentEvent: media(one), event.ContentBatch: media(&huma.Schema{Type: huma.TypeArray, Items: one}),
			"*/*": media(&huma.Schema{Type: huma.TypeString, Format: "binary", Description: "the data, with the attributes in ce- headers"}),
		}}}
	params := []*huma.Param{
		{Name: "space", In: "query", Schema: text, Description: "the space"},
		{Name: "ce-specversion", In: "header", Schema: text, Description: "1.0, in binary form; further attributes are ce-id, ce-source, ce-type..."},
	}
	answer := &huma.Response{Description: "accepted", Content: map[string]*huma.MediaType{"application/json": media(r.schema(reflect.TypeFor[client.EventsAccepted]()))}}
	known := *answer
	known.Description = "known already"
	r.raw(emit, []string{http.MethodPost}, params, map[string]*huma.Response{"202": answer, "200": &known}, func(w http.ResponseWriter, req *http.Request) {
		done, err := r.emit(w, req)
		if err != nil {
			r.fail(w, req, err)
			return
		}
		status := http.StatusAccepted
		if done.New == 0 {
			status = http.StatusOK
		}
		writeJSON(w, status, client.EventsAccepted{Accepted: done.New, Known: done.Known})
	})
}

func (r *router) emit(w http.ResponseWriter, req *http.Request) (done event.Accepted, err error) {
	if err := need(r.services.Events, "events"); err != nil {
		return done, err
	}
	space, err := spaceOf(req)
	if err != nil {
		return done, err
	}
	body, err := readBody(w, req, event.MaxBody)
	if err != nil {
		return done, err
	}
	who, inside := req.Context().Value(askedInside{}).(mayfly.Identity)
	if !inside {
		events, err := event.Decode(req.Header, body, nil)
		if err != nil {
			return done, err
		}
		return r.services.Events.Emit(req.Context(), space, events)
	}
	events, err := event.Decode(req.Header, body, func(ev *mayfly.Event) {
		if ev.Source == "" {
			ev.Source = event.SourceOf(who.Space, cmp.Or(who.Workload, who.Instance))
		}
	})
	if err != nil {
		return done, err
	}
	return r.services.Events.EmitFrom(req.Context(), who, events)
}

// EventQuery is the part of an operation's input that selects events.
type EventQuery struct {
	InSpace
	Type   string   `query:"type" maxLength:"1024" doc:"whole, or a prefix and *"`
	Source string   `query:"source" maxLength:"1024" doc:"whole, or a prefix and *"`
	Filter []string `query:"filter,explode" maxItems:"32" doc:"NAME=VALUE of an attribute, or of a field of JSON data; again for more"`
	SQL    string   `query:"sql" maxLength:"4096" doc:"a CloudEvents SQL expression that is true"`
}

// mapping is what selects the events.
func (q *EventQuery) mapping() (mayfly.EventMapping, error) {
	m := mayfly.EventMapping{Space: q.Space, Type: q.Type, Source: q.Source, SQL: q.SQL}
	for _, text := range q.Filter {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return m, mayfly.Errorf(mayfly.Invalid, "query.filter: %.100q is not NAME=VALUE", text)
		}
		if m.Filter == nil {
			m.Filter = map[string]string{}
		}
		m.Filter[name] = value
	}
	return m, nil
}

func (r *router) eventReads(service Events) {
	answerWith(r, operation{id: "list-events", route: "GET /v1/events", summary: "List events that are kept, newest first"},
		func(ctx context.Context, in *struct {
			EventQuery
			InPage
			ID      string    `query:"id" maxLength:"1024" doc:"of this id, or this key"`
			Since   time.Time `query:"since" doc:"accepted then or later"`
			Until   time.Time `query:"until" doc:"accepted before"`
			Replays bool      `query:"replays" doc:"those that were accepted for a replay, too"`
		}) (page client.Page[mayfly.AcceptedEvent], err error) {
			m, err := in.mapping()
			if err != nil {
				return page, err
			}
			f := event.Filter{Space: in.Space, Type: m.Type, Source: m.Source, Filter: m.Filter, SQL: m.SQL, ID: in.ID, Since: in.Since, Until: in.Until, Limit: in.Limit, Replays: in.Replays}
			if in.InPage.Next != "" {
				if f.Before, err = strconv.ParseUint(in.InPage.Next, 10, 64); err != nil {
					return page, mayfly.Errorf(mayfly.Invalid, "query.next: %.40q is not what a page gave", in.InPage.Next)
				}
			}
			list, next, err := service.List(ctx, f)
			page.Items = append([]mayfly.AcceptedEvent{}, list...)
			if next != 0 {
				page.Next = strconv.FormatUint(next, 10)
			}
			return page, err
		})
	answerWith(r, operation{id: "get-event", route: "GET /v1/events/{id}", summary: "Get an event, the newest of its id"},
		func(ctx context.Context, in *struct {
			InSpace
			ID string `path:"id" maxLength:"1024" doc:"its id, or its key"`
		}) (mayfly.AcceptedEvent, error) {
			return service.Get(ctx, in.Space, in.ID)
		})
	streamed(r, operation{id: "tail-events", route: "GET /v1/watch/events", summary: "Watch events as they are delivered, from now on",
		detail: "Whoever takes them too slowly is told how many were dropped."},
		func(ctx context.Context, in *EventQuery, out *stream) (nothing, error) {
			m, err := in.mapping()
			if err != nil {
				return nothing{}, err
			}
			tail, err := service.Tail(m)
			if err != nil {
				return nothing{}, err
			}
			defer tail.Close()
			return nothing{}, sendTail(ctx, tail, out)
		})
	answerWith(r, operation{id: "replay-events", route: "POST /v1/events/replay", summary: "Deliver events again",
		detail: "They take their turn behind what was accepted until now, and are delivered to the mappings that match them now."},
		func(ctx context.Context, in *struct {
			InSpace
			Body client.Replay
		}) (client.EventReplay, error) {
			b := in.Body
			done, err := service.Replay(ctx, event.Replay{Space: in.Space, Since: b.Since, ID: b.ID, From: b.From, To: b.To, Type: b.Type, Map: b.Map})
			return client.EventReplay{ID: done.ID, Events: done.Events}, err
		})
}

// sendTail sends events until ctx ends.
func sendTail(ctx context.Context, tail *event.Tail, out *stream) error {
	if err := out.send(client.Message{}); err != nil { // whoever asked knows now that nothing is missed
		return err
	}
	for {
		list, dropped, err := tail.Next(ctx)
		if err != nil {
			return err
		}
		if dropped > 0 {
			if err := out.send(client.Message{Dropped: dropped}); err != nil {
				return err
			}
		}
		for i := range list {
			if err := out.send(client.Message{Event: &list[i]}); err != nil {
				return err
			}
		}
	}
}

func (r *router) eventMappings(service Events) {
	answerWith(r, operation{id: "map-event", route: "POST /v1/event-mappings", summary: "Run a function for events, or push them to a URL", status: http.StatusCreated,
		detail: "It gets what is accepted from now on. One with the same target, type, source and filter is replaced."},
		func(ctx context.Context, in *struct {
			InSpace
			Body mayfly.EventMapping
		}) (mayfly.EventMapping, error) {
			m := in.Body
			var err error
			if m.Space, err = sameSpace(m.Space, in.Space); err != nil {
				return m, err
			}
			return service.Map(ctx, m)
		})
	answerWith(r, operation{id: "unmap-event", route: "DELETE /v1/event-mappings", summary: "Take mappings away; what was delivered goes on"},
		func(ctx context.Context, in *struct {
			InSpace
			Target string `query:"target" required:"true" maxLength:"2048" doc:"the function, the URL, or the mapping's id"`
			Type   string `query:"type" maxLength:"1024" doc:"of this type only, as it was mapped"`
		}) (client.Unmapped, error) {
			n, err := service.Unmap(ctx, in.Space, in.Target, in.Type)
			return client.Unmapped{Mappings: n}, err
		})
	answerWith(r, operation{id: "list-triggers", route: "GET /v1/triggers", summary: "List the mappings of events, each with how far it has come"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.TriggerState], error) {
			list, err := service.Triggers(ctx, in.Space)
			return page(list, in.InPage, false, func(t mayfly.TriggerState) string { return t.Target() + " " + t.Type + " " + t.ID }), err
		})
}

// eventSchema is an event in the CloudEvents JSON format, which its type writes
// and reads itself.
func eventSchema() *huma.Schema {
	text := func(format, doc string) *huma.Schema {
		return &huma.Schema{Type: huma.TypeString, Format: format, Description: doc}
	}
	return &huma.Schema{
		Type: huma.TypeObject, Description: "a CloudEvent 1.0 in the JSON format", AdditionalProperties: true,
		Required: []string{"specversion", "id", "source", "type"},
		Properties: map[string]*huma.Schema{
			"specversion": {Type: huma.TypeString, Enum: []any{"1.0"}},
			"id":          text("", "unique together with source"), "source": text("uri-reference", "where it happened"),
			"type": text("", "such as photo.uploaded"), "subject": text("", "what it is about"), "time": text("date-time", "when it happened"),
			"datacontenttype": text("", "media type of data"), "dataschema": text("uri", ""),
			"data": {Description: "any value"}, "data_base64": text("base64", "instead of data"),
		},
	}
}
