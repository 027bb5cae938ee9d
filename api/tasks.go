package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TaskRef is the part of an operation's input that names a task.
type TaskRef struct {
	InSpace
	ID string `path:"id" maxLength:"64" doc:"its id"`
}

// tasks registers everything about tasks.
func (r *router) tasks() {
	r = needing(r, r.services.Tasks, "tasks")
	r.taskSubmits()
	r.taskReads()
	r.taskChanges()
	r.taskQueues()
}

func (r *router) taskSubmits() {
	text := &huma.Schema{Type: huma.TypeString}
	space := &huma.Param{Name: "space", In: "query", Schema: text, Description: "the space"}
	key := &huma.Param{Name: client.HeaderIdempotency, In: "header", Schema: text, Description: "the key of the task, where there is one task: the same key is the same task"}
	submit := operation{id: "submit-tasks", route: "POST /v1/tasks", summary: "Submit tasks, all or none",
		detail: "What is answered for is on disk. The payload is given as payload (base64), json (any value) or text. " +
			"A full queue answers 429 with Retry-After.",
		body: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: r.schema(reflect.TypeFor[client.SubmitRequest]())},
		}}}
	r.raw(submit, []string{http.MethodPost}, []*huma.Param{space, key}, map[string]*huma.Response{"201": {
		Description: "the tasks, in their order",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: r.schema(reflect.TypeFor[client.SubmitAnswer]())}},
	}}, r.serveSubmit)
	r.taskWebhook()
}

// serveSubmit is not huma's, because it is what a machine is loaded with: it
// decodes, asks the queue and encodes.
func (r *router) serveSubmit(w http.ResponseWriter, req *http.Request) {
	answer, err := r.submit(w, req)
	if err != nil {
		r.fail(w, req, err)
		return
	}
	writeJSON(w, http.StatusCreated, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of what was decoded from JSON
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) // who does not read it has left
}

func (r *router) submit(w http.ResponseWriter, req *http.Request) (answer client.SubmitAnswer, err error) {
	if err := need(r.services.Tasks, "tasks"); err != nil {
		return answer, err
	}
	space, err := spaceOf(req)
	if err != nil {
		return answer, err
	}
	body, err := readBody(w, req, r.opts.MaxTasks)
	if err != nil {
		return answer, err
	}
	subs, err := decodeTasks(body, space, req.Header.Get(client.HeaderIdempotency))
	if err != nil {
		return answer, err
	}
	return r.submitAll(req.Context(), subs)
}

// submitAll submits, and makes the first failure the answer. Where the queue
// refused all, it has said which is to blame.
func (r *router) submitAll(ctx context.Context, subs []mayfly.Submission) (answer client.SubmitAnswer, err error) {
	answer.Tasks = make([]client.Submitted, len(subs))
	accepted := 0
	for i, a := range r.services.Tasks.Submit(ctx, subs) {
		answer.Tasks[i] = client.Submitted{Task: a.Task, Created: a.New}
		switch {
		case a.Err == nil:
			accepted++
		case err == nil:
			err = a.Err
		}
	}
	if err != nil && accepted > 0 { // the disk filled up, or broke down, in the middle
		err = mayfly.Errorf(mayfly.KindOf(err), "%d of the %d tasks were accepted: %w", accepted, len(subs), err).
			WithHint("submitting them again is safe for those that have keys")
	}
	return answer, err
}

// spaceOf reads the query of an operation that has no parameter but the space.
func spaceOf(req *http.Request) (string, error) {
	if req.URL.RawQuery == "" {
		return mayfly.DefaultSpace, nil
	}
	query := req.URL.Query()
	space := query.Get("space")
	delete(query, "space")
	for name := range query {
		return "", mayfly.Errorf(mayfly.Invalid, "query.%s: unknown query parameter", name)
	}
	if space == "" {
		return mayfly.DefaultSpace, nil
	}
	return space, mayflyError(mayfly.CheckName("space", space), "query.space")
}

func mayflyError(err error, where string) error {
	if err == nil {
		return nil
	}
	return mayfly.Errorf(mayfly.KindOf(err), "%s: %w", where, err)
}

