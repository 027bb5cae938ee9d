package claim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/tree"
	"golang.org/x/sys/unix"
)

// fills is a directory in which the roots of images are mounted for a moment.
type fills struct{ dir string }

// The directories of a volume in which it is filled aside, so that what a killed
// daemon left is known, and nothing of anyone else's is ever removed or replaced.
const (
	fillingName = ".mayfly-filling" // while it is copied to
	filledName  = ".mayfly-filled"  // once all is there, until it has moved up
)

// recover removes what a daemon mounted that was killed.
func (f fills) recover() error {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(f.dir, ".look-*"))
	for _, dir := range left {
		err = errors.Join(err, container.Unlook(dir))
	}
	return err
}

// Fill puts what the image has at a volume's target into the volume, where
// that is asked for and nothing is in it, as Docker does. mounts are those that
// were claimed for the volumes.
func (vs *Volumes) Fill(ctx context.Context, in mayfly.Instance, volumes []mayfly.VolumeMount, mounts []mayfly.Mount, lower []string) error {
	for i, m := range volumes {
		if !m.Copy || m.ReadOnly || m.Subpath != "" {
			continue
		}
		if err := vs.fill(ctx, in, m, mounts[i].Source, lower); err != nil {
			return fmt.Errorf("fill volume %s with what image %s has at %s: %w", m.Volume, in.Image, m.Target, err)
		}
	}
	return nil
}

// beginFill keeps a volume from being filled, claimed by others or copied, but not
// from being looked at, until end is called. It waits for its turn.
func (h *held) beginFill(ctx context.Context) (end func(), err error) {
	for {
		h.mu.Lock()
		if h.filling == nil {
			mine := make(chan struct{})
			h.filling = mine
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				h.filling = nil
				h.mu.Unlock()
				close(mine)
			}, nil
		}
		h.mu.Unlock()
		if err := h.awaitFilled(ctx); err != nil {
			return nil, err
		}
	}
}

// awaitFilled returns when nobody is filling a volume any more who was now.
func (h *held) awaitFilled(ctx context.Context) error {
	h.mu.Lock()
	filling := h.filling
	h.mu.Unlock()
	if filling == nil {
		return nil
	}
	select {
	case <-filling:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fill fills the volume whose contents lie at path.
func (vs *Volumes) fill(ctx context.Context, in mayfly.Instance, m mayfly.VolumeMount, path string, lower []string) (err error) {
	end, err := vs.held(store.Key{Space: in.Space, Name: m.Volume}).beginFill(ctx)
	if err != nil {
		return err
	}
	defer end()
	rec, ok := vs.store.Volumes.Find(in.Space, m.Volume)
	if v := rec.Value; !ok || v.Provider == mayfly.VolumeBind {
		return nil
	}
	f := &filling{vs: vs, volume: rec.Value, target: m.Target, lower: lower}
	if f.root, err = os.OpenRoot(path); err != nil {
		return err
	}
	defer f.root.Close()
	report, err := f.run(ctx)
	if err == nil && report.Entries > 1 {
		vs.news("volume.filled", rec.Value, fmt.Sprintf("volume %s got what image %s has at %s: %s, %d bytes",
			m.Volume, in.Image, m.Target, count(report.Entries-1, "file"), report.Bytes))
	}
	return err
}

// filling is one volume while it gets what an image has.
type filling struct {
	vs     *Volumes
	volume mayfly.Volume
	root   *os.Root // of its contents
	target string   // in the image
	lower  []string // the image's layers
}

// run fills the volume if there is nothing in it, or goes on where a killed daemon
// was moving up what was all there.
func (f *filling) run(ctx context.Context) (r tree.Report, err error) {
	if err := f.root.RemoveAll(fillingName); err != nil {
		return r, err
	}
	names, err := f.names(".")
	if err != nil {
		return r, err
	}
	halfway := slices.Contains(names, filledName)
	if len(names) > 0 && !halfway {
		return r, nil
	}
	image, err := f.vs.look(f.lower)
	if err != nil {
		return r, err
	}
	defer image.Close()
	owner, mode, lacks := image.Top(f.target) // lacks: the image has no directory there
	switch {
	case halfway:
	case lacks != nil:
		return r, nil
	default:
		if r, err = f.copy(ctx, image); err != nil {
			return r, errors.Join(err, f.root.RemoveAll(fillingName))
		}
	}
	if err := f.moveUp(); err != nil {
		return r, err
	}
	if lacks == nil {
		err = f.own(owner, mode)
	}
	if err != nil {
		return r, err
	}
	return r, f.root.RemoveAll(filledName)
}

// own gives the top the owner and the mode that the image has, unless the volume
// has its own.
func (f *filling) own(o tree.Owner, mode uint32) error {
	d, err := f.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if f.volume.Owner == "" {
		err = d.Chown(o.UID, o.GID)
	}
	if f.volume.Mode == 0 {
		err = errors.Join(err, unix.Fchmod(int(d.Fd()), mode))
	}
	return err
}

func (f *filling) names(dir string) ([]string, error) {
	d, err := f.root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// copy copies aside, and has all of it on disk before that is said.
func (f *filling) copy(ctx context.Context, image *tree.Dir) (r tree.Report, err error) {
	if err := f.root.Mkdir(fillingName, 0o700); err != nil {
		return r, err
	}
	d, err := f.root.Open(fillingName)
	if err != nil {
		return r, err
	}
	defer d.Close()
	fd, err := unix.FcntlInt(d.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return r, err
	}
	to := tree.Root(fd)
	defer to.Close()
	if r, err = tree.Copy(ctx, image, f.target, to); err != nil {
		return r, err
	}
	if err := unix.Syncfs(fd); err != nil {
		return r, err
	}
	return r, f.root.Rename(fillingName, filledName)
}

// moveUp moves what was copied to where it belongs, but not in the place of what
// came there meanwhile.
func (f *filling) moveUp() error {
	names, err := f.names(filledName)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := f.root.Lstat(name); err == nil {
			continue
		}
		if err := f.root.Rename(filledName+"/"+name, name); err != nil {
			return err
		}
	}
	return nil
}

// look opens an image's root.
func (vs *Volumes) look(lower []string) (*tree.Dir, error) {
	scratch, err := os.MkdirTemp(vs.fills.dir, ".look-")
	if err != nil {
		return nil, err
	}
	fd, err := container.Look(lower, scratch)
	if err != nil {
		return nil, errors.Join(err, container.Unlook(scratch))
	}
	image := tree.Root(fd)
	if err := container.Unlook(scratch); err != nil {
		return nil, errors.Join(err, image.Close())
	}
	return image, nil
}
