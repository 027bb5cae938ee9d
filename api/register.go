package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// adapter puts operations on a ServeMux, with bounded bodies and our statuses.
type adapter struct{ *http.ServeMux }

func (a adapter) Handle(op *huma.Operation, handler func(huma.Context)) {
	a.HandleFunc(op.Method+" "+op.Path, func(w http.ResponseWriter, r *http.Request) {
		// net/http looks at the Body of its own request to see whether some of
		// it is left, so that is never replaced: what is left would be read as
		// the next request of the connection.
		ours := r.WithContext(r.Context())
		ours.Body = newBody(w, r, op.MaxBodyBytes)
		handler(&operationContext{humago.NewContext(op, ours, w)})
	})
}

// plainContext has a name that does not hide its method Context when embedded.
type plainContext = huma.Context

// operationContext answers with the statuses of our kinds.
type operationContext struct{ plainContext }

func (c *operationContext) SetStatus(status int) { c.plainContext.SetStatus(statusOf(status)) }

// Unwrap lets humago find the request.
func (c *operationContext) Unwrap() huma.Context { return c.plainContext }

// body bounds what is read of a request, in size and in time.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	left    int64
	limit   int64
	each    time.Duration // for one read; 0: until is for all of them
	until   time.Time
	err     error // the first but io.EOF
}

func newBody(w http.ResponseWriter, r *http.Request, limit int64) *body {
	b := &body{ReadCloser: r.Body, control: http.NewResponseController(w), limit: maxJSON, until: time.Now().Add(jsonTime)}
	if limit > maxJSON {
		b.limit, b.each = limit, uploadTime
	}
	b.left = b.limit
	return b
}

func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	deadline := b.until
	if b.each > 0 {
		deadline = time.Now().Add(b.each)
	}
	// Errors mean that the connection has no deadlines: a test's recorder.
	_ = b.control.SetReadDeadline(deadline)
	n, err := b.ReadCloser.Read(p)
	// The deadline must not outlive the body, or it would end the answer.
	_ = b.control.SetReadDeadline(time.Time{})
	if int64(n) > b.left {
		n = int(b.left)
		err = mayfly.Errorf(mayfly.TooLarge, "the request's body is larger than %d bytes", b.limit)
	}
	b.left -= int64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = mayfly.Errorf(mayfly.TimedOut, "the request's body came too slowly")
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// InBody is the part of an operation's input that is the body as it is.
type InBody struct {
	body io.Reader
}

// Resolve is part of huma.Resolver.
func (u *InBody) Resolve(ctx huma.Context) []error {
	u.body = ctx.BodyReader()
	return nil
}

// readError returns why the body could not be read, or else err: what a
// service makes of a body that broke off is not the cause.
func (u *InBody) readError(err error) error {
	if b, ok := u.body.(*body); ok && b.err != nil {
		return b.err
	}
	return err
}

// InSpace is the part of an operation's input that names the space.
type InSpace struct {
	Space string `query:"space" default:"default" doc:"the space"`
}

// Resolve is part of huma.Resolver.
func (s *InSpace) Resolve(huma.Context) []error {
	return checkName("query.space", "space", s.Space)
}

func checkName(location, what, name string) []error {
	err := mayfly.CheckName(what, name)
	if err == nil {
		return nil
	}
	return []error{&huma.ErrorDetail{Location: location, Message: err.Error()}}
}

// operation is what every registration says.
type operation struct {
	id      string
	route   string // method and path
	summary string
	detail  string
	status  int               // 200 if zero, or 204 without an answer
	upload  int64             // most bytes of a body that is no JSON
	json    int64             // most bytes of one that is; maxJSON if zero
	body    *huma.RequestBody // of a raw operation
}

