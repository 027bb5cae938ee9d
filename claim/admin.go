package claim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// CreateVolume defines a volume and makes it. One of its name is a Conflict.
func (vs *Volumes) CreateVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	if err := vs.checkDefinition(&v); err != nil {
		return v, err
	}
	h := vs.held(store.Key{Space: v.Space, Name: v.Name})
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec, found := vs.store.Volumes.Find(v.Space, v.Name); found && !rec.Value.Leaving {
		return v, mayfly.Errorf(mayfly.Conflict, "there is a volume %s already", v.Name).WithHint("choose another name")
	}
	if _, err := vs.store.Volumes.Put(ctx, v.Space, v.Name, v, 0); err != nil {
		return v, err
	}
	p, err := vs.room.Provider(v)
	if err != nil {
		return v, err
	}
	made, err := vs.make(ctx, p, v)
	if err != nil { // it is not to be there half
		vs.remove(context.WithoutCancel(ctx), v, "it could not be made")
	}
	return made, err
}

// PutVolume defines a volume, which is made when a container needs it. Of one that
// is there, what cannot be changed has to be the same.
func (vs *Volumes) PutVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	if err := vs.checkDefinition(&v); err != nil {
		return v, err
	}
	h := vs.held(store.Key{Space: v.Space, Name: v.Name})
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec, found := vs.store.Volumes.Find(v.Space, v.Name); found {
		if err := vs.changeEvents(ctx, h, rec.Value, v); err != nil {
			return v, err
		}
	}
	return vs.store.Volumes.Update(ctx, v.Space, v.Name, func(old mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		if !found {
			return v, true, nil
		}
		next := v
		next.Node, next.Created, next.Fence, next.Leaving = old.Node, old.Created, old.Fence, old.Leaving
		next.Writer, next.WriterName = old.Writer, old.WriterName
		if old.Node != "" {
			if what := fixed(&old, &v); what != "" {
				return old, false, mayfly.Errorf(mayfly.Conflict, "volume %s was made with another %s", v.Name, what).
					WithHint("leave it as it was, or use a new volume and mayfly volume cp")
			}
			if old.Writer != "" && v.Shared {
				next.Writer, next.WriterName = "", ""
			}
		}
		return next, !sameVolume(&old, &next), nil
	})
}

