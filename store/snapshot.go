package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-run/mayfly"
)

// Key names something within a space.
type Key struct{ Space, Name string }

// Workload is a workload's active release.
type Workload struct {
	mayfly.Release
	Revision uint64 // of the record, for compare-and-set
}

// Instance is an instance as it was last recorded.
type Instance struct {
	mayfly.Instance
	Revision uint64 // of the record, for compare-and-set
}

// Snapshot is the record at one moment. It never changes; everything that can
// be reached from it is shared and must not be written to.
type Snapshot struct {
	Revision  uint64               // of the newest write in it
	Deployed  uint64               // of the newest write to a workload in it
	Workloads map[Key]*Workload    // those that were not deleted
	Instances map[string]*Instance // by id, of all spaces

	changed <-chan struct{}
}

// Changed returns a channel that is closed once there is a newer snapshot. A
// reader that is late gets the newest one next, not all between:
//
//	for snap := s.Snapshot(); ; snap = s.Snapshot() {
//		use(snap)
//		select {
//		case <-snap.Changed():
//		case <-ctx.Done():
//			return ctx.Err()
//		}
//	}
func (s *Snapshot) Changed() <-chan struct{} { return s.changed }

// errClosed ends what waits for a store that was closed.
var errClosed = errors.New("store is closed")

// workloadRecord is the value of a workload's key. It stays when the workload
// is deleted, so that a release number never comes back with another meaning.
type workloadRecord struct {
	Last    int             `json:"last"`              // highest number that was ever active
	Release *mayfly.Release `json:"release,omitempty"` // nil: deleted

	revision uint64
}

// nameRecord is the value of an instance name's key.
type nameRecord struct {
	ID string `json:"id"`

	revision uint64
}

// mirror is the record in memory, kept by the one watch.
type mirror struct {
	close  func()
	closed <-chan struct{}
	tables map[string]func(key Key, value []byte, seq uint64) error // by kind

	mu        sync.Mutex
	applied   uint64 // newest sequence seen
	deployed  uint64 // newest of a workload
	workloads map[Key]*workloadRecord
	newest    map[string]uint64 // by space: revision of its workload written last
	claims    claims
	names     map[Key]nameRecord
	active    map[Key]*Workload    // shared with snap while it is clean
	instances map[string]*Instance // shared with snap while it is clean
	dirty     struct{ active, instances bool }
	snap      *Snapshot     // nil when something changed since
	changed   chan struct{} // nil until somebody wants to know
}

func newMirror() *mirror {
	closed := make(chan struct{})
	return &mirror{
		close:     sync.OnceFunc(func() { close(closed) }),
		closed:    closed,
		tables:    map[string]func(Key, []byte, uint64) error{},
		workloads: map[Key]*workloadRecord{},
		newest:    map[string]uint64{},
		claims:    newClaims(),
		names:     map[Key]nameRecord{},
		active:    map[Key]*Workload{},
		instances: map[string]*Instance{},
	}
}

// apply takes one message of the watch: the value of key, nil when it was
// removed. A value that cannot be read leaves the old one and is an error.
func (m *mirror) apply(key string, value []byte, seq uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applied = seq
	m.snap = nil
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
	part := strings.Split(key, ".")
	if len(part) != 3 {
		return fmt.Errorf("read %s: not a key of the record", key)
	}
	var err error
	switch part[1] {
	case "workloads":
		if strings.HasPrefix(part[2], mappedPrefix) {
			err = m.applyRoute(Key{part[0], part[2]}, value, seq)
			break
		}
		err = m.applyWorkload(Key{part[0], part[2]}, value, seq)
	case "instances":
		err = m.applyInstance(part[2], value, seq)
	case "names":
		err = m.applyName(Key{part[0], part[2]}, value, seq)
	default:
		if apply := m.tables[part[1]]; apply != nil {
			err = apply(Key{part[0], part[2]}, value, seq)
		}
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

func (m *mirror) applyWorkload(key Key, value []byte, seq uint64) error {
	rec := &workloadRecord{revision: seq}
	if value != nil {
		if err := json.Unmarshal(value, rec); err != nil {
			return err
		}
	}
	if !m.dirty.active {
		m.active, m.dirty.active = maps.Clone(m.active), true
	}
	if rec.Release == nil {
		delete(m.active, key)
	} else {
		m.active[key] = &Workload{Release: *rec.Release, Revision: seq}
	}
	m.moveRoutes(key, m.workloads[key], rec)
	m.workloads[key] = rec
	m.newest[key.Space], m.deployed = seq, seq
	return nil
}

func (m *mirror) applyInstance(id string, value []byte, seq uint64) error {
	in := &Instance{Revision: seq}
	if value != nil {
		if err := json.Unmarshal(value, &in.Instance); err != nil {
			return err
		}
	}
	if !m.dirty.instances {
		m.instances, m.dirty.instances = maps.Clone(m.instances), true
	}
	if value == nil {
		delete(m.instances, id)
	} else {
		m.instances[id] = in
	}
	return nil
}

func (m *mirror) applyName(key Key, value []byte, seq uint64) error {
	if value == nil {
		delete(m.names, key)
		return nil
	}
	rec := nameRecord{revision: seq}
	if err := json.Unmarshal(value, &rec); err != nil {
		return err
	}
	m.names[key] = rec
	return nil
}

// snapshot returns the newest snapshot. The maps are copied at the next change
// after it, so many changes between two snapshots cost one copy.
func (m *mirror) snapshot() *Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.snap == nil {
		m.snap = &Snapshot{
			Revision:  m.applied,
			Deployed:  m.deployed,
			Workloads: m.active,
			Instances: m.instances,
			changed:   m.changedLocked(),
		}
		m.dirty.active, m.dirty.instances = false, false
	}
	return m.snap
}

func (m *mirror) changedLocked() chan struct{} {
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.changed
}

// wait blocks until everything up to seq has been applied.
func (m *mirror) wait(ctx context.Context, seq uint64) error {
	for {
		m.mu.Lock()
		if m.applied >= seq {
			m.mu.Unlock()
			return nil
		}
		changed := m.changedLocked()
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-m.closed:
			return errClosed
		}
	}
}

// Snapshot returns the newest state of the record. It takes no I/O.
func (s *Store) Snapshot() *Snapshot { return s.mirror.snapshot() }

// Wait blocks until the record satisfies done, and returns that snapshot. It
// fails when ctx ends or the store is closed.
func (s *Store) Wait(ctx context.Context, done func(*Snapshot) bool) (*Snapshot, error) {
	for {
		snap := s.Snapshot()
		if done(snap) {
			return snap, nil
		}
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.mirror.closed:
			return nil, mayfly.Errorf(mayfly.Unavailable, "wait for a change: %w", errClosed)
		}
	}
}

// WorkloadsIn returns the workloads of a space by name; of all spaces when
// space is empty.
func (s *Snapshot) WorkloadsIn(space string) []Workload {
	var list []Workload
	for key, w := range s.Workloads {
		if space == "" || key.Space == space {
			list = append(list, *w)
		}
	}
	slices.SortFunc(list, func(a, b Workload) int {
		return cmp.Or(cmp.Compare(a.Workload.Space, b.Workload.Space), cmp.Compare(a.Workload.Name, b.Workload.Name))
	})
	return list
}

// InstancesIn returns the instances of a space, oldest first; of all spaces
// when space is empty.
func (s *Snapshot) InstancesIn(space string) []Instance {
	var list []Instance
	for _, in := range s.Instances {
		if space == "" || in.Space == space {
			list = append(list, *in)
		}
	}
	slices.SortFunc(list, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
