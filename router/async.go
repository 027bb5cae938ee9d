package router

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// Submitter accepts tasks. The queue package implements it.
type Submitter interface {
	// Submit answers in the order of what was submitted. What was accepted is
	// on disk.
	Submit(ctx context.Context, subs []mayfly.Submission) []queue.Accepted

	// PutPayload takes a payload that is too large to come with its task, and
	// returns what names it there. An error of r is wrapped.
	PutPayload(ctx context.Context, space string, r io.Reader) (ref string, size int64, err error)

	// DropPayload forgets one that is not submitted after all.
	DropPayload(space, ref string)
}

// respondAsync is the preference (RFC 7240) of a client that does not wait.
const respondAsync = "respond-async"

// prefersAsync reports whether a request is to become a task, which its function
// gets as a POST: no other request is one.
func (r *Router) prefersAsync(req *http.Request) bool {
	if r.opts.Tasks == nil || req.Method != http.MethodPost {
		return false
	}
	for _, line := range req.Header["Prefer"] {
		for preference := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(preference, ";")
			if strings.EqualFold(strings.TrimSpace(name), respondAsync) {
				return true
			}
		}
	}
	return false
}

// submit answers a request with the id of the task that it becomes.
func (r *Router) submit(w http.ResponseWriter, req *http.Request, wl *mayfly.Workload, memory int64) {
	body := newRequestBody(w, req.Body)
	defer body.leave()
	accepted, err := r.accept(req, body, wl, memory)
	if err != nil {
		if mayfly.KindOf(err) == mayfly.TooLarge {
			body.drain()
		}
		problem(w, err, "")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Preference-Applied", respondAsync)
	h.Set(client.HeaderRun, accepted.ID)
	text, _ := json.Marshal(accepted) // a string and a bool
	w.WriteHeader(http.StatusAccepted)
	w.Write(append(text, '\n'))
}

func (r *Router) accept(req *http.Request, body *requestBody, wl *mayfly.Workload, memory int64) (made client.AcceptedTask, err error) {
	most, timeout := wl.MaxBody, wl.Timeout
	if most == 0 {
		most = r.opts.MaxBody
	}
	if timeout == 0 {
		timeout = r.opts.Timeout
	}
	tooLarge := mayfly.Errorf(mayfly.TooLarge, "function %s takes bodies of %d bytes at most", wl.Name, most)
	if req.ContentLength > most {
		return made, tooLarge
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), timeout, mayfly.Errorf(mayfly.TimedOut, "the body came too slowly"))
	defer cancel()
	defer context.AfterFunc(ctx, body.interrupt)()
	body.limit(most)
	sub := mayfly.Submission{Space: wl.Space, Workload: wl.Name, Memory: memory, Key: req.Header.Get(client.HeaderIdempotency)}
	sub.Request = queue.RequestOf(req.URL.RequestURI(), req.Header)
	err = r.takePayload(ctx, body, &sub)
	switch {
	case ctx.Err() != nil:
		return made, context.Cause(ctx)
	case errors.As(err, new(*http.MaxBytesError)):
		return made, tooLarge
	case body.err != nil:
		return made, mayfly.Errorf(mayfly.Invalid, "the body broke off: %w", body.err)
	case err != nil:
		return made, err
	}
	a := r.opts.Tasks.Submit(ctx, []mayfly.Submission{sub})[0]
	if a.Err != nil && sub.PayloadRef != "" {
		r.opts.Tasks.DropPayload(sub.Space, sub.PayloadRef)
	}
	return client.AcceptedTask{ID: a.Task.ID, Created: a.New}, a.Err
}

// takePayload makes a body the payload of a submission. A large one is never
// held in memory.
func (r *Router) takePayload(ctx context.Context, body io.Reader, sub *mayfly.Submission) error {
	head, err := io.ReadAll(io.LimitReader(body, queue.MaxInline+1))
	if err != nil || len(head) <= queue.MaxInline {
		sub.Payload = head
		return err
	}
	sub.PayloadRef, _, err = r.opts.Tasks.PutPayload(ctx, sub.Space, io.MultiReader(bytes.NewReader(head), body))
	return err
}
