package router

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
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
		var stop context.CancelFunc
		ctx, stop = context.WithDeadlineCause(ctx, g.Deadline, errDeadline(g.Task.Timeout))
		defer stop()
	}
	payload, err := g.OpenPayload(ctx)
	if err != nil {
		return queue.NotBegun(err)
	}
	defer payload.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+rel.Workload.Name+"/", payload)
	if err != nil {
		return queue.NotBegun(err)
	}
	if req.ContentLength = int64(g.Task.Size); req.ContentLength == 0 {
		req.Body = http.NoBody
	}
	memory := g.Task.Memory
	if rel.Workload.Isolation == mayfly.IsolationInstance {
		memory = 0 // its containers serve other runs too
	}
	w := &taskAnswer{header: http.Header{}}
	x := &run{
		router: r, release: rel, memory: memory, attempt: g.Attempt.Number, started: started,
		body: newRequestBody(w, req.Body), accepted: g.Attempt.Granted, deadline: g.Deadline,
		record: mayfly.Run{
			ID: g.Task.ID, Space: rel.Workload.Space, Workload: rel.Workload.Name, Release: rel.Number,
			Node: r.opts.Node, Trigger: triggerQueue, Started: g.Attempt.Granted,
		},
	}
	x.payload, x.size, x.results = g.Payload, int64(g.Task.Size), g.Results
	x.large, _ = payload.(*os.File)
	status, err := r.perform(ctx, x, &answer{ResponseWriter: w, run: x}, req)
	res := mayfly.Result{Instance: x.record.Instance, Output: w.kept.Bytes()}
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
func (x *run) ask(ctx context.Context, w *answer) (int, error) {
	conn, err := connect(ctx, x.lease)
	if err != nil {
		return 0, x.died(err)
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
	br := bufio.NewReaderSize(conn, 2048)
	resp, err := readResponse(br, &http.Request{Method: http.MethodPost})
	if err == nil {
		_, err = io.Copy(w.ResponseWriter, resp.Body)
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

// head is the head of the request for a task.
func (x *run) head(length int64) []byte {
	h := fmt.Appendf(nil, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", x.record.Workload, length)
	x.identity().Headers(func(name, value string) { h = fmt.Appendf(h, "%s: %s\r\n", name, value) })
	return append(h, "\r\n"...)
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
	header http.Header
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
