package store

import (
	"context"
	"errors"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// State is all records of a table at one moment, by space and name, and for each
// space the revision of the newest write, removals included.
type State[T any] struct {
	Records []Record[T]
	Newest  map[string]uint64
}

// State returns what memory holds now.
func (t *Table[T]) State() State[T] {
	t.mu.Lock()
	defer t.mu.Unlock()
	st := State[T]{Records: make([]Record[T], 0, len(t.records)), Newest: make(map[string]uint64, len(t.newest))}
	for _, rec := range t.records {
		st.Records = append(st.Records, rec)
	}
	for space, rev := range t.newest {
		st.Newest[space] = rev
	}
	sortRecords(st.Records)
	return st
}

// Chain writes a record, or removes it when value is nil, provided that nobody
// wrote any record of this kind in the space since newest: who decides by all of
// them loses to whoever decided meanwhile. It returns the newest revision for the
// next link.
func (t *Table[T]) Chain(ctx context.Context, space, name string, value *T, newest uint64) (uint64, error) {
	key, all := bus.TableKey(space, t.kind, name), bus.StateSubject(bus.TableKey(space, t.kind, "*"))
	var any any
	if value != nil {
		any = value
	}
	rev, err := t.store.write(ctx, key, any, condition{newest, all})
	if !errors.Is(err, errLost) {
		return rev, err
	}
	// The newest write may have been a removal whose marker has expired. Then
	// nothing that is left is newer.
	last, readErr := t.store.bus.Last(ctx, bus.StateStream, all)
	if readErr != nil && !errors.Is(readErr, bus.ErrNoMessage) {
		return 0, unavailable("read "+all, readErr)
	}
	if readErr == nil && last.Sequence >= newest {
		return 0, t.lost(err, name)
	}
	if readErr != nil {
		last.Sequence = 0
	}
	rev, err = t.store.write(ctx, key, any, condition{last.Sequence, all})
	return rev, t.lost(err, name)
}

// CatchUp returns when memory holds what was written, by anybody, before the call.
// What must not be decided by an old state is decided after it.
func (s *Store) CatchUp(ctx context.Context) error {
	stream, err := s.bus.JetStream().Stream(ctx, bus.StateStream)
	if err != nil {
		return unavailable("read the record", err)
	}
	return s.mirror.wait(ctx, stream.CachedInfo().State.LastSeq)
}

// Deleted reports whether memory knows that a workload was deleted. Of one that
// was never heard of, it does not.
func (s *Store) Deleted(space, name string) bool {
	rec := s.mirror.workload(Key{space, name})
	return rec.Release == nil && rec.revision != 0
}

// Lost reports whether an error of a write says that its condition did not hold.
func Lost(err error) bool { return errors.Is(err, errLost) && mayfly.KindOf(err) == mayfly.Conflict }
