package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/tree"
	"github.com/mayfly-run/mayfly/volume"
)

// CreateVolume defines a volume and makes it. One of its name is a Conflict.
func (n *Node) CreateVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	if err := n.volumes.checkDefinition(&v); err != nil {
		return v, err
	}
	h := n.volumes.held(store.Key{Space: v.Space, Name: v.Name})
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec, found := n.store.Volumes.Find(v.Space, v.Name); found && !rec.Value.Leaving {
		return v, mayfly.Errorf(mayfly.Conflict, "there is a volume %s already", v.Name).WithHint("choose another name")
	}
	if _, err := n.store.Volumes.Put(ctx, v.Space, v.Name, v, 0); err != nil {
		return v, err
	}
	p, err := n.volumes.room.Provider(v)
	if err != nil {
		return v, err
	}
	made, err := n.volumes.make(ctx, p, v)
	if err != nil { // it is not to be there half
		n.volumes.remove(context.WithoutCancel(ctx), v, "it could not be made")
	}
	return made, err
}

// PutVolume defines a volume, which is made when a container needs it. Of one that
// is there, what cannot be changed has to be the same.
func (n *Node) PutVolume(ctx context.Context, v mayfly.Volume) (mayfly.Volume, error) {
	if err := n.volumes.checkDefinition(&v); err != nil {
		return v, err
	}
	h := n.volumes.held(store.Key{Space: v.Space, Name: v.Name})
	h.mu.Lock()
	defer h.mu.Unlock()
	if rec, found := n.store.Volumes.Find(v.Space, v.Name); found {
		if err := n.volumes.changeEvents(ctx, h, rec.Value, v); err != nil {
			return v, err
		}
	}
	return n.store.Volumes.Update(ctx, v.Space, v.Name, func(old mayfly.Volume, found bool) (mayfly.Volume, bool, error) {
		if !found {
			return v, true, nil
		}
		next := v
		next.Node, next.Created, next.Fence, next.Writer, next.Leaving = old.Node, old.Created, old.Fence, old.Writer, old.Leaving
		if old.Node != "" {
			if what := fixed(&old, &v); what != "" {
				return old, false, mayfly.Errorf(mayfly.Conflict, "volume %s was made with another %s", v.Name, what).
					WithHint("leave it as it was, or use a new volume and mayfly volume cp")
			}
			if old.Writer != "" && v.Shared {
				next.Writer = ""
			}
		}
		return next, !sameVolume(&old, &next), nil
	})
}

