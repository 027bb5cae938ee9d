package router

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
)

// errCancelled is why an attempt ends whose task was cancelled.
var errCancelled = mayfly.Errorf(mayfly.Conflict, "the task was cancelled")

// ServeTask runs one attempt of a task of a function that is reached by
// requests: the payload is the body of a POST, and the answer's body the
// result. It calls started once the attempt has a container. The end of ctx
// ends the attempt, which then says nothing about the task.
func (r *Router) ServeTask(ctx context.Context, rel *mayfly.Release, g *queue.Grant, started func(instance string)) mayfly.Result {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-g.Cancelled():
			cancel(errCancelled)
		case <-over:
		}
	}()
	if !g.Deadline.IsZero() {
		late := time.AfterFunc(time.Until(g.Deadline), func() { cancel(errDeadline(g.Task.Timeout)) })
		defer late.Stop()
	}
	payload, err := g.OpenPayload(ctx)
	if err != nil {
		return queue.NotBegun(err)
	}
	defer payload.Close()
	x := r.taskRun(rel, g)
	x.large, _ = payload.(*os.File)
	x.started = started
	w := &taskAnswer{}
	var status int
	if rel.Workload.Protocol == mayfly.HTTP || rel.Workload.Protocol == mayfly.Handler {
		status, err = r.perform(ctx, x, func() (int, error) { return x.ask(ctx, w) })
	} else {
		status, err = r.performTask(ctx, x, w, &g.Task, payload)
	}
	res := mayfly.Result{Instance: x.record.Instance, Output: w.kept.Bytes(), Header: eventHeader(w.header)}
	if err == nil {
		res.Exit = answeredWith(status)
		if status >= 400 {
			res.Exit.Code = status
			res.Exit.Detail += firstLine(w.kept.Bytes())
		}
		return res
	}
	res.Exit, _ = x.explain(ctx, err)
	if context.Cause(ctx) == errCancelled {
		res.Exit.Reason, res.Exit.Detail = mayfly.Cancelled, errCancelled.Error()
	}
	return res
}

// taskRun is the run that an attempt of a task is.
func (r *Router) taskRun(rel *mayfly.Release, g *queue.Grant) *run {
	memory := g.Task.Memory
	if rel.Workload.Isolation == mayfly.IsolationInstance {
		memory = 0 // its containers serve other runs too
	}
	return &run{
		router: r, release: rel, memory: memory, attempt: g.Attempt.Number,
		payload: g.Payload, size: int64(g.Task.Size), request: g.Task.Request, results: g.Results,
		accepted: g.Attempt.Granted, deadline: g.Deadline, visit: &visit{},
		record: mayfly.Run{
			ID: g.Task.ID, Space: rel.Workload.Space, Workload: rel.Workload.Name, Release: rel.Number,
			Node: r.opts.Node, Trigger: triggerQueue, Started: g.Attempt.Granted,
		},
	}
}

// performTask performs a task by a program that is started for its request.
func (r *Router) performTask(ctx context.Context, x *run, w *taskAnswer, task *mayfly.Task, payload io.ReadCloser) (int, error) {
	req, err := queue.NewRequest(ctx, x.record.Workload, task, payload)
	if err != nil {
		return 0, err
	}
	if req.ContentLength = x.size; req.ContentLength == 0 {
		req.Body = http.NoBody
	}
	w.header = http.Header{}
	x.body = newRequestBody(w, req.Body)
	return r.performRequest(ctx, x, &answer{ResponseWriter: w, run: x}, req)
}

// Enter waits until the workload's concurrency lets another run through, and
// counts it until leave is called.
func (r *Router) Enter(ctx context.Context, rel *mayfly.Release) (leave func(), err error) {
	if rel.Workload.Concurrency == 0 {
		return func() {}, nil
	}
	l := r.limit(rel)
	if err := l.acquire(ctx, rel.Workload.Concurrency, r.opts.MaxQueue); err != nil {
		return nil, err
	}
	return l.release, nil
}

// oneWrite is how much of a request a program's socket takes that does not read
// yet, in bytes: less than the least buffer of tcp(7).
const oneWrite = 16 << 10

