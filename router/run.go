package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	lease    *container.Lease
	accepted time.Time
	handed   time.Time // over to the sandbox
	deadline time.Time

	mu     sync.Mutex
	record mayfly.Run
}

// serve makes a run of a request and answers it.
func (r *Router) serve(w http.ResponseWriter, req *http.Request, rel *mayfly.Release, trigger string) {
	now := time.Now()
	timeout := rel.Workload.Timeout
	if timeout == 0 {
		timeout = r.opts.Timeout
	}
	x := &run{router: r, release: rel, accepted: now, deadline: now.Add(timeout), record: mayfly.Run{
		ID: mayfly.NewID(), Space: rel.Workload.Space, Workload: rel.Workload.Name, Release: rel.Number,
		Node: r.opts.Node, Trigger: trigger, Started: now,
	}}
	ctx, cancel := context.WithDeadlineCause(req.Context(), x.deadline, errDeadline(timeout))
	defer cancel()
	w.Header().Set("X-Mayfly-Run", x.record.ID)
	out := &answer{ResponseWriter: w, run: x}
	r.begin(x)
	defer r.finish(x)
	defer func() {
		if v := recover(); v != nil { // the connection is to be cut
			x.end(ctx, 0, fmt.Errorf("the answer was cut off"))
			panic(v)
		}
	}()
	status, err := r.perform(ctx, x, out, req)
	x.end(ctx, status, err)
	if err == nil || errors.Is(context.Cause(ctx), context.Canceled) {
		return
	}
	if out.wrote {
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		drain(w, req.Body)
	}
	problem(w, x.explain(err), x.record.ID)
}

// drain reads on for a while what a client still sends, because one that is
// cut off while it writes does not see the answer.
func drain(w http.ResponseWriter, body io.Reader) {
	const most, longest = 16 << 20, 2 * time.Second
	c := http.NewResponseController(w)
	if c.SetReadDeadline(time.Now().Add(longest)) == nil {
		io.CopyN(io.Discard, body, most)
		c.SetReadDeadline(time.Time{})
	}
}

func errDeadline(timeout time.Duration) error {
	return mayfly.Errorf(mayfly.TimedOut, "the function did not end within its timeout of %v", timeout)
}

// perform takes the request through its stages. It returns the status that was
// answered, and an error unless the answer was the function's own and whole.
func (r *Router) perform(ctx context.Context, x *run, w *answer, req *http.Request) (int, error) {
	wl := &x.release.Workload
	maxBody := wl.MaxBody
	if maxBody == 0 {
		maxBody = r.opts.MaxBody
	}
	if req.ContentLength > maxBody {
		return 0, mayfly.Errorf(mayfly.TooLarge, "the body has %d bytes; function %s takes %d at most", req.ContentLength, wl.Name, maxBody)
	}
	// On a copy: net/http must find its own body, to skip what is left of it
	// before the next request on the connection.
	req = req.WithContext(ctx)
	req.Body = http.MaxBytesReader(w.ResponseWriter, req.Body, maxBody)
	l := r.limit(x.release)
	if err := l.acquire(ctx, wl.Concurrency, r.opts.MaxQueue); err != nil {
		return 0, x.crowded(ctx, err)
	}
	defer l.release()
	x.set(func(rec *mayfly.Run) { rec.Queue = time.Since(x.accepted) })
	lease, err := r.sandboxes.Take(ctx, x.release)
	if err != nil {
		return 0, x.crowded(ctx, err)
	}
	http.NewResponseController(w.ResponseWriter).EnableFullDuplex() // HTTP/2 is always, and says so with an error
	x.lease = lease
	x.handed = time.Now()
	x.set(func(rec *mayfly.Run) {
		rec.Instance = lease.ID
		rec.Sandbox = x.handed.Sub(x.accepted) - rec.Queue
	})
	if err := lease.PutFile("run.json", x.identity()); err != nil {
		lease.GiveUp(false)
		return 0, err
	}
	var status int
	switch wl.Protocol {
	case mayfly.Stdio:
		status, err = x.stdio(ctx, w, req)
	case mayfly.CGI:
		status, err = x.cgi(ctx, w, req)
	default:
		status, err = x.http(ctx, w, req)
	}
	if ctx.Err() != nil {
		lease.Blame(x.reason(ctx))
	}
	lease.GiveUp(err == nil && ctx.Err() == nil)
	return status, err
}

