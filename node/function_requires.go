package node

import (
	"context"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/discovery"
)

// requires watches what a function requires. It is nil for one that requires
// nothing. Nobody waits for its word: a sandbox that serves a run goes on to its
// end with what it began with.
func (n *Node) requires(w *mayfly.Workload) (*required, error) {
	if len(w.Requires) == 0 {
		return nil, nil
	}
	if n.replicas == nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "this node has no discovery")
	}
	who := discovery.Consumer{Space: w.Space, App: w.App, Workload: w.Name, Zone: n.opts.Labels["zone"], NoAck: true}
	return watchRequired(n.replicas.dir, who, w.Requires)
}

// awaitRequired waits until what the function requires is there.
func (f *function) awaitRequired(ctx context.Context) error {
	if f.req == nil {
		return nil
	}
	if sets, _ := f.req.now(); f.req.lacks(sets) == nil {
		return nil
	}
	own, err := f.node.requires(&f.release.Workload) // as others may be waiting
	if err != nil {
		return err
	}
	defer own.close()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	for {
		sets, _ := own.now()
		missing := own.lacks(sets)
		if missing == nil {
			return nil
		}
		select {
		case <-own.changed:
		case <-limit.C:
			return f.misses(missing)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *function) misses(req *mayfly.Require) error {
	what := strings.TrimSpace(req.Service + " " + req.Role)
	return mayfly.Errorf(mayfly.Unavailable, "function %s requires %s, of which nothing is ready", f.release.Workload.Name, what).
		WithHint("`mayfly services` shows what is")
}

// wiring is what sandboxes are told of sets.
func (r *required) wiring(sets [][]mayfly.Endpoint) *wiring {
	w := newWiring()
	for i := range r.reqs {
		w.add(&r.reqs[i], sets[i])
	}
	return w
}

// stale reports whether a sandbox was told of something that has changed.
func (f *function) stale(r *ready) bool {
	if f.req == nil {
		return false
	}
	sets, _ := f.req.now()
	return string(f.req.wiring(sets).endpoints()) != r.wired
}

// wire tells a sandbox that is to be made of what its function requires.
func (f *function) wire(r *ready, t *template) (*template, error) {
	if f.req == nil {
		return t, nil
	}
	sets, _ := f.req.now()
	if missing := f.req.lacks(sets); missing != nil { // it went again; whoever waits is not kept waiting in a maker's place
		return nil, f.misses(missing)
	}
	w := f.req.wiring(sets)
	endpoints := w.endpoints()
	r.wired = string(endpoints)
	with := *t
	with.config.Env = w.environ(t.config.Env, f.release.Workload.Env)
	with.files = map[string][]byte{endpointsName: endpoints, envName: container.EnvFile(w.env)}
	return &with, nil
}
