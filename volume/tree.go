package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// maxDepth is how deep directories may be nested where a tree is walked: each
// level keeps a descriptor open.
const maxDepth = 512

// entry is something that a walk has come to.
type entry struct {
	dir  int    // descriptor of the directory that holds it
	name string // in that directory
	path string // below the top
	stat unix.Stat_t
}

func (e *entry) kind() uint32 { return e.stat.Mode & unix.S_IFMT }

// walk calls visit for everything below a directory, a directory before what is
// in it, and leave, if it is not nil, after. It follows no link and does not go
// into what is mounted there. What goes while it walks is passed over.
func walk(ctx context.Context, top int, visit func(*entry) error, leave func(*entry) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(top, &st); err != nil {
		return err
	}
	w := walker{ctx: ctx, dev: st.Dev, visit: visit, leave: leave}
	return w.dir(top, "", 0)
}

type walker struct {
	ctx          context.Context
	dev          uint64
	visit, leave func(*entry) error
}

func (w *walker) dir(dir int, path string, depth int) error {
	if depth > maxDepth {
		return mayfly.Errorf(mayfly.Invalid, "directories are nested deeper than %d at %.80s...", maxDepth, path)
	}
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		e := &entry{dir: dir, name: name, path: filepath.Join(path, name)}
		if err := unix.Fstatat(dir, name, &e.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			return &fs.PathError{Op: "stat", Path: e.path, Err: err}
		}
		if e.stat.Dev != w.dev {
			continue
		}
		if err := w.enter(e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) enter(e *entry, depth int) error {
	if err := w.visit(e); err != nil || e.kind() != unix.S_IFDIR {
		return err
	}
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // it is gone, or something else by now
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: e.path, Err: err}
	}
	err = w.dir(fd, e.path, depth+1)
	unix.Close(fd)
	if err != nil || w.leave == nil {
		return err
	}
	return w.leave(e)
}

// readNames lists what is in a directory. It takes the descriptor's own place in
// it, so it is called once.
func readNames(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// usage counts what is below a directory. What has several names counts once.
func usage(ctx context.Context, top int) (u Usage, err error) {
	fd, err := unix.Openat(top, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // top may be O_PATH
	if err != nil {
		return u, err
	}
	defer unix.Close(fd)
	u.Files = new(int64)
	seen := make(map[uint64]bool)
	err = walk(ctx, fd, func(e *entry) error {
		*u.Files++
		if e.stat.Nlink > 1 && e.kind() != unix.S_IFDIR {
			if seen[e.stat.Ino] {
				return nil
			}
			seen[e.stat.Ino] = true
		}
		u.Bytes += e.stat.Blocks * 512
		return nil
	}, nil)
	return u, err
}

// removeAll removes a directory of ours and everything in it, whatever a
// container made of that. What is mounted there is unmounted first.
func removeAll(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	err := flatten(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(dir)
}

// flatten empties a directory without going deeper than one level, however deep
// it is: what is further down is moved up. os.RemoveAll would need a descriptor
// for each level.
func flatten(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	for {
		names, err := readNames(fd)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := lift(fd, name); err != nil {
				return &fs.PathError{Op: "remove", Path: filepath.Join(dir, name), Err: err}
			}
		}
	}
}

// lift removes a file, or a directory after moving up the directories in it.
func lift(top int, name string) error {
	err := unix.Unlinkat(top, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	sub, err := unix.Openat(top, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sub)
	names, err := readNames(sub)
	if err != nil {
		return err
	}
	for _, inner := range names {
		err := unix.Unlinkat(sub, inner, 0)
		if errors.Is(err, unix.EISDIR) {
			err = unix.Renameat(sub, inner, top, mayfly.NewID())
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
}
