package image

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// pinsLease holds every image that has an owner. It may hold more, until the
// next collection drops those whose owners have gone.
const pinsLease = "pins"

// Root is an unpacked image, ready to be the lower layers of an overlay.
type Root struct {
	Digest string              // of the manifest
	Lower  []string            // absolute directories, topmost first; at least one; never to be written to
	Config ocispec.ImageConfig // what the image says to run; not to be changed, as callers share it
}

// Owner is who uses images, by a name that Use was given.
type Owner struct {
	Name    string   `json:"name"`
	Digests []string `json:"digests"`
}

// Use returns the image's root and keeps it from being collected until Release
// is called for the owner, by this process or a later one. An owner may use
// several images. Images are given by their whole manifest digest. After the
// first use of an image by anyone, it costs one small file write for a new
// owner and nothing for one that has it already.
func (s *Store) Use(ctx context.Context, dgst, owner string) (Root, error) {
	if owner == "" || len(url.QueryEscape(owner)) > 240 {
		return Root{}, mayfly.Errorf(mayfly.Invalid, "owner %q of an image is empty or too long", owner)
	}
	s.mu.Lock()
	if root := s.leased[dgst]; root != nil {
		defer s.mu.Unlock()
		return root.copy(), s.pin(dgst, owner)
	}
	s.mu.Unlock()
	d, err := digest.Parse(dgst)
	if err != nil {
		return Root{}, mayfly.Errorf(mayfly.Invalid, "image digest %q: %w", dgst, err)
	}
	ctx, end, err := s.begin(ctx, "use")
	if err != nil {
		return Root{}, err
	}
	defer end() // after the lease of pins holds it
	root, err := s.root(ctx, d)
	if err != nil {
		return Root{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := leases.Resource{ID: dgst, Type: "content"}
	if err := s.leases.AddResource(ctx, leases.Lease{ID: pinsLease}, r); err != nil {
		return Root{}, mayfly.Errorf(mayfly.Internal, "hold image %s: %w", dgst, err)
	}
	s.leased[dgst] = &root
	return root.copy(), s.pin(dgst, owner)
}

func (r *Root) copy() Root {
	c := *r
	c.Lower = slices.Clone(r.Lower)
	return c
}

// root reads and, if need be, unpacks the image. The lease in ctx holds it.
func (s *Store) root(ctx context.Context, d digest.Digest) (Root, error) {
	if err := s.hold(ctx, d.String(), ocispec.Descriptor{Digest: d}); err != nil {
		return Root{}, err
	}
	p, err := s.readManifest(ctx, d)
	if err != nil {
		return Root{}, mayfly.Errorf(mayfly.Internal, "use image %s: %w", d, err)
	}
	root := Root{Digest: d.String(), Config: p.config.Config}
	chain := chainOf(p)
	if chain == "" {
		dir, err := s.emptyDir()
		root.Lower = []string{dir}
		return root, err
	}
	if root.Lower, err = s.lowerDirs(ctx, chain); errdefs.IsNotFound(err) {
		if err = s.unpack(ctx, p); err != nil {
			return root, err
		}
		if err = s.link(ctx, p, chain); err != nil {
			return root, err
		}
		root.Lower, err = s.lowerDirs(ctx, chain)
	}
	return root, err
}

func (s *Store) pinDir() string { return filepath.Join(s.dir, "pins") }

// pinFile is the file of an owner. The prefix keeps "." and ".." names.
func (s *Store) pinFile(owner string) string {
	return filepath.Join(s.pinDir(), "by-"+url.QueryEscape(owner))
}

// pin records the use, in memory and in the owner's file. The file is not
// synced but by Keep: it must survive this process, and after a power loss there
// are no containers to hold an image for. s.mu is held.
func (s *Store) pin(dgst, owner string) error {
	if slices.Contains(s.owners[owner], dgst) {
		return nil
	}
	f, err := os.OpenFile(s.pinFile(owner), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "record owner of image: %w", err)
	}
	_, err = f.WriteString(dgst + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return mayfly.Errorf(mayfly.Internal, "record owner of image: %w", err)
	}
	s.owners[owner] = append(s.owners[owner], dgst)
	s.pins[dgst]++
	return nil
}

// Keep puts on disk what the owner uses, so that it outlives a power loss too.
func (s *Store) Keep(owner string) error {
	f, err := os.Open(s.pinFile(owner))
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil {
		err = disk.SyncDir(s.pinDir())
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "record owner of image: %w", err)
	}
	return nil
}

// Release ends all uses of the owner. An owner that has none is no error.
func (s *Store) Release(ctx context.Context, owner string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.owners[owner]; !ok {
		return nil
	}
	if err := os.Remove(s.pinFile(owner)); err != nil && !isNotExist(err) {
		return mayfly.Errorf(mayfly.Internal, "release images of %q: %w", owner, err)
	}
	for _, d := range s.owners[owner] {
		if s.pins[d]--; s.pins[d] == 0 {
			delete(s.pins, d)
		}
	}
	delete(s.owners, owner)
	return nil
}

// Owners lists who uses images, by name, those of earlier processes included.
func (s *Store) Owners() []Owner {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Owner, 0, len(s.owners))
	for name, digests := range s.owners {
		list = append(list, Owner{Name: name, Digests: slices.Clone(digests)})
	}
	slices.SortFunc(list, func(a, b Owner) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// loadPins reads the owners that an earlier process left.
func (s *Store) loadPins(ctx context.Context) error {
	lease := leases.Lease{ID: pinsLease}
	if _, err := s.leases.Create(ctx, leases.WithID(pinsLease)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("create lease: %w", err)
	}
	files, err := os.ReadDir(s.pinDir())
	if err != nil {
		return err
	}
	for _, f := range files {
		escaped, ok := strings.CutPrefix(f.Name(), "by-")
		owner, uerr := url.QueryUnescape(escaped)
		if !ok || uerr != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.pinDir(), f.Name()))
		if err != nil {
			return err
		}
		s.owners[owner] = nil
		for d := range strings.Lines(string(data)) {
			d = strings.TrimSpace(d)
			if digest.Digest(d).Validate() == nil && !slices.Contains(s.owners[owner], d) {
				s.owners[owner] = append(s.owners[owner], d)
				s.pins[d]++
			}
		}
	}
	held, err := s.leases.ListResources(ctx, lease)
	if err != nil {
		return fmt.Errorf("list what owners hold: %w", err)
	}
	for _, r := range held {
		s.leased[r.ID] = nil
	}
	return nil
}
