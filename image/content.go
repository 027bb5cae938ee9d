package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

const (
	maxManifest = 8 << 20 // bytes of a manifest, an index or a configuration, as in containerd
	maxLayers   = 500     // far above the 127 that Docker allows, and what overlayfs takes
)

// Labels by which the collector follows references.
const (
	labelContentRef  = "containerd.io/gc.ref.content."
	labelSnapshotRef = "containerd.io/gc.ref.snapshot." + snapshotterName
)

// parsed is a manifest with its configuration.
type parsed struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   ocispec.Image
	raw      []byte // the configuration as stored
}

// putBlob stores a small blob and returns its descriptor. The lease in ctx
// holds it.
func (s *Store) putBlob(ctx context.Context, mediaType string, data []byte) (ocispec.Descriptor, error) {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	unlock, err := s.busy.lock(ctx, desc.Digest.String())
	if err != nil {
		return desc, err
	}
	defer unlock()
	w, err := s.content.Writer(ctx, content.WithRef("put/"+desc.Digest.String()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return desc, nil
	}
	if err != nil {
		return desc, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	defer w.Close()
	if err := w.Truncate(0); err != nil {
		return desc, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if _, err := w.Write(data); err != nil {
		return desc, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	return desc, nil
}

// streamBlob stores what fill writes, of a digest that is known only at the
// end. Nothing is left when fill fails.
func (s *Store) streamBlob(ctx context.Context, mediaType string, fill func(io.Writer) error) (ocispec.Descriptor, error) {
	ref := "stream/" + mayfly.NewID()
	desc := ocispec.Descriptor{MediaType: mediaType}
	w, err := s.content.Writer(ctx, content.WithRef(ref))
	if err != nil {
		return desc, fmt.Errorf("write blob: %w", err)
	}
	abort := func(err error) (ocispec.Descriptor, error) {
		w.Close()
		if aerr := s.content.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, aerr)
		}
		return desc, err
	}
	if err := fill(w); err != nil {
		return abort(err)
	}
	st, err := w.Status()
	if err != nil {
		return abort(err)
	}
	desc.Digest, desc.Size = w.Digest(), st.Offset
	if err := w.Commit(ctx, desc.Size, desc.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return abort(fmt.Errorf("write blob %s: %w", desc.Digest, err))
	}
	return desc, nil
}

// has says whether the blob is in the store, and lets the lease in ctx hold it.
func (s *Store) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	// Opening a writer is the one call that checks and leases at once.
	if _, err := s.content.Info(ctx, desc.Digest); errdefs.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	w, err := s.content.Writer(ctx, content.WithRef("has/"+mayfly.NewID()), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// Collected between the two calls.
	st, _ := w.Status()
	w.Close()
	return false, s.content.Abort(ctx, st.Ref)
}

// hold lets the lease in ctx hold an image that was found by name, and fails
// with kind NotFound where it has been collected meanwhile.
func (s *Store) hold(ctx context.Context, name string, manifest ocispec.Descriptor) error {
	ok, err := s.has(ctx, manifest)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "hold image %q: %w", name, err)
	}
	if !ok {
		return notFound(name)
	}
	return nil
}

// readBlob reads a small blob.
func (s *Store) readBlob(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	ra, err := s.content.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > maxManifest {
		return nil, mayfly.Errorf(mayfly.TooLarge, "blob %s is larger than %d bytes", desc.Digest, maxManifest)
	}
	return io.ReadAll(io.NewSectionReader(ra, 0, ra.Size()))
}

// readManifest reads a stored manifest and its configuration.
func (s *Store) readManifest(ctx context.Context, dgst digest.Digest) (parsed, error) {
	p := parsed{desc: ocispec.Descriptor{Digest: dgst}}
	raw, err := s.readBlob(ctx, p.desc)
	if err != nil {
		return p, err
	}
	p.desc.Size = int64(len(raw))
	if p.manifest, err = parseManifest(raw); err != nil {
		return p, err
	}
	p.desc.MediaType = p.manifest.MediaType
	if p.raw, err = s.readBlob(ctx, p.manifest.Config); err != nil {
		return p, fmt.Errorf("read configuration: %w", err)
	}
	p.config, err = parseConfig(p.raw, p.manifest)
	return p, err
}

