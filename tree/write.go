package tree

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// Bounds of what is copied.
const (
	maxDepth = 512     // directories in each other
	maxLinks = 100_000 // files with several names of which that is remembered
	maxName  = 4096    // bytes of a path
	batch    = 256     // names of a directory read at once
)

func itoa(n int) string { return strconv.Itoa(n) }

// Write writes what name stands for to w as a tar stream: a file, a link itself,
// or a directory with all below it, under the last part of its name. A name that
// ends with "/." stands for the directory's contents, under ".". A name that ends
// with a slash is followed where it is a link. Sockets are left out. Files that
// change meanwhile are as somebody saw them at some moment, in their length of
// when they were opened. An error of its kind comes before anything is written,
// where that can be.
func (d *Dir) Write(ctx context.Context, w io.Writer, name string) error {
	flags := unix.O_NOFOLLOW
	if _, leaf := split(name); leaf == "" {
		flags = unix.O_DIRECTORY
	}
	fd, err := d.locate(name, flags)
	if err != nil {
		return kindOf(err)
	}
	defer unix.Close(fd)
	o := &writer{ctx: ctx, tar: tar.NewWriter(w), links: make(map[[2]uint64]string)}
	if err := o.add(fd, rootName(name), 0); err != nil {
		return kindOf(err)
	}
	return o.tar.Close()
}

// rootName is what a tree is called in its stream.
func rootName(name string) string {
	if name == "." || strings.HasSuffix(name, "/.") {
		return "."
	}
	base := path.Base(path.Clean("/" + name))
	if base == "/" {
		return "."
	}
	return base
}

type writer struct {
	ctx   context.Context
	tar   *tar.Writer
	links map[[2]uint64]string // device and inode to the first name
}

// add writes what a descriptor is of, and what is below it.
func (o *writer) add(fd int, name string, depth int) error {
	if err := context.Cause(o.ctx); err != nil {
		return err
	}
	if depth > maxDepth || len(name) > maxName {
		return mayfly.Errorf(mayfly.Invalid, "%.100s... lies too deep to be copied", name)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", name, err)
	}
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return o.addFile(fd, h, &st)
	case unix.S_IFDIR:
		return o.addDir(fd, h, depth)
	case unix.S_IFLNK:
		to := make([]byte, maxName)
		n, err := unix.Readlinkat(fd, "", to)
		if err != nil {
			return fmt.Errorf("read link %s: %w", name, err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(to[:n])
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil
	}
	return o.header(h)
}

// header writes one. A name that no tar can have is an error of the caller's.
func (o *writer) header(h *tar.Header) error {
	if err := o.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %q: %w", h.Name, err)
	}
	return nil
}

func (o *writer) addFile(fd int, h *tar.Header, st *unix.Stat_t) error {
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if key := [2]uint64{uint64(st.Dev), st.Ino}; st.Nlink > 1 {
		if first, ok := o.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return o.header(h)
		}
		if len(o.links) < maxLinks {
			o.links[key] = h.Name
		}
	}
	if st.Size == 0 { // and the kernel's own files, which are read for other reasons
		return o.header(h)
	}
	f, err := reopen(fd, h.Name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := o.header(h); err != nil {
		return err
	}
	n, err := io.Copy(o.tar, io.LimitReader(reader{o.ctx, f}, st.Size))
	if err != nil {
		return fmt.Errorf("copy %s: %w", h.Name, err)
	}
	_, err = io.CopyN(o.tar, zeros{}, st.Size-n) // it was cut meanwhile
	return err
}

func (o *writer) addDir(fd int, h *tar.Header, depth int) error {
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: h.Name, Err: err}
	}
	dir := os.NewFile(uintptr(own), h.Name)
	defer dir.Close()
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if err := o.header(h); err != nil {
		return err
	}
	for {
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := o.addChild(own, name, h.Name+name, depth+1); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *writer) addChild(dir int, leaf, name string, depth int) error {
	fd, err := unix.Openat(dir, leaf, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // it is gone meanwhile
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	return o.add(fd, name, depth)
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
