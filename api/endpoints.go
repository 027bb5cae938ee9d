package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Endpoints are where services are. The discovery package gives them.
type Endpoints interface {
	EndpointReader
	EndpointKeeper
	OwnEndpoints
}

// EndpointReader tells what endpoints there are.
type EndpointReader interface {
	// Endpoints lists all of a space, and what was added and is not well, in a
	// stable order.
	Endpoints(space string) []mayfly.EndpointStatus
	Get(space, name string) (mayfly.EndpointStatus, error)

	// Watch subscribes to every endpoint that matches. The caller closes it.
	Watch(space string, r mayfly.Require) (*discovery.Subscription, error)

	// Dial connects to one that matches; Unavailable when none can be.
	Dial(ctx context.Context, space string, r mayfly.Require) (net.Conn, mayfly.Endpoint, error)
}

// EndpointKeeper keeps what was added by hand.
type EndpointKeeper interface {
	// Add keeps an endpoint; what has its name is a Conflict unless it is to be
	// replaced.
	Add(ctx context.Context, name string, e mayfly.OutsideEndpoint, replace bool) (mayfly.EndpointStatus, error)
	Remove(ctx context.Context, space, name string) error
	Heartbeat(ctx context.Context, space, name string) error
}

// OwnEndpoints keeps what programs in containers add for themselves.
type OwnEndpoints interface {
	AddOwn(ctx context.Context, who mayfly.Identity, name string, e mayfly.OutsideEndpoint) (mayfly.EndpointStatus, error)
	RemoveOwn(ctx context.Context, who mayfly.Identity, name string) error
	HeartbeatOwn(ctx context.Context, who mayfly.Identity, name string) error
}

// EndpointRef is the part of an operation's input that names an endpoint.
type EndpointRef struct {
	InSpace
	Name string `path:"name" maxLength:"256" doc:"the name that it was added under, or its id"`
}

// InTags is the part of an operation's input that says which endpoints match.
type InTags struct {
	Service string   `query:"service" doc:"only of this service"`
	Role    string   `query:"role" doc:"only of this role"`
	Port    string   `query:"port" doc:"only of this name of a port"`
	Tag     []string `query:"tag,explode" doc:"KEY=VALUE, or KEY~PATTERN for a regular expression; again for other keys, or for other values of one"`
}

// require is what the input asks for.
func (in *InTags) require() (mayfly.Require, error) {
	r := mayfly.Require{Service: in.Service, Role: in.Role, Port: in.Port}
	for _, text := range in.Tag {
		i := strings.IndexAny(text, "=~")
		if i <= 0 {
			return r, mayfly.Errorf(mayfly.Invalid, "query.tag: %q is neither KEY=VALUE nor KEY~PATTERN", text)
		}
		if r.Tags == nil {
			r.Tags = map[string]mayfly.Match{}
		}
		key, value := text[:i], text[i+1:]
		m, again := r.Tags[key]
		switch {
		case text[i] == '~' && again, m.Pattern != "":
			return r, mayfly.Errorf(mayfly.Invalid, "query.tag: %s has a pattern and something else", key)
		case text[i] == '~':
			m.Pattern = value
		case !again:
			m.Value = value
		case m.In == nil:
			m.In, m.Value = []string{m.Value, value}, ""
		default:
			m.In = append(m.In, value)
		}
		r.Tags[key] = m
	}
	return r, nil
}

