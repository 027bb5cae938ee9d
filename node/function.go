package node

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/material"
)

// function is a release whose sandboxes this node makes.
type function struct {
	node     *Node
	release  *mayfly.Release
	template *template
	values   *material.Values              // of secrets and configs
	pool     *container.Pool[*ready]       // nil with isolation instance
	shared   *container.SharedPool[*ready] // else nil
	req      *required                     // what it requires; nil for nothing

	mu     sync.Mutex
	newest weight // of the last new sandbox that was weighed
}

// ready is a sandbox that can serve a run at once.
type ready struct {
	*container.Sandbox
	port  uint16           // that its program listens on; 0 when it is started for the run
	conn  net.Conn         // to that port, unused; or nil
	crowd *container.Crowd // with isolation instance; it has conn
	wired string           // what it was told of what its function requires
	weight
}

// weight is how many bytes a sandbox was found to take, and when.
type weight struct {
	bytes int64
	found time.Time
}

// weighEvery bounds how often a sandbox is weighed, because the kernel sums up
// statistics for it. Those of one release are alike until they have served.
const weighEvery = time.Second

// weigh finds out how much memory a sandbox takes.
func (r *ready) weigh() {
	if time.Since(r.found) < weighEvery {
		return
	}
	r.found = time.Now()
	if st, err := r.Stats(); err == nil {
		r.bytes = st.Memory
	}
}

// Memory is what a sandbox takes while it waits, in bytes.
func (r *ready) Memory() int64 { return r.bytes }

// Remove throws a sandbox away that served nobody.
func (r *ready) Remove() {
	if r.conn != nil {
		r.conn.Close()
	}
	if r.crowd != nil {
		r.crowd.Close()
	}
	r.Sandbox.Remove()
}

const (
	functionPort   = 8080             // $PORT, in a network of its own
	startTimeout   = 30 * time.Second // until a program must listen
	functionMemory = 512 << 20        // bytes, where the manifest says nothing
	functionPids   = 512
	waitingMemory  = 4 << 20 // bytes that a waiting sandbox takes at least, the kernel's share included
)

// listens reports whether the program runs before there is a run, and waits
// for it on a port.
func listens(p mayfly.Protocol) bool { return p == mayfly.HTTP || p == mayfly.Handler }

