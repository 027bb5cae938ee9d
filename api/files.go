package api

import (
	"context"
	"io"
	"net/http"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

// files registers what copies files into and out of containers.
func (r *router) files() {
	r.copies("ref", "in the container",
		operation{id: "read-files", route: "GET /v1/instances/{ref}/files", summary: "Copy files out of a running container",
			detail: "A tar stream of the file, link or directory, under the last part of its name; of a directory's contents, under \".\", when " +
				"path ends in \"/.\". What goes wrong on the way is in the trailer " + client.TrailerError + ". ref may be SERVICE or SERVICE/REPLICA too."},
		r.readFiles,
		operation{id: "write-files", route: "PUT /v1/instances/{ref}/files", summary: "Copy files into a running container",
			detail: "The body is a tar stream of one tree. It goes into path where that is a directory, else to path itself. Files are replaced " +
				"whole, and become those of the container's user. Devices are not made."},
		r.writeFiles)
}

// copies registers a pair of operations on the files beneath something, which the
// parameter ref of their routes names; where is what a path is in.
func (r *router) copies(ref, where string, read operation, readFiles http.HandlerFunc, write operation, writeFiles http.HandlerFunc) {
	text, flag := &huma.Schema{Type: huma.TypeString}, &huma.Schema{Type: huma.TypeBoolean}
	named := []*huma.Param{
		{Name: ref, In: "path", Required: true, Schema: text},
		{Name: "space", In: "query", Schema: text},
		{Name: "path", In: "query", Required: true, Schema: text, Description: where},
	}
	archive := map[string]*huma.MediaType{client.ContentTar: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	r.raw(read, []string{http.MethodGet}, named, map[string]*huma.Response{"200": {Description: "the tree", Content: archive}}, readFiles)
	write.body = &huma.RequestBody{Required: true, Content: archive}
	r.raw(write, []string{http.MethodPut}, append(named,
		&huma.Param{Name: "keep", In: "query", Schema: flag, Description: "owners, by number, and set-id bits stay as they are"},
		&huma.Param{Name: "into", In: "query", Schema: flag, Description: "the stream has any number of trees, and path is a directory"},
	), map[string]*huma.Response{"200": {Description: "what was done", Content: map[string]*huma.MediaType{
		"application/json": {Schema: r.schema(reflect.TypeFor[client.CopyReport]())},
	}}}, writeFiles)
}

// fileQuery is what both operations are asked.
type fileQuery struct {
	space, ref, path string
	options          client.CopyOptions
}

func (r *router) fileQuery(req *http.Request) (q fileQuery, err error) {
	if err := need(r.services.Instances, "instances"); err != nil {
		return q, err
	}
	return readFileQuery(req)
}

func readFileQuery(req *http.Request) (q fileQuery, err error) {
	query := req.URL.Query()
	q.space, q.ref, q.path = query.Get("space"), req.PathValue("ref"), query.Get("path")
	if q.space == "" {
		q.space = mayfly.DefaultSpace
	}
	if err := mayfly.CheckName("space", q.space); err != nil {
		return q, err
	}
	if q.path == "" {
		return q, mayfly.Errorf(mayfly.Invalid, "no path is given").WithHint("name one in the container as query parameter path")
	}
	for name, to := range map[string]*bool{"keep": &q.options.Keep, "into": &q.options.Into} {
		if text := query.Get(name); text != "" {
			if *to, err = strconv.ParseBool(text); err != nil {
				return q, mayfly.Errorf(mayfly.Invalid, "query.%s: %q is neither true nor false", name, text)
			}
		}
	}
	return q, nil
}

// firstWrite answers with 200 once there is something to answer with.
type firstWrite struct {
	http.ResponseWriter
	begun bool
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if !f.begun {
		f.begun = true
		f.Header().Set("Content-Type", client.ContentTar)
		f.Header().Set("Trailer", client.TrailerError)
	}
	return f.ResponseWriter.Write(p)
}

func (r *router) readFiles(w http.ResponseWriter, req *http.Request) {
	q, err := r.fileQuery(req)
	if err != nil {
		r.fail(w, req, err)
		return
	}
	r.sendFiles(w, req, func(ctx context.Context, out io.Writer) error {
		return r.services.Instances.ReadFiles(ctx, q.space, q.ref, q.path, out)
	})
}

// sendFiles answers with what read writes.
func (r *router) sendFiles(w http.ResponseWriter, req *http.Request, read func(ctx context.Context, out io.Writer) error) {
	ctx, stop := r.untilClosing(req.Context())
	defer stop()
	out := &firstWrite{ResponseWriter: w}
	err := because(ctx, read(ctx, out))
	switch {
	case err == nil:
	case out.begun:
		// The tar is without its end, so nobody takes it for whole.
		w.Header().Set(client.TrailerError, strconv.QuoteToASCII(r.problem(err, "read files").Detail))
	default:
		r.fail(w, req, err)
	}
}

func (r *router) writeFiles(w http.ResponseWriter, req *http.Request) {
	q, err := r.fileQuery(req)
	if err != nil {
		r.refuse(w, req, err)
		return
	}
	r.takeFiles(w, req, func(ctx context.Context, in io.Reader) (tree.Report, error) {
		return r.services.Instances.WriteFiles(ctx, q.space, q.ref, q.path, in, q.options)
	})
}

// takeFiles has write read the request, and answers with what it did.
func (r *router) takeFiles(w http.ResponseWriter, req *http.Request, write func(ctx context.Context, in io.Reader) (tree.Report, error)) {
	ctx, stop := r.untilClosing(req.Context())
	defer stop()
	body := newBody(w, req, endless)
	report, err := write(ctx, body)
	if err = because(ctx, body.because(err)); err != nil {
		r.refuse(w, req, err)
		return
	}
	writeJSON(w, http.StatusOK, client.CopyReport(report))
}

// InstanceFiles copies files into and out of running containers.
type InstanceFiles interface {
	// ReadFiles writes what the path stands for as a tar stream. Where it can, it
	// fails before it writes anything.
	ReadFiles(ctx context.Context, space, ref, path string, w io.Writer) error

	// WriteFiles makes files of a tar stream; the rules are those of tree.Extract.
	WriteFiles(ctx context.Context, space, ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error)
}