// readBody reads a whole body of at most limit bytes.
func readBody(w http.ResponseWriter, req *http.Request, limit int64) ([]byte, error) {
	if req.ContentLength > limit {
		return nil, mayfly.Errorf(mayfly.TooLarge, "the request's body is larger than %d bytes", limit)
	}
	var into bytes.Buffer
	if n := req.ContentLength; n > 0 {
		into.Grow(int(min(n, maxJSON)) + bytes.MinRead)
	}
	body := newBody(w, req, limit)
	_, err := into.ReadFrom(body)
	switch {
	case body.err != nil && mayfly.KindOf(body.err) != mayfly.Internal:
		err = body.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = mayfly.Errorf(mayfly.Invalid, "the request's body broke off")
	case err != nil:
		err = mayfly.Errorf(mayfly.Invalid, "read the request's body: %w", err)
	}
	return into.Bytes(), err
}

// decodeTasks reads the body of a submit.
func decodeTasks(body []byte, space, key string) ([]mayfly.Submission, error) {
	var in client.SubmitRequest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return nil, jsonError(err)
	}
	if decoder.More() {
		return nil, mayfly.Errorf(mayfly.Invalid, "body: something follows the JSON value")
	}
	switch n := len(in.Tasks); {
	case n == 0:
		return nil, mayfly.Errorf(mayfly.Invalid, "body.tasks: there is no task").WithHint(`send {"tasks": [{"workload": NAME}]}`)
	case n > client.MaxTasks:
		return nil, mayfly.Errorf(mayfly.TooLarge, "body.tasks: %d tasks, and the limit is %d", n, client.MaxTasks).WithHint("submit them in parts")
	case key != "" && n > 1:
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is for one task, and there are %d", client.HeaderIdempotency, n).WithHint("give each task a key")
	case key != "" && in.Tasks[0].Key == "":
		in.Tasks[0].Key = key
	case key != "" && in.Tasks[0].Key != key:
		return nil, mayfly.Errorf(mayfly.Invalid, "%s says %q and the task's key is %q", client.HeaderIdempotency, key, in.Tasks[0].Key)
	}
	subs := make([]mayfly.Submission, len(in.Tasks))
	for i := range in.Tasks {
		sub, err := submissionOf(&in.Tasks[i], space)
		if err != nil {
			return nil, queue.Numbered(err, i, len(in.Tasks))
		}
		subs[i] = sub
	}
	return subs, nil
}

// jsonError says what is wrong with a body, and where.
func jsonError(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF):
		return mayfly.Errorf(mayfly.Invalid, "body is required").WithHint(`send {"tasks": [{"workload": NAME}]}`)
	case errors.As(err, &kind) && kind.Field != "":
		return mayfly.Errorf(mayfly.Invalid, "body.%s: a %s cannot stand here", kind.Field, kind.Value)
	case errors.As(err, &kind):
		return mayfly.Errorf(mayfly.Invalid, "body: a %s cannot stand here", kind.Value).WithHint(`send {"tasks": [{"workload": NAME}]}`)
	case errors.As(err, &syntax):
		return mayfly.Errorf(mayfly.Invalid, "body: %s, at byte %d", syntax.Error(), syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return mayfly.Errorf(mayfly.Invalid, "body: the JSON value has no end")
	}
	return mayfly.Errorf(mayfly.Invalid, "body: %s", strings.TrimPrefix(err.Error(), "json: "))
}

// submissionOf is what a task on the wire asks for.
func submissionOf(in *client.TaskRequest, space string) (sub mayfly.Submission, err error) {
	if sub, err = in.Plain(); err != nil {
		return sub, err
	}
	if sub.Space, err = sameSpace(sub.Space, space); err != nil {
		return sub, err
	}
	if sub.Release != 0 {
		return sub, mayfly.Errorf(mayfly.Invalid, "the release is the one that is active").WithHint("leave release out")
	}
	return sub, nil
}

// parseDuration reads a time such as 90s.
func parseDuration(what, text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, mayfly.Errorf(mayfly.Invalid, "%s %q is not a duration", what, text).WithHint("write it like 30s or 5m")
	}
	return d, nil
}