// Define defines the volumes that nobody has, as people expect of run -v.
func (vs *Volumes) Define(ctx context.Context, space string, mounts []mayfly.VolumeMount) error {
	for _, m := range mounts {
		_, err := vs.store.Volumes.Update(ctx, space, m.Volume, func(v mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
			return mayfly.Volume{Space: space, Name: m.Volume}, !found, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fixed names what two definitions differ in that a volume cannot change.
func fixed(a, b *mayfly.Volume) string {
	switch {
	case cmp.Or(a.Provider, mayfly.VolumeLocal) != cmp.Or(b.Provider, mayfly.VolumeLocal):
		return "provider"
	case a.Source != b.Source:
		return "source"
	case a.Size != b.Size:
		return "size"
	}
	return ""
}

func sameVolume(a, b *mayfly.Volume) bool {
	x, y := *a, *b
	x.Labels, y.Labels = nil, nil
	return fmt.Sprint(x) == fmt.Sprint(y) && fmt.Sprint(a.Labels) == fmt.Sprint(b.Labels)
}

func (vs *Volumes) checkDefinition(v *mayfly.Volume) error {
	if err := mayfly.CheckName("volume", v.Name); err != nil {
		return err
	}
	v.Node, v.Created, v.Fence, v.Writer, v.Leaving = "", time.Time{}, 0, "", false
	if err := v.Events.Check(); err != nil {
		return err
	}
	return vs.room.Check(*v)
}

// GetVolume returns a volume with what is not in its record.
func (vs *Volumes) GetVolume(ctx context.Context, space, name string) (d mayfly.VolumeDetails, err error) {
	rec, err := vs.store.Volumes.Get(space, name)
	if err != nil {
		return d, err
	}
	if rec.Value.Leaving {
		return d, errNoVolume(name)
	}
	d.Volume, d.Snapshots, d.Users = rec.Value, []mayfly.VolumeSnapshot{}, vs.users(rec.Key)
	if s, err := vs.room.Snapshotter(d.Volume); err == nil {
		if d.Snapshots, err = s.Snapshots(d.Volume); err != nil {
			return d, err
		}
	}
	if p, err := vs.room.Provider(d.Volume); err == nil && d.Node == vs.node {
		if u, err := p.Usage(ctx, d.Volume); err == nil { // of one that is gone nothing is known
			d.Usage = u
		}
	}
	return d, nil
}

// users are those who use a volume, as people know them.
func (vs *Volumes) users(key store.Key) []string {
	h := vs.held(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names()
}

func (h *held) names() []string {
	names := []string{}
	for _, u := range h.users {
		names = append(names, u.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ListVolumes returns the volumes of a space by name.
func (vs *Volumes) ListVolumes(_ context.Context, space string) ([]mayfly.Volume, error) {
	list := []mayfly.Volume{}
	for _, rec := range vs.store.Volumes.List(space) {
		if !rec.Value.Leaving {
			list = append(list, rec.Value)
		}
	}
	return list, nil
}

// RemoveVolume removes a volume that nobody uses, and with force its snapshots too.
func (vs *Volumes) RemoveVolume(ctx context.Context, space, name string, force bool) error {
	h := vs.held(store.Key{Space: space, Name: name})
	leaving := vs.awaitLeaving(ctx, space, h)
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, err := vs.store.Volumes.Get(space, name)
	if err != nil {
		return err
	}
	v := rec.Value
	if users := h.names(); len(users) > 0 {
		return errInUse(name, users, leaving)
	}
	if h.doing != "" {
		return errDoing(name, h.doing)
	}
	if user := vs.named(v); user != "" && !force {
		return mayfly.Errorf(mayfly.Conflict, "volume %s is named by workload %s", name, user).
			WithHint("delete that first, or remove the volume and its snapshots with --force")
	}
	if s, err := vs.room.Snapshotter(v); err == nil {
		list, err := s.Snapshots(v)
		if err != nil {
			return err
		}
		if len(list) > 0 && !force {
			return mayfly.Errorf(mayfly.Conflict, "volume %s has %s", name, count(len(list), "snapshot")).
				WithHint("remove them too with --force, or one by one: mayfly volume rm %s@%s", name, list[0].Name)
		}
		for _, one := range list {
			if err := s.RemoveSnapshot(ctx, v, one.Name); err != nil {
				return err
			}
		}
	}
	return vs.remove(ctx, v, "")
}

// leavingWait is how long users of a volume that are about to be gone are waited for.
const leavingWait = 10 * time.Second

// awaitLeaving waits until the users of a volume that are about to be gone are: who
// deletes a workload, scales it to none or removes a container, means to be rid of
// its use of the volume too. If another user stays, there is nothing to wait for. It
// reports whether those who are left when the wait is over are about to be gone.
func (vs *Volumes) awaitLeaving(ctx context.Context, space string, h *held) bool {
	ctx, cancel := context.WithTimeout(ctx, leavingWait)
	defer cancel()
	for {
		h.mu.Lock()
		wait, freed := len(h.users) > 0, h.freed
		for id, u := range h.users {
			wait = wait && vs.leaves(space, id, u)
		}
		h.mu.Unlock()
		if !wait {
			return false
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return true
		}
	}
}

// leaves reports whether an instance is about to be gone: it, or its workload, is
// not on record any more, or it has ended, or is told to stop. What waits for a
// function's runs is never on record.
func (vs *Volumes) leaves(space, id string, u use) bool {
	if u.workload != "" {
		if _, err := vs.store.Workload(space, u.workload); err != nil {
			return true
		}
	}
	in, err := vs.store.Instance(space, id)
	if err != nil {
		return u.workload == ""
	}
	return in.Exit != nil || vs.stops(&in.Instance)
}

// stops reports whether an instance of a service is told to stop, or will be
// because people asked for fewer.
func (vs *Volumes) stops(in *mayfly.Instance) bool {
	if in.Assigned == "" {
		return false
	}
	a, found := vs.store.Assignments.Find(in.Space, in.Assigned)
	wish, _ := vs.store.Wishes.Find(in.Space, in.Workload)
	return !found || a.Value.Stop || wish.Value.Scale != nil && in.Replica > *wish.Value.Scale
}

// errInUse is of a volume that users use, who may be about to be gone.
func errInUse(name string, users []string, leaving bool) error {
	hint := "stop that first; a service is stopped by mayfly scale SERVICE=0"
	if leaving {
		hint = "that is being stopped; try again when it has ended"
	}
	return mayfly.Errorf(mayfly.Conflict, "volume %s is used by %s", name, strings.Join(users, ", ")).WithHint("%s", hint)
}

func errDoing(name, what string) error {
	return mayfly.Errorf(mayfly.Busy, "volume %s is being %s", name, what).WithHint("try again when that has ended")
}
