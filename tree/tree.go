// Package tree carries trees of files as tar streams out of and into directories
// that somebody hostile may change meanwhile, such as a running container's.
//
// No name leads out of the directory, whatever links are laid while a copy is
// under way. Only regular files are opened, so that a copy never waits for a
// fifo and never touches a device. A file that is copied in appears whole or not
// at all, under its own name; of a copy that breaks off, what was finished stays.
// Where a copy lands follows the rules of `docker cp`.
package tree

import (
	"errors"
	"os"
	"strings"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// Dir is a directory, and a way to look names up beneath it.
type Dir struct {
	fd      int
	resolve uint64 // of openat2(2)
}

// Open opens a directory of this machine. A symbolic link beneath it that leads
// out of it is an error.
func Open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{fd: fd, resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}, nil
}

// Root takes over the descriptor of a directory as if it were the root: an
// absolute link begins there, and ".." ends there.
func Root(fd int) *Dir {
	return &Dir{fd: fd, resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
}

// Close lets go of the directory.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// isRoot says that links are looked up as in a root directory.
func (d *Dir) isRoot() bool { return d.resolve&unix.RESOLVE_IN_ROOT != 0 }

// maxRenames bounds how often a look-up is made again because somebody renamed
// what it went through (openat2(2), EAGAIN).
const maxRenames = 1000

// locate opens what a name stands for, by O_PATH: nothing is touched yet.
func (d *Dir) locate(name string, flags int) (fd int, err error) {
	how := &unix.OpenHow{Flags: uint64(unix.O_PATH | unix.O_CLOEXEC | flags), Resolve: d.resolve}
	for range maxRenames {
		fd, err = unix.Openat2(d.fd, name, how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// parent opens the directory of a name, and returns what the name is there. For
// a name that ends with a slash or in "." or "..", leaf is empty.
func (d *Dir) parent(name string) (fd int, leaf string, err error) {
	dir, leaf := split(name)
	fd, err = d.locate(dir, unix.O_DIRECTORY)
	return fd, leaf, err
}

func split(name string) (dir, leaf string) {
	i := strings.LastIndexByte(name, '/')
	dir, leaf = name[:i+1], name[i+1:]
	if leaf == "." || leaf == ".." || leaf == "" {
		dir, leaf = name, ""
	}
	if dir == "" {
		dir = "."
	}
	return dir, leaf
}

// ReadFile opens a regular file for reading.
func (d *Dir) ReadFile(name string) (*os.File, error) {
	fd, err := d.locate(name, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOENT}
	}
	return reopen(fd, name)
}

// reopen opens for reading what locate found and is known to be a regular file.
func reopen(fd int, name string) (*os.File, error) {
	var f int
	var err error
	for {
		f, err = unix.Open("/proc/self/fd/"+itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(f), name), nil
}

// kindOf gives an error of a system call a kind that whoever asked can use.
func kindOf(err error) error {
	var known *mayfly.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, unix.ENOENT):
		return mayfly.Errorf(mayfly.NotFound, "%w", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return mayfly.Errorf(mayfly.Denied, "%w", err)
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EISDIR),
		errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY), errors.Is(err, unix.EAGAIN):
		return mayfly.Errorf(mayfly.Conflict, "%w", err)
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.EINVAL):
		return mayfly.Errorf(mayfly.Invalid, "%w", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return mayfly.Errorf(mayfly.TooLarge, "%w", err)
	}
	return err
}
