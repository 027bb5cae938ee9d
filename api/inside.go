package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Bounds of what one request of a program in a container may bring. What
// submits tasks is held in memory; the body of a call is the router's matter.
const (
	maxInside    = 16 << 20  // bytes of a body that submits tasks, and of all such bodies of a container
	maxInsideAll = 256 << 20 // of all containers

	maxProgress     = 16 << 10 // bytes
	maxProgressText = 1000     // characters
)

// ServeInside answers a program in a container: the operations that may be
// asked for from there, in the container's own space and no other. How many
// connections a container has, and how slow they may be, is its caller's
// business.
func (s *Server) ServeInside(w http.ResponseWriter, r *http.Request, who mayfly.Identity) {
	kind := insideKind(r.Method, r.URL.EscapedPath())
	inner, err := scope(r, who, kind)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	switch kind {
	case insideSelf:
		writeJSON(w, http.StatusOK, who)
		return
	case insideProgress:
		if err := s.takeProgress(w, inner, who); err != nil {
			s.fail(w, r, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	case insideEndpoint:
		if err := s.ownEndpoint(w, inner, who); err != nil {
			s.fail(w, r, err)
		}
		return
	case insideSubmit, insideEmit:
		size := r.ContentLength
		if size < 0 {
			size = maxInside
		}
		if err := s.bodies.take(who.Instance, size); err != nil {
			s.fail(w, r, err)
			return
		}
		defer s.bodies.give(who.Instance, size)
		inner.Body = &shortBody{r.Body, maxInside}
	case insideWait:
		if who.Task && s.services.Places != nil {
			defer s.services.Places.Waiting(who.Run)()
		}
	}
	s.handler.ServeHTTP(w, inner)
}

// takeProgress notes how far the task is that the container runs.
func (s *Server) takeProgress(w http.ResponseWriter, r *http.Request, who mayfly.Identity) error {
	if !who.Task {
		return mayfly.Errorf(mayfly.Conflict, "this container runs no task just now").WithHint("only tasks have progress")
	}
	if err := need(s.services.Tasks, "tasks"); err != nil {
		return err
	}
	data, err := readBody(w, r, maxProgress)
	if err != nil {
		return err
	}
	var in client.ProgressRequest
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "the progress cannot be read: %w", err).WithHint(`send {"percent": 40, "message": "sorting"}`)
	}
	switch {
	case in.Percent < 0 || in.Percent > 100:
		return mayfly.Errorf(mayfly.Invalid, "body.percent: %v is not from 0 to 100", in.Percent)
	case utf8.RuneCountInString(in.Message) > maxProgressText:
		return mayfly.Errorf(mayfly.Invalid, "body.message: it is longer than %d characters", maxProgressText)
	case in.Attempt != 0 && in.Attempt != who.Attempt:
		return mayfly.Errorf(mayfly.Conflict, "this container runs attempt %d", who.Attempt)
	}
	p := mayfly.Progress{Percent: in.Percent, Message: in.Message, Time: time.Now().UTC()}
	return s.services.Tasks.Progress(r.Context(), who.Space, who.Run, who.Attempt, p)
}

// inside documents what only programs in containers can ask for.
func (r *router) inside() {
	space := []*huma.Param{{Name: "space", In: "query", Schema: &huma.Schema{Type: huma.TypeString}, Description: "the container's own"}}
	outside := func(w http.ResponseWriter, req *http.Request) {
		r.fail(w, req, mayfly.Errorf(mayfly.Denied, "only a program in a container can ask for %s, at its own socket", req.URL.Path))
	}
	self := operation{id: "self", route: "GET /v1/self", summary: "Who asks, from inside a container",
		detail: "At /run/mayfly/api.sock in a container this API is there in part: /v1/self, what submits, reads and cancels tasks, emits events, calls of " +
			"functions, /v1/endpoints and /v1/watch, loads, and the scale of services that let it, all in the container's own space."}
	r.raw(self, []string{http.MethodGet}, space, map[string]*huma.Response{"200": {
		Description: "the container, and the run that it serves just now",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: r.schema(reflect.TypeFor[mayfly.Identity]())}},
	}}, outside)
	progress := operation{id: "self-progress", route: "PUT /v1/self/progress", summary: "Say how far the task is that asks, from inside its container",
		body: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: r.schema(reflect.TypeFor[client.ProgressRequest]())},
		}}}
	r.raw(progress, []string{http.MethodPut}, space, map[string]*huma.Response{"204": {Description: "noted"}}, outside)
	add := operation{id: "self-add-endpoint", route: "POST /v1/self/endpoints", summary: "Add a further endpoint of the container that asks",
		detail: "It is at the container's own address, and withdrawn with its end. Without checks and a TTL, its port must take connections.",
		body: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: r.schema(reflect.TypeFor[client.EndpointRequest]())},
		}}}
	r.raw(add, []string{http.MethodPost}, space, map[string]*huma.Response{"201": {
		Description: "added", Content: map[string]*huma.MediaType{"application/json": {Schema: r.schema(reflect.TypeFor[mayfly.EndpointStatus]())}},
	}}, outside)
	one := append([]*huma.Param{{Name: "name", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}}, space...)
	remove := operation{id: "self-remove-endpoint", route: "DELETE /v1/self/endpoints/{name}", summary: "Take it back"}
	r.raw(remove, []string{http.MethodDelete}, one, map[string]*huma.Response{"204": {Description: "taken back"}}, outside)
	beat := operation{id: "self-endpoint-heartbeat", route: "POST /v1/self/endpoints/{name}/heartbeat", summary: "Say that it is there"}
	r.raw(beat, []string{http.MethodPost}, one, map[string]*huma.Response{"204": {Description: "noted"}}, outside)
}

