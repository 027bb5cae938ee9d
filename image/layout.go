package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// importLayout stores the image of an OCI layout that is for this machine and,
// where there are several, has the name.
func (s *Store) importLayout(ctx context.Context, name string, src source) (digest.Digest, error) {
	raw, err := readPart(src, ocispec.ImageIndexFile)
	if err != nil {
		return "", err
	}
	fetch := func(d ocispec.Descriptor) ([]byte, error) {
		raw, err := readPart(src, blobPath(d.Digest))
		if err == nil && digest.FromBytes(raw) != d.Digest {
			err = mayfly.Errorf(mayfly.Invalid, "%s has another digest: %s", blobPath(d.Digest), digest.FromBytes(raw))
		}
		return raw, err
	}
	desc, raw, err := resolveIndex(raw, choice{name: name}, fetch)
	if err != nil {
		return "", err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return "", err
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		r, _, err := src.open(blobPath(d.Digest))
		if err != nil {
			return "", mayfly.Errorf(mayfly.Invalid, "open %s: %w", blobPath(d.Digest), err)
		}
		err = s.copyBlob(ctx, d, contextReader{ctx, r})
		r.Close()
		if err != nil {
			return "", err
		}
	}
	stored, err := s.putBlob(ctx, desc.MediaType, raw)
	return stored.Digest, err
}

func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// copyBlob stores r, which must be what desc says.
func (s *Store) copyBlob(ctx context.Context, desc ocispec.Descriptor, r io.Reader) error {
	unlock, err := s.busy.lock(ctx, desc.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	if desc.Size > s.opts.MaxBlob {
		return mayfly.Errorf(mayfly.TooLarge, "blob %s has %d bytes; at most %d are taken", desc.Digest, desc.Size, s.opts.MaxBlob)
	}
	if ok, err := s.has(ctx, desc); err != nil || ok {
		return err
	}
	ref := "copy/" + mayfly.NewID()
	w, err := s.content.Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	_, err = io.Copy(w, newLimitReader(r, desc.Size, "blob "+desc.Digest.String()))
	if err == nil {
		err = commitBlob(ctx, w, desc)
	}
	if err != nil {
		w.Close()
		if aerr := s.content.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			s.opts.Log.Warn("unfinished blob not removed; the next start will", "ref", ref, "error", aerr)
		}
		return applyError(err)
	}
	return nil
}