// defineAll defines the volumes that nobody has, as people expect of run -v.
func (vs *volumes) defineAll(ctx context.Context, space string, mounts []mayfly.VolumeMount) error {
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

func (vs *volumes) checkDefinition(v *mayfly.Volume) error {
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
func (n *Node) GetVolume(ctx context.Context, space, name string) (d mayfly.VolumeDetails, err error) {
	rec, err := n.store.Volumes.Get(space, name)
	if err != nil {
		return d, err
	}
	if rec.Value.Leaving {
		return d, errNoVolume(name)
	}
	d.Volume, d.Snapshots, d.Users = rec.Value, []mayfly.VolumeSnapshot{}, n.volumes.users(rec.Key)
	if s, err := n.volumes.room.Snapshotter(d.Volume); err == nil {
		if d.Snapshots, err = s.Snapshots(d.Volume); err != nil {
			return d, err
		}
	}
	if p, err := n.volumes.room.Provider(d.Volume); err == nil && d.Node == n.opts.Name {
		if u, err := p.Usage(ctx, d.Volume); err == nil { // of one that is gone nothing is known
			d.Usage = u
		}
	}
	return d, nil
}

// users are those who use a volume, as people know them.
func (vs *volumes) users(key store.Key) []string {
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
func (n *Node) ListVolumes(_ context.Context, space string) ([]mayfly.Volume, error) {
	list := []mayfly.Volume{}
	for _, rec := range n.store.Volumes.List(space) {
		if !rec.Value.Leaving {
			list = append(list, rec.Value)
		}
	}
	return list, nil
}

// RemoveVolume removes a volume that nobody uses, and with force its snapshots too.
func (n *Node) RemoveVolume(ctx context.Context, space, name string, force bool) error {
	vs := n.volumes
	h := vs.held(store.Key{Space: space, Name: name})
	vs.awaitLeaving(ctx, space, h)
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, err := n.store.Volumes.Get(space, name)
	if err != nil {
		return err
	}
	v := rec.Value
	if users := h.names(); len(users) > 0 {
		return errInUse(name, users)
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
// deletes a workload, or removes a container, means to be rid of its use of the
// volume too. If another user stays, there is nothing to wait for.
func (vs *volumes) awaitLeaving(ctx context.Context, space string, h *held) {
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
			return
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return
		}
	}
}

// leaves reports whether an instance is about to be gone: it, or its workload, is
// not on record any more, or it has ended. What waits for a function's runs is never
// on record.
func (vs *volumes) leaves(space, id string, u use) bool {
	if u.workload != "" {
		if _, err := vs.store.Workload(space, u.workload); err != nil {
			return true
		}
	}
	in, err := vs.store.Instance(space, id)
	if err != nil {
		return u.workload == ""
	}
	return in.Exit != nil
}

func errInUse(name string, users []string) error {
	return mayfly.Errorf(mayfly.Conflict, "volume %s is used by %s", name, strings.Join(users, ", ")).
		WithHint("stop that first; a service is stopped by mayfly scale SERVICE=0")
}

func errDoing(name, what string) error {
	return mayfly.Errorf(mayfly.Busy, "volume %s is being %s", name, what).WithHint("try again when that has ended")
}

// busy keeps a volume from being claimed or removed while work goes on: nobody
// uses it, if it is to be alone. It is made if it was defined only.
func (vs *volumes) busy(ctx context.Context, space, name, doing string, alone bool, work func(v mayfly.Volume) error) error {
	h := vs.held(store.Key{Space: space, Name: name})
	if alone {
		vs.awaitLeaving(ctx, space, h)
	}
	h.mu.Lock()
	rec, err := vs.store.Volumes.Get(space, name)
	v := rec.Value
	switch users := h.names(); {
	case err != nil:
	case h.doing != "":
		err = errDoing(name, h.doing)
	case h.filling != nil:
		err = errDoing(name, "filled")
	case v.Leaving:
		err = errNoVolume(name)
	case v.Node != "" && v.Node != vs.node:
		err = mayfly.Errorf(mayfly.Conflict, "volume %s lies on node %s", name, v.Node)
	case alone && len(users) > 0:
		err = errInUse(name, users)
	}
	var p volume.Provider
	if err == nil {
		p, err = vs.room.Provider(v)
	}
	if err == nil && v.Node == "" {
		v, err = vs.make(ctx, p, v)
	}
	if err != nil {
		h.mu.Unlock()
		return err
	}
	h.doing, h.alone = doing, alone
	h.mu.Unlock()
	err = work(v)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doing, h.alone = "", false
	if len(h.users) == 0 && !vs.arrivals.watches(rec.Key) {
		if closing := p.Close(context.WithoutCancel(ctx), v); err == nil {
			err = closing
		}
	}
	return err
}

// SnapshotVolume keeps a copy of what is in a volume now, under a name, or one
// made of the time if it is empty.
func (n *Node) SnapshotVolume(ctx context.Context, space, name, snapshot string) (s volume.Snapshot, err error) {
	if snapshot == "" {
		snapshot = time.Now().UTC().Format("20060102-150405")
	}
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return s, err
	}
	err = n.volumes.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := n.volumes.room.Snapshotter(v)
		if err == nil {
			s, err = sn.Snapshot(ctx, v, snapshot)
		}
		if err == nil {
			n.volumes.news("volume.snapshot", v, fmt.Sprintf("snapshot %s of volume %s was taken", snapshot, name))
		}
		return err
	})
	return s, err
}

// RemoveSnapshot forgets a snapshot.
func (n *Node) RemoveSnapshot(ctx context.Context, space, name, snapshot string) error {
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return err
	}
	return n.volumes.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := n.volumes.room.Snapshotter(v)
		if err == nil {
			err = sn.RemoveSnapshot(ctx, v, snapshot)
		}
		if err == nil {
			n.volumes.news("volume.snapshot-removed", v, fmt.Sprintf("snapshot %s of volume %s was removed", snapshot, name))
		}
		return err
	})
}

