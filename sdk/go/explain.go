package client

import (
	"context"
	"net/http"

	"github.com/mayfly-run/mayfly"
)

// Graph returns who requires whom, and how they are.
func (c *Client) Graph(ctx context.Context) (mayfly.Graph, error) {
	return ask[mayfly.Graph](ctx, c, call{method: http.MethodGet, path: []string{"graph"}})
}

// Why says why the service, function, container, volume, run, task or event that ref
// names is as it is.
func (c *Client) Why(ctx context.Context, ref string) (mayfly.Explanation, error) {
	return ask[mayfly.Explanation](ctx, c, call{method: http.MethodGet, path: []string{"why", ref}})
}
