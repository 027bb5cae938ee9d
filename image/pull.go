package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
)

// PullOptions tune a Pull. The zero value pulls this machine's variant from a
// public registry.
type PullOptions struct {
	Auth      authn.Authenticator // anonymous if nil
	PlainHTTP bool                // allow plain HTTP to others than loopback
	Platform  string              // os/arch[/variant]; this machine's if empty
	Progress  func(Progress)      // called from one goroutine at a time; may be nil
}

// Phase is what is being done with a layer.
type Phase string

// The phases, in order. A layer that is here already is only Unpacking or Done.
const (
	Fetching  Phase = "fetching"
	Unpacking Phase = "unpacking"
	Done      Phase = "done"
)

// Progress is how far one layer is.
type Progress struct {
	Digest string `json:"digest"` // of the layer as sent
	Phase  Phase  `json:"phase"`
	Bytes  int64  `json:"bytes"` // fetched
	Total  int64  `json:"total"` // to be fetched
}

// Pull fetches an image from its registry and names it as ref does. Layers are
// fetched several at once, and only those that are not here; equal layers of
// pulls at the same time are fetched once. Every digest is checked. A broken
// connection is taken up where it broke, by this call a few times and else by
// the next.
func (s *Store) Pull(ctx context.Context, ref string, opts PullOptions) (Image, error) {
	named, err := parseName(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.pull(ctx, named, opts)
	if err != nil {
		return Image{}, fmt.Errorf("pull %s: %w", reference.FamiliarString(named), diskFull(err))
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, named reference.Named, opts PullOptions) (Image, error) {
	want := choice{}
	if opts.Platform != "" {
		p, err := platforms.Parse(opts.Platform)
		if err != nil {
			return Image{}, mayfly.Errorf(mayfly.Invalid, "platform %q: %w", opts.Platform, err)
		}
		want.platform = &p
	}
	ref, err := target(named, opts.PlainHTTP)
	if err != nil {
		return Image{}, err
	}
	reg, err := dial(ctx, ref, opts.Auth, opts.PlainHTTP)
	if err != nil {
		return Image{}, err
	}
	defer reg.close()
	base := s.context(ctx)
	ctx, end, err := s.begin(ctx, "pull")
	if err != nil {
		return Image{}, err
	}
	defer end()
	f := &fetcher{s: s, reg: reg, base: base, report: opts.Progress}
	p, err := f.manifest(ctx, ref.Identifier(), want)
	if err != nil {
		return Image{}, err
	}
	if err := f.layers(ctx, p); err != nil {
		return Image{}, err
	}
	return s.adopt(ctx, named.String(), p.desc.Digest)
}

// fetcher fetches one image.
type fetcher struct {
	s    *Store
	reg  *registry
	base context.Context // without the lease: a partial download outlives the pull

	mu     sync.Mutex
	report func(Progress)
}

// manifest fetches and stores the manifest and the configuration.
func (f *fetcher) manifest(ctx context.Context, id string, want choice) (parsed, error) {
	raw, err := f.reg.manifest(ctx, id)
	if err != nil {
		return parsed{}, err
	}
	desc, raw, err := resolveIndex(raw, want, func(d ocispec.Descriptor) ([]byte, error) {
		return f.reg.manifest(ctx, d.Digest.String())
	})
	if err != nil {
		return parsed{}, err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return parsed{}, err
	}
	if m.Config.Size > maxManifest {
		return parsed{}, mayfly.Errorf(mayfly.TooLarge, "configuration of %d bytes", m.Config.Size)
	}
	if desc, err = f.s.putBlob(ctx, desc.MediaType, raw); err != nil {
		return parsed{}, err
	}
	if err := f.blob(ctx, m.Config, nil); err != nil {
		return parsed{}, err
	}
	p, err := f.s.readManifest(ctx, desc.Digest)
	if err != nil {
		return p, err
	}
	if p.config.OS != "" && p.config.Architecture != "" && !want.matcher().Match(p.config.Platform) {
		return p, mayfly.Errorf(mayfly.Invalid, "the image is for %s, not for %s", platforms.Format(p.config.Platform), want)
	}
	return p, nil
}

// layers fetches all layers and unpacks each as soon as it and those below it
// are there. Layers that are unpacked and stored cost nothing.
func (f *fetcher) layers(ctx context.Context, p parsed) error {
	g, ctx := errgroup.WithContext(ctx)
	here := make([]chan struct{}, len(p.manifest.Layers))
	for i := range here {
		here[i] = make(chan struct{})
	}
	slots := make(chan struct{}, f.s.opts.Parallel)
	for i, l := range p.manifest.Layers {
		g.Go(func() error {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := f.blob(ctx, l, func(n int64) { f.tell(l, Fetching, n) }); err != nil {
				return fmt.Errorf("layer %d of %d: %w", i+1, len(here), err)
			}
			close(here[i])
			return nil
		})
	}
	g.Go(func() error {
		chains := identity.ChainIDs(slices.Clone(p.config.RootFS.DiffIDs))
		for i, l := range p.manifest.Layers {
			select {
			case <-here[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
			f.tell(l, Unpacking, l.Size)
			var parent digest.Digest
			if i > 0 {
				parent = chains[i-1]
			}
			if err := f.s.unpackLayer(ctx, parent, chains[i], l, p.config.RootFS.DiffIDs[i]); err != nil {
				return fmt.Errorf("unpack layer %d of %d: %w", i+1, len(here), err)
			}
			f.tell(l, Done, l.Size)
		}
		return nil
	})
	return g.Wait()
}

func (f *fetcher) tell(l ocispec.Descriptor, phase Phase, n int64) {
	if f.report == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report(Progress{Digest: l.Digest.String(), Phase: phase, Bytes: n, Total: l.Size})
}

// blob makes sure that the blob is stored and held by the lease in ctx. It
// tries again after a failure that may pass, as long as tries bring bytes and a
// few times when they do not.
func (f *fetcher) blob(ctx context.Context, desc ocispec.Descriptor, progress func(int64)) error {
	if desc.Size > f.s.opts.MaxBlob {
		return mayfly.Errorf(mayfly.TooLarge, "blob %s has %d bytes; at most %d are taken", desc.Digest, desc.Size, f.s.opts.MaxBlob)
	}
	unlock, err := f.s.busy.lock(ctx, desc.Digest.String())
	if err != nil {
		return err
	}
	defer unlock()
	if ok, err := f.s.has(ctx, desc); err != nil || ok {
		return err
	}
	const tries = 5
	wait := 200 * time.Millisecond
	for failed := 0; ; {
		got, err := f.attempt(ctx, desc, progress)
		if err == nil || !again(err) {
			return err
		}
		if got > 0 {
			failed, wait = 0, 200*time.Millisecond
		}
		if failed++; failed >= tries {
			return err
		}
		select {
		case <-time.After(wait):
			wait *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// attempt continues the download of a blob and returns how many bytes came.
// They stay for the next attempt, unless they turned out to be wrong.
func (f *fetcher) attempt(ctx context.Context, desc ocispec.Descriptor, progress func(int64)) (got int64, err error) {
	ref := pullRef + desc.Digest.String()
	w, err := f.s.content.Writer(f.base, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		_, err = f.s.has(ctx, desc)
		return 0, err
	}
	if err != nil {
		return 0, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return 0, fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	from := st.Offset
	if from < desc.Size {
		if got, err = f.receive(ctx, desc, w, from, progress); err != nil {
			return got, err
		}
	}
	if err = commitBlob(ctx, w, desc); err != nil && mayfly.KindOf(err) == mayfly.Invalid {
		w.Close()
		if aerr := f.s.content.Abort(context.WithoutCancel(f.base), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, aerr)
		}
	}
	return got, err
}

// receive writes the blob's bytes from offset from on to w.
func (f *fetcher) receive(ctx context.Context, desc ocispec.Descriptor, w content.Writer, from int64, progress func(int64)) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := f.reg.get(ctx, "blobs", desc.Digest.String(), from)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	// A registry that knows no ranges sends the whole blob.
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)) {
		if from > 0 {
			if resp.StatusCode == http.StatusPartialContent {
				return 0, mayfly.Errorf(mayfly.Invalid, "registry sent the range %q of blob %s instead of that from %d on",
					resp.Header.Get("Content-Range"), desc.Digest, from)
			}
			if err := w.Truncate(0); err != nil {
				return 0, fmt.Errorf("write blob %s: %w", desc.Digest, err)
			}
			from = 0
		}
	}
	in := &liveReader{r: resp.Body, after: time.AfterFunc(stallAfter, func() {
		cancel(mayfly.Errorf(mayfly.Unavailable, "registry sent nothing for %s", stallAfter))
	})}
	defer in.after.Stop()
	out := &countWriter{w: w, n: from, tell: progress}
	_, err = io.CopyBuffer(out, struct{ io.Reader }{newLimitReader(in, desc.Size-from, "blob "+desc.Digest.String())}, make([]byte, 256<<10))
	got := out.n - from
	switch {
	case err != nil && ctx.Err() != nil:
		return got, context.Cause(ctx)
	case err != nil && mayfly.KindOf(err) == mayfly.TooLarge, out.err != nil:
		return got, applyError(err)
	case err != nil:
		return got, mayfly.Errorf(mayfly.Unavailable, "connection broke at byte %d of blob %s: %w", out.n, desc.Digest, err)
	case out.n < desc.Size:
		return got, mayfly.Errorf(mayfly.Unavailable, "connection ended at byte %d of %d of blob %s", out.n, desc.Size, desc.Digest)
	}
	return got, nil
}

// liveReader puts off an alarm with each read.
type liveReader struct {
	r     io.Reader
	after *time.Timer
}

func (l *liveReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.after.Reset(stallAfter)
	return n, err
}

// countWriter tells how far it is, and remembers whether it was the writing
// that failed.
type countWriter struct {
	w    io.Writer
	n    int64
	tell func(int64)
	err  error
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		c.err = err
	} else if c.tell != nil {
		c.tell(c.n)
	}
	return n, err
}
