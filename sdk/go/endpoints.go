package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// ForwardProtocol is what a connection to /v1/forward is upgraded to: from then
// on it is one to the service.
const ForwardProtocol = "mayfly-forward/1"

// HeaderEndpoint says, in the answer to a forward, which endpoint it leads to.
const HeaderEndpoint = "X-Mayfly-Endpoint"

// EndpointRequest is something on the wire that Mayfly does not run, or a further
// endpoint of a container.
type EndpointRequest struct {
	Name     string            `json:"name,omitempty" doc:"unique in its space, or in its container; a name in the path is enough"`
	Service  string            `json:"service,omitempty" doc:"what others require; the name if empty, or in a container its workload"`
	Address  string            `json:"address,omitempty" doc:"IP address or host name; in a container always its own"`
	Port     uint16            `json:"port"`
	PortName string            `json:"portName,omitempty" doc:"as a requirement may name it; the protocol if empty"`
	Protocol string            `json:"protocol,omitempty" doc:"what a URL of it begins with; tcp if empty"`
	Role     string            `json:"role,omitempty" doc:"what it is to others, where several services may be it"`
	Tags     map[string]string `json:"tags,omitempty"`
	Checks   []mayfly.Probe    `json:"checks,omitempty" doc:"it is there while all of them are well; durations in ns"`
	TTL      time.Duration     `json:"ttl,omitempty" doc:"ns; it must be heard of so often; 0: not at all"`
}

// Plain is what the request asks for.
func (r *EndpointRequest) Plain(space string) mayfly.OutsideEndpoint {
	return mayfly.OutsideEndpoint{
		Endpoint: mayfly.Endpoint{
			Space: space, Service: r.Service, Name: r.PortName, Role: r.Role, Protocol: r.Protocol, Address: r.Address, Port: r.Port, Tags: r.Tags,
		},
		Checks: r.Checks, TTL: r.TTL,
	}
}

// EndpointSet is the endpoints that a watch matches, all in a stable order.
type EndpointSet struct {
	Revision  string            `json:"revision" doc:"another one when the endpoints are others"`
	Endpoints []mayfly.Endpoint `json:"endpoints"`
}

// EndpointFilter says which endpoints are wanted. Empty fields match all; a watch
// needs Service or Role.
type EndpointFilter struct {
	Service string
	Role    string
	Port    string                  // name of the provided port
	Tags    map[string]mayfly.Match // by value or pattern
}

func (f *EndpointFilter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"service": f.Service, "role": f.Role, "port": f.Port} {
		if value != "" {
			q.Set(name, value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f.Tags)) {
		m := f.Tags[key]
		switch {
		case m.Pattern != "":
			q.Add("tag", key+"~"+m.Pattern)
		case len(m.In) > 0:
			for _, value := range m.In {
				q.Add("tag", key+"="+value)
			}
		default:
			q.Add("tag", key+"="+m.Value)
		}
	}
	return q
}

// AddEndpoint adds something that Mayfly does not run. One of its name is a
// Conflict.
func (c *Client) AddEndpoint(ctx context.Context, e EndpointRequest) (mayfly.EndpointStatus, error) {
	return ask[mayfly.EndpointStatus](ctx, c, call{method: http.MethodPost, path: []string{"endpoints"}, send: e})
}

// PutEndpoint adds it in place of the one of its name, if there is one.
func (c *Client) PutEndpoint(ctx context.Context, e EndpointRequest) (mayfly.EndpointStatus, error) {
	return ask[mayfly.EndpointStatus](ctx, c, call{method: http.MethodPut, path: []string{"endpoints", e.Name}, send: e})
}

// AddOwnEndpoint adds a further endpoint of the container that asks, at its own
// socket. It is withdrawn with the container's end.
func (c *Client) AddOwnEndpoint(ctx context.Context, e EndpointRequest) (mayfly.EndpointStatus, error) {
	return ask[mayfly.EndpointStatus](ctx, c, call{method: http.MethodPost, path: []string{"self", "endpoints"}, send: e})
}

// RemoveOwnEndpoint takes back what AddOwnEndpoint added.
func (c *Client) RemoveOwnEndpoint(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"self", "endpoints", name}}, nil)
}

// OwnHeartbeat says that what AddOwnEndpoint added is there.
func (c *Client) OwnHeartbeat(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"self", "endpoints", name, "heartbeat"}}, nil)
}

// ListEndpoints lists the endpoints that there are, and what was added and is not
// well.
func (c *Client) ListEndpoints(ctx context.Context, f EndpointFilter) ([]mayfly.EndpointStatus, error) {
	return all[mayfly.EndpointStatus](ctx, c, "endpoints", f.query())
}

// GetEndpoint returns what was added under a name, or the endpoint of an id.
func (c *Client) GetEndpoint(ctx context.Context, name string) (mayfly.EndpointStatus, error) {
	return ask[mayfly.EndpointStatus](ctx, c, call{method: http.MethodGet, path: []string{"endpoints", name}})
}

// RemoveEndpoint takes away what was added under a name.
func (c *Client) RemoveEndpoint(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: []string{"endpoints", name}}, nil)
}

// Heartbeat says that what was added with a TTL is there.
func (c *Client) Heartbeat(ctx context.Context, name string) error {
	return c.do(ctx, call{method: http.MethodPost, path: []string{"endpoints", name, "heartbeat"}}, nil)
}

// PollEndpoints returns the endpoints that match when they are others than at the
// revision seen, or when wait has passed; at once if seen is empty.
func (c *Client) PollEndpoints(ctx context.Context, f EndpointFilter, seen string, wait time.Duration) (EndpointSet, error) {
	q := f.query()
	q.Set("seen", seen)
	q.Set("wait", wait.String())
	return ask[EndpointSet](ctx, c, call{method: http.MethodGet, path: []string{"watch"}, query: q})
}

// WatchEndpoints gives each the endpoints that match, now and whenever they are
// others, until ctx ends or each fails.
func (c *Client) WatchEndpoints(ctx context.Context, f EndpointFilter, each func(EndpointSet) error) error {
	resp, err := c.send(ctx, call{method: http.MethodGet, path: []string{"watch"}, query: f.query(), header: http.Header{"Accept": {"text/event-stream"}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			err = errors.New("the stream broke off")
		}
		if err != nil {
			return c.sendError(ctx, err)
		}
		data, ok := strings.CutPrefix(string(line), "data: ")
		if !ok {
			continue
		}
		var set EndpointSet
		if err := json.Unmarshal([]byte(data), &set); err != nil {
			return mayfly.Errorf(mayfly.Internal, "decode the daemon's answer: %w", err)
		}
		if err := each(set); err != nil {
			return err
		}
	}
}

// Forward connects to an endpoint that matches, through the daemon, and says which
// one it is. The connection ends one direction at a time where the way to the
// daemon can (CloseWrite).
func (c *Client) Forward(ctx context.Context, f EndpointFilter) (io.ReadWriteCloser, string, error) {
	resp, err := c.sendUpgrade(ctx, call{
		method: http.MethodPost, path: []string{"forward"}, query: f.query(),
		header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {ForwardProtocol}},
	})
	if err != nil {
		return nil, "", err
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || resp.Header.Get("Upgrade") != ForwardProtocol {
		resp.Body.Close()
		return nil, "", mayfly.Errorf(mayfly.Internal, "the daemon at %s does not speak %s", c.host, ForwardProtocol)
	}
	return conn, resp.Header.Get(HeaderEndpoint), nil
}