// insideOperation is a kind of operation that may be asked for from inside.
type insideOperation int

const (
	insideNothing insideOperation = iota
	insideSelf
	insideProgress
	insideSubmit
	insidePayload
	insideTask // reads or cancels tasks
	insideWait // until one has ended
	insideCall
	insideRead     // of endpoints
	insideEndpoint // of its own
	insideScale    // of a service that lets it
	insideLoad
	insideEmit // events
)

var insideRef = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// insideKind says what a request is for. The path is taken as it was sent: one
// that could be read in two ways is nothing that may be asked for.
func insideKind(method, path string) insideOperation {
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok {
		return insideNothing
	}
	part := strings.Split(rest, "/")
	if part[0] == "workloads" && len(part) >= 3 && part[2] == "call" && insideRef.MatchString(part[1]) {
		return insideCall
	}
	if len(part) == 3 && insideRef.MatchString(part[1]) && (part[0] == "services" || part[0] == "workloads") {
		part[1] = "NAME"
	}
	if len(part) > 1 && part[0] == "tasks" {
		if !insideRef.MatchString(part[1]) {
			return insideNothing
		}
		part[1] = "ID"
	}
	if len(part) > 2 && part[0] == "self" && part[1] == "endpoints" && insideRef.MatchString(part[2]) {
		part[2] = "ID"
	}
	switch method + " " + strings.Join(part, "/") {
	case "GET self":
		return insideSelf
	case "PUT self/progress":
		return insideProgress
	case "POST tasks":
		return insideSubmit
	case "POST events":
		return insideEmit
	case "POST payloads":
		return insidePayload
	case "GET tasks/ID/wait", "GET tasks/ID/watch":
		return insideWait
	case "PUT services/NAME/scale":
		return insideScale
	case "GET workloads/NAME/load":
		return insideLoad
	case "GET endpoints", "GET watch":
		return insideRead
	case "POST self/endpoints", "DELETE self/endpoints/ID", "POST self/endpoints/ID/heartbeat":
		return insideEndpoint
	case "GET tasks", "GET tasks/ID", "GET tasks/ID/result", "POST tasks/ID/cancel":
		return insideTask
	}
	return insideNothing
}

// scope returns the request as one that asks in the caller's own space.
func scope(r *http.Request, who mayfly.Identity, kind insideOperation) (*http.Request, error) {
	if kind == insideNothing {
		return nil, mayfly.Errorf(mayfly.Denied, "a program in a container may not ask for %s %s", r.Method, r.URL.Path).
			WithHint("it may submit, read and cancel tasks, emit events, call functions, ask for and watch endpoints, add some of its own, ask for loads and for /v1/self, and scale services that let it")
	}
	spaces := r.Header.Values(client.HeaderSpace)
	inner := r.Clone(context.WithValue(r.Context(), askedInside{}, who))
	if kind != insideCall { // whose query is the function's
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "the query cannot be read: %w", err)
		}
		spaces = append(spaces, query["space"]...)
		query.Set("space", who.Space)
		inner.URL.RawQuery = query.Encode()
	}
	for _, space := range spaces {
		if space != who.Space {
			return nil, mayfly.Errorf(mayfly.Denied, "this container is of the space %s and may not ask in the space %q", who.Space, space)
		}
	}
	inner.Header.Set(client.HeaderSpace, who.Space)
	return inner, nil
}

// askedInside is the key of a context that a request from inside has.
type askedInside struct{}

func fromInside(ctx context.Context) bool { return ctx.Value(askedInside{}) != nil }

// insideOf is who asks, where that is a program in a container.
func insideOf(ctx context.Context) (who mayfly.Identity, inside bool) {
	who, inside = ctx.Value(askedInside{}).(mayfly.Identity)
	return who, inside
}

// shortBody is a body with a bound of its own.
type shortBody struct {
	io.ReadCloser
	left int64
}

func (b *shortBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), mayfly.Errorf(mayfly.TooLarge, "the request's body is larger than %d bytes", maxInside)
	}
	b.left -= int64(n)
	return n, err
}

// bodies counts the bytes of bodies that are being held for containers.
type bodies struct {
	mu  sync.Mutex
	all int64
	by  map[string]int64 // instance; none at zero
}

func (b *bodies) take(instance string, size int64) error {
	if size > maxInside {
		return mayfly.Errorf(mayfly.TooLarge, "the request's body is larger than %d bytes", maxInside)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by[instance]+size > maxInside || b.all+size > maxInsideAll {
		return mayfly.Errorf(mayfly.Busy, "too much is being submitted at once").WithHint("try again")
	}
	if b.by == nil {
		b.by = make(map[string]int64)
	}
	b.by[instance] += size
	b.all += size
	return nil
}

func (b *bodies) give(instance string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= size
	if b.by[instance] -= size; b.by[instance] == 0 {
		delete(b.by, instance)
	}
}

// Door passes requests of programs in containers on to a Server that is opened
// after the node. Before that, they are told to wait.
type Door struct {
	mu     sync.Mutex
	server *Server
}

// Lead sets who answers.
func (d *Door) Lead(to *Server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = to
}

// ServeInside implements node.Inside.
func (d *Door) ServeInside(w http.ResponseWriter, r *http.Request, who mayfly.Identity) {
	d.mu.Lock()
	s := d.server
	d.mu.Unlock()
	if s == nil {
		p := client.NewProblem(mayfly.Errorf(mayfly.Unavailable, "the daemon is starting"))
		w.Header().Set("Content-Type", client.ContentProblem)
		w.WriteHeader(p.Status)
		json.NewEncoder(w).Encode(p)
		return
	}
	s.ServeInside(w, r, who)
}
