package tree

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// Options say how a stream becomes files. The zero value makes them this
// process's own.
type Options struct {
	Owner *Owner // whose they become; nil: this process's
	Keep  bool   // owner and all of the mode are as the stream says

	// Into takes a stream of any number of trees and puts them into the
	// directory, which must be there.
	Into bool
}

// Owner is a user and a group, by number.
type Owner struct{ UID, GID int }

// Report says what became of a stream.
type Report struct {
	Entries int      `json:"entries"`           // that were put in place
	Bytes   int64    `json:"bytes"`             // of files
	Skipped []string `json:"skipped,omitempty"` // names of devices, at most 100; they are never made
}

// MaxEntries bounds how many entries of a stream are taken.
const MaxEntries = 1_000_000

const maxSkipped = 100

// Extract makes files of a stream that Write, or another program, wrote. Where
// they go follows the rules of `docker cp`: into name where that is a directory,
// under the tree's own name, or its contents if that is "."; else to name
// itself, whose directory must be there. A file replaces another whole, and no
// directory; a directory is merged with one that is there.
func (d *Dir) Extract(ctx context.Context, r io.Reader, name string, o Options) (Report, error) {
	e := &extraction{Options: o, ctx: ctx, tar: tar.NewReader(r), dir: d}
	defer e.close()
	err := e.all(name)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(r, maxTrailer)) // what follows the end, so that the sender is done
	}
	return e.report, kindOf(err)
}

const maxTrailer = 1 << 20

type extraction struct {
	Options
	ctx    context.Context
	tar    *tar.Reader
	dir    *Dir
	own    *Dir   // dir, when that is ours to close
	from   string // the stream's name of its tree; "." or empty: names stand as they are
	to     string // what that becomes beneath dir
	modes  []mode // directories that we could not write into if they had theirs already
	report Report
}

type mode struct {
	name string
	mode uint32
}

func (e *extraction) close() {
	if e.own != nil {
		e.own.Close()
	}
}

func (e *extraction) all(name string) error {
	for first := true; ; first = false {
		if err := context.Cause(e.ctx); err != nil {
			return err
		}
		h, err := e.tar.Next()
		if errors.Is(err, io.EOF) {
			if first && !e.Into {
				return mayfly.Errorf(mayfly.Invalid, "there is nothing in the tar stream")
			}
			return e.setModes()
		}
		if err != nil {
			return mayfly.Errorf(mayfly.Invalid, "read the tar stream: %w", err)
		}
		if first {
			if err := e.aim(name, h); err != nil {
				return err
			}
		}
		if err := e.entry(h); err != nil {
			return err
		}
		if e.report.Entries > MaxEntries {
			return mayfly.Errorf(mayfly.TooLarge, "the tar stream has more than %d entries", MaxEntries)
		}
	}
}

// aim finds out where the tree goes whose first entry is h.
func (e *extraction) aim(name string, h *tar.Header) error {
	root := path.Clean("/" + h.Name)[1:]
	if root == "" {
		root = "."
	}
	if e.from = root; e.Into {
		e.from = "."
	}
	isDir := h.Typeflag == tar.TypeDir
	name, there, err := e.dir.follow(name)
	switch {
	case err != nil:
		return err
	case there == unix.S_IFDIR:
		e.to = name
		if e.from != "." {
			if e.to = path.Base(e.from); name != "." {
				e.to = strings.TrimRight(name, "/") + "/" + path.Base(e.from)
			}
		}
	case e.Into:
		return mayfly.Errorf(mayfly.Conflict, "%s is not a directory", name).WithHint("name one that is there")
	case there != 0 && isDir:
		return mayfly.Errorf(mayfly.Conflict, "%s is a file, and %s is a directory", name, root).WithHint("name a directory, or what is not there yet")
	case there != 0 && strings.HasSuffix(name, "/"):
		return mayfly.Errorf(mayfly.Conflict, "%s is not a directory", name).WithHint("leave out the last slash to replace it")
	case there == 0 && strings.HasSuffix(name, "/") && !isDir:
		return mayfly.Errorf(mayfly.NotFound, "there is no directory %s", name).WithHint("make it first, or leave out the last slash")
	default:
		e.to = strings.TrimRight(name, "/")
	}
	return nil
}

// maxFollow bounds links that lead to each other, as in the kernel.
const maxFollow = 40

