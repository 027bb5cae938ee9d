package client

import (
	"context"
	"net/http"

	"github.com/mayfly-run/mayfly"
)

// What a program in a container asks at its own socket. Elsewhere these are
// Denied.

// Self returns who asks: the container, and the run that it serves just now.
func (c *Client) Self(ctx context.Context) (mayfly.Identity, error) {
	return ask[mayfly.Identity](ctx, c, call{method: http.MethodGet, path: []string{"self"}})
}

// Progress says how far the task is that runs in this container, in percent.
// In one that runs none it is a Conflict.
func (c *Client) Progress(ctx context.Context, percent float64, message string) error {
	p := ProgressRequest{Percent: percent, Message: message}
	return c.do(ctx, call{method: http.MethodPut, path: []string{"self", "progress"}, send: p}, nil)
}
