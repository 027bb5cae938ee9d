package image

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/mayfly-run/mayfly"
)

// parseName reads an image's name as people write it: debian, debian:12,
// registry.example/team/app:v1, or one with @sha256:... at its end. The tag is
// "latest" where neither tag nor digest is given.
func parseName(name string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "image name %q: %w", name, err).
			WithHint("write it as [registry/]name[:tag], in lower case")
	}
	return reference.TagNameOnly(ref), nil
}

// hexPrefix matches what may be the beginning of a digest. Four digits are
// asked for, as fewer are more often a mistyped name.
var hexPrefix = regexp.MustCompile(`^(sha256:)?[0-9a-f]{4,64}$`)

// Get returns the image of that name, of that digest, or of the only digest
// that begins so. A name wins over a digest. It fails with kind NotFound, and
// with Conflict where several digests begin so.
func (s *Store) Get(ctx context.Context, name string) (Image, error) {
	ctx = s.context(ctx)
	rec, err := s.find(ctx, name)
	if err != nil {
		return Image{}, err
	}
	return s.describe(ctx, rec)
}

// find is Get without reading the image.
func (s *Store) find(ctx context.Context, name string) (images.Image, error) {
	ref, refErr := parseName(name)
	if refErr == nil {
		rec, err := s.names.Get(ctx, ref.String())
		if err == nil {
			return rec, nil
		}
		if !errdefs.IsNotFound(err) {
			return rec, mayfly.Errorf(mayfly.Internal, "look up image %q: %w", name, err)
		}
	}
	if hexPrefix.MatchString(name) {
		return s.findDigest(ctx, name)
	}
	if refErr != nil {
		return images.Image{}, refErr
	}
	return images.Image{}, notFound(name)
}

func notFound(name string) *mayfly.Error {
	err := mayfly.Errorf(mayfly.NotFound, "no image %q here", name)
	if hexPrefix.MatchString(name) {
		return err.WithHint("`mayfly images` lists what there is")
	}
	return err.WithHint("`mayfly pull %s` fetches one, `mayfly images` lists what there is", name)
}

// findDigest finds by a digest or its beginning, among the named images and
// then, by the whole digest, among those that are only held by an owner.
func (s *Store) findDigest(ctx context.Context, prefix string) (images.Image, error) {
	all, err := s.names.List(ctx)
	if err != nil {
		return images.Image{}, mayfly.Errorf(mayfly.Internal, "list images: %w", err)
	}
	prefix = strings.TrimPrefix(prefix, "sha256:")
	var found images.Image
	for _, rec := range all {
		d := rec.Target.Digest
		if !strings.HasPrefix(d.Encoded(), prefix) {
			continue
		}
		if found.Name != "" && found.Target.Digest != d {
			return found, mayfly.Errorf(mayfly.Conflict, "several images begin with %q", prefix).WithHint("give more of the digest")
		}
		if found.Name == "" {
			found = rec
		}
	}
	if found.Name != "" {
		return found, nil
	}
	if d := digest.Digest("sha256:" + prefix); d.Validate() == nil {
		if p, err := s.readManifest(ctx, d); err == nil {
			return images.Image{Target: p.desc}, nil
		}
	}
	return found, notFound(prefix)
}

// List returns every named image, sorted by name.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	ctx = s.context(ctx)
	all, err := s.names.List(ctx)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "list images: %w", err)
	}
	list := make([]Image, 0, len(all))
	for _, rec := range all {
		img, err := s.describe(ctx, rec)
		if mayfly.KindOf(err) == mayfly.NotFound {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, img)
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// describe reads what there is to know about an image of the store.
func (s *Store) describe(ctx context.Context, rec images.Image) (Image, error) {
	img := Image{Name: familiar(rec.Name), Digest: rec.Target.Digest.String()}
	p, err := s.readManifest(ctx, rec.Target.Digest)
	if errdefs.IsNotFound(err) {
		return img, notFound(img.Digest)
	}
	if err != nil {
		return img, mayfly.Errorf(mayfly.Internal, "read image %s: %w", img.Digest, err)
	}
	img.Config, img.Layers, img.Labels = p.config, len(p.manifest.Layers), p.config.Config.Labels
	if p.config.Created != nil {
		img.Created = *p.config.Created
	}
	img.Blobs = p.desc.Size + p.manifest.Config.Size
	for _, l := range p.manifest.Layers {
		img.Blobs += l.Size
	}
	for _, chain := range identity.ChainIDs(slices.Clone(p.config.RootFS.DiffIDs)) {
		if u, err := s.snaps.Usage(ctx, chain.String()); err == nil {
			img.Size += u.Size
		} else if !errdefs.IsNotFound(err) {
			return img, mayfly.Errorf(mayfly.Internal, "size of image %s: %w", img.Digest, err)
		}
	}
	return img, nil
}

// familiar drops what is understood from a stored name: docker.io/library/.
func familiar(stored string) string {
	if ref, err := reference.ParseNormalizedNamed(stored); err == nil {
		return reference.FamiliarString(ref)
	}
	return stored
}

// setName points name to the manifest, whatever it pointed to before.
func (s *Store) setName(ctx context.Context, name reference.Named, p parsed) error {
	rec := images.Image{Name: name.String(), Target: p.desc}
	_, err := s.names.Create(ctx, rec)
	if errdefs.IsAlreadyExists(err) {
		_, err = s.names.Update(ctx, rec)
		if errdefs.IsNotFound(err) { // removed between the two
			_, err = s.names.Create(ctx, rec)
		}
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "name image %q: %w", name, err)
	}
	return nil
}

// Tag gives the image a further name, taking it from whichever had it.
func (s *Store) Tag(ctx context.Context, nameOrDigest, name string) (Image, error) {
	ref, err := parseName(name)
	if err != nil {
		return Image{}, err
	}
	ctx, end, err := s.begin(ctx, "tag")
	if err != nil {
		return Image{}, err
	}
	defer end()
	rec, err := s.find(ctx, nameOrDigest)
	if err != nil {
		return Image{}, err
	}
	if err := s.hold(ctx, nameOrDigest, rec.Target); err != nil {
		return Image{}, err
	}
	if err := s.setName(ctx, ref, parsed{desc: rec.Target}); err != nil {
		return Image{}, err
	}
	rec.Name = ref.String()
	return s.describe(ctx, rec)
}