// follow finds out what a name stands for, and where it would be if it is not
// there: then kind is 0. Only the directory must be there.
func (d *Dir) follow(name string) (at string, kind uint32, err error) {
	if name == "" {
		return "", 0, mayfly.Errorf(mayfly.Invalid, "no path is given")
	}
	for range maxFollow {
		dir, leaf, err := d.parent(strings.TrimRight(name, "/"))
		if leaf == "" || strings.Trim(name, "/") == "" {
			if err == nil {
				unix.Close(dir)
			}
			return name, unix.S_IFDIR, err
		}
		if err != nil {
			return "", 0, err
		}
		var st unix.Stat_t
		err = unix.Fstatat(dir, leaf, &st, unix.AT_SYMLINK_NOFOLLOW)
		to := make([]byte, maxName)
		n := 0
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			n, err = unix.Readlinkat(dir, leaf, to)
		}
		unix.Close(dir)
		if errors.Is(err, unix.ENOENT) {
			return name, 0, nil
		}
		if err != nil {
			return "", 0, &os.PathError{Op: "stat", Path: name, Err: err}
		}
		if n == 0 {
			return name, st.Mode & unix.S_IFMT, nil
		}
		next := string(to[:n])
		if !strings.HasPrefix(next, "/") {
			before, _ := split(strings.TrimRight(name, "/"))
			next = strings.TrimSuffix(before, "/") + "/" + next
		} else if !d.isRoot() {
			return "", 0, &os.PathError{Op: "follow", Path: name, Err: unix.EXDEV}
		}
		if name = next; len(name) > maxName {
			return "", 0, &os.PathError{Op: "follow", Path: name[:100], Err: unix.ENAMETOOLONG}
		}
	}
	return "", 0, &os.PathError{Op: "follow", Path: name, Err: unix.ELOOP}
}

// place is where an entry of that name goes beneath e.dir; false if that is
// outside of the tree.
func (e *extraction) place(name string) (string, bool) {
	name = path.Clean("/" + name)[1:] // ".." ends at the top
	if len(name) > maxName {
		return "", false
	}
	if e.from == "." {
		if name == "" {
			return e.to, true
		}
		if e.to == "." {
			return name, true
		}
		return strings.TrimRight(e.to, "/") + "/" + name, true
	}
	if name == e.from {
		return e.to, true
	}
	rest, ok := strings.CutPrefix(name, e.from+"/")
	return e.to + "/" + rest, ok
}

func (e *extraction) entry(h *tar.Header) error {
	name, ok := e.place(h.Name)
	if !ok {
		return mayfly.Errorf(mayfly.Invalid, "the entry %.100q of the tar stream is not below its first one, %q", h.Name, e.from)
	}
	e.report.Entries++
	switch h.Typeflag {
	case tar.TypeDir:
		return e.makeDir(name, h)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return e.makeFile(name, h)
	case tar.TypeSymlink, tar.TypeFifo, tar.TypeLink:
		return e.makeOther(name, h)
	case tar.TypeXGlobalHeader:
		e.report.Entries--
		return nil
	}
	e.report.Entries--
	if len(e.report.Skipped) < maxSkipped {
		e.report.Skipped = append(e.report.Skipped, h.Name)
	}
	return nil
}

// parent opens the directory for an entry. One that no entry has named is made:
// not every tar names all.
func (e *extraction) parent(name string) (int, string, error) {
	dir, leaf, err := e.dir.parent(name)
	if errors.Is(err, unix.ENOENT) && leaf != "" && e.from == "." {
		before, _ := split(name)
		if before = strings.TrimRight(before, "/"); before != "." && before != "" {
			if err := e.makeDir(before, &tar.Header{Name: before, Mode: 0o755}); err != nil {
				return -1, "", err
			}
			return e.dir.parent(name)
		}
	}
	return dir, leaf, err
}

