package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	ggcr "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// stallAfter is how long a registry may send nothing before the connection is
// given up and made again.
const stallAfter = 60 * time.Second

// Credentials finds the credentials for ref's registry where docker login left
// them: in ~/.docker/config.json or a helper that it names. It is for the
// client's side; a node has no credentials of its own.
func Credentials(ctx context.Context, ref string) (authn.Authenticator, error) {
	named, err := parseName(ref)
	if err != nil {
		return nil, err
	}
	reg, err := ggcr.NewRegistry(reference.Domain(named))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "registry of %q: %w", ref, err)
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, reg)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "credentials for %s: %w", reg.Name(), err)
	}
	return auth, nil
}

// registry speaks to one repository.
type registry struct {
	repo   ggcr.Repository
	client *http.Client
	base   *http.Transport
}

// target is a reference in the words of go-containerregistry. http is allowed
// on request and to loopback, never as a silent way out.
func target(named reference.Named, plainHTTP bool) (ggcr.Reference, error) {
	var opts []ggcr.Option
	if plainHTTP {
		opts = append(opts, ggcr.Insecure)
	}
	ref, err := ggcr.ParseReference(named.String(), opts...)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "image name %q: %w", named, err)
	}
	return ref, nil
}

// newTransport is what all requests to ref's registry go through.
func newTransport(ref ggcr.Reference, plainHTTP bool) (*http.Transport, http.RoundTripper) {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.ResponseHeaderTimeout = stallAfter
	base.DisableCompression = true // blobs are asked for by their bytes
	return base, httpGuard{base, plainHTTP || loopback(ref.Context().RegistryStr())}
}

func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// httpGuard refuses plain HTTP, and with it credentials on an open wire, where
// it was not asked for.
type httpGuard struct {
	next  http.RoundTripper
	plain bool
}

func (g httpGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !g.plain {
		return nil, mayfly.Errorf(mayfly.Denied, "registry %s is not asked over plain HTTP", r.URL.Host).
			WithHint("allow it with --plain-http if nobody else is on that network")
	}
	return g.next.RoundTrip(r)
}

// dial shakes hands with ref's registry. close ends its connections.
func dial(ctx context.Context, ref ggcr.Reference, auth authn.Authenticator, plainHTTP bool) (*registry, error) {
	if auth == nil {
		auth = authn.Anonymous
	}
	base, guarded := newTransport(ref, plainHTTP)
	rt, err := transport.NewWithContext(ctx, ref.Context().Registry, auth, guarded, []string{ref.Context().Scope(transport.PullScope)})
	if err != nil {
		base.CloseIdleConnections()
		return nil, registryError(err)
	}
	return &registry{repo: ref.Context(), client: &http.Client{Transport: rt}, base: base}, nil
}

func (r *registry) close() { r.base.CloseIdleConnections() }

// get asks for a manifest or a blob, from offset on. The caller closes the body.
func (r *registry) get(ctx context.Context, kind, id string, offset int64, accept ...string) (*http.Response, error) {
	u := url.URL{Scheme: r.repo.Scheme(), Host: r.repo.RegistryStr(),
		Path: fmt.Sprintf("/v2/%s/%s/%s", r.repo.RepositoryStr(), kind, id)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ","))
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, registryError(err)
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, registryError(err)
	}
	return resp, nil
}

// manifest fetches a manifest or an index by tag or digest. Where it is asked
// for by digest, it has that digest.
func (r *registry) manifest(ctx context.Context, id string) ([]byte, error) {
	resp, err := r.get(ctx, "manifests", id, 0, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(newLimitReader(resp.Body, maxManifest, "the manifest"))
	if err != nil {
		return nil, registryError(err)
	}
	if want := digest.Digest(id); want.Validate() == nil && want.Algorithm().FromBytes(raw) != want {
		return nil, mayfly.Errorf(mayfly.Invalid, "manifest %s is corrupt: the registry sent %s", want, want.Algorithm().FromBytes(raw))
	}
	return raw, nil
}

// registryError says what a registry's refusal means to the reader.
func registryError(err error) error {
	var known *mayfly.Error
	if errors.As(err, &known) {
		return known // without the URL around it
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return mayfly.Errorf(mayfly.Unavailable, "registry: %w", err).
			WithHint("see whether this machine reaches the registry, or bring the image with mayfly images import")
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return mayfly.Errorf(mayfly.Denied, "registry: %w", err).
			WithHint("the image does not exist or needs credentials: `docker login` leaves them in ~/.docker/config.json")
	case http.StatusNotFound:
		return mayfly.Errorf(mayfly.NotFound, "registry: %w", err).WithHint("is the name right, and the tag?")
	case http.StatusTooManyRequests:
		return mayfly.Errorf(mayfly.Busy, "registry: %w", err)
	}
	if answer.StatusCode >= 500 {
		return mayfly.Errorf(mayfly.Unavailable, "registry: %w", err)
	}
	return mayfly.Errorf(mayfly.Invalid, "registry: %w", err)
}

// again says whether asking once more may help.
func again(err error) bool {
	k := mayfly.KindOf(err)
	return k == mayfly.Unavailable || k == mayfly.Busy
}
