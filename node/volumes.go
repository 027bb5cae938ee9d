package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/volume"
)

// volumes keeps who uses which volume of this machine. That a volume has one
// writer is in the record (mayfly.Volume.Writer); who uses it besides is in
// memory, and in a note on disk for the next daemon (volume_notes.go).
//
// A volume is defined (Node is empty), then made, by the first claim or by hand,
// then marked as leaving, then gone. A crash in between is made up for at the
// next start.
type volumes struct {
	room  *volume.Volumes
	store *store.Store
	node  string
	notes claimNotes
	fills volumeFills

	arrivals *arrivalWatches

	mu    sync.Mutex
	known map[store.Key]*held
}

// held is what this daemon knows of a volume.
type held struct {
	mu      sync.Mutex     // one change at a time; short
	doing   string         // to it, such as "copied"; it is neither unmounted nor removed meanwhile
	alone   bool           // and nobody may claim it meanwhile
	filling chan struct{}  // closed when one of the users has filled it; nil: none is about it
	users   map[string]use // by instance
	freed   chan struct{}  // closed, and made anew, when one of the users is gone
}

// use is what an instance has of a volume.
type use struct {
	group    string // whose containers may write side by side: an instance and its sidecars
	name     string // for people
	workload string // empty for a container that is no workload's
	readOnly bool
}

func openVolumes(dir string, s *store.Store, o *Options) (*volumes, error) {
	room, err := volume.Open(dir, volume.Options{Log: o.Log, AllowBind: o.AllowBind})
	if err != nil {
		return nil, err
	}
	return &volumes{
		room: room, store: s, node: o.Name, notes: claimNotes{dir + "/claims"}, fills: volumeFills{dir + "/fills"}, known: make(map[store.Key]*held),
		arrivals: newArrivalWatches(dir+"/arrivals", o.Log),
	}, nil
}

func (vs *volumes) held(key store.Key) *held {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	h := vs.known[key]
	if h == nil {
		h = &held{users: make(map[string]use), freed: make(chan struct{})}
		vs.known[key] = h
	}
	return h
}

