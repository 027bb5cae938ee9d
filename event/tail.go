package event

import (
	"context"
	"maps"
	"sync"

	"github.com/mayfly-run/mayfly"
)

// tailKeeps is how many events are held for somebody who looks on; of more, the
// oldest are dropped.
const tailKeeps = 1024

// Tail is somebody who looks on. It ends with Close.
type Tail struct {
	events *Events
	m      *mapping
	wake   chan struct{}

	mu      sync.Mutex
	list    []mayfly.AcceptedEvent
	dropped int
}

// Tail lets somebody look on while events of a space are delivered, those that a
// mapping without a target would select.
func (e *Events) Tail(filter mayfly.EventMapping) (*Tail, error) {
	if filter.Type == "" {
		filter.Type = "*"
	}
	m, err := compile(filter)
	if err != nil {
		return nil, err
	}
	t := &Tail{events: e, m: m, wake: make(chan struct{}, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tails[t] = true
	return t, nil
}

// Close ends it.
func (t *Tail) Close() {
	t.events.mu.Lock()
	defer t.events.mu.Unlock()
	delete(t.events.tails, t)
}

// offer takes what it wants of some events. It never waits.
func (t *Tail) offer(list []mayfly.AcceptedEvent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := len(t.list)
	for i := range list {
		if a := &list[i]; a.Space == t.m.Space && t.m.selects(&a.Event) {
			t.list = append(t.list, *a)
		}
	}
	if over := len(t.list) - tailKeeps; over > 0 {
		t.dropped += over
		t.list = append([]mayfly.AcceptedEvent(nil), t.list[over:]...)
	}
	if len(t.list) > before || t.dropped > 0 {
		wakeUp(t.wake)
	}
}

// Next waits for events, and returns them with how many were dropped before
// them, because nobody took them in time.
func (t *Tail) Next(ctx context.Context) (list []mayfly.AcceptedEvent, dropped int, err error) {
	for {
		t.mu.Lock()
		list, dropped, t.list, t.dropped = t.list, t.dropped, nil, 0
		t.mu.Unlock()
		if len(list) > 0 || dropped > 0 {
			return list, dropped, nil
		}
		select {
		case <-t.wake:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// wantsPlatform reports whether somebody wants an event of the platform of this
// type.
func (e *Events) wantsPlatform(space, eventType string) bool {
	all := e.current()
	if all.platform {
		if s := all.spaces[space]; s != nil {
			if len(s.exact[eventType]) > 0 {
				return true
			}
			for _, m := range s.wild {
				if m.wantsType(eventType) {
					return true
				}
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for t := range maps.Keys(e.tails) {
		if t.m.Space == space && t.m.wantsType(eventType) {
			return true
		}
	}
	return false
}
