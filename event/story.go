package event

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

// Bounds of what a story has.
const (
	storyReplays = 10
	storyTasks   = 100 // of mappings that are gone
)

// Story returns what has become of the newest event of an id, or of one by its key.
func (e *Events) Story(ctx context.Context, space, id string) (mayfly.EventStory, error) {
	a, err := e.Get(ctx, space, id)
	if err != nil {
		return mayfly.EventStory{}, err
	}
	s, err := e.story(ctx, a)
	if err != nil || a.Replay != nil {
		return s, err
	}
	again, err := e.replaysOf(ctx, a.Number)
	for _, r := range again {
		if err != nil {
			break
		}
		var one mayfly.EventStory
		one, err = e.story(ctx, r)
		s.Replays = append(s.Replays, one)
	}
	return s, err
}

// story is an event without its replays.
func (e *Events) story(ctx context.Context, a mayfly.AcceptedEvent) (mayfly.EventStory, error) {
	all := e.current()
	e.mu.Lock()
	s := mayfly.EventStory{Event: a, Given: e.cursor >= a.Number}
	e.mu.Unlock()
	list := slices.SortedFunc(maps.Values(all.byID), func(x, y *mapping) int {
		return cmp.Or(cmp.Compare(x.Target(), y.Target()), cmp.Compare(x.Type, y.Type), cmp.Compare(x.ID, y.ID))
	})
	for _, m := range list {
		if m.Space != a.Space {
			continue
		}
		if why, otherType := m.refusal(&a); why != "" {
			s.Others = append(s.Others, mayfly.EventRefusal{Mapping: m.EventMapping, Type: otherType, Why: why})
			continue
		}
		d, err := e.fate(ctx, m, &a, s.Given)
		if err != nil {
			return s, err
		}
		s.Deliveries = append(s.Deliveries, d)
	}
	page, err := e.queue.List(ctx, queue.Filter{Space: a.Space, Labels: map[string]string{LabelEvent: a.Key}, Since: a.Accepted.Truncate(time.Second), Limit: storyTasks})
	if err != nil {
		return s, err
	}
	for _, task := range page.Tasks {
		if id := task.Labels[LabelMapping]; all.byID[id] == nil {
			gone := mayfly.EventMapping{ID: id, Space: a.Space, Workload: task.Workload}
			s.Deliveries = append(s.Deliveries, mayfly.EventDelivery{Mapping: gone, Gone: true, Task: &task, Wait: e.waits(&task)})
		}
	}
	return s, nil
}

// waits is what holds a task back, where it is queued.
func (e *Events) waits(task *mayfly.Task) mayfly.TaskWait {
	if task.State != mayfly.TaskQueued {
		return mayfly.TaskWait{}
	}
	return e.queue.Waits(*task)
}

// fate says how far a mapping is with an event that it matches.
func (e *Events) fate(ctx context.Context, m *mapping, a *mayfly.AcceptedEvent, given bool) (d mayfly.EventDelivery, err error) {
	d.Mapping = m.EventMapping
	if m.URL == "" {
		task, err := e.queue.Get(ctx, a.Space, queue.TaskID(a.Space, m.Workload, deliveryKey(m, a)))
		if err == nil {
			d.Task, d.Wait = &task, e.waits(&task)
			return d, nil
		}
		if mayfly.KindOf(err) != mayfly.NotFound {
			return d, err
		}
	}
	if !given {
		d.Behind = &mayfly.EventBehind{}
		return d, nil
	}
	e.mu.Lock()
	l := e.lines[m.ID]
	if s := e.stats[m.ID]; s != nil {
		d.Detail = s.refused[a.Number]
	}
	e.mu.Unlock()
	if l != nil {
		l.fate(a, &d)
	}
	if d.Behind == nil && d.Call == nil && d.Detail == "" {
		d.Detail = "there is no task of it: either the mapping is newer than the event's turn, or the task ended so long ago that nothing is kept of it"
	}
	return d, nil
}

// fate says how far the line is with an event that it has to deliver.
func (l *line) fate(a *mayfly.AcceptedEvent, d *mayfly.EventDelivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Number > l.next {
		d.Behind = &mayfly.EventBehind{}
		return
	}
	i := slices.IndexFunc(l.window, func(it *item) bool { return it.event.Number == a.Number })
	if i < 0 {
		if l.m.URL != "" {
			d.Call = l.past(a.Number)
		}
		return
	}
	it := l.window[i]
	if it.keyed && l.keys[it.key][0] != it {
		first := l.keys[it.key][0]
		d.Behind = &mayfly.EventBehind{Key: it.key, First: first.event}
		for id, other := range l.out {
			if other == first {
				d.Behind.Task = id[len(l.m.Space)+1:]
			}
		}
		return
	}
	if l.m.URL == "" {
		d.Behind = &mayfly.EventBehind{} // its task is about to be made
		return
	}
	d.Call = &mayfly.EventCall{State: "waiting", Tries: it.tries, Error: it.err, Due: it.due}
	if it.started {
		d.Call.State = "calling"
	} else if d.Call.Due.Before(l.quiet) {
		d.Call.Due = l.quiet
	}
}