// ClaimVolumes makes the volumes that an instance names ready for it, and
// returns what to mount. A volume that several may not write to is claimed for it
// and its sidecars: while another instance has it, the error is a Conflict that
// names that one. It claims all of them or none; ReleaseVolumes ends it. in need
// not be on record.
func (n *Node) ClaimVolumes(ctx context.Context, in mayfly.Instance, mounts []mayfly.VolumeMount) ([]mayfly.Mount, error) {
	if len(mounts) == 0 {
		return nil, nil
	}
	if err := n.volumes.notes.write(in, mounts); err != nil {
		return nil, fmt.Errorf("note the volumes of %s: %w", in.ID, err)
	}
	var all []mayfly.Mount
	for i, m := range mounts {
		o, err := n.volumes.claim(ctx, in, m, slices.ContainsFunc(mounts, func(o mayfly.VolumeMount) bool {
			return o.Volume == m.Volume && !o.ReadOnly
		}))
		if err == nil && m.Subpath != "" {
			o.Path, err = n.volumes.room.Pin(mayfly.Volume{Space: in.Space, Name: m.Volume}, o, m.Subpath, in.ID, i)
		}
		if err != nil {
			return nil, errors.Join(err, n.ReleaseVolumes(context.WithoutCancel(ctx), in.ID))
		}
		all = append(all, mayfly.Mount{Type: "bind", Source: o.Path, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	return all, nil
}

// ReleaseVolumes ends the claims of an instance whose processes have ended. One
// that has none is no error.
func (n *Node) ReleaseVolumes(ctx context.Context, instance string) error {
	return n.volumes.release(ctx, instance)
}

// letGo takes back the volumes, secrets and configs of an instance whose
// processes have ended, where nobody could do anything about an error.
func (n *Node) letGo(ctx context.Context, id string) {
	if err := errors.Join(n.ReleaseVolumes(ctx, id), n.materials.release(id)); err != nil {
		n.opts.Log.Error("release volumes and secrets", "instance", id, "err", err)
	}
}

// claim claims one volume and opens it. While another user fills it, it waits.
func (vs *volumes) claim(ctx context.Context, in mayfly.Instance, m mayfly.VolumeMount, write bool) (volume.Opened, error) {
	h := vs.held(store.Key{Space: in.Space, Name: m.Volume})
	o, err := vs.claimHeld(ctx, h, in, m, write)
	if err == nil {
		err = h.awaitFilled(ctx)
	}
	return o, err
}

func (vs *volumes) claimHeld(ctx context.Context, h *held, in mayfly.Instance, m mayfly.VolumeMount, write bool) (volume.Opened, error) {
	none := volume.Opened{}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.alone {
		return none, mayfly.Errorf(mayfly.Conflict, "volume %s is being %s", m.Volume, h.doing).WithHint("try again when that has ended")
	}
	u := use{group: cmp.Or(in.Beside, in.ID), name: personName(in), workload: in.Workload, readOnly: !write}
	v, err := vs.take(ctx, h, in.Space, m.Volume, u)
	if err != nil {
		return none, err
	}
	h.users[in.ID] = u
	p, err := vs.room.Provider(v)
	if err != nil {
		return none, err
	}
	if v.Node == "" {
		if v, err = vs.make(ctx, p, v); err != nil {
			return none, err
		}
	}
	o, err := p.Open(ctx, v)
	if err == nil && o.Emptied {
		vs.emptied(v)
	}
	return o, err
}

func (vs *volumes) emptied(v mayfly.Volume) {
	vs.news("volume.emptied", v, "volume "+v.Name+" was in memory and is empty since the machine started again")
}

// take has the record name the writer, if there is to be one. h.mu is held.
func (vs *volumes) take(ctx context.Context, h *held, space, name string, u use) (mayfly.Volume, error) {
	return vs.store.Volumes.Update(ctx, space, name, func(v mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		switch {
		case !found || v.Leaving:
			return v, false, errNoVolume(name)
		case v.Node != "" && v.Node != vs.node:
			return v, false, mayfly.Errorf(mayfly.Conflict, "volume %s lies on node %s, not on %s", name, v.Node, vs.node)
		case u.readOnly || v.Shared || v.Writer == u.group:
			return v, false, nil
		}
		if who := h.writer(v.Writer); who != "" {
			return v, false, mayfly.Errorf(mayfly.Conflict, "volume %s is written by %s", name, who).
				WithHint("stop that first, mount it read-only, or say shared: true of the volume if several may write")
		}
		v.Writer = u.group
		v.Fence++
		return v, true, nil
	})
}

// writer is the name of whoever has a claim, empty when nobody uses the volume
// under it any more.
func (h *held) writer(group string) string {
	for _, u := range h.users {
		if u.group == group && !u.readOnly {
			return u.name
		}
	}
	return ""
}

// personName is an instance as people know it.
func personName(in mayfly.Instance) string {
	switch {
	case in.Workload == "":
		return cmp.Or(in.Name, in.ID)
	case in.Replica == 0:
		return in.Workload
	case in.Sidecar != "":
		return fmt.Sprintf("%s/%d %s", in.Workload, in.Replica, in.Sidecar)
	}
	return fmt.Sprintf("%s/%d", in.Workload, in.Replica)
}

// make makes a volume that is defined. h.mu of its is held.
func (vs *volumes) make(ctx context.Context, p volume.Provider, v mayfly.Volume) (mayfly.Volume, error) {
	if err := vs.room.Check(v); err != nil {
		return v, err
	}
	if err := p.Create(ctx, v); err != nil {
		return v, err
	}
	if err := vs.beginNote(ctx, p, v); err != nil {
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

// release ends the claims of an instance.
func (vs *volumes) release(ctx context.Context, instance string) error {
	note, err := vs.notes.read(instance)
	if err != nil || note == nil {
		return err
	}
	errs := []error{vs.room.Unpin(instance)}
	for _, name := range note.Volumes {
		errs = append(errs, vs.drop(ctx, note.Space, name, instance))
	}
	return errors.Join(append(errs, vs.notes.remove(instance))...)
}

// drop ends an instance's use of a volume. One that goes with its last workload
// goes when there is none.
func (vs *volumes) drop(ctx context.Context, space, name, instance string) error {
	h := vs.held(store.Key{Space: space, Name: name})
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.users, instance)
	close(h.freed)
	h.freed = make(chan struct{})
	rec, found := vs.store.Volumes.Find(space, name)
	if !found {
		return nil
	}
	v, err := vs.store.Volumes.Update(ctx, space, name, func(v mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		if !found || v.Writer == "" || h.writer(v.Writer) != "" {
			return v, false, nil
		}
		v.Writer = ""
		return v, true, nil
	})
	if err != nil || len(h.users) > 0 || h.doing != "" || v.Node != vs.node {
		return err
	}
	p, err := vs.room.Provider(rec.Value)
	if err != nil {
		return err
	}
	if !vs.arrivals.watches(rec.Key) {
		if err := p.Close(ctx, v); err != nil {
			return err
		}
	}
	return vs.purge(ctx, h, v)
}

// purge removes a volume that was made for workloads that are gone. h.mu is held.
func (vs *volumes) purge(ctx context.Context, h *held, v mayfly.Volume) error {
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
func (vs *volumes) named(v mayfly.Volume) string {
	for _, w := range vs.store.Snapshot().WorkloadsIn(v.Space) {
		if slices.Contains(volumesOf(&w.Workload), v.Name) {
			return w.Workload.Name
		}
	}
	return ""
}

// leave removes the volumes that go with a workload which was deleted; those that
// are in use go when they are released.
func (vs *volumes) leave(ctx context.Context, w *mayfly.Workload) error {
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

// checkFunction refuses a function that writes to what only one may write to: it
// has several containers, some of which wait.
func (vs *volumes) checkFunction(w *mayfly.Workload) error {
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
func (vs *volumes) remove(ctx context.Context, v mayfly.Volume, why string) error {
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

func (vs *volumes) finishRemove(ctx context.Context, v mayfly.Volume, why string) error {
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
func (vs *volumes) snapshots(v mayfly.Volume) int {
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

func (vs *volumes) news(kind string, v mayfly.Volume, text string) {
	vs.store.RecordNews(mayfly.News{Space: v.Space, Type: kind, Subject: v.Name, Node: vs.node, Text: text})
}

// count is so many things, in words.
func count(n int, what string) string {
	if n == 1 {
		return "one " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
