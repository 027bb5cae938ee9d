package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/mayfly-run/mayfly"
)

// pullRef begins the names of partial downloads, which the next pull continues.
const pullRef = "pull/"

// InUse is why an image was not removed: it has an owner.
type InUse struct{ Image, Owner string }

func (e *InUse) Error() string { return fmt.Sprintf("image %q is in use by %s", e.Image, e.Owner) }

// Remove takes the name from an image, or all its names where it is given by
// digest, and collects what is then unused. It fails with kind Conflict when
// the last name of an image that has an owner would go (InUse is the cause),
// unless force is set: then the name goes, and the rest when the owners have.
func (s *Store) Remove(ctx context.Context, nameOrDigest string, force bool) error {
	ctx = s.context(ctx)
	rec, err := s.find(ctx, nameOrDigest)
	if err != nil {
		return err
	}
	all, err := s.names.List(ctx)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "list images: %w", err)
	}
	byName := false
	if ref, err := parseName(nameOrDigest); err == nil {
		byName = ref.String() == rec.Name
	}
	var drop []images.Image
	names := 0
	for _, other := range all {
		if other.Target.Digest == rec.Target.Digest {
			names++
			if !byName || other.Name == rec.Name {
				drop = append(drop, other)
			}
		}
	}
	if owner := s.ownerOf(rec.Target.Digest); owner != "" && len(drop) == names && !force {
		return &mayfly.Error{
			Kind: mayfly.Conflict, Err: &InUse{Image: nameOrDigest, Owner: owner},
			Hint: "stop what uses it, or force the removal of its name",
		}
	}
	for _, d := range drop {
		if err := s.names.Delete(ctx, d.Name); err != nil && !errdefs.IsNotFound(err) {
			return mayfly.Errorf(mayfly.Internal, "remove image %q: %w", familiar(d.Name), err)
		}
	}
	return s.collect(ctx)
}

// ownerOf names one who uses the image, or nobody.
func (s *Store) ownerOf(d digest.Digest) string {
	for _, o := range s.Owners() {
		for _, used := range o.Digests {
			if used == d.String() {
				return o.Name
			}
		}
	}
	return ""
}

// PruneOptions say how far Prune goes.
type PruneOptions struct {
	All  bool     // also images that have a name but no owner
	Keep []string // names that stay in any case, as people write them
}

// Prune collects what has neither a name nor an owner, partial downloads
// included, and returns the names that it removed and the bytes that it freed.
func (s *Store) Prune(ctx context.Context, opts PruneOptions) (removed []string, freed int64, err error) {
	ctx = s.context(ctx)
	keep := make(map[string]bool)
	for _, name := range opts.Keep {
		ref, err := parseName(name)
		if err != nil {
			return nil, 0, err
		}
		keep[ref.String()] = true
	}
	before, err := s.Usage(ctx)
	if err != nil {
		return nil, 0, err
	}
	if opts.All {
		all, err := s.names.List(ctx)
		if err != nil {
			return nil, 0, mayfly.Errorf(mayfly.Internal, "list images: %w", err)
		}
		for _, rec := range all {
			if keep[rec.Name] || s.ownerOf(rec.Target.Digest) != "" {
				continue
			}
			if err := s.names.Delete(ctx, rec.Name); err != nil && !errdefs.IsNotFound(err) {
				return removed, 0, mayfly.Errorf(mayfly.Internal, "remove image %q: %w", familiar(rec.Name), err)
			}
			removed = append(removed, familiar(rec.Name))
		}
	}
	if err := s.abortIngests(ctx, func(ref string) bool { return strings.HasPrefix(ref, pullRef) }); err != nil {
		return removed, 0, mayfly.Errorf(mayfly.Internal, "drop partial downloads: %w", err)
	}
	if err := s.collect(ctx); err != nil {
		return removed, 0, err
	}
	after, err := s.Usage(ctx)
	return removed, before.Total() - after.Total(), err
}

// Usage is the disk that a store takes, in bytes.
type Usage struct {
	Images   int   `json:"images"`   // names
	Blobs    int64 `json:"blobs"`    // manifests, configurations and layers as stored
	Unpacked int64 `json:"unpacked"` // layer directories
	Partial  int64 `json:"partial"`  // downloads that a pull can continue
}

// Total is the sum.
func (u Usage) Total() int64 { return u.Blobs + u.Unpacked + u.Partial }