// RestoreVolume puts a snapshot in the place of what is in a volume. Nobody may
// use it.
func (n *Node) RestoreVolume(ctx context.Context, space, name, snapshot string) error {
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return err
	}
	return n.volumes.busy(ctx, space, name, "restored", true, func(v mayfly.Volume) error {
		sn, err := n.volumes.room.Snapshotter(v)
		if err == nil {
			n.volumes.arrivals.stop(store.Key{Space: space, Name: name})
			err = sn.Restore(ctx, v, snapshot)
		}
		if p, known := sn.(volume.Provider); err == nil && known && v.Events.On() {
			err = n.volumes.rebase(ctx, p, v, nil)
		}
		if err == nil {
			n.volumes.news("volume.restored", v, fmt.Sprintf("volume %s was restored from snapshot %s", name, snapshot))
		}
		return err
	})
}

// CloneVolume makes a volume of another one's kind with what is in that, or in a
// snapshot of it.
func (n *Node) CloneVolume(ctx context.Context, space, name, snapshot, to string) (made mayfly.Volume, err error) {
	if err := mayfly.CheckName("volume", to); err != nil {
		return made, err
	}
	if snapshot != "" {
		if err := mayfly.CheckName("snapshot", snapshot); err != nil {
			return made, err
		}
	}
	err = n.volumes.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := n.volumes.room.Snapshotter(v)
		if err != nil {
			return err
		}
		copied := v
		copied.Name, copied.App, copied.Purge, copied.Labels = to, "", false, nil
		if err := n.volumes.checkDefinition(&copied); err != nil {
			return err
		}
		h := n.volumes.held(store.Key{Space: space, Name: to})
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, found := n.store.Volumes.Find(space, to); found {
			return mayfly.Errorf(mayfly.Conflict, "there is a volume %s already", to).WithHint("choose another name")
		}
		copied.Node, copied.Created, copied.Leaving = n.opts.Name, time.Now().UTC(), true
		rev, err := n.store.Volumes.Put(ctx, space, to, copied, 0) // after a crash, what there is of it goes
		if err != nil {
			return err
		}
		if err := sn.Clone(ctx, v, snapshot, copied); err != nil {
			return errors.Join(err, n.store.Volumes.Delete(context.WithoutCancel(ctx), space, to, rev))
		}
		if p, err := n.volumes.room.Provider(copied); err == nil && copied.Events.On() {
			if err := n.volumes.rebase(ctx, p, copied, nil); err != nil {
				return err
			}
		}
		copied.Leaving = false
		if _, err := n.store.Volumes.Put(context.WithoutCancel(ctx), space, to, copied, rev); err != nil {
			return err
		}
		made = copied
		n.volumes.news("volume.created", copied, fmt.Sprintf("volume %s was made as a clone of %s", to, name))
		return nil
	})
	return made, err
}

// ReadVolume writes what is at a path of a volume as a tar stream.
func (n *Node) ReadVolume(ctx context.Context, space, name, path string, w io.Writer) error {
	return n.volumes.withFiles(ctx, space, name, func(d *tree.Dir, _ *tree.Owner) error {
		return d.Write(ctx, w, path)
	})
}

// WriteVolume makes files of a tar stream at a path of a volume. They become those
// of the owner of its top.
func (n *Node) WriteVolume(ctx context.Context, space, name, path string, r io.Reader, o client.CopyOptions) (report tree.Report, err error) {
	err = n.volumes.withFiles(ctx, space, name, func(d *tree.Dir, owner *tree.Owner) error {
		report, err = d.Extract(ctx, r, path, tree.Options{Owner: owner, Keep: o.Keep, Into: o.Into})
		return err
	})
	return report, err
}

// withFiles opens the files of a volume, as if its top were the root.
func (vs *volumes) withFiles(ctx context.Context, space, name string, work func(d *tree.Dir, owner *tree.Owner) error) error {
	return vs.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		p, err := vs.room.Provider(v)
		if err != nil {
			return err
		}
		o, err := p.Open(ctx, v)
		if err != nil {
			return err
		}
		fd, err := unix.Open(o.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: o.Path, Err: err}
		}
		d := tree.Root(fd)
		defer d.Close()
		var st unix.Stat_t
		if err := unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH); err != nil {
			return &fs.PathError{Op: "stat", Path: o.Path, Err: err}
		}
		return work(d, &tree.Owner{UID: int(st.Uid), GID: int(st.Gid)})
	})
}
