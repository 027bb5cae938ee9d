package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// kept is the provider of volumes whose contents are Mayfly's own.
type kept struct {
	layout
	kind

	mounts *sync.Mutex // one mount or unmount at a time
}

// kind is what tells volumes in a directory, in an image and in memory apart. dir
// is the directory of the volume, staged or in its place.
type kind interface {
	// Check is that of Maker.
	Check(v mayfly.Volume) error

	// build makes what is in an empty directory.
	build(ctx context.Context, dir string, v mayfly.Volume) error

	// ready mounts what is to be mounted, and says whether the contents are new
	// because the old ones are gone.
	ready(ctx context.Context, dir string, v mayfly.Volume) (emptied bool, err error)

	// data is the directory that containers see.
	data(dir string, v mayfly.Volume) string

	// lasting reports whether what is in the volume is there without a mount.
	lasting(v mayfly.Volume) bool
}

// Create is part of Maker.
func (k *kept) Create(ctx context.Context, v mayfly.Volume) error {
	if err := k.Check(v); err != nil {
		return err
	}
	if _, err := os.Lstat(k.volume(v)); err == nil {
		return nil
	}
	dir, err := k.filled(ctx, v, func(string) error { return nil })
	if err != nil {
		return explainFull(err, "make volume "+v.Name)
	}
	if err = place(dir, k.volume(v)); err == nil {
		return nil
	}
	removeAll(dir)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return fmt.Errorf("make volume %s: %w", v.Name, err)
}

// filled makes a volume where nobody sees it yet, with what fill puts into its
// directory. What is in a filesystem of its own is on disk then: place and exchange
// see to the one that the image is in.
func (k *kept) filled(ctx context.Context, v mayfly.Volume, fill func(data string) error) (string, error) {
	dir, err := stage(k.volumes)
	if err != nil {
		return "", err
	}
	k.mounts.Lock()
	err = k.build(ctx, dir, v)
	k.mounts.Unlock()
	if err == nil {
		err = fill(k.data(dir, v))
	}
	if err == nil {
		err = disk.SyncFS(k.data(dir, v))
	}
	if err != nil {
		removeAll(dir)
		return "", err
	}
	return dir, nil
}

