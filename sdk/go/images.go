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
	var i Image
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"images", name}}, &i)
	return i, err
}

// PullImage fetches an image from its registry.
func (c *Client) PullImage(ctx context.Context, t Transfer, report func(Progress)) (Image, error) {
	var i Image
	err := c.stream(ctx, call{method: http.MethodPost, path: []string{"images", "pull"}, send: t}, progress(report), &i)
	return i, err
}

// PushImage sends an image to its registry.
func (c *Client) PushImage(ctx context.Context, t Transfer, report func(Progress)) (Image, error) {
	var i Image
	err := c.stream(ctx, call{method: http.MethodPost, path: []string{"images", "push"}, send: t}, progress(report), &i)
	return i, err
}

// ImportImage makes an image of an archive: an OCI layout, a docker-archive or
// the tar of a root, plain or compressed with gzip or zstd. The size may be 0
// when it is not known.
func (c *Client) ImportImage(ctx context.Context, name string, archive io.Reader, size int64) (Image, error) {
	var i Image
	err := c.do(ctx, call{
		method: http.MethodPost, path: []string{"images", "import"},
		query: url.Values{"name": {name}}, raw: archive, size: size,
	}, &i)
	return i, err
}

// TagImage gives an image a further name.
func (c *Client) TagImage(ctx context.Context, source, target string) (Image, error) {
	var i Image
	err := c.do(ctx, call{method: http.MethodPost, path: []string{"images", "tag"}, send: Tag{Source: source, Target: target}}, &i)
	return i, err
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
	var p Pruned
	err := c.do(ctx, call{method: http.MethodPost, path: []string{"images", "prune"}, query: url.Values{"all": {strconv.FormatBool(unused)}}}, &p)
	return p, err
}

// ImageUsage returns what the images take on disk.
func (c *Client) ImageUsage(ctx context.Context) (Usage, error) {
	var u Usage
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"usage"}}, &u)
	return u, err
}

// ListStacks returns the stacks that the node can build.
func (c *Client) ListStacks(ctx context.Context) ([]Stack, error) {
	return all[Stack](ctx, c, "stacks", nil)
}

// GetStack returns one stack.
func (c *Client) GetStack(ctx context.Context, name string) (Stack, error) {
	var s Stack
	err := c.do(ctx, call{method: http.MethodGet, path: []string{"stacks", name}}, &s)
	return s, err
}

// BuildStack builds a stack unless what it is made of has not changed since,
// or with fresh in any case, to have the newest packages.
func (c *Client) BuildStack(ctx context.Context, name string, fresh bool, report func(Progress)) (Stack, error) {
	var s Stack
	query := url.Values{"fresh": {strconv.FormatBool(fresh)}}
	err := c.stream(ctx, call{method: http.MethodPost, path: []string{"stacks", name, "build"}, query: query}, progress(report), &s)
	return s, err
}
