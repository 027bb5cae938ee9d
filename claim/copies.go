package claim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/tree"
	"github.com/mayfly-run/mayfly/volume"
)

// busy keeps a volume from being claimed or removed while work goes on: nobody
// uses it, if it is to be alone. It is made if it was defined only.
func (vs *Volumes) busy(ctx context.Context, space, name, doing string, alone bool, work func(v mayfly.Volume) error) error {
	h := vs.held(store.Key{Space: space, Name: name})
	leaving := alone && vs.awaitLeaving(ctx, space, h)
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
		err = errInUse(name, users, leaving)
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
func (vs *Volumes) SnapshotVolume(ctx context.Context, space, name, snapshot string) (s volume.Snapshot, err error) {
	if snapshot == "" {
		snapshot = time.Now().UTC().Format("20060102-150405")
	}
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return s, err
	}
	err = vs.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := vs.room.Snapshotter(v)
		if err == nil {
			s, err = sn.Snapshot(ctx, v, snapshot)
		}
		if err == nil {
			vs.news("volume.snapshot", v, fmt.Sprintf("snapshot %s of volume %s was taken", snapshot, name))
		}
		return err
	})
	return s, err
}

// RemoveSnapshot forgets a snapshot.
func (vs *Volumes) RemoveSnapshot(ctx context.Context, space, name, snapshot string) error {
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return err
	}
	return vs.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := vs.room.Snapshotter(v)
		if err == nil {
			err = sn.RemoveSnapshot(ctx, v, snapshot)
		}
		if err == nil {
			vs.news("volume.snapshot-removed", v, fmt.Sprintf("snapshot %s of volume %s was removed", snapshot, name))
		}
		return err
	})
}

// RestoreVolume puts a snapshot in the place of what is in a volume. Nobody may
// use it.
func (vs *Volumes) RestoreVolume(ctx context.Context, space, name, snapshot string) error {
	if err := mayfly.CheckName("snapshot", snapshot); err != nil {
		return err
	}
	return vs.busy(ctx, space, name, "restored", true, func(v mayfly.Volume) error {
		sn, err := vs.room.Snapshotter(v)
		if err == nil {
			vs.arrivals.stop(store.Key{Space: space, Name: name})
			err = sn.Restore(ctx, v, snapshot)
		}
		if err == nil && v.Events.On() {
			err = vs.rebase(ctx, v, nil)
		}
		if err == nil {
			vs.news("volume.restored", v, fmt.Sprintf("volume %s was restored from snapshot %s", name, snapshot))
		}
		return err
	})
}

// CloneVolume makes a volume of another one's kind with what is in that, or in a
// snapshot of it.
func (vs *Volumes) CloneVolume(ctx context.Context, space, name, snapshot, to string) (made mayfly.Volume, err error) {
	if err := mayfly.CheckName("volume", to); err != nil {
		return made, err
	}
	if snapshot != "" {
		if err := mayfly.CheckName("snapshot", snapshot); err != nil {
			return made, err
		}
	}
	err = vs.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		sn, err := vs.room.Snapshotter(v)
		if err != nil {
			return err
		}
		copied := v
		copied.Name, copied.App, copied.Purge, copied.Labels = to, "", false, nil
		if err := vs.checkDefinition(&copied); err != nil {
			return err
		}
		h := vs.held(store.Key{Space: space, Name: to})
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, found := vs.store.Volumes.Find(space, to); found {
			return mayfly.Errorf(mayfly.Conflict, "there is a volume %s already", to).WithHint("choose another name")
		}
		copied.Node, copied.Created, copied.Leaving = vs.node, time.Now().UTC(), true
		rev, err := vs.store.Volumes.Put(ctx, space, to, copied, 0) // after a crash, what there is of it goes
		if err != nil {
			return err
		}
		if err := sn.Clone(ctx, v, snapshot, copied); err != nil {
			return errors.Join(err, vs.store.Volumes.Delete(context.WithoutCancel(ctx), space, to, rev))
		}
		if copied.Events.On() {
			if err := vs.rebase(ctx, copied, nil); err != nil {
				return err
			}
		}
		copied.Leaving = false
		if _, err := vs.store.Volumes.Put(context.WithoutCancel(ctx), space, to, copied, rev); err != nil {
			return err
		}
		made = copied
		vs.news("volume.created", copied, fmt.Sprintf("volume %s was made as a clone of %s", to, name))
		return nil
	})
	return made, err
}

// ReadVolume writes what is at a path of a volume as a tar stream.
func (vs *Volumes) ReadVolume(ctx context.Context, space, name, path string, w io.Writer) error {
	return vs.withFiles(ctx, space, name, func(d *tree.Dir, _ *tree.Owner) error {
		return d.Write(ctx, w, path)
	})
}

// WriteVolume makes files of a tar stream at a path of a volume. They become those
// of the owner of its top.
func (vs *Volumes) WriteVolume(ctx context.Context, space, name, path string, r io.Reader, o client.CopyOptions) (report tree.Report, err error) {
	err = vs.withFiles(ctx, space, name, func(d *tree.Dir, owner *tree.Owner) error {
		report, err = d.Extract(ctx, r, path, tree.Options{Owner: owner, Keep: o.Keep, Into: o.Into})
		return err
	})
	return report, err
}

// withFiles opens the files of a volume, as if its top were the root.
func (vs *Volumes) withFiles(ctx context.Context, space, name string, work func(d *tree.Dir, owner *tree.Owner) error) error {
	return vs.busy(ctx, space, name, "copied", false, func(v mayfly.Volume) error {
		o, err := vs.open(ctx, v)
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