// explainFull says it when there is no room.
func explainFull(err error, what string) error {
	switch {
	case mayfly.KindOf(err) != mayfly.Internal:
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return mayfly.Errorf(mayfly.TooLarge, "%s: %w", what, err).WithHint("make room, or make the volume larger")
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Open is part of Opener.
func (k *kept) Open(ctx context.Context, v mayfly.Volume) (Opened, error) {
	dir := k.volume(v)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if k.lasting(v) {
			return Opened{}, mayfly.Errorf(mayfly.Conflict, "volume %s is not where it was: there is no %s", v.Name, dir).
				WithHint("bring the directory back, or remove the volume and make it again")
		}
		return Opened{Path: k.data(dir, v), Emptied: true}, k.Create(ctx, v)
	}
	k.mounts.Lock()
	defer k.mounts.Unlock()
	emptied, err := k.ready(ctx, dir, v)
	if err != nil {
		return Opened{}, fmt.Errorf("open volume %s: %w", v.Name, err)
	}
	return Opened{Path: k.data(dir, v), Emptied: emptied}, nil
}

// Close is part of Opener.
func (k *kept) Close(_ context.Context, v mayfly.Volume) error {
	if !k.lasting(v) {
		return nil // what is in memory goes with the mount
	}
	k.mounts.Lock()
	defer k.mounts.Unlock()
	return unmountBelow(k.volume(v))
}

// Remove is part of Maker.
func (k *kept) Remove(_ context.Context, v mayfly.Volume) error {
	if err := discard(k.volumes, k.volume(v)); err != nil {
		return fmt.Errorf("remove volume %s: %w", v.Name, err)
	}
	return nil
}

// present opens a volume to look at it. One in memory that is gone is not made
// again by that.
func (k *kept) present(ctx context.Context, v mayfly.Volume) (string, error) {
	dir := k.volume(v)
	if !k.lasting(v) {
		on, err := mounted(dir + "/fs")
		if errors.Is(err, fs.ErrNotExist) || err == nil && !on {
			return "", mayfly.Errorf(mayfly.Conflict, "volume %s was in memory, and went with it when the machine started again", v.Name).
				WithHint("it is made again, empty, when a container uses it; restore a snapshot, or remove it")
		}
		return k.data(dir, v), err
	}
	o, err := k.Open(ctx, v)
	return o.Path, err
}

// Usage is part of Opener.
func (k *kept) Usage(ctx context.Context, v mayfly.Volume) (Usage, error) {
	dir := k.volume(v)
	at := k.data(dir, v)
	if at != dir+"/data" { // a filesystem of its own knows
		if on, err := mounted(dir + "/fs"); err == nil && on {
			return statfs(dir + "/fs")
		}
		u := Usage{Limit: v.Size}
		var st unix.Stat_t
		if unix.Stat(dir+"/image", &st) == nil {
			u.Bytes = st.Blocks * 512
		}
		return u, nil
	}
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return Usage{}, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	defer unix.Close(fd)
	return usage(ctx, fd)
}

func statfs(dir string) (Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Usage{}, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	size, files := int64(st.Bsize), int64(st.Files-st.Ffree)
	return Usage{Bytes: int64(st.Blocks-st.Bfree) * size, Files: &files, Limit: int64(st.Blocks) * size}, nil
}

// local volumes are directories; those with a size are filesystems in a file.
type local struct{}

// Check is part of kind.
func (local) Check(v mayfly.Volume) error {
	if v.Source != "" {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: provider local keeps its data itself", v.Name).
			WithHint("leave source out, or use provider bind")
	}
	if v.Size == 0 {
		return nil
	}
	return checkImage(v)
}

func (local) lasting(mayfly.Volume) bool { return true }

func (local) data(dir string, v mayfly.Volume) string {
	if v.Size > 0 {
		return dir + "/fs/data"
	}
	return dir + "/data"
}

func (l local) build(ctx context.Context, dir string, v mayfly.Volume) error {
	if v.Size == 0 {
		return makeTop(dir+"/data", v)
	}
	if err := makeImage(ctx, dir+"/image", v.Size); err != nil {
		return err
	}
	if err := os.Mkdir(dir+"/fs", 0o700); err != nil {
		return err
	}
	if err := mountImage(dir+"/image", dir+"/fs"); err != nil {
		return err
	}
	os.Remove(dir + "/fs/lost+found")
	return makeTop(l.data(dir, v), v)
}

func (local) ready(_ context.Context, dir string, v mayfly.Volume) (bool, error) {
	if v.Size == 0 {
		return false, nil
	}
	on, err := mounted(dir + "/fs")
	if err != nil || on {
		return false, err
	}
	return false, mountImage(dir+"/image", dir+"/fs")
}

// tmpfs volumes are in memory. They outlive the daemon, for they are mounted by
// it and not by a container, but not the machine's run.
type tmpfs struct{}

// leastTmpfs is one page for the top and one for a file, with room for names.
const leastTmpfs = 64 << 10

// Check is part of kind.
func (tmpfs) Check(v mayfly.Volume) error {
	if v.Source != "" {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: provider tmpfs has no source", v.Name).WithHint("leave it out, or use provider bind")
	}
	if v.Size != 0 && v.Size < leastTmpfs {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: a size of %d bytes is too little", v.Name, v.Size).WithHint("give at least 64 kB")
	}
	return nil
}

func (tmpfs) lasting(mayfly.Volume) bool { return false }

func (tmpfs) data(dir string, _ mayfly.Volume) string { return dir + "/fs/data" }

func (t tmpfs) build(_ context.Context, dir string, v mayfly.Volume) error {
	at := dir + "/fs"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	data := "mode=700"
	if v.Size > 0 {
		data += ",size=" + strconv.FormatInt(v.Size, 10)
	}
	if err := unix.Mount("mayfly", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, data); err != nil {
		return &fs.PathError{Op: "mount", Path: at, Err: err}
	}
	return makeTop(t.data(dir, v), v)
}

func (t tmpfs) ready(ctx context.Context, dir string, v mayfly.Volume) (bool, error) {
	on, err := mounted(dir + "/fs")
	if on || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, t.build(ctx, dir, v)
}
