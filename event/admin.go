package event

import (
	"cmp"
	"context"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

// Bounds of what is looked through.
const (
	maxMappings = 10_000 // of a space
	maxReplay   = 100_000
	scanEvents  = 200_000 // of one list
)

// Map keeps a mapping, which gets what is accepted from now on. One with the same
// target, type, source and filter is replaced, and goes on from where it is. It is
// on disk when Map returns.
func (e *Events) Map(ctx context.Context, m mayfly.EventMapping) (mayfly.EventMapping, error) {
	if err := mayfly.CheckName("space", m.Space); err != nil {
		return m, err
	}
	m.Manifest, m.Since = false, 0
	if (m.Workload == "") == (m.URL == "") {
		return m, mayfly.Errorf(mayfly.Invalid, "a mapping delivers either to a function or to a URL")
	}
	if _, err := compile(m); err != nil {
		return m, err
	}
	if m.URL != "" {
		if err := queue.CheckURL(m.URL); err != nil {
			return m, err
		}
	} else if err := e.checkFunction(&m); err != nil {
		return m, err
	}
	select {
	case <-e.journal.Loaded():
	case <-ctx.Done():
		return m, ctx.Err()
	}
	same, count := "", 0
	for _, rec := range e.store.EventMappings.List(m.Space) {
		count++
		if sameSelection(&rec.Value, &m) {
			same = rec.Name
		}
	}
	if same == "" {
		if count >= maxMappings {
			return m, mayfly.Errorf(mayfly.TooLarge, "there are %d mappings, and the limit is %d", count, maxMappings)
		}
		same = mayfly.NewID()
	}
	since := max(e.journal.Last(), 1)
	made, err := e.store.EventMappings.Update(ctx, m.Space, same, func(old mayfly.EventMapping, found bool) (mayfly.EventMapping, bool, error) {
		m.ID, m.Since, m.Created = same, since, time.Now().UTC().Truncate(time.Millisecond)
		if found {
			m.Since, m.Created = old.Since, old.Created
		}
		return m, true, nil
	})
	if err != nil || made.URL != "" {
		return made, err
	}
	if w, err := e.store.Function(made.Space, made.Workload); err == nil {
		e.TellOwnFiles(w.Workload)
	}
	return made, nil
}

// checkFunction refuses what is no function, and limits that exclude each other.
func (e *Events) checkFunction(m *mayfly.EventMapping) error {
	w, err := e.store.Function(m.Space, m.Workload)
	if err != nil {
		return err
	}
	return checkLimits(&w.Workload, m)
}

// checkLimits refuses a mapping that limits its deliveries where the function limits
// its tasks by a key: a task counts for one limit beside that of its function.
func checkLimits(w *mayfly.Workload, m *mayfly.EventMapping) error {
	if m.Concurrency == 0 || w.Key.Max == 0 {
		return nil
	}
	return mayfly.Errorf(mayfly.Invalid, "function %s limits its tasks by the key %s, so its mapping of %s cannot have a concurrency too", w.Name, w.Key.Field, m.Type).
		WithHint("leave one of the two out, or set the concurrency of the function, which holds beside its key")
}

// CheckWorkload refuses a workload whose mappings are wrong, those of its manifest,
// or those that were made by themselves and go on.
func (e *Events) CheckWorkload(w mayfly.Workload) error {
	w.Space = cmp.Or(w.Space, mayfly.DefaultSpace)
	for i := range w.Events {
		if err := Check(w.Events[i]); err != nil {
			return err
		}
		if err := checkLimits(&w, &w.Events[i]); err != nil {
			return err
		}
	}
	if w.Key.Max == 0 {
		return nil
	}
	for _, rec := range e.store.EventMappings.List(w.Space) {
		if rec.Value.Workload != w.Name {
			continue
		}
		if err := checkLimits(&w, &rec.Value); err != nil {
			return err
		}
	}
	return nil
}

// CheckRelease is CheckWorkload for a release that is to be active again. One that
// is not there is none of its business.
func (e *Events) CheckRelease(ctx context.Context, space, name string, number int) error {
	rel, err := e.store.Release(ctx, space, name, number)
	switch {
	case mayfly.KindOf(err) == mayfly.NotFound:
		return nil
	case err != nil:
		return err
	}
	return e.CheckWorkload(rel.Workload)
}

// sameSelection reports whether two mappings deliver the same to the same.
func sameSelection(a, b *mayfly.EventMapping) bool {
	x, y := *a, *b
	return x.URL == y.URL && mappingID(&x) == mappingID(&y)
}

// Unmap takes away the mappings of a space to a target that are of a type, all of
// them if it is empty, and returns how many there were. What was delivered goes on.
func (e *Events) Unmap(ctx context.Context, space, target, eventType string) (int, error) {
	count := 0
	for _, rec := range e.store.EventMappings.List(space) {
		if m := &rec.Value; m.Target() == target && (eventType == "" || m.Type == eventType) || m.ID == target {
			if err := e.store.EventMappings.Delete(ctx, space, rec.Name, rec.Revision); err != nil {
				return count, err
			}
			count++
		}
	}
	if count > 0 {
		return count, nil
	}
	for _, m := range e.current().byID {
		if m.Manifest && m.Space == space && m.Workload == target && (eventType == "" || m.Type == eventType) {
			return 0, mayfly.Errorf(mayfly.Conflict, "the manifest of %s says that %s runs it", target, m.Type).WithHint("take it out of there, and deploy again")
		}
	}
	return 0, mayfly.Errorf(mayfly.NotFound, "nothing maps %s to %s", cmp.Or(eventType, "any type"), target).WithHint("`mayfly triggers` lists what there is")
}

// Forget takes away the mappings of a workload that is deleted.
func (e *Events) Forget(ctx context.Context, space, workload string) error {
	for _, rec := range e.store.EventMappings.List(space) {
		if rec.Value.Workload == workload {
			if err := e.store.EventMappings.Delete(ctx, space, rec.Name, rec.Revision); err != nil {
				return err
			}
		}
	}
	return nil
}

// Filter selects events that are kept. Empty fields select all.
type Filter struct {
	Space   string
	Type    string // whole, or a prefix and *
	Source  string // the same
	ID      string // the event's own id, or its key
	Filter  map[string]string
	SQL     string
	Since   time.Time // accepted then or later
	Until   time.Time // accepted before
	Limit   int       // 50 if zero
	Before  uint64    // numbers below it only; 0: all
	Replays bool      // those that were replayed too
}

// selector returns what reports whether an event is selected.
func (f *Filter) selector() (func(*mayfly.AcceptedEvent) bool, error) {
	m := mayfly.EventMapping{Space: f.Space, Type: cmp.Or(f.Type, "*"), Source: f.Source, Filter: f.Filter, SQL: f.SQL}
	c, err := compile(m)
	if err != nil {
		return nil, err
	}
	return func(a *mayfly.AcceptedEvent) bool {
		if a.Space != f.Space || a.Replay != nil && !f.Replays || f.ID != "" && a.Event.ID != f.ID && a.Key != f.ID {
			return false
		}
		if a.Accepted.Before(f.Since) || !f.Until.IsZero() && !a.Accepted.Before(f.Until) {
			return false
		}
		if f.Type == "" && isPlatform(a.Event.Type) {
			unlimited := *c
			unlimited.Type = platformType + "*"
			return unlimited.selects(&a.Event)
		}
		return c.selects(&a.Event)
	}, nil
}

// List returns events, the newest first, and the number before which to go on;
// 0 where there is nothing more.
func (e *Events) List(ctx context.Context, f Filter) (list []mayfly.AcceptedEvent, next uint64, err error) {
	selects, err := f.selector()
	if err != nil {
		return nil, 0, err
	}
	if f.Limit <= 0 {
		f.Limit = 50
	}
	seen := 0
	err = e.journal.Back(ctx, f.Before, func(r bus.Record) bool {
		a, err := decode(&r)
		if err == nil && selects(&a) {
			list = append(list, a)
		}
		if seen++; len(list) >= f.Limit || seen >= scanEvents {
			next = r.Position
			return false
		}
		return f.Since.IsZero() || err != nil || !a.Accepted.Before(f.Since)
	})
	if err != nil {
		return nil, 0, unavailable("list events", err)
	}
	return list, next, nil
}

// Get returns the newest event of an id, or a key.
func (e *Events) Get(ctx context.Context, space, id string) (mayfly.AcceptedEvent, error) {
	if rec, err := e.journal.Find(ctx, id); err == nil && rec.Label == space {
		return decode(&rec)
	}
	list, _, err := e.List(ctx, Filter{Space: space, ID: id, Limit: 1})
	if err != nil {
		return mayfly.AcceptedEvent{}, err
	}
	if len(list) == 0 {
		return mayfly.AcceptedEvent{}, mayfly.Errorf(mayfly.NotFound, "no event %.100q is kept", id).WithHint("`mayfly event ls` lists those that are")
	}
	return list[0], nil
}

// Replay says which events are to be delivered again.
type Replay struct {
	Space string    `json:"-"`
	Since time.Time `json:"since,omitzero"` // accepted then or later
	ID    string    `json:"id,omitempty"`   // this one only, by id or key
	From  string    `json:"from,omitempty"` // this one, by id or key, and those after it
	To    time.Time `json:"to,omitzero"`    // accepted before; now if zero
	Type  string    `json:"type,omitempty"` // whole, or a prefix and *
	// Map is the mapping that gets them, by its id, or its function or URL; all
	// that match if empty.
	Map string `json:"map,omitempty"`
}

// Replayed says what a replay has done.
type Replayed struct {
	ID     string `json:"id"`
	Events int    `json:"events"`
}

// Replay accepts events once more, under new keys, so that they are delivered
// again: to the mappings that match them now, those that are newer than the events
// included. They take their turn behind what was accepted until now.
func (e *Events) Replay(ctx context.Context, r Replay) (done Replayed, err error) {
	ways := 0
	for _, said := range []bool{!r.Since.IsZero(), r.ID != "", r.From != ""} {
		if said {
			ways++
		}
	}
	if ways != 1 {
		return done, mayfly.Errorf(mayfly.Invalid, "a replay begins at a time, or at an event, or is of one event").WithHint("say one of since, from and id")
	}
	targets, err := e.replayTargets(&r)
	if err != nil {
		return done, err
	}
	list, err := e.toReplay(ctx, &r)
	if err != nil {
		return done, err
	}
	done.ID = mayfly.NewID()
	for len(list) > 0 {
		n := min(len(list), dispatchEvents)
		if err := e.replaySome(ctx, done.ID, targets, list[:n]); err != nil {
			return done, err
		}
		done.Events += n
		list = list[n:]
	}
	return done, nil
}

// replayTargets are the ids of the mappings that a replay names; one that is
// empty stands for all.
func (e *Events) replayTargets(r *Replay) (ids []string, err error) {
	if r.Map == "" {
		return []string{""}, nil
	}
	for _, m := range e.current().byID {
		if m.Space == r.Space && (m.ID == r.Map || m.Target() == r.Map) {
			ids = append(ids, m.ID)
		}
	}
	if len(ids) == 0 {
		return nil, mayfly.Errorf(mayfly.NotFound, "no mapping delivers to %.100q", r.Map).WithHint("`mayfly triggers` lists what there is")
	}
	return ids, nil
}

// toReplay finds the events, oldest first. Only their numbers are kept.
func (e *Events) toReplay(ctx context.Context, r *Replay) (numbers []uint64, err error) {
	f := Filter{Space: r.Space, Type: r.Type, Since: r.Since, Until: r.To}
	selects, err := f.selector()
	if err != nil {
		return nil, err
	}
	from := uint64(0)
	if id := cmp.Or(r.ID, r.From); id != "" {
		first, err := e.Get(ctx, r.Space, id)
		if err != nil {
			return nil, err
		}
		if r.ID != "" {
			if first.Replay != nil {
				return []uint64{first.Replay.Of}, nil
			}
			return []uint64{first.Number}, nil
		}
		from = first.Number - 1
	}
	last := e.journal.Last()
	err = e.journal.After(ctx, from, func(rec bus.Record) bool {
		if rec.Position > last {
			return false
		}
		if a, err := decode(&rec); err == nil && selects(&a) {
			numbers = append(numbers, rec.Position)
		}
		return len(numbers) <= maxReplay
	})
	switch {
	case err != nil:
		return nil, unavailable("read the events", err)
	case len(numbers) > maxReplay:
		return nil, mayfly.Errorf(mayfly.TooLarge, "there are more than %d events to replay", maxReplay).WithHint("replay them in parts, with to")
	}
	return numbers, nil
}

// replaySome accepts some events again.
func (e *Events) replaySome(ctx context.Context, id string, targets []string, numbers []uint64) error {
	records, err := e.journal.Get(ctx, numbers)
	if err != nil {
		return unavailable("read the events", err)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	var list []bus.Record
	for i := range records {
		a, err := decode(&records[i])
		if err != nil {
			return err
		}
		for _, target := range targets {
			key := mayfly.IDOf("replay", id, a.Key, target)
			rec, err := encode(a.Space, key, at, &a.Event, &mayfly.Replayed{ID: id, Of: a.Number, Mapping: target})
			if err != nil {
				return err
			}
			list = append(list, rec)
		}
	}
	_, err = e.accept(ctx, list)
	return err
}