// ending is how an event came to its end with a subscriber.
type ending struct {
	Number uint64    `json:"n"`
	Tries  int       `json:"t,omitempty"` // that failed
	Error  string    `json:"e,omitempty"` // empty: it was taken
	Ended  time.Time `json:"at"`
}

// Bounds of what a line remembers.
const (
	lineTaken  = 256
	lineLost   = 100 // written down
	errorRunes = 120 // of one error
)

// remember notes an end. The line is locked.
func (l *line) remember(it *item, err error) {
	end := ending{Number: it.event.Number, Tries: it.tries, Ended: time.Now().UTC().Truncate(time.Millisecond)}
	if err == nil {
		if l.taken = append(l.taken, end); len(l.taken) > lineTaken {
			l.taken = slices.Delete(l.taken, 0, lineTaken/2)
		}
		return
	}
	end.Tries, end.Error = it.tries+1, shortError(err)
	if l.lost = append(l.lost, end); len(l.lost) > lineLost {
		l.dropped = max(l.dropped, l.lost[0].Number)
		l.lost = slices.Delete(l.lost, 0, 1)
	}
}

// shortError is what is remembered of an error: not the URL, which the mapping has.
func shortError(err error) string {
	if asked := new(url.Error); errors.As(err, &asked) {
		err = asked.Err
	}
	return fmt.Sprintf("%.*s", errorRunes, err)
}

// past is how an event ended that the line has let go of.
func (l *line) past(number uint64) *mayfly.EventCall {
	for _, list := range [][]ending{l.lost, l.taken} {
		for _, end := range slices.Backward(list) {
			if end.Number == number {
				c := &mayfly.EventCall{State: "taken", Tries: end.Tries, Error: end.Error, Ended: end.Ended}
				if end.Error != "" {
					c.State = "given up"
				}
				return c
			}
		}
	}
	if number > l.dropped {
		return &mayfly.EventCall{State: "taken"}
	}
	return &mayfly.EventCall{State: "over"}
}

// replaysOf are the last events that were accepted as replays of one, oldest first.
func (e *Events) replaysOf(ctx context.Context, number uint64) (list []mayfly.AcceptedEvent, err error) {
	mark := fmt.Appendf(nil, `"of":%d`, number)
	seen := 0
	err = e.journal.Back(ctx, 0, func(r bus.Record) bool {
		if r.Position <= number {
			return false
		}
		if bytes.Contains(r.Head, mark) {
			if a, err := decode(&r); err == nil && a.Replay != nil && a.Replay.Of == number {
				list = append(list, a)
			}
		}
		seen++
		return seen < scanEvents && len(list) < storyReplays
	})
	if err != nil {
		return nil, unavailable("look for replays of an event", err)
	}
	slices.Reverse(list)
	return list, nil
}

// refusal says why a mapping does not match an event, as a part of a sentence, and
// whether that is because it wants other types. It is empty where it matches.
func (m *mapping) refusal(a *mayfly.AcceptedEvent) (why string, otherType bool) {
	no := m.mismatch(&a.Event)
	switch {
	case no.of == ofType && wants(m.Type, a.Event.Type):
		return fmt.Sprintf("it wants the type %s, and the platform's own events go where the type begins with %s", m.Type, platformType), true
	case no.of == ofType:
		return fmt.Sprintf("it wants the type %s", m.Type), true
	case m.passedBy(a):
		return "it was replayed for the mapping " + a.Replay.Mapping + " alone", false
	case m.tooNew(a):
		return "it is newer than the event", false
	}
	switch no.of {
	case ofSource:
		why = fmt.Sprintf("it wants the source %s, not %.100q", m.Source, a.Event.Source)
	case ofAbsent:
		why = fmt.Sprintf("it wants %s=%s, and the event has no %s", no.field, m.Filter[no.field], no.field)
	case ofField:
		why = fmt.Sprintf("it wants %s=%s, and in the event it is %.100q", no.field, m.Filter[no.field], no.value)
	case ofExpression:
		why = fmt.Sprintf("its expression %q is false", m.SQL)
		if no.err != nil {
			why = fmt.Sprintf("its expression %q cannot be evaluated: %s", m.SQL, no.err)
		}
	}
	return why, false
}
