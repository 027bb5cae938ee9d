package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

const (
	whiteout       = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
	xattrRecord    = "SCHILY.xattr."
)

// applier writes one layer's tar into the directory that overlayfs will use
// for it, with whiteouts as overlayfs wants them. Every file is made in a
// directory that the kernel found beneath the root (see tree), so no name,
// link or order of entries can reach outside.
//
// containerd's archive.Apply was tried first. It strips the capabilities of a
// file that has a second name, forgets that a whited out directory which comes
// back must be empty, leaves the root's own attributes, and takes a minute over
// one name of 1,800 directories.
type applier struct {
	dir     string   // absolute
	parents []string // directories of the layers below, top first
	max     limits

	tree    *tree
	entries int
	bytes   int64
	buf     []byte
	links   int         // followed for this entry beyond those that the kernel follows
	top     *tar.Header // of the root directory itself
	times   []dirTime   // set at the end, as making files in a directory changes its time
}

type limits struct {
	bytes   int64
	entries int
}

type dirTime struct {
	name string
	time time.Time
}

// apply unpacks the plain tar r. It reads to the end of the archive, which may
// be before the end of r.
func (a *applier) apply(ctx context.Context, r io.Reader) error {
	var err error
	if a.tree, err = openTree(a.dir, a.parents); err != nil {
		return err
	}
	defer a.tree.close()
	a.buf = make([]byte, 256<<10)
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		hdr, err := tr.Next()
		if err == io.EOF {
			return applyError(a.finish())
		}
		if err != nil {
			return applyError(err)
		}
		if err := a.entry(hdr, contextReader{ctx, tr}); err != nil {
			return applyError(fmt.Errorf("%q: %w", hdr.Name, err))
		}
	}
}

// applyError tells a bad archive from a bad machine.
func applyError(err error) error {
	var known *mayfly.Error
	switch err = diskFull(err); {
	case err == nil, errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EPERM), errors.Is(err, unix.EMFILE):
		return mayfly.Errorf(mayfly.Internal, "%w", err)
	}
	return mayfly.Errorf(mayfly.Invalid, "%w", err)
}

// diskFull gives err its kind and a hint if that is what it is about.
func diskFull(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return mayfly.Errorf(mayfly.Unavailable, "%w", err).WithHint("free some disk; `mayfly image prune` may help")
	}
	return err
}

// count bounds what a layer may make.
func (a *applier) count(entries int, bytes int64) error {
	if a.entries += entries; a.entries > a.max.entries {
		return mayfly.Errorf(mayfly.TooLarge, "the layer has more than %d files", a.max.entries)
	}
	if a.bytes += bytes; a.bytes > a.max.bytes || a.bytes < 0 {
		return mayfly.Errorf(mayfly.TooLarge, "the layer has files of more than %d bytes", a.max.bytes)
	}
	return nil
}

// entry writes one entry of the tar.
func (a *applier) entry(hdr *tar.Header, body io.Reader) error {
	a.links = 0
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader: // a comment; git archive writes one
		return nil
	case tar.TypeGNUSparse, tar.TypeCont: // read as regular files
		hdr.Typeflag = tar.TypeReg
	}
	if err := a.count(1, hdr.Size); err != nil {
		return err
	}
	if hdr.Uid < 0 || hdr.Gid < 0 || hdr.Uid >= math.MaxUint32 || hdr.Gid >= math.MaxUint32 {
		return fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	name := path.Clean("/" + hdr.Name)[1:]
	if name == "" {
		if hdr.Typeflag == tar.TypeDir {
			a.top = hdr
		}
		return nil
	}
	dir, base := path.Split(name)
	parent, err := a.parent(path.Clean(dir))
	if err != nil {
		return err
	}
	if hides, ok := strings.CutPrefix(base, whiteout); ok {
		return a.tree.whiteout(parent, base, hides)
	}
	if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		return a.tree.whiteout(parent, base, base) // it is overlayfs's own
	}
	if hdr.Typeflag == tar.TypeDir {
		a.times = append(a.times, dirTime{name, hdr.ModTime})
		return a.makeDir(parent, base, hdr)
	}
	err = a.make(parent, base, hdr, body)
	if errors.Is(err, unix.EEXIST) {
		if err = a.tree.clear(parent, base); err == nil {
			err = a.make(parent, base, hdr, body)
		}
	}
	return err
}

