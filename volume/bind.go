package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// bind gives containers directories that are the host's. Where those may be, an
// administrator says when the node is started.
type bind struct {
	layout
	allowed []allowed
}

// allowed is a directory beneath which volumes may be.
type allowed struct{ said, real string } // as it was said, and without symbolic links

func newBind(l layout, dirs []string) (*bind, error) {
	b := &bind{layout: l}
	for _, dir := range dirs {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil && !filepath.IsAbs(dir) {
			err = errors.New("the path is not absolute")
		}
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "allow volumes beneath %s: %w", dir, err)
		}
		if st, err := os.Stat(real); err != nil || !st.IsDir() {
			return nil, mayfly.Errorf(mayfly.Invalid, "allow volumes beneath %s: it is not a directory", dir)
		}
		b.allowed = append(b.allowed, allowed{filepath.Clean(dir), real})
	}
	return b, nil
}

// Check is part of Maker.
func (b *bind) Check(v mayfly.Volume) error {
	switch {
	case !filepath.IsAbs(v.Source):
		return mayfly.Errorf(mayfly.Invalid, "volume %s: source %q is not an absolute path of the host", v.Name, v.Source)
	case v.Size != 0 || v.Owner != "" || v.Mode != 0:
		return mayfly.Errorf(mayfly.Invalid, "volume %s: a directory of the host keeps its own size, owner and mode", v.Name).
			WithHint("leave them out, or use provider local")
	}
	fd, err := b.open(v)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// open opens a source beneath the allowed directory that holds it.
func (b *bind) open(v mayfly.Volume) (int, error) {
	source := filepath.Clean(v.Source)
	for _, a := range b.allowed {
		below, ok := under(a.said, source)
		if !ok {
			below, ok = under(a.real, source)
		}
		if !ok {
			continue
		}
		top, err := unix.Open(a.real, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: a.real, Err: err}
		}
		fd, err := openBeneath(top, below, unix.O_PATH|unix.O_DIRECTORY)
		unix.Close(top)
		if err != nil {
			return -1, explainBeneath(err, "volume "+v.Name, source)
		}
		return fd, nil
	}
	e := mayfly.Errorf(mayfly.Denied, "volume %s: %s may not be used", v.Name, source)
	if len(b.allowed) == 0 {
		return -1, e.WithHint("start the node with mayfly up --allow-bind %s", source)
	}
	return -1, e.WithHint("it is beneath none of %s; start the node with mayfly up --allow-bind %s too", b.list(), source)
}

func (b *bind) list() string {
	var dirs []string
	for _, a := range b.allowed {
		dirs = append(dirs, a.said)
	}
	return strings.Join(dirs, ", ")
}

// under is the path of something below a directory.
func under(dir, p string) (below string, ok bool) {
	below, err := filepath.Rel(dir, p)
	return below, err == nil && below != ".." && !strings.HasPrefix(below, "../")
}

// Create is part of Maker.
func (b *bind) Create(_ context.Context, v mayfly.Volume) error {
	if err := b.Check(v); err != nil {
		return err
	}
	return os.MkdirAll(b.volume(v)+"/fs", 0o700)
}

// Open is part of Opener. The source is looked for again: what is allowed, and
// what is there, may have changed.
func (b *bind) Open(_ context.Context, v mayfly.Volume) (Opened, error) {
	at := b.volume(v) + "/fs"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return Opened{}, err
	}
	fd, err := b.open(v)
	if err != nil {
		return Opened{}, err
	}
	defer unix.Close(fd)
	on, err := mounted(at)
	if err == nil && !on {
		err = mountHere(fd, at)
	}
	if err != nil {
		return Opened{}, fmt.Errorf("open volume %s: %w", v.Name, err)
	}
	return Opened{Path: at}, nil
}

// Close is part of Opener.
func (b *bind) Close(_ context.Context, v mayfly.Volume) error {
	return unmountBelow(b.volume(v) + "/fs")
}

// Remove is part of Maker. The host's directory stays as it is: only mount points
// are removed, and with rmdir.
func (b *bind) Remove(_ context.Context, v mayfly.Volume) error {
	dir := b.volume(v)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeMountPoints(dir)
}

// Usage is part of Opener.
func (b *bind) Usage(ctx context.Context, v mayfly.Volume) (Usage, error) {
	fd, err := b.open(v)
	if err != nil {
		return Usage{}, err
	}
	defer unix.Close(fd)
	return usage(ctx, fd)
}
