package api

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

//go:embed docs.html
var docsPage []byte

// version is the version of the API: a change that breaks a client makes a new
// prefix beside /v1.
const version = "1"

// routes returns the handler of every operation, and sets the document.
func (s *Server) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Mayfly", version)
	config.Info.Description = "Runs code in containers that live only as long as they are needed."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath = "", "", ""
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.CreateHooks = nil // no $schema members in what we answer
	config.Transformers = []huma.Transformer{translate}
	config.RejectUnknownQueryParameters = true
	config.FieldsOptionalByDefault = true // what is missing is the business of the services
	r := &router{Server: s, mux: mux, huma: huma.NewAPI(config, adapter{mux})}

	r.instances()
	r.files()
	r.images()
	r.stacks()
	r.workloads()
	r.runs()
	r.tasks()
	r.schedules()
	r.events()
	r.webRoutes()
	r.supervised()
	r.load()
	r.volumes()
	r.secrets()
	r.configs()
	r.news()
	r.endpoints()
	r.explained()
	r.inside()
	r.machine()
	schemas := r.huma.OpenAPI().Components.Schemas.Map()
	schemas["Event"] = eventSchema()
	delete(schemas, "ErrorModel") // huma's own; ours is Problem
	delete(schemas, "ErrorDetail")
	spec, err := json.Marshal(r.huma.OpenAPI())
	if err != nil {
		return nil, fmt.Errorf("make the OpenAPI document: %w", err)
	}
	s.spec = spec

	mux.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		w.Write(s.spec)
	})
	mux.HandleFunc("GET /v1/docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'")
		w.Write(docsPage)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		s.fail(w, req, mayfly.Errorf(mayfly.NotFound, "there is no operation %s %s", req.Method, req.URL.Path).
			WithHint("see /v1/docs"))
	})
	return s.callsFirst(mux), nil
}

// schemaName is what a type is called in the document. Two are called Progress.
func schemaName(t reflect.Type, hint string) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[mayfly.Progress]() {
		return "TaskProgress"
	}
	return huma.DefaultSchemaNamer(t, hint)
}

// callsFirst serves calls before the mux sees them: it would answer a path
// with // or .. by a redirect, and that path is the function's.
func (s *Server) callsFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/workloads/"); ok {
			if name, path, ok := strings.Cut(rest, "/call"); ok && (path == "" || path[0] == '/') && !strings.Contains(name, "/") {
				s.serveCall(w, r, name, path)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) serveCall(w http.ResponseWriter, r *http.Request, name, path string) {
	space := r.Header.Get(client.HeaderSpace)
	if space == "" {
		space = mayfly.DefaultSpace
	}
	if s.services.Workloads == nil {
		s.fail(w, r, unavailable("workloads"))
		return
	}
	for what, value := range map[string]string{"space": space, "workload": name} {
		if err := mayfly.CheckName(what, value); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	memory, err := parseMemory(r.Header.Get(client.HeaderMemory))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, stop := s.untilClosing(r.Context())
	defer stop()
	inner := r.Clone(ctx)
	inner.Header.Del(client.HeaderSpace)
	inner.Header.Del(client.HeaderMemory)
	if path == "" {
		path = "/"
	}
	plain, err := pathUnescape(path)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	inner.URL.Path, inner.URL.RawPath = plain, path
	inner.RequestURI = inner.URL.RequestURI()
	s.services.Workloads.ServeCall(w, inner, client.Callee{Space: space, Workload: name, Memory: memory})
}

// parseMemory reads a call's memory limit, 0 when there is none.
func parseMemory(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return 0, mayfly.Errorf(mayfly.Invalid, "%s %q is not a number of bytes", client.HeaderMemory, text)
	}
	return n, nil
}

func unavailable(what string) error {
	return mayfly.Errorf(mayfly.Unavailable, "this daemon has no %s", what)
}

// need is the check of an operation that needs a service: nil is no service.
func need[S comparable](service S, what string) error {
	var none S
	if service == none {
		return unavailable(what)
	}
	return nil
}

// machine registers what concerns the daemon itself.
func (r *router) machine() {
	answerWith(r, operation{id: "version", route: "GET /v1/version", summary: "Who answers"},
		func(context.Context, *InSpace) (client.Version, error) {
			return client.Version{Version: r.opts.Version, API: version, Node: r.opts.Node, Driver: r.opts.Driver, URL: r.opts.URL}, nil
		})
	down := operation{id: "down", route: "POST /v1/down", summary: "Stop every container, then the daemon",
		detail: "The stream ends with its result, but the connection stays open until the daemon's process has ended, so that its end can be awaited."}
	space := &huma.Param{Name: "space", In: "query", Schema: &huma.Schema{Type: huma.TypeString}, Description: "of no meaning here"}
	r.raw(down, []string{http.MethodPost}, []*huma.Param{space}, map[string]*huma.Response{"200": {Description: "messages, one on each line"}}, r.serveDown)
}