// parent opens the directory name, making what is missing of it. A directory
// that the layer does not name looks like the one below that it covers.
func (a *applier) parent(name string) (int, error) {
	fd, err := a.tree.dir(name)
	if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
		return fd, err
	}
	up, err := a.parent(path.Dir(name))
	if err != nil {
		return -1, err
	}
	if err := a.count(1, 0); err != nil {
		return -1, err
	}
	if to, ok := a.tree.readlink(up, path.Base(name)); ok { // to what is not there yet
		if a.links++; a.links > 40 {
			return -1, unix.ELOOP
		}
		return a.parent(path.Clean(to))
	}
	made, like, err := a.tree.makeDir(up, path.Base(name))
	if err != nil {
		return -1, err
	}
	if !like.IsZero() {
		a.times = append(a.times, dirTime{name, like})
	}
	return a.tree.remember(name, made), nil
}

// makeDir makes a directory, or gives one that is there its new attributes.
func (a *applier) makeDir(parent int, base string, hdr *tar.Header) error {
	fd, err := a.tree.openOrMakeDir(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setAttributes(fd, hdr)
}

// make makes a file that is no directory. It fails with EEXIST where there is
// something of the name.
func (a *applier) make(parent int, base string, hdr *tar.Header, body io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg:
		return a.makeFile(parent, base, hdr, body)
	case tar.TypeLink:
		return a.tree.link(path.Clean("/" + hdr.Linkname)[1:], parent, base)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(hdr.Linkname, parent, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode, dev, err := device(hdr)
		if err != nil {
			return err
		}
		if err := unix.Mknodat(parent, base, mode, dev); err != nil {
			return fmt.Errorf("mknod: %w", err)
		}
	default:
		return fmt.Errorf("entries of type %q are not known", hdr.Typeflag)
	}
	return setAttributesAt(parent, base, hdr)
}

// device returns the mode and number of a special file.
func device(hdr *tar.Header) (mode uint32, dev int, err error) {
	mode = map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[hdr.Typeflag]
	if hdr.Typeflag == tar.TypeFifo {
		return mode, 0, nil
	}
	// As many bits as Linux has for them.
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return 0, 0, fmt.Errorf("device number %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
	}
	return mode, int(unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))), nil
}

func (a *applier) makeFile(parent int, base string, hdr *tar.Header, body io.Reader) error {
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	defer unix.Close(fd)
	if _, err := io.CopyBuffer(fdWriter(fd), body, a.buf); err != nil {
		return err
	}
	if err := setAttributes(fd, hdr); err != nil {
		return err
	}
	return setTime(parent, base, hdr.ModTime)
}

// fdWriter writes to a descriptor, without what os.File adds to each of many
// small files.
type fdWriter int

func (w fdWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(int(w), p[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, fmt.Errorf("write: %w", err)
		}
		done += n
	}
	return done, nil
}

// finish sets the times of directories and the attributes of the root, which
// overlayfs takes from the topmost layer.
func (a *applier) finish() error {
	for _, d := range a.times {
		fd, err := a.tree.lookup(d.name)
		if err != nil {
			continue // something else took its place
		}
		err = setTime(unix.AT_FDCWD, procPath(fd), d.time)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("%q: %w", d.name, err)
		}
	}
	if a.top != nil {
		fd, err := unix.Open(a.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open root: %w", err)
		}
		defer unix.Close(fd)
		return errors.Join(setAttributes(fd, a.top), setTime(unix.AT_FDCWD, procPath(fd), a.top.ModTime))
	}
	return a.tree.rootLikeLower()
}