// Usage returns the disk that the store takes.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	ctx = s.context(ctx)
	var u Usage
	all, err := s.names.List(ctx)
	u.Images = len(all)
	err = errors.Join(err, s.content.Walk(ctx, func(i content.Info) error {
		u.Blobs += i.Size
		return nil
	}))
	statuses, serr := s.content.ListStatuses(ctx)
	for _, st := range statuses {
		u.Partial += st.Offset
	}
	var keys []string
	err = errors.Join(err, serr, s.snaps.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			keys = append(keys, i.Name)
		}
		return nil
	}))
	for _, k := range keys {
		if su, uerr := s.snaps.Usage(ctx, k); uerr == nil {
			u.Unpacked += su.Size
		} else if !errdefs.IsNotFound(uerr) {
			err = errors.Join(err, uerr)
		}
	}
	if err != nil {
		return u, mayfly.Errorf(mayfly.Internal, "disk use of images: %w", err)
	}
	return u, nil
}

// Collect removes what has neither a name nor an owner, but for partial
// downloads.
func (s *Store) Collect(ctx context.Context) error { return s.collect(s.context(ctx)) }

// collect removes everything that no name, owner or running operation holds.
func (s *Store) collect(ctx context.Context) error {
	if err := s.dropReleased(ctx); err != nil {
		return mayfly.Errorf(mayfly.Internal, "collect images: %w", err)
	}
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return mayfly.Errorf(mayfly.Internal, "collect images: %w", err)
	}
	return nil
}

// dropReleased lets the lease of pins go of what has no owner any more.
func (s *Store) dropReleased(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.leased {
		if s.pins[d] > 0 {
			continue
		}
		r := leases.Resource{ID: d, Type: "content"}
		if err := s.leases.DeleteResource(ctx, leases.Lease{ID: pinsLease}, r); err != nil {
			return err
		}
		delete(s.leased, d)
	}
	return nil
}

// abortIngests drops the unfinished writes that match. One that is being
// written to just now is left alone.
func (s *Store) abortIngests(ctx context.Context, match func(ref string) bool) error {
	statuses, err := s.content.ListStatuses(ctx)
	if err != nil {
		return err
	}
	for _, st := range statuses {
		if !match(st.Ref) {
			continue
		}
		w, err := s.content.Writer(ctx, content.WithRef(st.Ref)) // refused while another has it
		if err != nil {
			continue
		}
		w.Close()
		if err := s.content.Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// recover removes what a killed process left half made.
func (s *Store) recover(ctx context.Context) error {
	all, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if l.ID != pinsLease {
			if err := s.leases.Delete(ctx, l); err != nil {
				return err
			}
		}
	}
	if err := s.dropUnknownIngests(ctx); err != nil {
		return err
	}
	// A snapshot made and removed makes the collector compare the snapshotter
	// with the database, and so finds directories that no record knows.
	key := "recover/" + mayfly.NewID()
	if _, err := s.snaps.View(ctx, key, ""); err != nil {
		return err
	}
	if err := s.snaps.Remove(ctx, key); err != nil {
		return err
	}
	if err := s.collect(ctx); err != nil {
		return err
	}
	return s.dropUnknownBlobs(ctx)
}

// dropUnknownIngests deletes unfinished writes but for the partial downloads of
// which there is a record.
func (s *Store) dropUnknownIngests(ctx context.Context) error {
	if err := s.abortIngests(ctx, func(ref string) bool { return !strings.HasPrefix(ref, pullRef) }); err != nil {
		return err
	}
	statuses, err := s.content.ListStatuses(ctx)
	if err != nil {
		return err
	}
	ingests := filepath.Join(s.dir, "content", "ingest")
	dirs, err := os.ReadDir(ingests)
	if err != nil && !isNotExist(err) {
		return err
	}
	for _, d := range dirs {
		ref, _ := os.ReadFile(filepath.Join(ingests, d.Name(), "ref")) // absent when the kill was early enough
		if slices.ContainsFunc(statuses, func(st content.Status) bool { return strings.HasSuffix(string(ref), "/"+st.Ref) }) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(ingests, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// dropUnknownBlobs deletes files of the content store that were committed a
// moment before the record of them would have been.
func (s *Store) dropUnknownBlobs(ctx context.Context) error {
	known := map[digest.Digest]bool{}
	if err := s.content.Walk(ctx, func(i content.Info) error {
		known[i.Digest] = true
		return nil
	}); err != nil {
		return err
	}
	var unknown []digest.Digest
	err := s.blobs.Walk(ctx, func(i content.Info) error {
		if !known[i.Digest] {
			unknown = append(unknown, i.Digest)
		}
		return nil
	})
	if err != nil && !isNotExist(err) {
		return err
	}
	for _, d := range unknown {
		if err := s.blobs.Delete(ctx, d); err != nil {
			return fmt.Errorf("delete %s: %w", d, err)
		}
	}
	return nil
}