// Take hands out a sandbox of a release, waiting for one if need be. It counts
// as a run of this node until the lease is given up.
func (n *Node) Take(ctx context.Context, rel *mayfly.Release) (*container.Lease, error) {
	if rel.Workload.Isolation == mayfly.IsolationInstance {
		return n.takePlace(ctx, rel)
	}
	select {
	case n.running <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	f, r, err := n.get(ctx, rel)
	if err != nil {
		<-n.running
		return nil, err
	}
	l := container.NewLease(r.Sandbox, func(bool) {
		<-n.running
		f.pool.Gone()
		n.retire(r.Sandbox, func() { n.done(keyOf(rel)) })
	})
	l.Port, l.Conn = r.port, r.conn
	if r.port == 0 {
		l.Program = container.Program{Argv: f.template.argv, Env: r.Env(), Dir: f.template.config.WorkDir}
	}
	return l, nil
}

// takePlace hands out a place in an instance that serves many runs.
func (n *Node) takePlace(ctx context.Context, rel *mayfly.Release) (*container.Lease, error) {
	f, r, err := n.get(ctx, rel)
	if err != nil {
		return nil, err
	}
	l := r.crowd.NewLease(r.Sandbox, func(well bool) {
		f.weighShared(r)
		f.shared.Put(r, well)
		n.done(keyOf(rel))
	})
	l.Port = r.port
	return l, nil
}

// get takes a sandbox out of the pool of a release, which is in use until done.
func (n *Node) get(ctx context.Context, rel *mayfly.Release) (*function, *ready, error) {
	key := keyOf(rel)
	if err := n.use(key); err != nil {
		return nil, nil, err
	}
	for {
		f, err := n.function(ctx, rel)
		var r *ready
		if err == nil {
			err = f.awaitRequired(ctx)
		}
		if err == nil {
			r, err = f.next(ctx)
		}
		if err == nil && f.stale(r) {
			f.refuse(r)
			continue
		}
		if err == container.ErrClosed {
			n.mu.Lock()
			ended := n.functions[key] == f
			n.mu.Unlock()
			if !ended { // another release became active just now
				continue
			}
			err = errShuttingDown()
		}
		if err != nil {
			n.done(key)
		}
		return f, r, err
	}
}

func errShuttingDown() error {
	return mayfly.Errorf(mayfly.Unavailable, "the node is shutting down")
}

func errTakenDown() error {
	return mayfly.Errorf(mayfly.Unavailable, "the node is being taken down")
}

// function returns what this node has of a release, and begins with it if that
// is nothing yet.
func (n *Node) function(ctx context.Context, rel *mayfly.Release) (*function, error) {
	key := keyOf(rel)
	n.mu.Lock()
	f := n.functions[key]
	n.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f, err := n.newFunction(ctx, rel)
	if err != nil {
		return nil, err
	}
	<-n.begun
	n.mu.Lock()
	defer n.mu.Unlock()
	if other := n.functions[key]; other != nil {
		f.req.close()
		return other, nil
	}
	if n.material.Outdated(f.values, &rel.Workload) {
		f.req.close()
		return nil, mayfly.Errorf(mayfly.Unavailable, "the secrets or configs of %s changed just now", rel.Workload.Name).WithHint("try again")
	}
	if n.stopped {
		f.req.close()
		return nil, errTakenDown()
	}
	if !n.goTaskLocked(func(ctx context.Context) {
		defer f.req.close()
		f.run(ctx)
	}) {
		f.req.close()
		return nil, errShuttingDown()
	}
	n.functions[key] = f
	return f, nil
}

func (n *Node) newFunction(ctx context.Context, rel *mayfly.Release) (*function, error) {
	w := &rel.Workload
	values, err := n.material.Resolve(w.Space, w.Secrets, w.Configs)
	if err != nil {
		return nil, err
	}
	a := asked{Process: w.Process, Resources: functionResources(w.Resources), mounts: w.Mounts, readOnly: w.ReadOnly, network: w.Network, volatile: true}
	a.Env = over(a.Env, values.Env)
	t, err := n.template(ctx, rel.Image, keyOf(rel).owner(), a)
	if err != nil {
		return nil, err
	}
	if len(t.argv) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "neither function %s nor its image says a command", w.Name).
			WithHint("set command: in the manifest")
	}
	shared := func(m mayfly.Mount) bool { return m.Type != "tmpfs" }
	t.sealed = !listens(w.Protocol) && len(w.Volumes) == 0 && !slices.ContainsFunc(w.Mounts, shared)
	f := &function{node: n, release: rel, template: t, values: values}
	if f.req, err = n.requires(w); err != nil {
		return nil, err
	}
	f.openPool()
	return f, nil
}

// Make makes one sandbox that is ready, or says why it cannot be, with the end
// of what it wrote.
func (f *function) Make(ctx context.Context) (*ready, error) {
	w := &f.release.Workload
	me := self{Space: w.Space, Workload: w.Name, Release: f.release.Number}
	r := &ready{}
	t := f.template
	if listens(w.Protocol) {
		port, err := f.port()
		if err != nil {
			return nil, err
		}
		r.port = port
		with := *t
		with.config.Env = append(with.config.Env[:len(with.config.Env):len(with.config.Env)], "PORT="+strconv.Itoa(int(port)))
		t = &with
	}
	t, err := f.wire(r, t)
	if err != nil {
		return nil, err
	}
	id := mayfly.NewID()
	volumes, err := f.node.volumes.Claim(ctx, mayfly.Instance{ID: id, Space: w.Space, Workload: w.Name}, w.Volumes)
	if err != nil {
		return nil, err
	}
	if len(volumes) > 0 {
		with := *t
		with.config.Mounts = slices.Concat(t.config.Mounts, volumes)
		t = &with
	}
	s, err := f.node.sandboxWith(ctx, id, t, f.values, me, "")
	if err != nil {
		f.node.letGo(context.WithoutCancel(ctx), id)
		return nil, err
	}
	r.Sandbox = s
	if r.port != 0 {
		if err := f.listen(ctx, r); err != nil {
			s.Remove()
			return nil, err
		}
	}
	if w.Isolation == mayfly.IsolationInstance {
		r.crowd, r.conn = container.NewCrowd(s, w.PerInstance(), r.conn), nil
	}
	f.weigh(r)
	return r, nil
}

