package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// What is still sent of an upload that was refused is read for so long, and so
// much of it, that the client sees the answer.
const (
	refusedTime  = 2 * time.Second
	refusedBytes = 16 << 20
)

// taskPayloads registers the way in and out for payloads that are too large for
// JSON.
func (r *router) taskPayloads() {
	text := &huma.Schema{Type: huma.TypeString}
	binary := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	put := operation{id: "put-payload", route: "POST /v1/payloads", summary: "Upload the payload of a task that is to be submitted",
		detail: "Its ref goes into one task as payloadRef, within an hour. It is for payloads of more than 1,000,000 bytes.",
		body:   &huma.RequestBody{Required: true, Content: binary}}
	r.raw(put, []string{http.MethodPost}, []*huma.Param{{Name: "space", In: "query", Schema: text, Description: "the space"}},
		map[string]*huma.Response{"201": {
			Description: "it is on disk",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: r.schema(reflect.TypeFor[client.Upload]())}},
		}}, r.servePutPayload)

	r.bytesOf(operation{id: "task-payload", route: "GET /v1/tasks/{id}/payload", summary: "Get what a task that has not ended was submitted with"},
		func(ctx context.Context, in *TaskRef) (io.ReadCloser, int64, error) {
			return r.services.Tasks.OpenPayload(ctx, in.Space, in.ID)
		})
}

func (r *router) servePutPayload(w http.ResponseWriter, req *http.Request) {
	up, err := r.putPayload(w, req)
	if err != nil {
		r.refuse(w, req, err)
		return
	}
	writeJSON(w, http.StatusCreated, up)
}

func (r *router) putPayload(w http.ResponseWriter, req *http.Request) (up client.Upload, err error) {
	if err := need(r.services.Tasks, "tasks"); err != nil {
		return up, err
	}
	space, err := spaceOf(req)
	if err != nil {
		return up, err
	}
	if up.Ref, up.Size, err = r.upload(req.Context(), space, newBody(w, req, endless), req.ContentLength, nil); err != nil {
		return up, err
	}
	return up, nil
}

// endless bounds a body whose reader has a bound of its own.
const endless = 1 << 50

// upload has the queue keep a payload, of which some was read already.
func (r *router) upload(ctx context.Context, space string, rest *body, length int64, begin []byte) (ref string, size int64, err error) {
	if most := r.services.Tasks.MaxPayload(); length > most {
		return "", 0, queue.TooLargePayload(most)
	}
	ref, size, err = r.services.Tasks.PutPayload(ctx, space, io.MultiReader(bytes.NewReader(begin), rest))
	return ref, size, rest.because(err)
}

// because is the error of a body that could not be read, or else err: what a
// service makes of one that broke off is not the cause.
func (b *body) because(err error) error {
	switch {
	case err == nil || b.err == nil:
		return err
	case mayfly.KindOf(b.err) != mayfly.Internal:
		return b.err
	case errors.Is(b.err, io.ErrUnexpectedEOF):
		return mayfly.Errorf(mayfly.Invalid, "the request's body broke off")
	}
	return mayfly.Errorf(mayfly.Invalid, "read the request's body: %w", b.err)
}

// payloadOf reads a body into a submission: as it is, or by an upload when it is
// too large for that.
func (r *router) payloadOf(w http.ResponseWriter, req *http.Request, sub *mayfly.Submission) error {
	rest := newBody(w, req, endless)
	if most := r.services.Tasks.MaxPayload(); req.ContentLength > most {
		return queue.TooLargePayload(most)
	}
	var begin bytes.Buffer
	if n := req.ContentLength; n > 0 {
		begin.Grow(int(min(n, client.MaxInline)) + bytes.MinRead)
	}
	_, err := io.CopyN(&begin, rest, client.MaxInline+1)
	if err == nil {
		sub.PayloadRef, _, err = r.upload(req.Context(), sub.Space, rest, req.ContentLength, begin.Bytes())
		return err
	}
	if err != io.EOF {
		return rest.because(err)
	}
	sub.Payload = begin.Bytes()
	return nil
}

// refuse answers a request whose body may still be coming.
func (r *router) refuse(w http.ResponseWriter, req *http.Request, err error) {
	control := http.NewResponseController(w)
	// Errors mean that the connection knows no such thing: a test's recorder,
	// or HTTP/2, which needs none of it.
	_ = control.EnableFullDuplex()
	// net/http must not look for the next request behind what is left of this one.
	w.Header().Set("Connection", "close")
	r.fail(w, req, err)
	if control.Flush() == nil && control.SetReadDeadline(time.Now().Add(refusedTime)) == nil {
		io.CopyN(io.Discard, req.Body, refusedBytes)
		_ = control.SetReadDeadline(time.Time{})
	}
}
