package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Record is a value of a table as it was last written.
type Record[T any] struct {
	Key
	Value    T
	Revision uint64 // for compare-and-set
}

// Table is all records of one kind, each under a name in a space. Reads come
// from memory and share what they give: it must not be written to.
type Table[T any] struct {
	store *Store
	kind  string // in keys of the state bucket
	what  string // for people

	mu      sync.Mutex
	records map[Key]Record[T]
	newest  map[string]uint64 // by space: revision of the record written last, or removed
	last    uint64            // the highest of newest
	changed chan struct{}     // nil until somebody wants to know
	waiting map[*waiting[T]]struct{}
}

// waiting is somebody who wants to know of some records only.
type waiting[T any] struct {
	space   string
	fits    func(Record[T]) bool
	changed chan struct{}
}

func newTable[T any](s *Store, kind, what string) *Table[T] {
	t := &Table[T]{store: s, kind: kind, what: what, records: make(map[Key]Record[T]), newest: map[string]uint64{}, waiting: make(map[*waiting[T]]struct{})}
	s.mirror.tables[kind] = t.apply
	return t
}

// apply takes one message of the watch; a nil value is a removal.
func (t *Table[T]) apply(key Key, value []byte, seq uint64) error {
	rec := Record[T]{Key: key, Revision: seq}
	if value != nil {
		if err := json.Unmarshal(value, &rec.Value); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest[key.Space], t.last = seq, seq
	old, had := t.records[key]
	for w := range t.waiting {
		if w.space == key.Space && (had && w.fits(old) || value != nil && w.fits(rec)) {
			close(w.changed)
			delete(t.waiting, w)
		}
	}
	if value == nil {
		delete(t.records, key)
	} else {
		t.records[key] = rec
	}
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
	return nil
}

// Changed returns a channel that is closed at the next change of any record.
// Take it before reading, and nothing is missed.
func (t *Table[T]) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.changed
}

// ChangedOf is Changed for those records of a space that fit before the change or
// after it. fits is called while the table is locked: it only looks. Call stop when
// the channel is of no use any more.
func (t *Table[T]) ChangedOf(space string, fits func(Record[T]) bool) (changed <-chan struct{}, stop func()) {
	w := &waiting[T]{space: space, fits: fits, changed: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting[w] = struct{}{}
	return w.changed, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.waiting, w)
	}
}

// Revision is that of the newest change of any record: another one tells that
// something changed.
func (t *Table[T]) Revision() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// Find returns a record, and whether there is one.
func (t *Table[T]) Find(space, name string) (Record[T], bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec, ok := t.records[Key{space, name}]
	return rec, ok
}

// Get returns a record, or a NotFound error.
func (t *Table[T]) Get(space, name string) (Record[T], error) {
	rec, ok := t.Find(space, name)
	if !ok {
		return rec, mayfly.Errorf(mayfly.NotFound, "there is no %s %q", t.what, name)
	}
	return rec, nil
}

// List returns the records of a space by name, of all spaces if it is empty.
func (t *Table[T]) List(space string) []Record[T] {
	t.mu.Lock()
	list := make([]Record[T], 0, len(t.records))
	for key, rec := range t.records {
		if space == "" || key.Space == space {
			list = append(list, rec)
		}
	}
	t.mu.Unlock()
	sortRecords(list)
	return list
}

// Some returns the records of a space that fit, by name: of many, a few cost little.
func (t *Table[T]) Some(space string, fits func(T) bool) []Record[T] {
	t.mu.Lock()
	var list []Record[T]
	for key, rec := range t.records {
		if (space == "" || key.Space == space) && fits(rec.Value) {
			list = append(list, rec)
		}
	}
	t.mu.Unlock()
	sortRecords(list)
	return list
}

func sortRecords[T any](list []Record[T]) {
	slices.SortFunc(list, func(a, b Record[T]) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.Name, b.Name))
	})
}

