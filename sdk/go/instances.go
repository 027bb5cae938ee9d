package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// CreateInstance makes an instance that waits to be started. A key that is not
// empty makes it safe to ask again after a lost answer: the same key and spec
// give the same instance for some minutes.
func (c *Client) CreateInstance(ctx context.Context, spec mayfly.InstanceSpec, key string) (mayfly.Instance, error) {
	if spec.Space == "" {
		spec.Space = c.space
	}
	return ask[mayfly.Instance](ctx, c, call{method: http.MethodPost, path: []string{"instances"}, header: keyHeader(key), send: spec})
}

func keyHeader(key string) http.Header {
	if key == "" {
		return nil
	}
	return http.Header{HeaderIdempotency: {key}}
}

// StartInstance starts what CreateInstance made.
func (c *Client) StartInstance(ctx context.Context, ref string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"instances", ref, "start"}}, nil)
}

// ListInstances returns the running instances, newest first, or with all those
// that have ended too.
func (c *Client) ListInstances(ctx context.Context, ended bool) ([]mayfly.Instance, error) {
	return all[mayfly.Instance](ctx, c, "instances", url.Values{"all": {strconv.FormatBool(ended)}})
}

// GetInstance returns the instance with that id, unique beginning of an id, or
// name.
func (c *Client) GetInstance(ctx context.Context, ref string) (mayfly.Instance, error) {
	return ask[mayfly.Instance](ctx, c, call{method: http.MethodGet, path: []string{"instances", ref}})
}

// StopInstance asks the program to end and kills it after the grace. It
// returns when it has ended.
func (c *Client) StopInstance(ctx context.Context, ref string, grace time.Duration) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"instances", ref, "stop"}, send: StopRequest{Grace: grace}}, nil)
}

// KillInstance sends a signal to the program.
func (c *Client) KillInstance(ctx context.Context, ref string, signal syscall.Signal) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"instances", ref, "kill"}, send: KillRequest{Signal: int(signal)}}, nil)
}

// WaitInstance returns the instance when it has ended.
func (c *Client) WaitInstance(ctx context.Context, ref string) (mayfly.Instance, error) {
	return follow[mayfly.Instance](ctx, c, call{method: http.MethodPost, path: []string{"instances", ref, "wait"}}, nil)
}

// RemoveInstance forgets an ended instance, or with force kills it first.
func (c *Client) RemoveInstance(ctx context.Context, ref string, force bool) error {
	query := url.Values{"force": {strconv.FormatBool(force)}}
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"instances", ref}, query: query}, nil)
}

// InstanceStats returns what a running instance uses now.
func (c *Client) InstanceStats(ctx context.Context, ref string) (mayfly.Stats, error) {
	return ask[mayfly.Stats](ctx, c, call{method: http.MethodGet, path: []string{"instances", ref, "stats"}})
}

// InstanceLogs gives each entry of an instance's log to each, in order. With
// Follow it returns after the instance has ended and all was given.
func (c *Client) InstanceLogs(ctx context.Context, ref string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	return c.logs(ctx, []string{"instances", ref, "logs"}, opts, each)
}

func (c *Client) logs(ctx context.Context, path []string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	return c.logsOf(ctx, path, url.Values{}, opts, each)
}

func (c *Client) logsOf(ctx context.Context, path []string, query url.Values, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	query.Set("follow", strconv.FormatBool(opts.Follow))
	query.Set("tail", strconv.Itoa(opts.Tail))
	if !opts.Since.IsZero() {
		query.Set("since", opts.Since.UTC().Format(time.RFC3339Nano))
	}
	return c.stream(ctx, call{method: http.MethodGet, path: path, query: query}, func(m Message) error {
		if m.Log == nil {
			return nil
		}
		return each(*m.Log)
	}, nil)
}
