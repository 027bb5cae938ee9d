// Package claim keeps who uses which volume of this machine, and the record of
// volumes. That a volume has one writer is in the record (mayfly.Volume.Writer); who
// uses it besides is in memory, and in a note on disk for the next daemon (notes.go).
//
// A volume is defined (Node is empty), then made, by the first claim or by hand,
// then marked as leaving, then gone. A crash in between is made up for at the
// next start.
package claim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/volume"
)

// Volumes are those of this machine.
type Volumes struct {
	room  *volume.Volumes
	store *store.Store
	node  string
	notes notes
	fills fills

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

// Options of Open.
type Options struct {
	Node      string       // the name of this machine's node
	AllowBind []string     // directories of the host whose contents may be volumes; none if empty
	Log       *slog.Logger // slog.Default() if nil
}

// Open opens what there is of volumes beneath dir, and makes dir where it is new.
// Recover has to be called before anything is claimed.
func Open(dir string, s *store.Store, o Options) (*Volumes, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	dir, err := filepath.Abs(dir) // what is mounted from there
	if err != nil {
		return nil, err
	}
	room, err := volume.Open(dir, volume.Options{Log: o.Log, AllowBind: o.AllowBind})
	if err != nil {
		return nil, err
	}
	return &Volumes{
		room: room, store: s, node: o.Node, known: make(map[store.Key]*held),
		notes: notes{dir + "/claims"}, fills: fills{dir + "/fills"}, arrivals: newArrivalWatches(dir+"/arrivals", o.Log),
	}, nil
}

func (vs *Volumes) held(key store.Key) *held {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	h := vs.known[key]
	if h == nil {
		h = &held{users: make(map[string]use), freed: make(chan struct{})}
		vs.known[key] = h
	}
	return h
}

// Claim makes the volumes that an instance names ready for it, and returns what to
// mount. A volume that several may not write to is claimed for it and its sidecars:
// while another instance has it, the error is a Conflict that names that one. It
// claims all of them or none; Release ends it. in need not be on record.
func (vs *Volumes) Claim(ctx context.Context, in mayfly.Instance, mounts []mayfly.VolumeMount) ([]mayfly.Mount, error) {
	if len(mounts) == 0 {
		return nil, nil
	}
	if err := vs.notes.write(in, mounts); err != nil {
		return nil, fmt.Errorf("note the volumes of %s: %w", in.ID, err)
	}
	var all []mayfly.Mount
	for i, m := range mounts {
		o, err := vs.claim(ctx, in, m, slices.ContainsFunc(mounts, func(o mayfly.VolumeMount) bool {
			return o.Volume == m.Volume && !o.ReadOnly
		}))
		if err == nil && m.Subpath != "" {
			o.Path, err = vs.room.Pin(mayfly.Volume{Space: in.Space, Name: m.Volume}, o, m.Subpath, in.ID, i)
		}
		if err != nil {
			return nil, errors.Join(err, vs.Release(context.WithoutCancel(ctx), in.ID))
		}
		all = append(all, mayfly.Mount{Type: "bind", Source: o.Path, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	return all, nil
}

// claim claims one volume and opens it. While another user fills it, it waits.
func (vs *Volumes) claim(ctx context.Context, in mayfly.Instance, m mayfly.VolumeMount, write bool) (volume.Opened, error) {
	h := vs.held(store.Key{Space: in.Space, Name: m.Volume})
	o, err := vs.claimHeld(ctx, h, in, m, write)
	if err == nil {
		err = h.awaitFilled(ctx)
	}
	return o, err
}

func (vs *Volumes) claimHeld(ctx context.Context, h *held, in mayfly.Instance, m mayfly.VolumeMount, write bool) (volume.Opened, error) {
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

// open opens a volume that was made.
func (vs *Volumes) open(ctx context.Context, v mayfly.Volume) (volume.Opened, error) {
	p, err := vs.room.Provider(v)
	if err != nil {
		return volume.Opened{}, err
	}
	return p.Open(ctx, v)
}

// take has the record name the writer, if there is to be one. h.mu is held.
func (vs *Volumes) take(ctx context.Context, h *held, space, name string, u use) (mayfly.Volume, error) {
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
		v.Writer, v.WriterName = u.group, u.name
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

// Release ends the claims of an instance whose processes have ended. One that has
// none is no error.
func (vs *Volumes) Release(ctx context.Context, instance string) error {
	n, err := vs.notes.read(instance)
	if err != nil || n == nil {
		return err
	}
	errs := []error{vs.room.Unpin(instance)}
	for _, name := range n.Volumes {
		errs = append(errs, vs.drop(ctx, n.Space, name, instance))
	}
	return errors.Join(append(errs, vs.notes.remove(instance))...)
}

// drop ends an instance's use of a volume. One that goes with its last workload
// goes when there is none.
func (vs *Volumes) drop(ctx context.Context, space, name, instance string) error {
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
		v.Writer, v.WriterName = "", ""
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
