package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// MaxBatch is how many events are accepted at once.
const MaxBatch = 1000

// Accepted says what became of events that were emitted together.
type Accepted struct {
	New   int `json:"accepted"` // events that are on disk now
	Known int `json:"known"`    // that were there already, by source and id
}

// Emit accepts events of a space, in their order. All are checked before any is
// written: Invalid and TooLarge name the number of the bad one, from 1, and Denied
// is for one that comes of too many deliveries. After another error some may have
// been accepted, and to emit them again is safe.
func (e *Events) Emit(ctx context.Context, space string, events []mayfly.Event) (Accepted, error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return Accepted{}, err
	}
	if len(events) > MaxBatch {
		return Accepted{}, mayfly.Errorf(mayfly.TooLarge, "%d events at once, and the limit is %d", len(events), MaxBatch).WithHint("send them in parts")
	}
	list := make([]bus.Record, len(events))
	at := time.Now().UTC().Truncate(time.Microsecond)
	for i := range events {
		ev := &events[i]
		err := ev.Check()
		if err == nil && isPlatform(ev.Type) {
			err = mayfly.Errorf(mayfly.Invalid, "type %.100q: those that begin with %q are the platform's own", ev.Type, platformType)
		}
		if hops, _ := strconv.Atoi(ev.Extensions[mayfly.HopsAttribute]); err == nil && hops > e.opts.MaxHops {
			err = mayfly.Errorf(mayfly.Denied, "the event comes of %d deliveries, and the limit is %d", hops, e.opts.MaxHops).
				WithHint("a function seems to run for the events that it emits itself")
		}
		if err == nil {
			list[i], err = encode(space, keyOf(space, ev), at, ev, nil)
		}
		if err != nil {
			return Accepted{}, numbered(err, i, len(events))
		}
	}
	return e.accept(ctx, list)
}

// EmitFrom is Emit for a program in a container: what it emits while it runs for an
// event counts the deliveries that led to it.
func (e *Events) EmitFrom(ctx context.Context, who mayfly.Identity, events []mayfly.Event) (Accepted, error) {
	if who.Task && who.Run != "" {
		task, err := e.queue.Get(ctx, who.Space, who.Run)
		if err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			return Accepted{}, err
		}
		if hops := hopsOf(&task); hops > 0 {
			for i := range events {
				events[i].SetAttribute(mayfly.HopsAttribute, strconv.Itoa(hops+1))
			}
		}
	}
	return e.Emit(ctx, who.Space, events)
}

// keyOf stands for an event.
func keyOf(space string, ev *mayfly.Event) string {
	return mayfly.IDOf("event", space, ev.Source, ev.ID)
}

// numbered says which of several it is that is wrong.
func numbered(err error, i, of int) error {
	if of == 1 {
		return err
	}
	var e *mayfly.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("event %d of %d: %w", i+1, of, err)
	}
	said := *e
	if said.Err == nil {
		said.Text = fmt.Sprintf("event %d of %d: %s", i+1, of, said.Text)
	} else {
		said.Err = fmt.Errorf("event %d of %d: %w", i+1, of, said.Err)
	}
	return &said
}

// accept writes records, those that come at the same time with one sync.
func (e *Events) accept(ctx context.Context, list []bus.Record) (done Accepted, err error) {
	select {
	case <-e.journal.Loaded():
	case <-ctx.Done():
		return done, fmt.Errorf("accept events: %w", ctx.Err())
	}
	if e.bus.Room() != bus.RoomForAll {
		return done, mayfly.Errorf(mayfly.Busy, "the disk of the data directory is nearly full, so no events are accepted").WithHint("free some of it")
	}
	writes := make([]*bus.Write, len(list))
	for i, r := range list {
		writes[i] = e.journal.Write(r, 0)
	}
	defer wakeUp(e.wake)
	for i, w := range writes {
		fresh, err := e.landed(ctx, w, list[i])
		if err != nil {
			return done, err
		}
		if fresh {
			done.New++
		} else {
			done.Known++
		}
	}
	return done, nil
}

// landed waits for a write, and reports whether the event is new.
func (e *Events) landed(ctx context.Context, w *bus.Write, r bus.Record) (fresh bool, err error) {
	stall := time.NewTimer(10 * time.Second)
	defer stall.Stop()
	select {
	case <-w.Done():
		_, err = w.Position()
	case <-ctx.Done():
		return false, fmt.Errorf("accept an event: %w", ctx.Err())
	case <-stall.C:
		return false, mayfly.Errorf(mayfly.Unavailable, "accept an event: there is no answer yet").WithHint("emit it again")
	}
	if errors.Is(err, bus.ErrExists) { // or it is being written, by somebody who may fail
		_, err = e.journal.Put(ctx, r, 0)
		if errors.Is(err, bus.ErrExists) {
			return false, nil
		}
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, bus.ErrFull):
		return false, mayfly.Errorf(mayfly.Busy, "there is no room for more events: some are not delivered yet").
			WithHint("`mayfly triggers` shows who lags behind")
	}
	return false, unavailable("accept an event", err)
}

// head is what a record says besides the event's data.
type head struct {
	Space      string            `json:"s"`
	Accepted   time.Time         `json:"t"`
	Attributes map[string]string `json:"a"`
	Data       bool              `json:"d,omitempty"` // there are some, if only of no bytes
	Replay     *mayfly.Replayed  `json:"r,omitempty"`
}

func encode(space, key string, at time.Time, ev *mayfly.Event, replay *mayfly.Replayed) (bus.Record, error) {
	h := head{Space: space, Accepted: at, Attributes: map[string]string{}, Data: ev.Data != nil, Replay: replay}
	ev.Attributes(func(name, value string) { h.Attributes[name] = value })
	text, err := json.Marshal(h)
	if err != nil {
		return bus.Record{}, fmt.Errorf("encode event: %w", err)
	}
	return bus.Record{Key: key, Label: space, Head: text, Data: ev.Data}, nil
}

// decode reads a record, which is as encode wrote it.
func decode(r *bus.Record) (mayfly.AcceptedEvent, error) {
	var h head
	if err := json.Unmarshal(r.Head, &h); err != nil {
		return mayfly.AcceptedEvent{}, fmt.Errorf("read event %d: %w", r.Position, err)
	}
	a := mayfly.AcceptedEvent{Space: h.Space, Number: r.Position, Key: r.Key, Accepted: h.Accepted, Replay: h.Replay}
	for name, value := range h.Attributes {
		if err := a.Event.SetAttribute(name, value); err != nil {
			return a, fmt.Errorf("read event %d: %w", r.Position, err)
		}
	}
	if h.Data {
		a.Event.Data = r.Data
	}
	return a, nil
}