// Put writes a record. seen is the revision that it is based on, 0 when there
// was none; when it has another one by now, the error is a Conflict. It returns
// the new revision, which every later read here sees.
func (t *Table[T]) Put(ctx context.Context, space, name string, value T, seen uint64) (uint64, error) {
	key := bus.TableKey(space, t.kind, name)
	var rev uint64
	var err error
	if seen == 0 {
		rev, err = t.store.create(ctx, key, value)
	} else {
		rev, err = t.store.write(ctx, key, value, condition{last: seen})
	}
	return rev, t.lost(err, name)
}

// Delete removes a record; seen is as for Put. One that is not there is no error.
func (t *Table[T]) Delete(ctx context.Context, space, name string, seen uint64) error {
	if _, ok := t.Find(space, name); !ok {
		return nil
	}
	_, err := t.store.write(ctx, bus.TableKey(space, t.kind, name), nil, condition{last: seen})
	return t.lost(err, name)
}

// Update writes what change makes of a record, again and again until nobody else
// wrote meanwhile. change gets the zero value when there is no record, and leaves
// it alone by returning false.
func (t *Table[T]) Update(ctx context.Context, space, name string, change func(old T, found bool) (T, bool, error)) (T, error) {
	for {
		rec, found := t.Find(space, name)
		next, write, err := change(rec.Value, found)
		if err != nil || !write {
			return rec.Value, err
		}
		_, err = t.Put(ctx, space, name, next, rec.Revision)
		if !errors.Is(err, errLost) {
			return next, err
		}
		if err := t.store.catchUp(ctx, bus.TableKey(space, t.kind, name)); err != nil {
			return rec.Value, err
		}
	}
}

func (t *Table[T]) lost(err error, name string) error {
	if !errors.Is(err, errLost) {
		return err
	}
	return &mayfly.Error{Kind: mayfly.Conflict, Text: t.what + " " + name, Err: errLost, Hint: "look at it again, then try again"}
}

// Tables are what the record has besides workloads, releases and instances, each
// with its one writer. (Node records are under NodeSpace.)
type Tables struct {
	Assignments *Table[mayfly.Assignment]      // by id; reconcile
	Rollouts    *Table[mayfly.Rollout]         // by workload; reconcile
	Replicas    *Table[mayfly.Replica]         // by the assignment's id; the node that it names
	Nodes       *Table[mayfly.NodeInfo]        // by name; that node
	Wishes      *Table[mayfly.Wish]            // by workload; api
	Scales      *Table[mayfly.Scaled]          // by workload; reconcile
	Outside     *Table[mayfly.OutsideEndpoint] // by name; api
	Volumes     *Table[mayfly.Volume]          // by name; the node where it lies
	Secrets     *Table[mayfly.Secret]          // by name; api
	Configs     *Table[mayfly.Config]          // by name; api
	Versions    *Table[mayfly.Config]          // of configs, by NAME_VERSION; api

	EventMappings *Table[mayfly.EventMapping] // by id; api
}

// NodeSpace stands for a space in the keys of nodes, which are in none.
const NodeSpace = "_"

func newTables(s *Store) Tables {
	return Tables{
		Assignments: newTable[mayfly.Assignment](s, "assignments", "assignment"),
		Rollouts:    newTable[mayfly.Rollout](s, "rollouts", "rollout"),
		Replicas:    newTable[mayfly.Replica](s, "replicas", "replica"),
		Nodes:       newTable[mayfly.NodeInfo](s, "nodes", "node"),
		Wishes:      newTable[mayfly.Wish](s, "wishes", "wish"),
		Scales:      newTable[mayfly.Scaled](s, "scales", "scale"),
		Outside:     newTable[mayfly.OutsideEndpoint](s, "outside", "outside endpoint"),
		Volumes:     newTable[mayfly.Volume](s, "volumes", "volume"),
		Secrets:     newTable[mayfly.Secret](s, "secrets", "secret"),
		Configs:     newTable[mayfly.Config](s, "configs", "config"),
		Versions:    newTable[mayfly.Config](s, "versions", "version"),

		EventMappings: newTable[mayfly.EventMapping](s, "eventmappings", "event mapping"),
	}
}