func (o operation) huma(r *router) huma.Operation {
	method, path, _ := strings.Cut(o.route, " ")
	op := huma.Operation{
		OperationID: o.id, Method: method, Path: path, Summary: o.summary, Description: o.detail,
		DefaultStatus: o.status, MaxBodyBytes: cmp.Or(o.json, maxJSON),
		BodyReadTimeout: -1, // ours, which ends with the body; huma's would end the answer
		Responses:       map[string]*huma.Response{"default": r.problemResponse()},
	}
	if o.upload > 0 {
		op.MaxBodyBytes = o.upload
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
	return op
}

// router collects the operations of a Server.
type router struct {
	*Server
	mux   *http.ServeMux
	huma  huma.API
	lacks string // the service that the operations need, where the daemon has none
}

// needing is r for the operations of a service: where that is nil, they are
// Unavailable. Raw ones look by themselves.
func needing[S comparable](r *router, service S, what string) *router {
	of := *r
	if need(service, what) != nil {
		of.lacks = what
	}
	return &of
}

// lack is why none of the operations can be carried out, nil where they can.
func (r *router) lack() error {
	if r.lacks != "" {
		return unavailable(r.lacks)
	}
	return nil
}

func (r *router) problemResponse() *huma.Response {
	return &huma.Response{
		Description: "a problem, with the status of its kind",
		Content:     map[string]*huma.MediaType{client.ContentProblem: {Schema: r.schema(reflect.TypeFor[client.Problem]())}},
	}
}

func (r *router) schema(t reflect.Type) *huma.Schema {
	return r.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

type answerOf[O any] struct {
	Body O
}

// answer registers an operation that gives one JSON value.
func answerWith[I, O any](r *router, o operation, handle func(context.Context, *I) (O, error)) {
	huma.Register(r.huma, o.huma(r), func(ctx context.Context, in *I) (*answerOf[O], error) {
		if err := r.lack(); err != nil {
			return nil, r.problem(err, o.route)
		}
		value, err := handle(ctx, in)
		if err != nil {
			return nil, r.problem(err, o.route)
		}
		return &answerOf[O]{value}, nil
	})
}

// done registers an operation that gives nothing.
func done[I any](r *router, o operation, handle func(context.Context, *I) error) {
	huma.Register(r.huma, o.huma(r), func(ctx context.Context, in *I) (*struct{}, error) {
		if err := r.lack(); err != nil {
			return nil, r.problem(err, o.route)
		}
		if err := handle(ctx, in); err != nil {
			return nil, r.problem(err, o.route)
		}
		return nil, nil
	})
}

// streamed registers an operation that gives a stream of messages, whose
// result is an O.
func streamed[I, O any](r *router, o operation, handle func(context.Context, *I, *stream) (O, error)) {
	op := o.huma(r)
	result := r.schema(reflect.TypeFor[O]())
	text := "messages, one on each line; the last has error, or result"
	if result.Ref != "" {
		text += " (" + strings.TrimPrefix(result.Ref, "#/components/schemas/") + ")"
	}
	op.Responses["200"] = &huma.Response{
		Description: text,
		Content: map[string]*huma.MediaType{
			client.ContentStream: {Schema: r.schema(reflect.TypeFor[client.Message]())},
			client.ContentEvents: {Schema: &huma.Schema{Type: huma.TypeString, Description: "each field of a message is an event of its name"}},
		},
	}
	huma.Register(r.huma, op, func(_ context.Context, in *I) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(c huma.Context) {
			req, w := humago.Unwrap(c)
			r.serveStream(w, req, func(ctx context.Context, out *stream) (any, error) {
				if err := r.lack(); err != nil {
					return nil, err
				}
				return handle(ctx, in, out)
			})
		}}, nil
	})
}

// raw documents an operation that huma does not serve, and puts its handler,
// unless it is nil, on the mux. Every route of the API is registered here or
// by huma, so none is left out of the document.
func (r *router) raw(o operation, methods []string, params []*huma.Param, responses map[string]*huma.Response, handler http.HandlerFunc) {
	_, path, _ := strings.Cut(o.route, " ")
	for _, method := range methods {
		id := o.id
		if len(methods) > 1 {
			id += "-" + strings.ToLower(method)
		}
		all := map[string]*huma.Response{"default": r.problemResponse()}
		maps.Copy(all, responses)
		r.huma.OpenAPI().AddOperation(&huma.Operation{
			OperationID: id, Method: method, Path: path, Summary: o.summary, Description: o.detail,
			Parameters: slices.Clone(params), RequestBody: o.body, Responses: all,
		})
		if handler != nil {
			r.mux.HandleFunc(method+" "+path, handler)
		}
	}
}
