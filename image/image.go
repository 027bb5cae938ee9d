// Package image keeps the OCI images of one machine: it imports, pulls and
// pushes them, unpacks each layer once into a directory that overlayfs can use
// as a lower, and collects what nothing uses.
//
// Everything lies under one directory, opened by one process at a time:
//
//	meta.db      names, labels, references between contents, leases (bbolt)
//	content/     manifests, configurations and layers by digest, and partial downloads
//	snapshots/   a directory for each unpacked layer, named in its own metadata.db
//	pins/        a file for each owner that uses an image, with the digests that it uses
//	tmp/         spooled imports; emptied by Open
//
// The metadata, content and snapshots are containerd's, in the layout and with
// the garbage collection labels that its clients and BuildKit expect, so that a
// builder can work on the same store.
//
// What it promises:
//   - An image has a name only when all of it is here, verified and unpacked.
//     A process killed at any moment leaves nothing half made: what it had
//     begun is collected by the next Open. Only partial downloads are kept, for
//     a day, because the next pull continues them.
//   - No mount is ever made. Layers are written straight into their directory,
//     whiteouts in the form that overlayfs reads.
//   - Nothing is written outside a layer's directory, whatever its tar says.
//   - An image that has an owner (see Use) is not collected. Owners outlive the
//     process, but not a reboot after a power loss, and neither do containers;
//     those that are to be there for longer outlive that too (see Keep).
//
// It makes no container and mounts nothing; that is left to package container.
package image

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/mayfly-run/mayfly"
)

// namespace is the only containerd namespace of a store.
const namespace = "mayfly"

// snapshotterName is the name under which garbage collection labels refer to
// the overlay snapshotter; containerd and BuildKit call it the same.
const snapshotterName = "overlayfs"

// Options tune a Store. The zero value is fit for production.
type Options struct {
	Log         *slog.Logger // discarded if nil
	MaxBlob     int64        // largest layer as stored or sent, and largest import, in bytes; 16 GiB if zero
	MaxUnpacked int64        // largest layer when unpacked, in bytes; 32 GiB if zero
	MaxEntries  int          // most files in one layer; 2,000,000 if zero
	Parallel    int          // layers of one pull fetched at once; 4 if zero
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBlob == 0 {
		o.MaxBlob = 16 << 30
	}
	if o.MaxUnpacked == 0 {
		o.MaxUnpacked = 32 << 30
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = 2_000_000
	}
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	return o
}

// Image is one image of the store under one of its names.
type Image struct {
	Name    string            `json:"name,omitempty"`   // as people write it, with its tag; empty if it has lost its name
	Digest  string            `json:"digest"`           // of the manifest, sha256:...
	Size    int64             `json:"size"`             // bytes on disk when unpacked; shared layers count in each image
	Blobs   int64             `json:"blobs"`            // bytes as stored and sent
	Layers  int               `json:"layers"`           // how many
	Created time.Time         `json:"created,omitzero"` // when it was built, by its own word
	Labels  map[string]string `json:"labels,omitempty"` // those of its configuration
	Config  ocispec.Image     `json:"config"`
}

// Store is the images of one machine. Its methods may be called at once from
// many goroutines.
type Store struct {
	dir     string
	opts    Options
	db      *metadata.DB
	content content.Store // of the namespace
	blobs   content.Store // below the namespace, for clean-up only
	snaps   snapshots.Snapshotter
	backing snapshots.Snapshotter
	names   images.Store
	leases  leases.Manager
	tmp     string
	busy    keyedLock // by blob digest and by chain ID

	mu     sync.Mutex
	owners map[string][]string // owner to the digests it uses
	pins   map[string]int      // digest to how many owners it has
	leased map[string]*Root    // digests that the lease of pins holds; the Root once it is known
}

// Open opens the store under dir, making it where there is none, and collects
// what a killed process left behind. It fails with kind Conflict while another
// process has it open.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "open image store %q: %w", dir, err)
	}
	s := &Store{dir: dir, opts: opts.withDefaults(), tmp: filepath.Join(dir, "tmp"),
		owners: map[string][]string{}, pins: map[string]int{}, leased: map[string]*Root{}}
	for _, d := range []string{dir, s.pinDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, mayfly.Errorf(mayfly.Internal, "open image store: %w", err)
		}
	}
	bdb, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, mayfly.Errorf(mayfly.Conflict, "image store %s is open in another process", dir)
	}
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "open image store: %w", err)
	}
	if err := s.assemble(bdb); err != nil {
		bdb.Close()
		return nil, mayfly.Errorf(mayfly.Internal, "open image store %s: %w", dir, err)
	}
	ctx := s.context(context.Background())
	if err := errors.Join(s.loadPins(ctx), s.recover(ctx)); err != nil {
		s.Close()
		return nil, mayfly.Errorf(mayfly.Internal, "recover image store %s: %w", dir, err)
	}
	return s, nil
}

// assemble puts containerd's parts together over an open database.
func (s *Store) assemble(bdb *bolt.DB) error {
	quietLibraries()
	var err error
	if s.blobs, err = local.NewStore(filepath.Join(s.dir, "content")); err != nil {
		return err
	}
	if s.backing, err = overlay.NewSnapshotter(filepath.Join(s.dir, "snapshots"), overlay.WithUpperdirLabel); err != nil {
		return err
	}
	s.db = metadata.NewDB(bdb, s.blobs, map[string]snapshots.Snapshotter{snapshotterName: s.backing})
	if err := s.db.Init(context.Background()); err != nil {
		s.backing.Close()
		return err
	}
	s.content = s.db.ContentStore()
	s.snaps = s.db.Snapshotter(snapshotterName)
	s.names = metadata.NewImageStore(s.db)
	s.leases = metadata.NewLeaseManager(s.db)
	if err := os.RemoveAll(s.tmp); err != nil {
		return err
	}
	return os.Mkdir(s.tmp, 0o700)
}

// Close closes the store. Owners keep their images.
func (s *Store) Close() error {
	return errors.Join(s.backing.Close(), s.db.Close())
}

// context returns ctx as containerd's libraries want it.
func (s *Store) context(ctx context.Context) context.Context {
	return withQuietLog(namespaces.WithNamespace(ctx, namespace), s.opts.Log)
}

// begin starts an operation that adds to the store. What it adds is held by a
// lease until end is called, and collected later unless it got a name or an
// owner by then.
func (s *Store) begin(ctx context.Context, what string) (opctx context.Context, end func(), err error) {
	ctx = s.context(ctx)
	lease, err := s.leases.Create(ctx, leases.WithID(what+"/"+mayfly.NewID()))
	if err != nil {
		return nil, nil, mayfly.Errorf(mayfly.Internal, "lease %s: %w", what, err)
	}
	plain := context.WithoutCancel(ctx)
	return leases.WithLease(ctx, lease.ID), func() {
		if err := s.leases.Delete(plain, lease); err != nil {
			s.opts.Log.Warn("image lease not deleted; the next start will", "lease", lease.ID, "error", err)
		}
	}, nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
