package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// copyTree copies everything below one directory into another one, empty and out
// of every container's sight: contents (shared, where the filesystem can; holes
// stay holes), owners, modes, times, extended attributes, hard links, links,
// pipes, sockets and devices. The top gets owner, mode and attributes as well.
func copyTree(ctx context.Context, from, to string) error {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(src)
	c := copier{to: to, linked: make(map[uint64]string)}
	if err := walk(ctx, src, c.copy, c.leave); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	return dress(src, to, &st)
}

type copier struct {
	to     string
	linked map[uint64]string // where a file with several names was copied to, by inode
}

func (c *copier) at(e *entry) string { return filepath.Join(c.to, e.path) }

func (c *copier) copy(e *entry) error {
	if e.stat.Nlink > 1 && e.kind() != unix.S_IFDIR {
		if first, ok := c.linked[e.stat.Ino]; ok {
			return os.Link(first, c.at(e))
		}
		c.linked[e.stat.Ino] = c.at(e)
	}
	var err error
	switch e.kind() {
	case unix.S_IFDIR:
		err = os.Mkdir(c.at(e), 0o700) // what it is beyond that, when it is full
	case unix.S_IFREG:
		err = c.file(e)
	case unix.S_IFLNK:
		err = c.link(e)
	default:
		if err = unix.Mknod(c.at(e), e.stat.Mode, int(e.stat.Rdev)); err == nil {
			err = c.dressSpecial(e)
		}
	}
	if errors.Is(err, unix.ENOENT) { // it went while we came to it
		delete(c.linked, e.stat.Ino)
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "copy", Path: e.path, Err: err}
	}
	return nil
}

// leave gives a directory what writing to it would have changed.
func (c *copier) leave(e *entry) error {
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // it went; it is of no account what ours looks like
	}
	defer unix.Close(fd)
	return dress(fd, c.at(e), &e.stat)
}

func (c *copier) file(e *entry) error {
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return unix.ENOENT // it is a link by now
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.ENOENT // it is something else by now
	}
	out, err := unix.Open(c.at(e), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	err = copyData(fd, out, st.Size)
	if err = errors.Join(err, unix.Close(out)); err != nil {
		return err
	}
	return dress(fd, c.at(e), &st)
}

// copyData shares what is in a file, or copies what of it is not a hole.
func copyData(in, out int, size int64) error {
	if unix.IoctlFileClone(out, in) == nil {
		return nil
	}
	if err := unix.Ftruncate(out, size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		start, err := unix.Seek(in, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // the rest is a hole
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(in, start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if err := copyRange(in, out, start, min(end, size)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func copyRange(in, out int, start, end int64) error {
	buf := []byte(nil)
	for start < end {
		from, to := start, start
		n, err := 0, error(unix.EXDEV)
		if buf == nil {
			n, err = unix.CopyFileRange(in, &from, out, &to, int(min(end-start, 1<<30)), 0)
		}
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			if buf == nil { // between these filesystems the kernel does not
				buf = make([]byte, 256<<10)
			}
			if n, err = unix.Pread(in, buf[:min(end-start, int64(len(buf)))], start); err == nil && n > 0 {
				n, err = unix.Pwrite(out, buf[:n], start)
			}
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 { // it became shorter
			return err
		}
		start += int64(n)
	}
	return nil
}

func (c *copier) link(e *entry) error {
	buf := make([]byte, unix.PathMax+1)
	n, err := unix.Readlinkat(e.dir, e.name, buf)
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			return unix.ENOENT // it is something else by now
		}
		return err
	}
	if err := os.Symlink(string(buf[:n]), c.at(e)); err != nil {
		return err
	}
	return c.dressSpecial(e)
}

// dressSpecial gives what cannot be opened its owner, mode and times.
func (c *copier) dressSpecial(e *entry) error {
	at := c.at(e)
	if err := os.Lchown(at, int(e.stat.Uid), int(e.stat.Gid)); err != nil {
		return err
	}
	if e.kind() != unix.S_IFLNK {
		if err := unix.Fchmodat(unix.AT_FDCWD, at, e.stat.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return setTimes(at, &e.stat)
}

// dress gives a copy, at a path of ours, the owner, mode, attributes and times of
// what fd is open on.
func dress(fd int, at string, st *unix.Stat_t) error {
	if err := os.Lchown(at, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmodat(unix.AT_FDCWD, at, st.Mode&0o7777, 0); err != nil { // chown took bits away
		return err
	}
	if err := copyAttributes(fd, at); err != nil { // chown took capabilities away
		return err
	}
	return setTimes(at, st)
}

func setTimes(at string, st *unix.Stat_t) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, at, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyAttributes copies extended attributes, access lists and capabilities among
// them. What the machine labels by itself is left to it.
func copyAttributes(fd int, at string) error {
	names, err := attributes(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == "security.selinux" || name == "security.ima" || name == "security.evm" {
			continue
		}
		value := make([]byte, 64<<10) // the most that the kernel takes
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err == nil {
			err = unix.Lsetxattr(at, name, value[:n], 0)
		}
		if err != nil {
			return &fs.PathError{Op: "copy attribute " + name, Path: at, Err: err}
		}
	}
	return nil
}

func attributes(fd int) ([]string, error) {
	size, err := unix.Flistxattr(fd, nil)
	if errors.Is(err, unix.EOPNOTSUPP) || size == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Flistxattr(fd, buf)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }), nil
}