// crowded says that there was no room in time, rather than that the function
// was slow.
func (x *run) crowded(ctx context.Context, err error) error {
	if ctx.Err() != nil && mayfly.KindOf(context.Cause(ctx)) == mayfly.TimedOut {
		return mayfly.Errorf(mayfly.Busy, "no sandbox was free for function %s in time", x.release.Workload.Name)
	}
	return err
}

// reason is why a run whose context has ended did not succeed.
func (x *run) reason(ctx context.Context) (mayfly.Reason, string) {
	if mayfly.KindOf(context.Cause(ctx)) == mayfly.TimedOut {
		return mayfly.DeadlinePassed, context.Cause(ctx).Error()
	}
	return mayfly.Cancelled, errClientLeft.Error()
}

// end records how the run ended.
func (x *run) end(ctx context.Context, status int, err error) {
	e := mayfly.Exit{Reason: mayfly.Succeeded, Time: time.Now()}
	var xe *exitError
	switch {
	case err == nil && status >= 400:
		e.Reason, e.Detail = mayfly.ExitedNonZero, "it answered with status "+strconv.Itoa(status)
	case err == nil:
	case x.lease == nil && ctx.Err() == nil:
		e.Reason, e.Detail = mayfly.Rejected, err.Error()
	case ctx.Err() != nil:
		e.Reason, e.Detail = x.reason(ctx)
	case errors.As(err, &xe):
		e = xe.exit
	default:
		e.Reason, e.Detail = mayfly.ExitedNonZero, err.Error()
	}
	x.set(func(rec *mayfly.Run) {
		if rec.Exit != nil {
			return
		}
		rec.Status, rec.Exit = status, &e
		if !x.handed.IsZero() {
			rec.Handler = e.Time.Sub(x.handed)
		}
	})
}

// explain makes an error into what the client is told.
func (x *run) explain(err error) error {
	var me *mayfly.Error
	var tooLarge *http.MaxBytesError
	var xe *exitError
	switch {
	case errors.As(err, &tooLarge):
		return mayfly.Errorf(mayfly.TooLarge, "the body is larger than the %d bytes that function %s takes", tooLarge.Limit, x.release.Workload.Name)
	case errors.As(err, &xe):
		text := fmt.Sprintf("function %s %s", x.release.Workload.Name, xe.Error())
		return mayfly.Errorf(mayfly.Failed, "%s", text).WithHint("see mayfly logs %s", x.record.ID)
	case errors.Is(err, context.DeadlineExceeded):
		return errDeadline(x.deadline.Sub(x.accepted))
	case errors.As(err, &me):
		return me
	default:
		x.router.opts.Log.Error("serve run", "run", x.record.ID, "workload", x.release.Workload.Name, "err", err)
		return err
	}
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
	run   *run
	wrote bool
}

func (a *answer) WriteHeader(status int) {
	if !a.wrote && status >= 200 {
		a.wrote = true
		x := a.run
		x.mu.Lock()
		rec := x.record
		x.mu.Unlock()
		a.Header().Set("X-Mayfly-Run", rec.ID)
		a.Header().Set("Server-Timing", fmt.Sprintf("queue;dur=%s, sandbox;dur=%s, handler;dur=%s",
			millis(rec.Queue), millis(rec.Sandbox), millis(time.Since(x.handed))))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if !a.wrote {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) flush() { http.NewResponseController(a.ResponseWriter).Flush() }

func millis(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 3, 64)
}
