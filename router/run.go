package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/store"
)

// errClientLeft is why a run is cancelled whose client went away.
var errClientLeft = errors.New("the client left")

// run is one request on its way through a function.
type run struct {
	router   *Router
	release  *mayfly.Release
	memory   int64                 // limit in bytes, where it is not the release's
	attempt  int                   // 1, 2, 3... of a task; 1 of a call
	payload  []byte                // of a task, or
	large    *os.File              // the same, when it is large
	size     int64                 // of either, bytes
	request  *mayfly.Request       // that the task was; nil: none
	results  map[string][]byte     // of the tasks that it came after
	started  func(instance string) // told when there is a container; or nil
	body     *requestBody
	visit    *visit
	lease    *container.Lease
	moves    moves // from instances that ended before they had answered
	accepted time.Time
	handed   time.Time // over to the sandbox
	deadline time.Time

	mu     sync.Mutex
	record mayfly.Run
}

const triggerQueue = "queue"

// call is what a run is for, apart from its request.
type call struct {
	trigger string
	memory  int64 // bytes, instead of the release's limit; 0: that
	visit   *visit
}

// serve makes a run of a request and answers it.
func (r *Router) serve(w http.ResponseWriter, req *http.Request, rel *mayfly.Release, c call) {
	now := time.Now()
	timeout := rel.Workload.Timeout
	if timeout == 0 {
		timeout = r.opts.Timeout
	}
	x := &run{router: r, release: rel, memory: c.memory, attempt: 1, body: newRequestBody(w, req.Body), visit: c.visit, accepted: now, deadline: now.Add(timeout), record: mayfly.Run{
		ID: mayfly.NewID(), Space: rel.Workload.Space, Workload: rel.Workload.Name, Release: rel.Number,
		Node: r.opts.Node, Trigger: c.trigger, Started: now,
	}}
	ctx, cancel := context.WithDeadlineCause(req.Context(), x.deadline, errDeadline(timeout))
	defer cancel()
	w.Header().Set("X-Mayfly-Run", x.record.ID)
	out := &answer{ResponseWriter: w, run: x}
	defer x.body.leave() // when the run is over
	r.begin(x)
	defer r.finish(x)
	status, err := r.performRequest(ctx, x, out, req)
	if err == nil {
		x.end(status, answeredWith(status))
		return
	}
	exit, told := x.explain(ctx, err)
	if out.status != 0 || told == errClientLeft {
		x.end(out.status, exit)
		x.body.left = true
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	x.end(mayfly.KindOf(told).Status(), exit)
	begun := errors.As(err, new(*http.MaxBytesError)) || req.Header.Get("Expect") == ""
	if mayfly.KindOf(told) == mayfly.TooLarge && begun {
		x.body.drain()
	}
	problem(w, told, x.record.ID)
}

// errDeadline is a function's timeout that has passed. Every run has one ready, and
// few need the words.
type errDeadline time.Duration

func (e errDeadline) Error() string { return e.Unwrap().Error() }

func (e errDeadline) Unwrap() error {
	return mayfly.Errorf(mayfly.TimedOut, "the function did not end within its timeout of %v", time.Duration(e))
}

// performRequest performs a run that has a request.
func (r *Router) performRequest(ctx context.Context, x *run, w *answer, req *http.Request) (int, error) {
	wl := &x.release.Workload
	maxBody := wl.MaxBody
	if maxBody == 0 {
		maxBody = r.opts.MaxBody
	}
	if x.record.Trigger == triggerQueue { // the queue has its own limit, and asked for the workload's
		maxBody = max(maxBody, x.size)
	}
	if req.ContentLength > maxBody {
		return 0, mayfly.Errorf(mayfly.TooLarge, "the body has %d bytes; function %s takes %d at most", req.ContentLength, wl.Name, maxBody)
	}
	// On a copy: net/http must find its own body, to skip what is left of it
	// before the next request on the connection.
	req = req.WithContext(ctx)
	x.body.limit(maxBody)
	req.Body = x.body
	if !x.body.eof.Load() { // a client that neither sends on nor leaves must not outlast the deadline
		defer context.AfterFunc(ctx, x.body.interrupt)()
	}
	return r.perform(ctx, x, func() (int, error) {
		if !x.body.eof.Load() {
			x.body.control.EnableFullDuplex() // HTTP/2 is always, and says so with an error
		}
		switch wl.Protocol {
		case mayfly.Stdio:
			return x.stdio(ctx, w, req)
		case mayfly.CGI:
			return x.cgi(ctx, w, x.visit.retold(req))
		default:
			return x.http(ctx, w, req)
		}
	})
}

// perform takes a run through its stages, of which the last is serve. It returns
// the status that was answered, and an error unless the answer was the
// function's own and whole.
func (r *Router) perform(ctx context.Context, x *run, serve func() (int, error)) (int, error) {
	wl := &x.release.Workload
	l := r.limit(x.release)
	if err := l.acquire(ctx, wl.Concurrency, r.opts.MaxQueue); err != nil {
		return 0, x.crowded(ctx, err)
	}
	defer l.release()
	x.set(func(rec *mayfly.Run) { rec.Queue = time.Since(x.accepted) })
	for {
		status, err := r.performOnce(ctx, x, serve)
		e := (*movableError)(nil)
		if !errors.As(err, &e) {
			return status, err
		}
		if ctx.Err() != nil || !x.moves.on(e) {
			return status, e.error
		}
		x.set(func(rec *mayfly.Run) { rec.Moved++ })
	}
}

// performOnce has one instance serve a run. It has ended before it has answered
// where the error is a movableError.
func (r *Router) performOnce(ctx context.Context, x *run, serve func() (int, error)) (int, error) {
	wl := &x.release.Workload
	lease, err := r.sandboxes.Take(ctx, x.release)
	if err != nil {
		return 0, x.crowded(ctx, err)
	}
	x.lease = lease
	x.handed = time.Now()
	x.set(func(rec *mayfly.Run) {
		rec.Instance = lease.ID
		rec.Sandbox = x.handed.Sub(x.accepted) - rec.Queue
	})
	defer lease.GiveUp(false) // unless it was before
	if x.started != nil {
		x.started(lease.ID)
	}
	if wl.Isolation == mayfly.IsolationInstance {
		lease.Serve(x.identity())
	} else if err := x.furnish(); err != nil {
		return 0, err
	}
	if x.memory > 0 {
		if err := lease.SetMemory(x.memory); err != nil {
			return 0, err
		}
	}
	status, err := serve()
	x.giveUp(ctx, err)
	return status, err
}

// giveUp ends the lease of a run that ended with err. What a client does is no
// reason to end an instance in which others are.
func (x *run) giveUp(ctx context.Context, err error) {
	l := x.lease
	if !x.body.over(ctx) {
		l.GiveUp(err == nil || l.Shared() && byClient(err))
		return
	}
	reason, cause := endOf(ctx)
	if l.Shared() && reason != mayfly.DeadlinePassed {
		l.GiveUp(mayfly.KindOf(cause) != mayfly.Unavailable)
		return
	}
	l.Blame(reason, cause.Error())
	if l.Shared() {
		l.Condemn() // nobody knows how to end the run alone
	}
	l.GiveUp(false)
}

// byClient reports whether the client is why a run failed.
func byClient(err error) bool {
	return errors.As(err, new(*bodyError)) || errors.As(err, new(*http.MaxBytesError))
}

// furnish puts what the run is told into a container that serves it alone.
func (x *run) furnish() error {
	if err := x.lease.PutResults(x.results); err != nil {
		return err
	}
	return x.lease.SetRun(x.identity())
}

// crowded says that there was no room in time, rather than that the function
// was slow.
func (x *run) crowded(ctx context.Context, err error) error {
	if ctx.Err() != nil && mayfly.KindOf(context.Cause(ctx)) == mayfly.TimedOut {
		return mayfly.Errorf(mayfly.Busy, "no sandbox was free for function %s in time", x.release.Workload.Name)
	}
	return err
}

// endOf is why a context ended: the deadline, the node's end, or else that the
// client left.
func endOf(ctx context.Context) (mayfly.Reason, error) {
	cause := context.Cause(ctx)
	switch mayfly.KindOf(cause) {
	case mayfly.TimedOut:
		return mayfly.DeadlinePassed, cause
	case mayfly.Unavailable:
		return mayfly.Cancelled, cause
	default:
		return mayfly.Cancelled, errClientLeft
	}
}

// answeredWith is the end of a run that was answered by its function.
func answeredWith(status int) mayfly.Exit {
	e := mayfly.Exit{Reason: mayfly.Succeeded, Time: time.Now()}
	if status >= 400 {
		e.Reason, e.Detail = mayfly.ExitedNonZero, "it answered with status "+strconv.Itoa(status)
	}
	return e
}

// explain makes an error into the run's end and what the client is told.
func (x *run) explain(ctx context.Context, err error) (mayfly.Exit, error) {
	e := mayfly.Exit{Reason: mayfly.ExitedNonZero, Time: time.Now()}
	if x.lease == nil {
		e.Reason = mayfly.Rejected
	}
	var me *mayfly.Error
	var tooLarge *http.MaxBytesError
	var xe *exitError
	var bad *bodyError
	told := err
	switch {
	case x.body.over(ctx) && mayfly.KindOf(err) != mayfly.Busy:
		e.Reason, told = endOf(ctx)
	case errors.As(err, &tooLarge):
		e.Reason = mayfly.Rejected
		told = mayfly.Errorf(mayfly.TooLarge, "the body is larger than the %d bytes that function %s takes", tooLarge.Limit, x.release.Workload.Name)
	case errors.As(err, &bad):
		e.Reason = mayfly.Rejected
		told = mayfly.Errorf(mayfly.Invalid, "the body broke off: %w", bad)
	case errors.As(err, &xe):
		return xe.exit, mayfly.Errorf(mayfly.Failed, "function %s %s", x.release.Workload.Name, xe.Error()).WithHint("see mayfly logs %s", x.record.ID)
	case errors.As(err, &me):
		told = me
	default:
		x.router.opts.Log.Error("serve run", "run", x.record.ID, "workload", x.release.Workload.Name, "err", err)
	}
	e.Detail = told.Error()
	return e, told
}

// end records how the run ended, and the status that its client was given, 0
// when that was none.
func (x *run) end(status int, e mayfly.Exit) {
	x.set(func(rec *mayfly.Run) {
		rec.Status, rec.Exit = status, &e
		if !x.handed.IsZero() {
			rec.Handler = e.Time.Sub(x.handed)
		}
	})
}

// exitError is a program that ended otherwise than well.
type exitError struct{ exit mayfly.Exit }

func (e *exitError) Error() string {
	switch {
	case e.exit.Reason == mayfly.OutOfMemory:
		return "ran out of memory"
	case e.exit.Detail != "":
		return "failed: " + e.exit.Detail
	default:
		return fmt.Sprintf("ended with exit code %d", e.exit.Code)
	}
}

func (x *run) set(f func(*mayfly.Run)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f(&x.record)
}

func (r *Router) begin(x *run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active[x.record.ID] = x
}

func (r *Router) finish(x *run) {
	r.mu.Lock()
	delete(r.active, x.record.ID)
	r.mu.Unlock()
	x.mu.Lock()
	rec := x.record
	x.mu.Unlock()
	r.store.RecordRun(rec)
}

func (r *Router) limit(rel *mayfly.Release) *limit {
	key := store.Key{Space: rel.Workload.Space, Name: rel.Workload.Name}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.limits[key]
	if l == nil {
		l = &limit{}
		r.limits[key] = l
	}
	return l
}

// answer is the client's side of a run. It adds Server-Timing as the head goes
// out, and knows whether it did.
type answer struct {
	http.ResponseWriter
	run    *run
	status int // 0 until the head is out
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
		x := a.run
		x.mu.Lock()
		rec := x.record
		x.mu.Unlock()
		a.Header().Set("X-Mayfly-Run", rec.ID)
		b := append(make([]byte, 0, 80), "queue;dur="...)
		b = append(appendMillis(b, rec.Queue), ", sandbox;dur="...)
		b = append(appendMillis(b, rec.Sandbox), ", handler;dur="...)
		a.Header().Set("Server-Timing", string(appendMillis(b, time.Since(x.handed))))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// Hijack implements http.Hijacker, for a connection that goes on in another
// protocol.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.status = http.StatusSwitchingProtocols
		a.run.body.left = true // it is no HTTP any more
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// ReadFrom implements io.ReaderFrom, so that the kernel can move a large body.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := a.ResponseWriter.(io.ReaderFrom); ok && a.status != 0 {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{a}, r)
}

func (a *answer) flush() { http.NewResponseController(a.ResponseWriter).Flush() }

// appendMillis appends a time in milliseconds, to the microsecond.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = append(strconv.AppendInt(b, us/1000, 10), '.')
	return append(b, byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10))
}
