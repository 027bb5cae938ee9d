package image

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// PushOptions tune a Push. The zero value pushes without credentials.
type PushOptions struct {
	Auth      authn.Authenticator // anonymous if nil
	PlainHTTP bool                // allow plain HTTP to others than loopback
}

// Push sends the image to a registry under ref. Layers that the registry has
// are not sent again. The digest there is the digest here.
func (s *Store) Push(ctx context.Context, nameOrDigest, ref string, opts PushOptions) error {
	named, err := parseName(ref)
	if err != nil {
		return err
	}
	to, err := target(named, opts.PlainHTTP)
	if err != nil {
		return err
	}
	ctx, end, err := s.begin(ctx, "push")
	if err != nil {
		return err
	}
	defer end()
	rec, err := s.find(ctx, nameOrDigest)
	if err != nil {
		return err
	}
	if err := s.hold(ctx, nameOrDigest, rec.Target); err != nil {
		return err
	}
	p, err := s.readManifest(ctx, rec.Target.Digest)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "push %s: %w", nameOrDigest, err)
	}
	raw, err := s.readBlob(ctx, p.desc)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "push %s: %w", nameOrDigest, err)
	}
	img, err := partial.CompressedToImage(&stored{ctx: ctx, s: s, p: p, raw: raw})
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "push %s: %w", nameOrDigest, err)
	}
	auth := opts.Auth
	if auth == nil {
		auth = authn.Anonymous
	}
	base, guarded := newTransport(to, opts.PlainHTTP)
	defer base.CloseIdleConnections()
	err = remote.Write(to, img, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(guarded), remote.WithJobs(s.opts.Parallel))
	if err != nil {
		return fmt.Errorf("push %s: %w", reference.FamiliarString(named), registryError(err))
	}
	return nil
}

// stored is an image of the store as go-containerregistry wants it, for the
// time of one push.
type stored struct {
	ctx context.Context // of the push; the library's interfaces take none
	s   *Store
	p   parsed
	raw []byte
}

func (i *stored) RawManifest() ([]byte, error)   { return i.raw, nil }
func (i *stored) RawConfigFile() ([]byte, error) { return i.p.raw, nil }
func (i *stored) MediaType() (types.MediaType, error) {
	return types.MediaType(i.p.desc.MediaType), nil
}

func (i *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range i.p.manifest.Layers {
		if l.Digest.String() == h.String() {
			return &storedLayer{i, l}, nil
		}
	}
	return nil, fmt.Errorf("layer %s is not of the image", h)
}

type storedLayer struct {
	of   *stored
	desc ocispec.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.desc.Digest.String()) }
func (l *storedLayer) Size() (int64, error)     { return l.desc.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.desc.MediaType), nil
}

func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	ra, err := l.of.s.content.ReaderAt(l.of.ctx, ocispec.Descriptor{Digest: digest.Digest(l.desc.Digest)})
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{content.NewReader(ra), ra}, nil
}
