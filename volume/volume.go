// Package volume keeps what outlives containers, in directories of this machine.
//
// It promises:
//   - What a change leaves after a crash, at whatever moment, is the state before
//     it or the state after it; Open clears away the rest. Made, restored, cloned
//     and kept is what is on disk.
//   - It never follows a symbolic link that a container planted. Whatever lies in a
//     volume is reached from descriptor to descriptor, and what a container is
//     given of it was pinned by a mount.
//   - What a program reads in a snapshot was there all at one moment, or the
//     snapshot fails.
//
// Who may write to a volume, who uses it, and what volumes there are, is in the
// record; the node package keeps that, and calls nothing here twice at once for
// one volume. Names of spaces, volumes and snapshots were checked by the caller.
package volume

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-run/mayfly"
)

// Provider makes volumes of one kind. Those of other machines, of a file server
// or of a plugin, fit in too: Open is where they attach, and Close where they
// detach. All methods may be called for several volumes at once.
type Provider interface {
	Maker
	Opener
}

// Maker makes volumes and removes them.
type Maker interface {
	// Check refuses a definition that cannot be made here, with what to do.
	Check(v mayfly.Volume) error

	// Create makes the volume as its definition says. One that is there is left
	// as it is.
	Create(ctx context.Context, v mayfly.Volume) error

	// Remove removes the volume and all that is in it, but for a directory that
	// was somebody else's before. One that is not there is no error.
	Remove(ctx context.Context, v mayfly.Volume) error
}

// Opener gives volumes to containers.
type Opener interface {
	// Open makes a volume that was made ready to be mounted. It may be called
	// again before Close. One of which nothing is left is a Conflict.
	Open(ctx context.Context, v mayfly.Volume) (Opened, error)

	// Close is called when nobody uses the volume any more.
	Close(ctx context.Context, v mayfly.Volume) error

	// Usage says how much is in the volume.
	Usage(ctx context.Context, v mayfly.Volume) (Usage, error)
}

// Snapshotter is a Provider whose volumes can be copied. Those of another one
// have no snapshots, and are not restored or cloned.
type Snapshotter interface {
	// Snapshot keeps a copy of what is in the volume now, under a new name. A
	// volume that never stands still while it is copied is Busy.
	Snapshot(ctx context.Context, v mayfly.Volume, name string) (Snapshot, error)
	Snapshots(v mayfly.Volume) ([]Snapshot, error) // oldest first
	RemoveSnapshot(ctx context.Context, v mayfly.Volume, name string) error

	// Restore puts a snapshot in the place of what is in the volume. Nobody uses it.
	Restore(ctx context.Context, v mayfly.Volume, name string) error

	// Clone makes a volume with what is in another one, or in a snapshot of that
	// if snapshot is not empty. One of its name must not be there.
	Clone(ctx context.Context, from mayfly.Volume, snapshot string, to mayfly.Volume) error
}

// Opened is a volume that can be mounted.
type Opened struct {
	Path    string // of the directory on this machine
	Emptied bool   // it was in memory and went with it; this is a new, empty one
}

// Usage is how much is in a volume.
type Usage = mayfly.VolumeUsage

// Snapshot is a copy of a volume.
type Snapshot = mayfly.VolumeSnapshot

// Options tune Volumes. The zero value is fit for production.
type Options struct {
	Log       *slog.Logger        // nil: no log
	AllowBind []string            // directories of the host whose contents may be volumes; none if empty
	Providers map[string]Provider // further ones, by name
}

// Volumes are those of one data directory.
type Volumes struct {
	dir       string // DATA/volumes
	log       *slog.Logger
	providers map[string]Provider
}

// Open opens the volumes below a data directory, and removes what a crash left
// half done.
func Open(data string, o Options) (*Volumes, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	data, err := filepath.Abs(data)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	if data, err = filepath.EvalSymlinks(data); err != nil { // as the kernel will call it
		return nil, err
	}
	l := layout{volumes: data + "/volumes", snapshots: data + "/snapshots"}
	if err := l.open(); err != nil {
		return nil, err
	}
	b, err := newBind(l, o.AllowBind)
	if err != nil {
		return nil, err
	}
	mounts := &sync.Mutex{}
	v := &Volumes{dir: l.volumes, log: o.Log, providers: map[string]Provider{
		mayfly.VolumeLocal: &kept{layout: l, kind: local{}, mounts: mounts},
		mayfly.VolumeTmpfs: &kept{layout: l, kind: tmpfs{}, mounts: mounts},
		mayfly.VolumeBind:  b,
	}}
	maps.Copy(v.providers, o.Providers)
	return v, nil
}

// Provider returns the one that makes a volume.
func (s *Volumes) Provider(v mayfly.Volume) (Provider, error) {
	name := v.Provider
	if name == "" {
		name = mayfly.VolumeLocal
	}
	p, ok := s.providers[name]
	if !ok {
		return nil, mayfly.Errorf(mayfly.Invalid, "volume %s: there is no provider %q", v.Name, name).
			WithHint("use one of %s", strings.Join(slices.Sorted(maps.Keys(s.providers)), ", "))
	}
	return p, nil
}

// Snapshotter returns the provider of a volume, if it can copy volumes.
func (s *Volumes) Snapshotter(v mayfly.Volume) (Snapshotter, error) {
	p, err := s.Provider(v)
	if err != nil {
		return nil, err
	}
	sn, ok := p.(Snapshotter)
	if !ok {
		return nil, mayfly.Errorf(mayfly.Invalid, "volume %s: provider %s has no snapshots", v.Name, v.Provider).
			WithHint("copy it with the tools of whoever keeps the directory")
	}
	return sn, nil
}

// Check refuses a definition that cannot be made here.
func (s *Volumes) Check(v mayfly.Volume) error {
	p, err := s.Provider(v)
	if err != nil {
		return err
	}
	if v.Size < 0 {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: a size of %d bytes is no size", v.Name, v.Size)
	}
	if v.Mode > 0o7777 {
		return mayfly.Errorf(mayfly.Invalid, "volume %s: mode %o is none", v.Name, v.Mode).WithHint("give octal permission bits, as in 0750")
	}
	if _, _, err := owner(v); err != nil {
		return err
	}
	return p.Check(v)
}
