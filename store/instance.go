package store

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// PutInstance records a new instance and returns its revision. A name that
// another instance of the space has, until that one is removed, is a Conflict;
// nothing is recorded then.
func (s *Store) PutInstance(ctx context.Context, in mayfly.Instance) (uint64, error) {
	if err := checkInstance(in); err != nil {
		return 0, err
	}
	if in.Name != "" {
		if holder := s.mirror.holder(Key{in.Space, in.Name}); holder != "" {
			return 0, nameTaken(in.Name, holder)
		}
	}
	key := bus.InstanceKey(in.Space, in.ID)
	rev, err := s.create(ctx, key, in)
	if errors.Is(err, errLost) {
		return 0, mayfly.Errorf(mayfly.Conflict, "instance %s is recorded already", in.ID)
	}
	if err != nil || in.Name == "" {
		return rev, err
	}
	// The instance comes before its name, so that a name without an instance
	// is always what a removal left behind and can be taken over.
	if err := s.takeName(ctx, in); err != nil {
		_, undo := s.write(context.WithoutCancel(ctx), key, nil, condition{last: rev})
		return 0, errors.Join(err, undo)
	}
	return rev, nil
}

func (s *Store) takeName(ctx context.Context, in mayfly.Instance) error {
	key := Key{in.Space, in.Name}
	for {
		var err error
		if rec := s.mirror.name(key); rec.ID == "" {
			_, err = s.create(ctx, bus.NameKey(in.Space, in.Name), nameRecord{ID: in.ID})
		} else if holder := s.mirror.holder(key); holder != "" {
			return nameTaken(in.Name, holder)
		} else {
			_, err = s.write(ctx, bus.NameKey(in.Space, in.Name), nameRecord{ID: in.ID}, condition{last: rec.revision})
		}
		if !errors.Is(err, errLost) {
			return err
		}
		if err := s.catchUp(ctx, bus.NameKey(in.Space, in.Name)); err != nil {
			return err
		}
	}
}

// catchUp waits until memory has the newest write to key.
func (s *Store) catchUp(ctx context.Context, key string) error {
	msg, err := s.bus.Last(ctx, bus.StateStream, bus.StateSubject(key))
	if errors.Is(err, bus.ErrNoMessage) {
		return nil
	}
	if err == nil {
		err = s.mirror.wait(ctx, msg.Sequence)
	}
	if err != nil {
		return unavailable("read "+key, err)
	}
	return nil
}

func nameTaken(name, holder string) error {
	return mayfly.Errorf(mayfly.Conflict, "the name %q is in use by instance %s", name, holder).
		WithHint("remove that one, or choose another name")
}

func checkInstance(in mayfly.Instance) error {
	if in.Name != "" {
		if err := mayfly.CheckName("instance", in.Name); err != nil {
			return err
		}
	}
	return errors.Join(mayfly.CheckName("space", in.Space), checkID("instance", in.ID))
}

// UpdateInstance records what became of an instance and returns the new
// revision. seen is the revision that in is based on; when the record has
// another one by now, the error is a Conflict. An instance keeps its name.
func (s *Store) UpdateInstance(ctx context.Context, in mayfly.Instance, seen uint64) (uint64, error) {
	if err := checkInstance(in); err != nil {
		return 0, err
	}
	old := s.mirror.instance(in.ID)
	if old == nil {
		return 0, noInstance(in.ID)
	}
	if old.Space != in.Space || old.Name != in.Name {
		return 0, mayfly.Errorf(mayfly.Invalid, "instance %s cannot change its name or space", in.ID)
	}
	rev, err := s.write(ctx, bus.InstanceKey(in.Space, in.ID), in, condition{last: seen})
	if errors.Is(err, errLost) {
		return 0, mayfly.Errorf(mayfly.Conflict, "instance %s was changed meanwhile", in.ID)
	}
	return rev, err
}

// DeleteInstance removes an instance from the record and frees its name. An
// instance that is not there is a NotFound error.
func (s *Store) DeleteInstance(ctx context.Context, space, id string) error {
	if err := errors.Join(mayfly.CheckName("space", space), checkID("instance", id)); err != nil {
		return err
	}
	for {
		in := s.mirror.instance(id)
		if in == nil || in.Space != space {
			return noInstance(id)
		}
		_, err := s.write(ctx, bus.InstanceKey(space, id), nil, condition{last: in.Revision})
		if err == nil {
			return s.freeName(ctx, in.Instance)
		}
		if !errors.Is(err, errLost) {
			return err
		}
		if err := s.catchUp(ctx, bus.InstanceKey(space, id)); err != nil {
			return err
		}
	}
}

// freeName removes the name of a removed instance, unless another instance has
// taken it over already.
func (s *Store) freeName(ctx context.Context, in mayfly.Instance) error {
	rec := s.mirror.name(Key{in.Space, in.Name})
	if in.Name == "" || rec.ID != in.ID {
		return nil
	}
	_, err := s.write(ctx, bus.NameKey(in.Space, in.Name), nil, condition{last: rec.revision})
	if errors.Is(err, errLost) {
		return nil
	}
	return err
}

func noInstance(ref string) error {
	return mayfly.Errorf(mayfly.NotFound, "no instance %q", ref).WithHint("`mayfly ps -a` lists those there are")
}

// Instance returns the instance of a space that ref means: its name, its id,
// or the beginning of its id. A beginning that several share is Invalid.
func (s *Store) Instance(space, ref string) (Instance, error) {
	if id := s.mirror.holder(Key{space, ref}); id != "" {
		if in := s.mirror.instance(id); in != nil {
			return *in, nil
		}
	}
	if in := s.mirror.instance(ref); in != nil && in.Space == space {
		return *in, nil
	}
	var found []string
	if ref != "" {
		for id, in := range s.Snapshot().Instances {
			if in.Space == space && strings.HasPrefix(id, ref) {
				found = append(found, id)
			}
		}
	}
	if len(found) > 1 {
		slices.Sort(found)
		return Instance{}, mayfly.Errorf(mayfly.Invalid, "%d instances begin with %q: %s, ...", len(found), ref, strings.Join(found[:2], ", "))
	}
	if len(found) == 1 {
		if in := s.mirror.instance(found[0]); in != nil {
			return *in, nil
		}
	}
	return Instance{}, noInstance(ref)
}

// Instances returns the instances of a space, oldest first; of all spaces when
// space is empty.
func (s *Store) Instances(space string) []Instance { return s.Snapshot().InstancesIn(space) }

func (m *mirror) instance(id string) *Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.instances[id]
}

func (m *mirror) name(key Key) nameRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.names[key]
}

// holder returns the id of the instance that has the name, or "" when the name
// is free or its instance was removed.
func (m *mirror) holder(key Key) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.names[key].ID
	if m.instances[id] == nil {
		return ""
	}
	return id
}
