package material

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// maxConfig is the largest value of a config, in bytes.
const maxConfig = 256 << 10

// keepConfigs is how many versions of a config are kept, the newest included.
const keepConfigs = 10

// versionKey is the name under which a version of a config is kept. No name of a
// config has an underscore.
func versionKey(name string, version int) string { return fmt.Sprintf("%s_%d", name, version) }

// SetConfig keeps the next version of a config. A value that is there already
// makes none. With seen, which may be 0 for "none yet", another version than that
// is a Conflict; -1 is any.
func (s *Store) SetConfig(ctx context.Context, space, name string, value []byte, seen int) (mayfly.Config, error) {
	none := mayfly.Config{}
	if err := mayfly.CheckName("config", name); err != nil {
		return none, err
	}
	if len(value) > maxConfig {
		return none, mayfly.Errorf(mayfly.TooLarge, "config %s has %d bytes, and %d are the most", name, len(value), maxConfig)
	}
	rec, found := s.record.Configs.Find(space, name)
	old := rec.Value
	if seen >= 0 && old.Version != seen {
		return none, mayfly.Errorf(mayfly.Conflict, "config %s has version %d, not %d", name, old.Version, seen).WithHint("look at it again, then try again")
	}
	if found && bytes.Equal(old.Value, value) {
		return old, nil
	}
	next := mayfly.Config{Space: space, Name: name, Version: old.Version + 1, Value: value, Changed: time.Now().UTC()}
	// The version comes before it counts; one that a crash left is written over.
	_, err := s.record.Versions.Update(ctx, space, versionKey(name, next.Version), func(mayfly.Config, bool) (mayfly.Config, bool, error) {
		return next, true, nil
	})
	if err != nil {
		return none, err
	}
	if _, err := s.record.Configs.Put(ctx, space, name, next, rec.Revision); err != nil {
		return none, err
	}
	s.news("config.set", space, name, fmt.Sprintf("config %s was set: version %d", name, next.Version))
	if next.Version > keepConfigs {
		if err := s.dropVersion(ctx, space, name, next.Version-keepConfigs); err != nil {
			return next, err
		}
	}
	return next, nil
}

func (s *Store) dropVersion(ctx context.Context, space, name string, version int) error {
	rec, found := s.record.Versions.Find(space, versionKey(name, version))
	if !found {
		return nil
	}
	return s.record.Versions.Delete(ctx, space, rec.Name, rec.Revision)
}

// GetConfig returns a version of a config, the newest if it is 0.
func (s *Store) GetConfig(_ context.Context, space, name string, version int) (mayfly.Config, error) {
	rec, err := s.record.Configs.Get(space, name)
	if err != nil || version == 0 || version == rec.Value.Version {
		return rec.Value, err
	}
	old, found := s.record.Versions.Find(space, versionKey(name, version))
	if !found || version > rec.Value.Version || version < 1 {
		return mayfly.Config{}, mayfly.Errorf(mayfly.NotFound, "there is no version %d of config %s", version, name).
			WithHint("the last %d are kept; mayfly config history %s lists them", keepConfigs, name)
	}
	return old.Value, nil
}

// ListConfigs returns the configs of a space by name, without their values.
func (s *Store) ListConfigs(_ context.Context, space string) ([]mayfly.Config, error) {
	return withoutValues(s.record.Configs.List(space)), nil
}

func withoutValues(records []store.Record[mayfly.Config]) []mayfly.Config {
	list := []mayfly.Config{}
	for _, rec := range records {
		c := rec.Value
		c.Value = nil
		list = append(list, c)
	}
	return list
}

// ConfigHistory returns the versions of a config that are kept, newest first,
// without their values.
func (s *Store) ConfigHistory(_ context.Context, space, name string) ([]mayfly.Config, error) {
	rec, err := s.record.Configs.Get(space, name)
	if err != nil {
		return nil, err
	}
	var kept []store.Record[mayfly.Config]
	for v := rec.Value.Version; v > max(rec.Value.Version-keepConfigs, 0); v-- {
		if old, found := s.record.Versions.Find(space, versionKey(name, v)); found {
			kept = append(kept, old)
		}
	}
	return withoutValues(kept), nil
}

// RemoveConfig forgets a config and its versions. While a workload names it, it is
// a Conflict, unless force says that this is known.
func (s *Store) RemoveConfig(ctx context.Context, space, name string, force bool) error {
	rec, err := s.record.Configs.Get(space, name)
	if err != nil {
		return err
	}
	names := func(w *mayfly.Workload) bool {
		return slices.ContainsFunc(w.Configs, func(m mayfly.ConfigMount) bool { return m.Config == name })
	}
	if err := s.unnamed("config", space, name, names); err != nil && !force {
		return err
	}
	if err := s.record.Configs.Delete(ctx, space, name, rec.Revision); err != nil {
		return err
	}
	s.news("config.removed", space, name, "config "+name+" was removed")
	for v := rec.Value.Version; v > max(rec.Value.Version-keepConfigs, 0); v-- {
		if err := s.dropVersion(ctx, space, name, v); err != nil {
			return err
		}
	}
	return nil
}
