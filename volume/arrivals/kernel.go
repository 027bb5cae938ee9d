package arrivals

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// change is one message of inotify.
type change struct {
	watch int
	mask  uint32
	name  string
}

// watched is what inotify tells of a directory. IN_CREATE is for directories and
// hard links.
const watched = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE_SELF |
	unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// read passes on what the kernel says until the descriptor is closed.
func (t *Tree) read(ctx context.Context, to chan<- []change) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := t.in.Read(buf)
		if err != nil {
			return err
		}
		select {
		case to <- parse(buf[:n]):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// parse reads messages of inotify: watch, mask, cookie, length of the name, name.
func parse(buf []byte) (all []change) {
	for len(buf) >= unix.SizeofInotifyEvent {
		order := binary.NativeEndian
		c := change{watch: int(int32(order.Uint32(buf))), mask: order.Uint32(buf[4:])}
		length := int(order.Uint32(buf[12:]))
		buf = buf[unix.SizeofInotifyEvent:]
		if length > len(buf) {
			return all
		}
		c.name = string(bytes.TrimRight(buf[:length], "\x00"))
		buf = buf[length:]
		all = append(all, c)
	}
	return all
}

// take does what follows of changes, in their order.
func (t *Tree) take(ctx context.Context, changes []change) error {
	for _, c := range changes {
		if c.mask&unix.IN_Q_OVERFLOW != 0 {
			t.log.Info("the kernel's queue was full, so the directories are scanned")
			t.rescan = true
			continue
		}
		dir, known := t.dirs[c.watch]
		if c.mask&unix.IN_IGNORED != 0 {
			delete(t.dirs, c.watch)
			if known && dir == "" {
				return ErrGone
			}
			continue
		}
		if !known || c.name == "" {
			continue
		}
		if err := t.changed(ctx, path.Join(dir, c.name), c.mask); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) changed(ctx context.Context, p string, mask uint32) error {
	switch {
	case mask&unix.IN_ISDIR != 0 && mask&unix.IN_MOVED_FROM != 0:
		t.unwatch(p)
	case mask&unix.IN_ISDIR != 0 && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		if t.opts.Rules.dir(p) {
			return t.scan(ctx, p, nil)
		}
	case mask&unix.IN_ISDIR != 0:
	case mask&(unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO) != 0:
		if t.opts.Rules.file(p) {
			delete(t.later, p) // how long it was waited for is over
			t.look(p, time.Now())
		}
	case mask&unix.IN_CREATE != 0:
		if t.opts.Rules.file(p) {
			t.lookMade(p, time.Now())
		}
	}
	return nil
}

// watch watches a directory that fd is open on.
func (t *Tree) watch(fd int, p string) error {
	if t.in == nil { // only a scan was asked for
		return nil
	}
	if len(t.dirs) >= t.opts.MaxDirs {
		t.warn("more than %d directories: files that come into others, such as %.200q, are not told of", t.opts.MaxDirs, p)
		return nil
	}
	wd, err := unix.InotifyAddWatch(t.inFD, procPath(fd), watched)
	switch {
	case errors.Is(err, unix.ENOSPC) && p != "":
		t.warn("the kernel watches no more directories, such as %.200q: raise fs.inotify.max_user_watches with sysctl", p)
		return nil
	case err != nil:
		return explain("watch "+strconv.Quote(p), err)
	}
	t.dirs[wd] = p
	return nil
}

// unwatch forgets a directory that went elsewhere, and those below it.
func (t *Tree) unwatch(p string) {
	for wd, dir := range t.dirs {
		if dir == p || len(dir) > len(p) && dir[:len(p)] == p && dir[len(p)] == '/' {
			delete(t.dirs, wd)
			unix.InotifyRmWatch(t.inFD, uint32(wd)) // it may be gone by itself
		}
	}
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openBeneath opens something below the top without following links or entering
// what is mounted there.
func (t *Tree) openBeneath(p string, flags int) (int, error) {
	if p == "" {
		p = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
	for {
		fd, err := unix.Openat2(t.top, p, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // EAGAIN: something was renamed meanwhile
			return fd, err
		}
	}
}

// state says how a file is, if it is one; writing: somebody may write to it.
func (t *Tree) state(p string) (f File, writing bool, err error) {
	path, err := t.openBeneath(p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return f, false, err
	}
	defer unix.Close(path)
	var st unix.Stat_t
	if err := unix.Fstat(path, &st); err != nil {
		return f, false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return f, false, unix.EINVAL
	}
	f = fileOf(p, &st)
	// Only a file is opened: to open a pipe or a device may have effects.
	fd, err := unix.Open(procPath(path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EAGAIN) {
		return f, true, nil // a lease of somebody's
	}
	if err != nil {
		return f, false, os.NewSyscallError("open", err)
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	if errors.Is(err, unix.EAGAIN) {
		return f, true, nil
	}
	if err != nil {
		// A filesystem without leases: what the kernel said has to do.
		t.log.Debug("no lease", "path", p, "err", err)
	} else {
		defer unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	}
	if err := unix.Fstat(fd, &st); err != nil {
		return f, false, err
	}
	return fileOf(p, &st), false, nil
}

func fileOf(p string, st *unix.Stat_t) File {
	return File{Path: p, Size: st.Size, ModTime: time.Unix(st.Mtim.Unix()).UTC(), Inode: st.Ino}
}