func (e *extraction) makeDir(name string, h *tar.Header) error {
	dir, leaf, err := e.parent(name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if leaf == "" {
		return nil // it is there
	}
	err = unix.Mkdirat(dir, leaf, 0o700)
	if errors.Is(err, unix.EEXIST) {
		there, err := e.dir.locate(name, unix.O_DIRECTORY)
		if err != nil {
			return mayfly.Errorf(mayfly.Conflict, "%s is there and not a directory", name)
		}
		unix.Close(there)
		return e.enter(name)
	}
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(dir, leaf, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := e.give(fd, h); err != nil {
		return err
	}
	m := e.modeOf(h)
	if m&0o700 != 0o700 {
		e.modes = append(e.modes, mode{name, m})
		m |= 0o700
	}
	if err := unix.Fchmod(fd, m); err != nil {
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	return e.enter(name)
}

// enter makes the tree's top the directory that nothing leads out of, once it is
// there: its own links may not lead beside it.
func (e *extraction) enter(name string) error {
	if e.dir.isRoot() || e.own != nil || name != e.to || e.to == "." {
		return nil
	}
	fd, err := e.dir.locate(name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	e.own = &Dir{fd: fd, resolve: e.dir.resolve}
	e.dir, e.to = e.own, "."
	for i := range e.modes {
		e.modes[i].name = "." // it can only be this one
	}
	return nil
}

// setModes gives directories the modes that would have been in the way.
func (e *extraction) setModes() error {
	for _, m := range e.modes {
		fd, err := e.dir.locate(m.name, unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			continue // it is not ours any more
		}
		err = unix.Chmod("/proc/self/fd/"+itoa(fd), m.mode)
		unix.Close(fd)
		if err != nil {
			return &os.PathError{Op: "chmod", Path: m.name, Err: err}
		}
	}
	return nil
}

// modeOf leaves out what gives rights to others, unless all is to be kept.
func (e *extraction) modeOf(h *tar.Header) uint32 {
	m := uint32(h.Mode) & 0o7777
	if !e.Keep {
		m &= 0o1777
	}
	return m
}

func (e *extraction) owner(h *tar.Header) (uid, gid int, set bool) {
	switch {
	case e.Keep:
		return h.Uid, h.Gid, true
	case e.Owner != nil:
		return e.Owner.UID, e.Owner.GID, true
	}
	return 0, 0, false
}

// give gives a file to whom it is to belong, before its mode is set.
func (e *extraction) give(fd int, h *tar.Header) error {
	uid, gid, set := e.owner(h)
	if !set {
		return nil
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return &os.PathError{Op: "chown", Path: h.Name, Err: err}
	}
	return nil
}

// makeFile writes a file beside its place and then puts it there.
func (e *extraction) makeFile(name string, h *tar.Header) error {
	return e.put(name, func(dir int, part string) error {
		fd, err := unix.Openat(dir, part, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		n, err := io.Copy(f, reader{e.ctx, e.tar})
		e.report.Bytes += n
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = mayfly.Errorf(mayfly.Invalid, "the tar stream broke off")
		}
		if err != nil {
			return err
		}
		if err := e.give(fd, h); err != nil {
			return err
		}
		if err := unix.Fchmod(fd, e.modeOf(h)); err != nil {
			return err
		}
		if h.ModTime.After(time.Unix(0, 0)) {
			tv := unix.NsecToTimeval(h.ModTime.UnixNano())
			if err := unix.Futimes(fd, []unix.Timeval{tv, tv}); err != nil {
				return err
			}
		}
		return f.Close()
	})
}

// makeOther makes what has no content.
func (e *extraction) makeOther(name string, h *tar.Header) error {
	return e.put(name, func(dir int, part string) error {
		switch h.Typeflag {
		case tar.TypeLink:
			return e.link(dir, part, h)
		case tar.TypeSymlink:
			if err := unix.Symlinkat(h.Linkname, dir, part); err != nil {
				return err
			}
		default:
			if err := unix.Mknodat(dir, part, unix.S_IFIFO|0o600, 0); err != nil {
				return err
			}
			if err := chmodFifo(dir, part, e.modeOf(h)); err != nil {
				return err
			}
		}
		if uid, gid, set := e.owner(h); set {
			return unix.Fchownat(dir, part, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		return nil
	})
}

// chmodFifo sets the mode of a fifo that was just made. Whoever may write to the
// directory may have put a link in its place, which chmod(2) would follow, and
// from this machine's root.
func chmodFifo(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return mayfly.Errorf(mayfly.Conflict, "a fifo was replaced while it was made")
	}
	return unix.Chmod("/proc/self/fd/"+itoa(fd), mode)
}

// link gives a file of the tree one more name.
func (e *extraction) link(dir int, part string, h *tar.Header) error {
	to, ok := e.place(h.Linkname)
	if !ok {
		return mayfly.Errorf(mayfly.Invalid, "the entry %.100q of the tar stream is a link to what is not below its first one, %q", h.Name, e.from)
	}
	from, leaf, err := e.dir.parent(to)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return unix.Linkat(from, leaf, dir, part, 0)
}

// put has something made under a name of its own, and then puts it in place of
// what is there.
func (e *extraction) put(name string, make func(dir int, part string) error) error {
	dir, leaf, err := e.parent(name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if leaf == "" {
		return mayfly.Errorf(mayfly.Conflict, "%s is a directory", name)
	}
	part := ".mayfly-" + rand.Text()
	if isMount(dir, leaf) {
		return mayfly.Errorf(mayfly.Conflict, "%s is mounted there and cannot be replaced", name)
	}
	if err = make(dir, part); err == nil {
		err = unix.Renameat(dir, part, dir, leaf)
		_ = unix.Unlinkat(dir, part, 0) // two names of one file are not renamed (rename(2))
	} else {
		_ = unix.Unlinkat(dir, part, 0) // most often there
	}
	var told *mayfly.Error
	if err == nil || errors.As(err, &told) || errors.As(err, new(*os.PathError)) || errors.Is(err, context.Cause(e.ctx)) && e.ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("make %s: %w", name, err)
}

// isMount says that something is mounted at a name. Replacing it would be refused
// only if it were mounted in our own mount namespace; in another one it would be
// unmounted.
func isMount(dir int, leaf string) bool {
	var st unix.Statx_t
	err := unix.Statx(dir, leaf, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
