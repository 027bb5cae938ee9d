// Package client speaks Mayfly's HTTP API: one method for each operation, and
// the wire form that the server shares (problems, stream messages, attach
// frames). It needs nothing but the standard library.
//
// Every failure is a *mayfly.Error of the kind that the server gave it, so
// mayfly.KindOf tells them apart. A daemon that cannot be reached is
// Unavailable. A method that streams returns only when its stream has ended,
// and a stream that breaks off is an error, never a short success.
//
// A Client is safe for concurrent use. It keeps no goroutine of its own.
package client

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// DefaultHost is where the daemon listens when nothing else is said.
const DefaultHost = "unix:///run/mayfly/mayfly.sock"

// The environment variables that New reads.
const (
	HostVariable  = "MAYFLY_HOST"
	SpaceVariable = "MAYFLY_SPACE"
)

// dialTimeout bounds how long one connection may take to come about.
const dialTimeout = 10 * time.Second

// Client calls one daemon on behalf of one space.
type Client struct {
	host  string
	base  *url.URL
	space string
	http  *http.Client
}

// New returns a client for the daemon at host: unix:///path or
// http://host:port. An empty host is $MAYFLY_HOST, and without that
// DefaultHost. It opens no connection; a host that cannot be read is Invalid.
func New(host string) (*Client, error) {
	if host == "" {
		host = os.Getenv(HostVariable)
	}
	if host == "" {
		host = DefaultHost
	}
	u, err := url.Parse(host)
	if err != nil {
		return nil, badHost(host)
	}
	c := &Client{host: host, space: os.Getenv(SpaceVariable)}
	dialer := &net.Dialer{Timeout: dialTimeout}
	dial := dialer.DialContext
	switch {
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		path := u.Path
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		c.base = &url.URL{Scheme: "http", Host: "localhost"}
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && strings.Trim(u.Path, "/") == "":
		c.base = &url.URL{Scheme: u.Scheme, Host: u.Host}
	default:
		return nil, badHost(host)
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:         dial,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 16,
			IdleConnTimeout:     30 * time.Second,
			TLSHandshakeTimeout: dialTimeout,
		},
		// The API never redirects; following one would send a body elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func badHost(host string) error {
	return mayfly.Errorf(mayfly.Invalid, "%q is not where a daemon can be", host).
		WithHint("use unix:///path/of/the.sock or http://host:port, as in %s=%s", HostVariable, DefaultHost)
}

// Host is where the client's daemon is, as it was given to New.
func (c *Client) Host() string { return c.host }

// Space is the space that the client's calls name. Empty, they name none: it is
// the default one, and in a container the container's own.
func (c *Client) Space() string { return c.space }

// WithSpace returns a client for another space of the same daemon. It shares
// the connections of c.
func (c *Client) WithSpace(space string) *Client {
	other := *c
	other.space = space
	return &other
}

// Close drops the idle connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// sendError turns a failure to send or to receive into one that a person can
// act on. A context that ended stays recognisable with errors.Is.
func (c *Client) sendError(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		kind := mayfly.TimedOut
		if errors.Is(cause, context.Canceled) {
			kind = mayfly.Unavailable
		}
		return &mayfly.Error{Kind: kind, Err: cause}
	}
	var failed *url.Error
	if errors.As(err, &failed) {
		err = failed.Err // its text repeats the address
	}
	switch {
	case errors.Is(err, syscall.EACCES):
		return mayfly.Errorf(mayfly.Denied, "may not talk to the daemon at %s", c.host).
			WithHint("become root, or join the group mayfly")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return mayfly.Errorf(mayfly.Unavailable, "cannot reach the daemon at %s", c.host).
			WithHint("start it with: mayfly up")
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return mayfly.Errorf(mayfly.Unavailable, "cannot reach the daemon at %s: %w", c.host, dial.Err).
			WithHint("start it with: mayfly up")
	}
	return mayfly.Errorf(mayfly.Unavailable, "lost the daemon at %s: %w", c.host, err)
}