// ask gives a task to a program that listens. Most often all of the request is in
// memory, so it takes one write; a longer one goes on while the answer is read.
func (x *run) ask(ctx context.Context, w *taskAnswer) (int, error) {
	conn, _, err := x.connect(ctx, false)
	if err != nil {
		return 0, &movableError{x.died(err), false}
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	sent := make(chan error, 1)
	head := x.head(x.size)
	if x.large != nil {
		go func() {
			_, err := conn.Write(head)
			if err == nil {
				_, err = io.CopyN(conn, x.large, x.size)
			}
			sent <- err
		}()
	} else if len(head)+len(x.payload) <= oneWrite {
		_, err := conn.Write(append(head, x.payload...))
		sent <- err
	} else {
		go func() {
			_, err := (&net.Buffers{head, x.payload}).WriteTo(conn)
			sent <- err
		}()
	}
	br := x.router.reader(conn)
	resp, err := readResponse(br)
	if err == nil {
		err = w.keep(resp)
	}
	if err != nil {
		stop()
		conn.Close()
		<-sent
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, x.died(err)
	}
	again := stop() && !resp.Close && br.Buffered() == 0
	x.router.putReader(br) // the answer has been read
	select {
	case err := <-sent:
		again = again && err == nil
	default: // it answered without reading all
		again = false
		conn.Close()
		<-sent
	}
	if again {
		x.lease.Conn = conn
		return resp.StatusCode, nil
	}
	conn.Close()
	return resp.StatusCode, nil
}

// readResponse passes over what comes before the answer proper.
func readResponse(br *bufio.Reader) (*http.Response, error) {
	for range maxInterim {
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return resp, err
		}
	}
	return nil, errors.New("too many interim answers")
}

// reader buffers what is read from a connection, until putReader.
func (r *Router) reader(conn net.Conn) *bufio.Reader {
	br, ok := r.readers.Get().(*bufio.Reader)
	if !ok {
		return bufio.NewReaderSize(conn, 4096)
	}
	br.Reset(conn)
	return br
}

func (r *Router) putReader(br *bufio.Reader) {
	br.Reset(nil)
	r.readers.Put(br)
}

// head is the head of the request for a task.
func (x *run) head(length int64) []byte {
	const usual = 256 // bytes of a head, or more
	h := make([]byte, 0, usual+min(len(x.payload), oneWrite))
	line := func(name, value string) { h = append(append(append(append(h, name...), ": "...), value...), "\r\n"...) }
	if r := x.request; r != nil {
		h = append(append(append(h, "POST "...), r.Target...), " HTTP/1.1\r\n"...)
		for name, value := range r.Header {
			line(name, value)
		}
	} else {
		h = append(h, "POST / HTTP/1.1\r\n"...)
	}
	line("Host", x.record.Workload)
	line("Content-Length", strconv.FormatInt(length, 10))
	x.identity().Headers(line)
	return append(h, "\r\n"...)
}

// eventHeader is what of a header says whether the body is an event.
func eventHeader(header http.Header) (of map[string][]string) {
	for name, values := range header {
		if name == "Content-Type" || strings.HasPrefix(name, "Ce-") {
			if of == nil {
				of = map[string][]string{}
			}
			of[name] = values
		}
	}
	return of
}

// firstLine is the beginning of what a failed function answered, for people.
func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	if len(line) == 0 {
		return ""
	}
	return ": " + string(bytes.ToValidUTF8(line[:min(len(line), 200)], nil))
}

// taskAnswer keeps what a function answers.
type taskAnswer struct {
	header http.Header // of the answer
	kept   bytes.Buffer
}

func (w *taskAnswer) Header() http.Header { return w.header }
func (w *taskAnswer) WriteHeader(int)     {}
func (w *taskAnswer) Flush()              {}

// Write keeps the first part of an answer and drops the rest.
func (w *taskAnswer) Write(p []byte) (int, error) {
	w.kept.Write(p[:min(len(p), queue.MaxResult+1-min(w.kept.Len(), queue.MaxResult+1))])
	return len(p), nil
}

// keep reads an answer to its end and keeps the first part.
func (w *taskAnswer) keep(resp *http.Response) error {
	w.header = resp.Header
	if resp.ContentLength == 0 {
		return nil
	}
	if _, err := w.kept.ReadFrom(io.LimitReader(resp.Body, queue.MaxResult+1)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, resp.Body)
	return err
}