// weigh weighs a new sandbox, unless another one was weighed just now.
func (f *function) weigh(r *ready) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.weight = f.newest
	r.weigh()
	f.newest = r.weight
}

// port is where the program is to listen.
func (f *function) port() (uint16, error) {
	if f.template.network != "host" {
		return functionPort, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// listen starts the program and waits until it can be connected to.
func (f *function) listen(ctx context.Context, r *ready) error {
	_, err := r.Start(ctx, container.Program{Argv: f.template.argv, Env: r.Env(), Dir: f.template.config.WorkDir})
	if err != nil {
		return mayfly.Errorf(mayfly.Failed, "execute %s: %w", f.template.argv[0], err)
	}
	r.conn, err = r.Dial(ctx, r.port, startTimeout)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	why := fmt.Sprintf("it did not listen on $PORT (%d) within %v", r.port, startTimeout)
	select {
	case <-r.Main().Done():
		e := r.Main().Exit()
		select {
		case <-r.Ended(): // init ends after it; then the kernel's word on memory counts
			e = r.Exit()
		case <-time.After(retireGrace):
		}
		why = fmt.Sprintf("it ended before it listened on $PORT (%d): exit code %d", r.port, e.Code)
		if e.Reason == mayfly.OutOfMemory {
			why = fmt.Sprintf("it ran out of memory before it listened on $PORT (%d)", r.port)
		}
	default:
		r.Signal(ctx, nil, syscall.SIGKILL)
		<-r.Main().Done()
	}
	if log := lastLines(r.Sandbox); log != "" {
		why += ". Its log ends with:\n" + log
	}
	return mayfly.Errorf(mayfly.Failed, "function %s did not become ready: %s", f.release.Workload.Name, why)
}

// lastLines is the end of a sandbox's log, for an error's text.
func lastLines(s *container.Sandbox) string {
	var b strings.Builder
	container.ReadLog(context.Background(), s.Dir(), mayfly.LogOptions{Tail: 20}, nil, func(e mayfly.LogEntry) error {
		b.Write(e.Data)
		return nil
	})
	text := b.String()
	const most = 4096
	if len(text) > most {
		text = "..." + text[len(text)-most:]
	}
	return strings.TrimRight(text, "\n")
}

// retireGrace is how long a program that has served its run may take to end.
const retireGrace = time.Second

// retire ends a sandbox that has served, keeps its log, and calls gone.
func (n *Node) retire(s *container.Sandbox, gone func()) {
	if !n.goTask(func(ctx context.Context) {
		end(ctx, s)
		if err := n.logs.keep(s); err != nil {
			n.opts.Log.Error("keep log", "sandbox", s.ID, "err", err)
		}
		s.Remove()
		gone()
	}) {
		s.Remove()
		gone()
	}
}

// end has the program of a sandbox end, and init after it, so that nothing it
// wrote is missing in the log.
func end(ctx context.Context, s *container.Sandbox) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if s.Main() == nil || s.Signal(ctx, nil, sig) != nil {
			break
		}
		t := time.NewTimer(retireGrace)
		select {
		case <-s.Ended():
			t.Stop()
			return
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	if s.Main() != nil {
		select {
		case <-s.Main().Done(): // init is on its way out
		default:
			s.Kill()
		}
	} else {
		s.Kill()
	}
	<-s.Ended()
}