// commitBlob ends the write of a blob after checking its size and digest.
func commitBlob(ctx context.Context, w content.Writer, desc ocispec.Descriptor) error {
	st, err := w.Status()
	if err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if st.Offset != desc.Size {
		return mayfly.Errorf(mayfly.Invalid, "blob %s has %d bytes, not %d", desc.Digest, st.Offset, desc.Size)
	}
	if got := w.Digest(); got.Algorithm() == desc.Digest.Algorithm() && got != desc.Digest {
		return mayfly.Errorf(mayfly.Invalid, "blob %s is corrupt: its digest is %s", desc.Digest, got)
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return nil
}

// choice says which of an index's images is wanted.
type choice struct {
	name     string            // of several names in a layout; a hint only
	platform *ocispec.Platform // this machine's if nil
}

func (c choice) matcher() platforms.MatchComparer {
	if c.platform != nil {
		return platforms.Only(*c.platform)
	}
	return platforms.Default()
}

func (c choice) String() string {
	if c.platform != nil {
		return platforms.Format(*c.platform)
	}
	return "linux/" + runtime.GOARCH
}

// resolveIndex goes from an index, or the manifest of an image, to the manifest
// of the image that is wanted, over at most three levels.
func resolveIndex(raw []byte, want choice, fetch func(ocispec.Descriptor) ([]byte, error)) (ocispec.Descriptor, []byte, error) {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	for range 4 {
		var idx struct {
			MediaType string               `json:"mediaType"`
			Manifests []ocispec.Descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(raw, &idx); err != nil {
			return desc, nil, mayfly.Errorf(mayfly.Invalid, "index is not JSON: %w", err)
		}
		if idx.Manifests == nil {
			if idx.MediaType != "" {
				desc.MediaType = idx.MediaType
			} else {
				desc.MediaType = ocispec.MediaTypeImageManifest
			}
			return desc, raw, nil
		}
		var err error
		if desc, err = choose(idx.Manifests, want); err != nil {
			return desc, nil, err
		}
		if raw, err = fetch(desc); err != nil {
			return desc, nil, err
		}
	}
	return desc, nil, mayfly.Errorf(mayfly.Invalid, "index is nested too deeply")
}

// choose picks the one that is wanted of an index.
func choose(all []ocispec.Descriptor, want choice) (ocispec.Descriptor, error) {
	match := want.matcher()
	var fit []ocispec.Descriptor
	var have []string
	for _, d := range all {
		if err := checkDescriptor(d); err != nil {
			return d, err
		}
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) && d.MediaType != "" {
			continue
		}
		if d.Platform == nil || d.Platform.OS == "" || match.Match(*d.Platform) {
			fit = append(fit, d)
		} else if d.Platform.OS != "unknown" { // attestations say unknown
			have = append(have, platforms.Format(*d.Platform))
		}
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, mayfly.Errorf(mayfly.Invalid, "no image for %s; there are: %s", want, strings.Join(have, ", "))
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int { return byPlatform(match, a, b) })
	var names []string
	for _, d := range fit {
		if d.Platform != nil {
			continue
		}
		n := refName(d)
		if n != "" && sameName(n, want.name) {
			return d, nil
		}
		names = append(names, n)
	}
	if len(names) > 1 {
		return fit[0], mayfly.Errorf(mayfly.Invalid, "there are %d images: %s", len(names), strings.Join(names, ", ")).
			WithHint("give the name of one of them")
	}
	return fit[0], nil
}

func byPlatform(match platforms.MatchComparer, a, b ocispec.Descriptor) int {
	switch {
	case a.Platform == nil || b.Platform == nil:
		return 0
	case match.Less(*a.Platform, *b.Platform):
		return -1
	case match.Less(*b.Platform, *a.Platform):
		return 1
	}
	return 0
}

// refName is the name that tools write beside an image in a layout.
func refName(d ocispec.Descriptor) string {
	if n := d.Annotations[images.AnnotationImageName]; n != "" {
		return n
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// sameName compares names as people write them; one may be the bare tag.
func sameName(a, b string) bool {
	ra, erra := parseName(a)
	rb, errb := parseName(b)
	if erra != nil || errb != nil {
		return a == b
	}
	return ra.String() == rb.String() || strings.HasSuffix(rb.String(), ":"+a)
}

// dockerImage is one of the images in a docker-archive.
type dockerImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// dockerManifest reads manifest.json and says whether it is a docker-archive's.
func dockerManifest(src source) ([]dockerImage, bool) {
	raw, err := readPart(src, "manifest.json")
	if err != nil {
		return nil, false
	}
	var list []dockerImage
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 || list[0].Config == "" {
		return nil, false
	}
	return list, true
}

// importDocker stores one image of a docker-archive. Its layers are plain tars;
// they are stored as ours are.
func (s *Store) importDocker(ctx context.Context, name string, src source, list []dockerImage) (digest.Digest, error) {
	img := list[0]
	if len(list) > 1 {
		var tags []string
		found := false
		for _, other := range list {
			tags = append(tags, other.RepoTags...)
			if slices.ContainsFunc(other.RepoTags, func(t string) bool { return sameName(t, name) }) && !found {
				img, found = other, true
			}
		}
		if !found {
			return "", mayfly.Errorf(mayfly.Invalid, "there are %d images: %s", len(list), strings.Join(tags, ", ")).
				WithHint("give the name of one of them")
		}
	}
	raw, err := readPart(src, path.Clean(img.Config))
	if err != nil {
		return "", err
	}
	if len(img.Layers) > maxLayers {
		return "", mayfly.Errorf(mayfly.TooLarge, "image has %d layers; at most %d are taken", len(img.Layers), maxLayers)
	}
	layers := make([]ocispec.Descriptor, len(img.Layers))
	config, err := parseConfig(raw, ocispec.Manifest{Layers: layers})
	if err != nil {
		return "", err
	}
	for i, l := range img.Layers {
		if layers[i], err = s.dockerLayer(ctx, src, path.Clean(l), config.RootFS.DiffIDs[i]); err != nil {
			return "", fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	desc, err := s.putManifest(ctx, raw, layers)
	return desc.Digest, err
}

func (s *Store) dockerLayer(ctx context.Context, src source, name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	r, _, err := src.open(name)
	if err != nil {
		return ocispec.Descriptor{}, mayfly.Errorf(mayfly.Invalid, "open %s: %w", name, err)
	}
	defer r.Close()
	plain, _, err := decompress(contextReader{ctx, r})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer plain.Close()
	desc, got, err := s.storeLayer(ctx, func(w io.Writer) error {
		_, err := io.Copy(w, newLimitReader(plain, s.opts.MaxUnpacked, name))
		return err
	})
	if err == nil && got != diffID {
		err = mayfly.Errorf(mayfly.Invalid, "%s is corrupt: its digest is %s, the configuration says %s", name, got, diffID)
	}
	return desc, err
}
