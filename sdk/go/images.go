package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// ListImages returns the images of the node, sorted by name.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	return all[Image](ctx, c, "images", nil)
}

// GetImage returns the image with that name or digest, with its configuration.
func (c *Client) GetImage(ctx context.Context, name string) (Image, error) {
	return ask[Image](ctx, c, call{method: http.MethodGet, path: []string{"images", name}})
}

// PullImage fetches an image from its registry.
func (c *Client) PullImage(ctx context.Context, t Transfer, report func(Progress)) (Image, error) {
	return follow[Image](ctx, c, call{method: http.MethodPost, path: []string{"images", "pull"}, send: t}, progress(report))
}

// PushImage sends an image to its registry.
func (c *Client) PushImage(ctx context.Context, t Transfer, report func(Progress)) (Image, error) {
	return follow[Image](ctx, c, call{method: http.MethodPost, path: []string{"images", "push"}, send: t}, progress(report))
}

// ImportImage makes an image of an archive: an OCI layout, a docker-archive or
// the tar of a root, plain or compressed with gzip or zstd. The size may be 0
// when it is not known.
func (c *Client) ImportImage(ctx context.Context, name string, archive io.Reader, size int64) (Image, error) {
	return ask[Image](ctx, c, call{
		method: http.MethodPost, path: []string{"images", "import"},
		query: url.Values{"name": {name}}, raw: archive, size: size,
	})
}

// TagImage gives an image a further name.
func (c *Client) TagImage(ctx context.Context, source, target string) (Image, error) {
	return ask[Image](ctx, c, call{method: http.MethodPost, path: []string{"images", "tag"}, send: Tag{Source: source, Target: target}})
}

// RemoveImage takes a name off an image, and the image away when it was the
// last one. An image in use is a Conflict unless force is set.
func (c *Client) RemoveImage(ctx context.Context, name string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"images", name}, query: query}, nil)
}

// PruneImages removes the images that have no name and that nothing uses, or
// with unused every image that nothing uses.
func (c *Client) PruneImages(ctx context.Context, unused bool) (Pruned, error) {
	return ask[Pruned](ctx, c, call{method: http.MethodPost, path: []string{"images", "prune"}, query: url.Values{"all": {strconv.FormatBool(unused)}}})
}

// ImageUsage returns what the images take on disk.
func (c *Client) ImageUsage(ctx context.Context) (Usage, error) {
	return ask[Usage](ctx, c, call{method: http.MethodGet, path: []string{"usage"}})
}

// ListStacks returns the stacks that the node can build.
func (c *Client) ListStacks(ctx context.Context) ([]Stack, error) {
	return all[Stack](ctx, c, "stacks", nil)
}

// GetStack returns one stack.
func (c *Client) GetStack(ctx context.Context, name string) (Stack, error) {
	return ask[Stack](ctx, c, call{method: http.MethodGet, path: []string{"stacks", name}})
}

// MakeStack builds a stack that a manifest describes, unless it is there.
func (c *Client) MakeStack(ctx context.Context, spec NewStack, report func(Progress)) (Stack, error) {
	return follow[Stack](ctx, c, call{method: http.MethodPost, path: []string{"stacks"}, send: spec}, progress(report))
}

// BuildStack builds a stack unless what it is made of has not changed since,
// or with fresh in any case, to have the newest packages.
func (c *Client) BuildStack(ctx context.Context, name string, fresh bool, report func(Progress)) (Stack, error) {
	query := url.Values{"fresh": {strconv.FormatBool(fresh)}}
	return follow[Stack](ctx, c, call{method: http.MethodPost, path: []string{"stacks", name, "build"}, query: query}, progress(report))
}