// endpoints registers everything about endpoints.
func (r *router) endpoints() {
	service := r.services.Endpoints
	r = needing(r, service, "endpoints")
	r.endpointWrites()
	answerWith(r, operation{id: "list-endpoints", route: "GET /v1/endpoints", summary: "List endpoints",
		detail: "All that are there, those of workloads and those of the outside; and what was added and is not well, with the reason."},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
			InTags
		}) (client.Page[mayfly.EndpointStatus], error) {
			want, err := in.require()
			if err != nil {
				return client.Page[mayfly.EndpointStatus]{}, err
			}
			match, err := discovery.Matcher(want)
			if err != nil {
				return client.Page[mayfly.EndpointStatus]{}, err
			}
			list := slices.DeleteFunc(service.Endpoints(in.Space), func(e mayfly.EndpointStatus) bool { return !match(&e.Endpoint) })
			for i := range list {
				if fromInside(ctx) { // they may have a token in a header, and commands are the node's
					list[i].Checks = nil
				}
			}
			return page(list, in.InPage, false, func(e mayfly.EndpointStatus) string { return e.Service + " " + e.ID }), nil
		})
	answerWith(r, operation{id: "get-endpoint", route: "GET /v1/endpoints/{name}", summary: "Get an endpoint"},
		func(_ context.Context, in *EndpointRef) (mayfly.EndpointStatus, error) {
			e, err := service.Get(in.Space, in.Name)
			if mayfly.KindOf(err) != mayfly.NotFound {
				return e, err
			}
			for _, e := range service.Endpoints(in.Space) {
				if e.ID == in.Name {
					return e, nil
				}
			}
			return e, mayfly.Errorf(mayfly.NotFound, "there is no endpoint %q", in.Name)
		})
	r.watchEndpoints()
	r.forward()
}

func (r *router) endpointWrites() {
	service := r.services.Endpoints
	answerWith(r, operation{id: "add-endpoint", route: "POST /v1/endpoints", summary: "Add something that Mayfly does not run", status: http.StatusCreated,
		detail: "Its endpoint is there while all its checks are well, and it is heard of in time where it has a TTL. Commands of checks run on the node."},
		func(ctx context.Context, in *struct {
			InSpace
			Key  string `header:"Idempotency-Key" doc:"the same key with the same body makes one endpoint"`
			Body client.EndpointRequest
		}) (mayfly.EndpointStatus, error) {
			return once(ctx, r.answers, "add-endpoint", in.Space, in.Key, in.Body, func() (mayfly.EndpointStatus, error) {
				return service.Add(ctx, in.Body.Name, in.Body.Plain(in.Space), false)
			})
		})
	answerWith(r, operation{id: "put-endpoint", route: "PUT /v1/endpoints/{name}", summary: "Add it in place of the one of its name"},
		func(ctx context.Context, in *struct {
			EndpointRef
			Body client.EndpointRequest
		}) (mayfly.EndpointStatus, error) {
			if in.Body.Name != "" && in.Body.Name != in.Name {
				return mayfly.EndpointStatus{}, mayfly.Errorf(mayfly.Invalid, "the body names the endpoint %q and the path %q", in.Body.Name, in.Name)
			}
			return service.Add(ctx, in.Name, in.Body.Plain(in.Space), true)
		})
	done(r, operation{id: "remove-endpoint", route: "DELETE /v1/endpoints/{name}", summary: "Take away what was added"},
		func(ctx context.Context, in *EndpointRef) error { return service.Remove(ctx, in.Space, in.Name) })
	done(r, operation{id: "endpoint-heartbeat", route: "POST /v1/endpoints/{name}/heartbeat", summary: "Say that what was added with a TTL is there"},
		func(ctx context.Context, in *EndpointRef) error { return service.Heartbeat(ctx, in.Space, in.Name) })
}

// maxOwnBody bounds what a container says of an endpoint of its own, in bytes.
const maxOwnBody = 64 << 10

// ownEndpoint does what a program in a container asks of an endpoint of its own.
func (s *Server) ownEndpoint(w http.ResponseWriter, r *http.Request, who mayfly.Identity) error {
	service := s.services.Endpoints
	if err := need(service, "endpoints"); err != nil {
		return err
	}
	if part := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/self/endpoints"), "/"); len(part) > 1 {
		change := service.RemoveOwn
		if len(part) > 2 {
			change = service.HeartbeatOwn
		}
		if err := change(r.Context(), who, part[1]); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	data, err := readBody(w, r, maxOwnBody)
	if err != nil {
		return err
	}
	var in client.EndpointRequest
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the endpoint cannot be read: %w", err).WithHint(`send {"name": "admin", "port": 9000}`)
	}
	if in.Address != "" {
		return mayfly.Errorf(mayfly.Invalid, "body.address: an endpoint of a container's own is at the container's address")
	}
	made, err := service.AddOwn(r.Context(), who, in.Name, in.Plain(who.Space))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, made)
	return nil
}