// parseManifest reads the manifest of one image and refuses all else.
func parseManifest(raw []byte) (ocispec.Manifest, error) {
	var m struct {
		ocispec.Manifest
		Manifests json.RawMessage `json:"manifests"` // an index has this
		FSLayers  json.RawMessage `json:"fsLayers"`  // Docker's first schema has this
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m.Manifest, mayfly.Errorf(mayfly.Invalid, "manifest is not JSON: %w", err)
	}
	if m.SchemaVersion == 1 || m.FSLayers != nil {
		return m.Manifest, mayfly.Errorf(mayfly.Invalid, "manifest is of Docker's schema 1, which is no longer read").
			WithHint("push the image again with a Docker newer than 2016")
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	if m.Manifests != nil || !images.IsManifestType(m.MediaType) {
		return m.Manifest, mayfly.Errorf(mayfly.Invalid, "manifest is of type %q, not an image's", m.MediaType)
	}
	if len(m.Layers) > maxLayers {
		return m.Manifest, mayfly.Errorf(mayfly.TooLarge, "image has %d layers; at most %d are taken", len(m.Layers), maxLayers)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return m.Manifest, err
		}
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return m.Manifest, mayfly.Errorf(mayfly.Invalid, "manifest holds an artifact of type %q, not an image", m.Config.MediaType)
	}
	for i, d := range m.Layers {
		if !images.IsLayerType(d.MediaType) {
			return m.Manifest, mayfly.Errorf(mayfly.Invalid, "layer %d is of type %q, which cannot be unpacked", i+1, d.MediaType)
		}
	}
	return m.Manifest, nil
}

// checkDescriptor makes a digest safe to be used as a file name.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "digest %q in manifest: %w", d.Digest, err)
	}
	if d.Size < 0 {
		return mayfly.Errorf(mayfly.Invalid, "size %d of %s in manifest is negative", d.Size, d.Digest)
	}
	return nil
}

// parseConfig reads the configuration that belongs to m.
func parseConfig(raw []byte, m ocispec.Manifest) (ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, mayfly.Errorf(mayfly.Invalid, "configuration is not JSON: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return c, mayfly.Errorf(mayfly.Invalid, "configuration names %d layers, manifest %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for _, id := range c.RootFS.DiffIDs {
		if err := id.Validate(); err != nil {
			return c, mayfly.Errorf(mayfly.Invalid, "diff_id %q in configuration: %w", id, err)
		}
	}
	return c, nil
}

// putManifest stores the configuration and a manifest over layers that are
// already stored.
func (s *Store) putManifest(ctx context.Context, config []byte, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	cdesc, err := s.putBlob(ctx, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return cdesc, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: cdesc, Layers: layers}
	if m.Layers == nil {
		m.Layers = []ocispec.Descriptor{}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return cdesc, err
	}
	return s.putBlob(ctx, m.MediaType, raw)
}

// link labels the stored manifest and configuration so that whoever holds the
// manifest holds its layers and, where chain is set, the unpacked root.
func (s *Store) link(ctx context.Context, p parsed, chain digest.Digest) error {
	refs := map[string]string{labelContentRef + "config": p.manifest.Config.Digest.String()}
	for i, l := range p.manifest.Layers {
		refs[fmt.Sprintf("%sl.%d", labelContentRef, i)] = l.Digest.String()
	}
	if err := s.label(ctx, p.desc.Digest, refs); err != nil {
		return err
	}
	if chain == "" {
		return nil
	}
	return s.label(ctx, p.manifest.Config.Digest, map[string]string{labelSnapshotRef: chain.String()})
}

func (s *Store) label(ctx context.Context, dgst digest.Digest, labels map[string]string) error {
	info := content.Info{Digest: dgst, Labels: labels}
	fields := make([]string, 0, len(labels))
	for k := range labels {
		fields = append(fields, "labels."+k)
	}
	if _, err := s.content.Update(ctx, info, fields...); err != nil {
		return fmt.Errorf("label %s: %w", dgst, err)
	}
	return nil
}
