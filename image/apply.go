package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	confs "github.com/containerd/continuity/fs"
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
// for it. containerd's archive.Apply does the writing and keeps every name
// beneath the root; the applier bounds it and turns whiteouts into overlayfs's.
type applier struct {
	dir     string   // absolute, clean; only we write there meanwhile
	parents []string // directories of the layers below, top first
	max     limits

	root    *os.Root
	entries int
	bytes   int64
	hidden  map[string]bool // paths below dir, with a leading slash, that are whiteouts of ours
	top     *tar.Header     // of the root directory itself
}

type limits struct {
	bytes   int64
	entries int
}

// apply unpacks the plain tar r. It reads r to the end of the archive, not to
// the end of r.
func (a *applier) apply(ctx context.Context, r io.Reader) error {
	var err error
	if a.root, err = os.OpenRoot(a.dir); err != nil {
		return err
	}
	defer a.root.Close()
	a.hidden = map[string]bool{}
	_, err = archive.Apply(ctx, a.dir, r,
		archive.WithFilter(a.filter),
		archive.WithConvertWhiteout(a.convert),
		archive.WithParents(a.parents))
	if err != nil {
		return applyError(err)
	}
	return a.finishRoot()
}

// applyError tells a bad archive from a bad machine.
func applyError(err error) error {
	var known *mayfly.Error
	switch {
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return mayfly.Errorf(mayfly.Unavailable, "%w", err).WithHint("free some disk; `mayfly image prune` may help")
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EPERM):
		return mayfly.Errorf(mayfly.Internal, "%w", err)
	}
	return mayfly.Errorf(mayfly.Invalid, "%w", err)
}

// filter sees each header before anything of it is written.
func (a *applier) filter(hdr *tar.Header) (bool, error) {
	if a.entries++; a.entries > a.max.entries {
		return false, mayfly.Errorf(mayfly.TooLarge, "more than %d files", a.max.entries)
	}
	if a.bytes += hdr.Size; a.bytes > a.max.bytes || a.bytes < 0 {
		return false, mayfly.Errorf(mayfly.TooLarge, "files of more than %d bytes", a.max.bytes)
	}
	switch hdr.Typeflag {
	case tar.TypeXGlobalHeader: // a comment; git archive writes one
		return false, nil
	case tar.TypeGNUSparse, tar.TypeCont: // read as regular files
		hdr.Typeflag = tar.TypeReg
	}
	name := filepath.Clean("/" + hdr.Name)
	if name == "/" {
		if hdr.Typeflag == tar.TypeDir {
			a.top = hdr
		}
		return false, nil
	}
	if len(a.hidden) > 0 {
		for dir := filepath.Dir(name); dir != "/"; dir = filepath.Dir(dir) {
			if a.hidden[dir] {
				if err := a.reopen(dir); err != nil {
					return false, err
				}
			}
		}
	}
	return true, nil
}

// convert is called for each entry before it is written at path, and says
// whether to write it. A whiteout hides what lower layers have and nothing of
// its own layer, wherever in the archive it stands.
func (a *applier) convert(hdr *tar.Header, path string) (bool, error) {
	dir, base := filepath.Split(path)
	dir = filepath.Clean(dir)
	if base == whiteoutOpaque {
		if !a.below(dir) {
			return false, nil
		}
		return false, unix.Lsetxattr(dir, opaqueXattr, []byte("y"), 0)
	}
	if hides, ok := strings.CutPrefix(base, whiteout); ok {
		return false, a.hide(filepath.Join(dir, hides))
	}
	rel := path[len(a.dir):]
	if !a.hidden[rel] {
		return true, nil
	}
	if hdr.Typeflag == tar.TypeDir {
		return true, a.reopen(rel)
	}
	delete(a.hidden, rel) // the file takes the whiteout's place
	return true, nil
}

// hide makes the lower layers' file at path disappear.
func (a *applier) hide(path string) error {
	if !a.below(path) {
		return nil // overlayfs shows a whiteout that has nothing to hide
	}
	switch fi, err := os.Lstat(path); {
	case err == nil && fi.IsDir():
		return unix.Lsetxattr(path, opaqueXattr, []byte("y"), 0)
	case err == nil:
		return nil // this layer's own file hides it already
	case !isNotExist(err):
		return err
	}
	if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("whiteout %s: %w", path, err)
	}
	a.hidden[path[len(a.dir):]] = true
	return nil
}

// reopen turns a whiteout into a directory that shows nothing of those below.
func (a *applier) reopen(rel string) error {
	name := rel[1:]
	if err := a.root.Remove(name); err != nil {
		return err
	}
	delete(a.hidden, rel)
	if err := a.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	d, err := a.root.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return errors.Join(d.Chmod(0o755), unix.Fsetxattr(int(d.Fd()), opaqueXattr, []byte("y"), 0))
}

// below says whether a lower layer has something at path.
func (a *applier) below(path string) bool {
	rel := path[len(a.dir):]
	for _, p := range a.parents {
		in, err := confs.RootPath(p, filepath.Dir("/"+rel))
		if err != nil {
			continue
		}
		if _, err := os.Lstat(filepath.Join(in, filepath.Base("/"+rel))); err == nil {
			return true
		}
	}
	return false
}

// finishRoot gives the root directory its attributes: archive.Apply leaves it
// alone, and overlayfs shows those of the topmost layer.
func (a *applier) finishRoot() error {
	if a.top == nil {
		if len(a.parents) == 0 {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Stat(a.parents[0], &st); err != nil {
			return err
		}
		return errors.Join(os.Chown(a.dir, int(st.Uid), int(st.Gid)), unix.Chmod(a.dir, st.Mode&0o7777),
			unix.UtimesNanoAt(unix.AT_FDCWD, a.dir, []unix.Timespec{st.Atim, st.Mtim}, 0))
	}
	if err := os.Chown(a.dir, a.top.Uid, a.top.Gid); err != nil {
		return applyError(err)
	}
	for key, value := range a.top.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || strings.HasPrefix(name, "trusted.") {
			continue
		}
		if err := unix.Setxattr(a.dir, name, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return applyError(fmt.Errorf("set %s of the root: %w", name, err))
		}
	}
	return applyErrors(unix.Chmod(a.dir, uint32(a.top.Mode&0o7777)), os.Chtimes(a.dir, a.top.ModTime, a.top.ModTime))
}

func applyErrors(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return applyError(err)
	}
	return nil
}
