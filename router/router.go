// Package router is how a web request becomes a run: it finds the function
// that the host and path belong to, takes a sandbox, hands the request over in
// the function's protocol, streams the answer back, and writes the run into
// the account.
//
// A request is answered in every case: with what the function said; with 404
// when no route matches; 413 when the body is too large; 429 with Retry-After
// when there is no room and the queue is full; 502 with the run's id when the
// function failed; 504 when its time ran out. A client that leaves ends its
// run. Nothing is retried after the function has seen the request.
//
// A POST that prefers not to wait (`Prefer: respond-async`, RFC 7240) becomes a
// task: it is answered with 202 and the task's id, which is that of its run, once
// the task is on disk.
//
// The table of routes is immutable and replaced whole when the record changes.
// Making sandboxes is the node's.
package router

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// Sandboxes hands out sandboxes. The node package implements it.
type Sandboxes interface {
	// Take blocks until there is a sandbox of the release or ctx ends. An
	// error of kind Busy means that too many wait.
	Take(ctx context.Context, r *mayfly.Release) (*container.Lease, error)
}

// Logs gives the logs of sandboxes, those that are gone included. The node
// package implements it.
type Logs interface {
	SandboxLogs(ctx context.Context, id string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error
}

// Options tune a Router. The zero value is fit for production.
type Options struct {
	Log       *slog.Logger  // nil: no log
	Node      string        // name of this machine, for the account of runs
	Timeout   time.Duration // of a run whose workload says none; 60s if zero
	MaxBody   int64         // bytes of a request whose workload says none; 64 MiB if zero
	MaxMemory int64         // bytes that one call may ask for; no limit if zero
	MaxQueue  int           // requests of one workload that wait for its concurrency; 1000 if zero
	Tasks     Submitter     // takes requests that prefer not to wait; nil: that preference is passed over
}

// Router serves functions over HTTP.
type Router struct {
	store     *store.Store
	sandboxes Sandboxes
	logs      Logs
	opts      Options
	table     atomic.Pointer[table]
	tables    sync.Mutex // one table is made at a time
	readers   sync.Pool  // of *bufio.Reader, for the answers to tasks

	mu     sync.Mutex
	active map[string]*run // that have not ended, by id
	limits map[store.Key]*limit
}

// New returns a Router over the record. Its table follows the record while
// Run runs.
func New(s *store.Store, sandboxes Sandboxes, logs Logs, o Options) *Router {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 20
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 1000
	}
	r := &Router{
		store: s, sandboxes: sandboxes, logs: logs, opts: o,
		active: make(map[string]*run),
		limits: make(map[store.Key]*limit),
	}
	r.Refresh()
	return r
}

// Refresh makes the table say what the record says now. Whoever changed a route
// calls it so that the next request sees the change.
func (r *Router) Refresh() { r.refresh() }

func (r *Router) refresh() *store.Snapshot {
	r.tables.Lock()
	defer r.tables.Unlock()
	snap := r.store.Snapshot()
	r.table.Store(newTable(snap))
	return snap
}

// Run keeps the table of routes current until ctx ends.
func (r *Router) Run(ctx context.Context) error {
	for {
		snap := r.refresh()
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return nil
		}
	}
}

// ServeHTTP serves a web request by its route.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w2 := r.table.Load().match(req.Host, req.URL.Path)
	if w2 == nil {
		problem(w, mayfly.Errorf(mayfly.NotFound, "no route leads from %s%s", req.Host, req.URL.Path), "")
		return
	}
	if r.prefersAsync(req) {
		r.submit(w, req, &w2.Workload, 0)
		return
	}
	r.serve(w, req, w2, call{trigger: "route"})
}

// ServeCall runs a function of a space with a request that came another way.
func (r *Router) ServeCall(w http.ResponseWriter, req *http.Request, to client.Callee) {
	w2, err := r.store.Workload(to.Space, to.Workload)
	if err != nil {
		problem(w, err, "")
		return
	}
	if err := r.checkMemory(&w2.Workload, to.Memory); err != nil {
		problem(w, err, "")
		return
	}
	if r.prefersAsync(req) {
		r.submit(w, req, &w2.Workload, to.Memory)
		return
	}
	r.serve(w, req, &w2.Release, call{trigger: "call", memory: to.Memory})
}

// checkMemory says whether a call may have so much memory: more than others of
// the function, where no other will run in its container.
func (r *Router) checkMemory(w *mayfly.Workload, bytes int64) error {
	switch {
	case bytes == 0:
		return nil
	case w.Isolation == mayfly.IsolationInstance:
		return mayfly.Errorf(mayfly.Invalid, "a container of function %s serves many calls", w.Name).WithHint("set memory: in its manifest")
	case bytes < w.Memory:
		return mayfly.Errorf(mayfly.Invalid, "function %s has %d bytes of memory; a call can have more, not less", w.Name, w.Memory)
	case r.opts.MaxMemory > 0 && bytes > r.opts.MaxMemory:
		return mayfly.Errorf(mayfly.Invalid, "this machine has %d bytes of memory, and the call asks for %d", r.opts.MaxMemory, bytes)
	}
	return nil
}
