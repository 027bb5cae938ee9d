package claim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/volume"
)

// make makes a volume that is defined. h.mu of its is held.
func (vs *Volumes) make(ctx context.Context, p volume.Provider, v mayfly.Volume) (mayfly.Volume, error) {
	if err := vs.room.Check(v); err != nil {
		return v, err
	}
	if err := p.Create(ctx, v); err != nil {
		return v, err
	}
	if err := vs.beginNote(ctx, v); err != nil {
		return v, err
	}
	v, err := vs.store.Volumes.Update(ctx, v.Space, v.Name, func(v mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		if !found {
			return v, false, mayfly.Errorf(mayfly.NotFound, "there is no volume %q", v.Name)
		}
		v.Node, v.Created = vs.node, time.Now().UTC()
		return v, true, nil
	})
	if err == nil {
		vs.news("volume.created", v, fmt.Sprintf("volume %s was made on %s by provider %s", v.Name, vs.node, cmp.Or(v.Provider, mayfly.VolumeLocal)))
	}
	return v, err
}

// purge removes a volume that was made for workloads that are gone. h.mu is held.
func (vs *Volumes) purge(ctx context.Context, h *held, v mayfly.Volume) error {
	if !v.Purge || v.Node != vs.node || len(h.users) > 0 || h.doing != "" || vs.named(v) != "" {
		return nil
	}
	if n := vs.snapshots(v); n > 0 {
		vs.news("volume.kept", v, fmt.Sprintf("volume %s stays although no workload names it: it has %s", v.Name, count(n, "snapshot")))
		return nil
	}
	return vs.remove(ctx, v, "no workload names it any more")
}

// named returns a workload that names a volume, empty if none does.
func (vs *Volumes) named(v mayfly.Volume) string {
	for _, w := range vs.store.Snapshot().WorkloadsIn(v.Space) {
		if slices.Contains(volumesOf(&w.Workload), v.Name) {
			return w.Workload.Name
		}
	}
	return ""
}

// Leave removes the volumes that go with a workload which was deleted; those that
// are in use go when they are released.
func (vs *Volumes) Leave(ctx context.Context, w *mayfly.Workload) error {
	var errs []error
	for _, name := range volumesOf(w) {
		h := vs.held(store.Key{Space: w.Space, Name: name})
		h.mu.Lock()
		if rec, found := vs.store.Volumes.Find(w.Space, name); found {
			errs = append(errs, vs.purge(ctx, h, rec.Value))
		}
		h.mu.Unlock()
	}
	return errors.Join(errs...)
}

// volumesOf lists the volumes that a workload names.
func volumesOf(w *mayfly.Workload) (names []string) {
	for _, m := range w.Volumes {
		names = append(names, m.Volume)
	}
	if w.Service != nil {
		for _, s := range w.Service.Sidecars {
			for _, m := range s.Volumes {
				names = append(names, m.Volume)
			}
		}
	}
	return names
}

// CheckFunction refuses a function that writes to what only one may write to: it
// has several containers, some of which wait.
func (vs *Volumes) CheckFunction(w *mayfly.Workload) error {
	if w.Service != nil {
		return nil
	}
	for _, m := range w.Volumes {
		rec, found := vs.store.Volumes.Find(w.Space, m.Volume)
		if !found {
			return errNoVolume(m.Volume)
		}
		if !m.ReadOnly && !rec.Value.Shared {
			return mayfly.Errorf(mayfly.Invalid, "function %s has several containers, and volume %s lets only one write", w.Name, m.Volume).
				WithHint("mount it read-only, or say shared: true of the volume")
		}
	}
	return nil
}

func errNoVolume(name string) error {
	return mayfly.Errorf(mayfly.NotFound, "there is no volume %q", name).
		WithHint("make it with mayfly volume create %s, or name it under volumes: in the manifest", name)
}

// remove removes a volume that nobody uses. The mark is what decides: after a
// crash the rest is done at the next start. h.mu is held.
func (vs *Volumes) remove(ctx context.Context, v mayfly.Volume, why string) error {
	v, err := vs.store.Volumes.Update(ctx, v.Space, v.Name, func(v mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		if !found || v.Leaving {
			return v, false, nil
		}
		v.Leaving = true
		return v, true, nil
	})
	if err != nil {
		return err
	}
	if v.Name == "" { // somebody else removed it
		return nil
	}
	return vs.finishRemove(ctx, v, why)
}

func (vs *Volumes) finishRemove(ctx context.Context, v mayfly.Volume, why string) error {
	if v.Node == vs.node {
		p, err := vs.room.Provider(v)
		if err != nil {
			return err
		}
		if err := vs.forget(v); err != nil {
			return err
		}
		if err := p.Remove(ctx, v); err != nil {
			return err
		}
	}
	rec, found := vs.store.Volumes.Find(v.Space, v.Name)
	if !found {
		return nil
	}
	if err := vs.store.Volumes.Delete(ctx, v.Space, v.Name, rec.Revision); err != nil {
		return err
	}
	text := "volume " + v.Name + " was removed"
	if why != "" {
		text += ": " + why
	}
	vs.news("volume.removed", v, text)
	return nil
}

// snapshots is how many snapshots a volume has.
func (vs *Volumes) snapshots(v mayfly.Volume) int {
	s, err := vs.room.Snapshotter(v)
	if err != nil {
		return 0
	}
	list, err := s.Snapshots(v)
	if err != nil {
		return 1 // be careful
	}
	return len(list)
}

func (vs *Volumes) news(kind string, v mayfly.Volume, text string) {
	vs.store.RecordNews(mayfly.News{Space: v.Space, Type: kind, Subject: v.Name, Node: vs.node, Text: text})
}

// count is so many things, in words.
func count(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (vs *Volumes) emptied(v mayfly.Volume) {
	vs.news("volume.emptied", v, "volume "+v.Name+" was in memory and is empty since the machine started again")
}
