package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// upperdirLabel is where the overlay snapshotter says what directory a
// snapshot's own files are in.
const upperdirLabel = "containerd.io/snapshot/overlay.upperdir"

// adopt unpacks the stored image and, when all of it is there, links its parts
// and gives it the name. The lease in ctx must hold its blobs.
func (s *Store) adopt(ctx context.Context, name string, manifest digest.Digest) (Image, error) {
	ref, err := parseName(name)
	if err != nil {
		return Image{}, err
	}
	p, err := s.readManifest(ctx, manifest)
	if err != nil {
		return Image{}, err
	}
	if err := s.unpack(ctx, p); err != nil {
		return Image{}, err
	}
	if err := s.link(ctx, p, chainOf(p)); err != nil {
		return Image{}, err
	}
	if err := s.setName(ctx, ref, p); err != nil {
		return Image{}, err
	}
	return s.describe(ctx, images.Image{Name: ref.String(), Target: p.desc})
}

// chainOf is the name of the snapshot that holds the image's whole root; empty
// for an image without layers.
func chainOf(p parsed) digest.Digest {
	if len(p.config.RootFS.DiffIDs) == 0 {
		return ""
	}
	return identity.ChainID(slices.Clone(p.config.RootFS.DiffIDs))
}

// unpack makes a directory of each layer that has none yet.
func (s *Store) unpack(ctx context.Context, p parsed) error {
	var parent digest.Digest
	for i, chain := range identity.ChainIDs(slices.Clone(p.config.RootFS.DiffIDs)) {
		if err := s.unpackLayer(ctx, parent, chain, p.manifest.Layers[i], p.config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("unpack layer %d of %d: %w", i+1, len(p.manifest.Layers), err)
		}
		parent = chain
	}
	return nil
}

// unpackLayer makes the snapshot chain of the layer over parent, once.
func (s *Store) unpackLayer(ctx context.Context, parent, chain digest.Digest, layer ocispec.Descriptor, diffID digest.Digest) error {
	unlock, err := s.busy.lock(ctx, "chain/"+chain.String())
	if err != nil {
		return err
	}
	defer unlock()
	key := "unpack/" + mayfly.NewID()
	// With this label Prepare leases the snapshot and says so when it exists.
	_, err = s.snaps.Prepare(ctx, key, parent.String(), snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain.String()}))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	err = s.fillSnapshot(ctx, key, parent, layer, diffID)
	if err == nil {
		err = s.snaps.Commit(ctx, chain.String(), key)
	}
	if err != nil {
		if rerr := s.snaps.Remove(context.WithoutCancel(ctx), key); rerr != nil {
			s.opts.Log.Warn("half unpacked layer not removed; the next start will", "snapshot", key, "error", rerr)
		}
	}
	return err
}

// fillSnapshot unpacks the layer's blob into the active snapshot key.
func (s *Store) fillSnapshot(ctx context.Context, key string, parent digest.Digest, layer ocispec.Descriptor, diffID digest.Digest) error {
	dir, err := s.upperDir(ctx, key)
	if err != nil {
		return err
	}
	lower, err := s.lowerDirs(ctx, parent)
	if err != nil {
		return err
	}
	ra, err := s.content.ReaderAt(ctx, layer)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, _, err := decompress(content.NewReader(ra))
	if err != nil {
		return err
	}
	defer plain.Close()
	digester := diffID.Algorithm().Digester()
	// A tar is larger than its files: a header of 512 bytes or a few for each.
	bound := s.opts.MaxUnpacked + 8<<10*int64(s.opts.MaxEntries)
	tee := io.TeeReader(newLimitReader(plain, bound, "the layer"), digester.Hash())
	a := &applier{dir: dir, parents: lower, max: limits{s.opts.MaxUnpacked, s.opts.MaxEntries}}
	if err := a.apply(ctx, tee); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return applyError(err)
	}
	if got := digester.Digest(); got != diffID {
		return mayfly.Errorf(mayfly.Invalid, "contents are %s, the configuration says %s", got, diffID)
	}
	return disk.SyncFS(dir) // before the database says that the files are there
}

// upperDir is the directory with the snapshot's own files.
func (s *Store) upperDir(ctx context.Context, key string) (string, error) {
	info, err := s.snaps.Stat(ctx, key)
	if err != nil {
		return "", err
	}
	dir := info.Labels[upperdirLabel]
	if dir == "" {
		return "", fmt.Errorf("snapshot %s has no directory", key)
	}
	return dir, nil
}

// lowerDirs returns the directories of the snapshot and of those below it, top
// first. A layer whose root is opaque ends the list: overlayfs does not look at
// that mark on a root.
func (s *Store) lowerDirs(ctx context.Context, chain digest.Digest) ([]string, error) {
	var dirs []string
	for key := chain.String(); key != ""; {
		info, err := s.snaps.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		dir := info.Labels[upperdirLabel]
		if dir == "" {
			return nil, fmt.Errorf("snapshot %s has no directory", key)
		}
		dirs = append(dirs, dir)
		var mark [1]byte
		if n, err := unix.Lgetxattr(dir, opaqueXattr, mark[:]); err == nil && n == 1 && mark[0] == 'y' {
			break
		}
		key = info.Parent
	}
	return dirs, nil
}

// emptyDir is a lower directory for an image without layers.
func (s *Store) emptyDir() (string, error) {
	dir := s.dir + "/empty"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make %s: %w", strconv.Quote(dir), err)
	}
	return dir, nil
}
