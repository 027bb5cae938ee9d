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
	"net/netip"
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
	Demand    Demand        // of instances of services; nil: nobody makes more
	Tasks     Submitter     // takes requests that prefer not to wait; nil: that preference is passed over

	Endpoints    Endpoints      // of services; nil: routes to services are Unavailable
	WakeTimeout  time.Duration  // that a request waits for an instance of a service; 60s if zero
	TrustProxies []netip.Prefix // whose X-Forwarded-* and Forwarded are believed
	Access       *AccessLog     // of web requests; nil: none
}

// Router serves functions over HTTP.
type Router struct {
	store     *store.Store
	sandboxes Sandboxes
	logs      Logs
	opts      Options
	table     atomic.Pointer[table]
	tables    sync.Mutex // one table is made at a time, and what follows is guarded
	backends  map[store.Key]*backend
	fresh     []*backend    // that Run has not begun with
	begun     chan struct{} // there are such

	readers sync.Pool // of *bufio.Reader, for answers
	heads   buffers   // for the heads of requests
	copies  buffers   // for bodies

	mu     sync.Mutex
	active map[string]*run // that have not ended, by id
	limits map[store.Key]*limit
	gates  map[store.Key]*gate // of services
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
		gates:  make(map[store.Key]*gate),
	}
	if r.opts.WakeTimeout == 0 {
		r.opts.WakeTimeout = time.Minute
	}
	r.backends, r.begun = make(map[store.Key]*backend), make(chan struct{}, 1)
	r.heads.size, r.copies.size = 2<<10, 32<<10
	r.table.Store(newTable())
	r.Refresh()
	return r
}

// Refresh makes the table say what the record says now. Whoever changed a route
// calls it so that the next request sees the change.
func (r *Router) Refresh() {
	r.tables.Lock()
	defer r.tables.Unlock()
	old := r.table.Load()
	changes := r.store.RouteChanges(old.version)
	if changes.Version == old.version {
		return
	}
	var dropped []*target
	r.table.Store(old.with(changes, r.target, func(t *target) { dropped = append(dropped, t) }))
	for _, t := range dropped {
		r.leave(t)
	}
	if len(r.fresh) > 0 {
		select {
		case r.begun <- struct{}{}:
		default:
		}
	}
}

// target is where a route leads. r.tables is held.
func (r *Router) target(t store.RouteTarget) *target {
	to := &target{route: t.MappedRoute, active: t.Active}
	if t.Active == nil || t.Active.Workload.Service == nil {
		return to
	}
	port, err := t.Active.Workload.RoutePort(t.Port)
	if err == nil && r.opts.Endpoints == nil {
		err = mayfly.Errorf(mayfly.Unavailable, "this node does not know where services are")
	}
	if err == nil {
		to.port = port.Name
		to.backend, err = r.backend(&t.Active.Workload)
	}
	if err != nil {
		to.err = mayfly.Errorf(mayfly.Unavailable, "the route does not lead to %s: %w", t.Workload, err)
	}
	return to
}

// backend returns what there is of a service, with its limits of now. r.tables is
// held.
func (r *Router) backend(w *mayfly.Workload) (*backend, error) {
	key := store.Key{Space: w.Space, Name: w.Name}
	b := r.backends[key]
	if b == nil {
		var err error
		if b, err = r.openBackend(key); err != nil {
			return nil, err
		}
		r.backends[key] = b
		r.fresh = append(r.fresh, b)
	}
	b.configure(w)
	return b, nil
}

// leave forgets a service once no route leads to it any more. r.tables is held.
func (r *Router) leave(t *target) {
	b := t.backend
	if b == nil || r.backends[b.key] != b {
		return
	}
	if w, err := r.store.Workload(b.key.Space, b.key.Name); err == nil && w.Workload.Service != nil && r.store.RouteCount(b.key.Space, b.key.Name) > 0 {
		return
	}
	delete(r.backends, b.key)
	close(b.over)
}

// Run keeps the table of routes and the instances of services current until ctx
// ends.
func (r *Router) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		snap := r.store.Snapshot()
		r.Refresh()
		r.tables.Lock()
		for _, b := range r.fresh {
			all.Go(func() { b.run(ctx) })
		}
		r.fresh = nil
		r.tables.Unlock()
		select {
		case <-snap.Changed():
		case <-r.begun:
		case <-ctx.Done():
			return nil
		}
	}
}

// ServeHTTP serves a web request by its route.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	v := r.visitOf(req)
	if r.opts.Access != nil {
		out := r.opts.Access.begin(w, req, r.client(req, &v), &v)
		defer out.end()
		w = out
	}
	if req.Method == http.MethodConnect {
		problem(w, mayfly.Errorf(mayfly.Invalid, "this is no proxy that connects to others"), "")
		return
	}
	spot, at := r.table.Load().match(req.Host, req.URL.Path)
	if spot == nil {
		problem(w, mayfly.Errorf(mayfly.NotFound, "no route leads from %s%s", req.Host, req.URL.Path), "")
		return
	}
	split := spot.find(req.Method)
	if split == nil {
		wrongMethod(w, req, spot.allow)
		return
	}
	r.serveTarget(w, req, split.pick(), at, &v)
}

// serveTarget serves a request whose route is at a path.
func (r *Router) serveTarget(w http.ResponseWriter, req *http.Request, t *target, at string, v *visit) {
	rel, err := r.releaseOf(req.Context(), t)
	if err != nil {
		problem(w, err, "")
		return
	}
	v.workload, v.release = rel.Workload.Name, rel.Number
	if t.route.Strip && at != "/" {
		req, v.prefix = strip(req, at), at
	}
	switch {
	case t.backend != nil:
		r.serveService(w, req, t, v)
	case r.prefersAsync(req):
		r.submit(w, v.retold(req), &rel.Workload, 0)
	default:
		r.serve(w, req, rel, call{trigger: "route", visit: v})
	}
}

// releaseOf is the release that a route leads to.
func (r *Router) releaseOf(ctx context.Context, t *target) (*mayfly.Release, error) {
	switch {
	case t.err != nil:
		return nil, t.err
	case t.active == nil:
		return nil, mayfly.Errorf(mayfly.Unavailable, "the workload %s of this route is gone", t.route.Workload)
	case t.route.Release == 0 || t.route.Release == t.active.Number:
		return t.active, nil
	}
	if rel := t.pinned.Load(); rel != nil {
		return rel, nil
	}
	rel, err := r.store.Release(ctx, t.route.Space, t.route.Workload, t.route.Release)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "the release of this route is gone: %w", err)
	}
	t.pinned.Store(&rel)
	return &rel, nil
}

// ServeCall runs a function of a space with a request that came another way.
func (r *Router) ServeCall(w http.ResponseWriter, req *http.Request, to client.Callee) {
	w2, err := r.store.Function(to.Space, to.Workload)
	if err != nil {
		problem(w, err, "")
		return
	}
	if err := r.checkMemory(&w2.Workload, to.Memory); err != nil {
		problem(w, err, "")
		return
	}
	v := r.visitOf(req)
	if r.prefersAsync(req) {
		r.submit(w, v.retold(req), &w2.Workload, to.Memory)
		return
	}
	r.serve(w, req, &w2.Release, call{trigger: "call", memory: to.Memory, visit: &v})
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
