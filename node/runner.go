package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/queue"
)

// Requests run tasks of functions that are reached by requests. The router
// package gives them.
type Requests interface {
	// ServeTask runs one attempt, and calls started when it has a container.
	// The end of ctx ends it.
	ServeTask(ctx context.Context, rel *mayfly.Release, g *queue.Grant, started func(instance string)) mayfly.Result

	// Enter waits until the workload's concurrency, which calls and tasks
	// share, lets another run through, and counts it until leave is called.
	Enter(ctx context.Context, rel *mayfly.Release) (leave func(), err error)
}

// Emitter publishes the events that functions return. The event package gives it.
type Emitter interface {
	// Returned publishes what a task returned, if that is an event, once for each
	// task. It is called before the end of the task is on disk.
	Returned(ctx context.Context, task *mayfly.Task, header http.Header, output []byte) error
}

// RunnerOptions tune a Runner. The zero value is fit for production.
type RunnerOptions struct {
	Log   *slog.Logger // nil: no log
	Tasks int          // attempts at once; 8 for each core, and 16 at least, if zero
	Emit  Emitter      // nil: no result is an event
}

// Runner runs tasks on this machine. It asks the queue for one whenever it has
// room, which is what places them.
//
// A program that is started for its task reads the payload from a file and
// writes to its sandbox's log, so it needs no daemon: when one is killed, the
// attempt goes on, and the next daemon's Adopt takes it over. A function that
// listens gets the payload over a connection of the daemon's; its attempt ends
// with that, and is repeated.
type Runner struct {
	node     *Node
	queue    *queue.Queue
	requests Requests
	opts     RunnerOptions
	adopted  []*attempt
	unwanted []*container.Sandbox // of attempts whose tasks have moved on
	ahead    *ahead
	down     context.Context // ends when all attempts are to end, for the node goes down
	goDown   context.CancelFunc

	workers sync.WaitGroup

	mu      sync.Mutex
	running map[*attempt]struct{} // that begin, run or wait for Run to attend to them
	ctx     context.Context       // of Run; nil before and after
	lent    map[string]*loan      // by task
}

// loan is the place of a task that waits for others, at another's disposal.
type loan struct {
	waits int // calls of Waiting that are not over
	end   context.CancelFunc
}

// NewRunner returns a Runner of the queue's tasks on the node.
func NewRunner(n *Node, q *queue.Queue, r Requests, o RunnerOptions) *Runner {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tasks == 0 {
		o.Tasks = max(16, 8*runtime.NumCPU())
	}
	run := &Runner{node: n, queue: q, requests: r, opts: o, running: make(map[*attempt]struct{}), lent: make(map[string]*loan), ahead: newAhead(o.Tasks)}
	run.down, run.goDown = context.WithCancel(context.Background())
	q.OnBacklog(o.Tasks, run.ahead.tell)
	n.mu.Lock()
	n.runner = run
	n.mu.Unlock()
	return run
}

// Adopt takes over the attempts that an earlier daemon started, whether they
// still run or have ended. It is called before the queue runs, so that none of
// them is granted again.
func (r *Runner) Adopt(ctx context.Context) error {
	for _, left := range r.node.leftAttempts() {
		g, err := r.queue.Adopt(ctx, left.note.Space, left.note.Task, left.note.Attempt)
		switch mayfly.KindOf(err) {
		case mayfly.NotFound, mayfly.Conflict:
			r.opts.Log.Info("an attempt that nobody waits for is stopped", "task", left.note.Task, "err", err)
			r.unwanted = append(r.unwanted, left.sandbox)
			continue
		}
		if err != nil {
			return fmt.Errorf("adopt task %s: %w", left.note.Task, err)
		}
		a := &attempt{runner: r, grant: g, sandbox: left.sandbox, deadline: left.note.deadline(), recorded: make(chan struct{})}
		r.add(a)
		r.adopted = append(r.adopted, a)
	}
	return nil
}

// Run runs tasks until ctx ends. Then it asks for no more and leaves programs
// that were started for their task running, for the next daemon.
func (r *Runner) Run(ctx context.Context) error {
	for _, a := range r.adopted {
		r.workers.Go(func() {
			defer r.drop(a)
			a.attend(ctx)
		})
	}
	for _, s := range r.unwanted {
		r.node.retire(s, func() {})
	}
	r.adopted, r.unwanted = nil, nil
	r.workers.Go(func() { r.lookAhead(ctx) })
	for range r.opts.Tasks {
		r.workers.Go(func() { r.work(ctx, ctx) })
	}
	r.mu.Lock()
	r.ctx = ctx
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	r.ctx = nil
	r.mu.Unlock()
	r.workers.Wait()
	return ctx.Err()
}

// lendMost bounds how many places are lent, as a multiple of those there are.
const lendMost = 4

// Waiting lets another task run in the place of one that waits for others,
// until over is called: else those that wait could leave no place for those
// that they wait for. What runs by then runs on.
func (r *Runner) Waiting(task string) (over func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lent[task]
	if l == nil {
		if r.ctx == nil || len(r.lent) >= lendMost*r.opts.Tasks {
			return func() {}
		}
		ctx := r.ctx
		asking, end := context.WithCancel(ctx)
		l = &loan{end: end}
		r.lent[task] = l
		r.workers.Go(func() { r.work(ctx, asking) })
	}
	l.waits++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if l.waits--; l.waits == 0 {
			l.end()
			delete(r.lent, task)
		}
	}
}

// askAgain is how long a queue that failed is left alone.
const askAgain = time.Second

// work runs one task after the other, and asks for another until asking ends.
func (r *Runner) work(ctx, asking context.Context) {
	for asking.Err() == nil && !r.node.isStopped() {
		g, err := r.queue.Next(asking, r.node.opts.Name)
		if err == nil {
			r.perform(ctx, g)
			continue
		}
		if asking.Err() != nil {
			return
		}
		r.opts.Log.Error("ask for a task", "err", err)
		select {
		case <-time.After(askAgain):
		case <-asking.Done():
		}
	}
}

// perform runs one attempt in the way that its release asks for.
func (r *Runner) perform(ctx context.Context, g *queue.Grant) {
	if r.node.isStopped() {
		return // the next daemon finds it queued
	}
	rel, err := release(g)
	if err == nil && len(g.Task.After) > 0 {
		g.Results, err = r.queue.ParentResults(ctx, g)
	}
	if err != nil {
		r.done(ctx, g, queue.NotBegun(err))
		return
	}
	if !detached(&rel.Workload) {
		res := r.requests.ServeTask(ctx, rel, g, func(instance string) { r.queue.Started(g, instance) })
		if ctx.Err() == nil {
			r.done(ctx, g, res)
		}
		return
	}
	leave, err := r.requests.Enter(ctx, rel)
	if err != nil {
		if ctx.Err() == nil {
			r.done(ctx, g, queue.NotBegun(err))
		}
		return
	}
	defer leave()
	a := &attempt{runner: r, grant: g, release: rel, deadline: g.Deadline, recorded: make(chan struct{})}
	if !r.add(a) {
		return
	}
	defer r.drop(a)
	if err := a.beginUnlessDown(ctx); err != nil {
		if ctx.Err() == nil && !r.node.isStopped() {
			r.done(ctx, g, queue.NotBegun(err))
		}
		return
	}
	a.attend(ctx)
}

// detached reports whether tasks of a workload run without a connection of the
// daemon's: the program is started for the task, or is a handler that serves
// this one only.
func detached(w *mayfly.Workload) bool {
	return w.Protocol == mayfly.Stdio || w.Protocol == mayfly.Handler && w.Isolation != mayfly.IsolationInstance
}

// release is what a task pins: a release of its workload, or one that is made
// up of its image.
func release(g *queue.Grant) (*mayfly.Release, error) {
	if g.Release != nil {
		return g.Release, nil
	}
	t := &g.Task
	w := mayfly.Workload{
		Space: t.Space, Image: t.Image, Protocol: mayfly.Stdio, Isolation: mayfly.IsolationRun,
		Process: mayfly.Process{Env: t.Env}, Resources: mayfly.Resources{Memory: t.Memory}, Timeout: t.Timeout,
	}
	if len(t.Argv) > 0 {
		w.Command = t.Argv
	}
	spec, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(spec, t.ImageDigest...))
	w.Name = imageTask + hex.EncodeToString(sum[:8])
	return &mayfly.Release{Workload: w, Image: t.ImageDigest}, nil
}

// imageTask begins the name of what stands for the workload of tasks that come
// straight from an image. No workload's name does.
const imageTask = "_image-"

// done records how an attempt ended. While the queue cannot take it, it is
// tried again, for the result is nowhere else; it reports whether it was.
func (r *Runner) done(ctx context.Context, g *queue.Grant, res mayfly.Result) bool {
	for {
		var err error
		if r.opts.Emit != nil && res.Exit.Reason == mayfly.Succeeded {
			err = r.opts.Emit.Returned(context.WithoutCancel(ctx), &g.Task, res.Header, res.Output)
		}
		if err == nil {
			_, err = r.queue.Done(context.WithoutCancel(ctx), g, res)
		}
		switch mayfly.KindOf(err) {
		case mayfly.Unavailable, mayfly.Busy:
			r.opts.Log.Warn("the end of a task is not recorded yet; it is tried again", "task", g.Task.ID, "err", err)
			select {
			case <-time.After(askAgain):
				continue
			case <-ctx.Done():
				return false
			}
		}
		if err != nil && mayfly.KindOf(err) != mayfly.Conflict {
			r.opts.Log.Error("record the end of a task", "task", g.Task.ID, "err", err)
		}
		return true
	}
}

// add notes an attempt, which stop ends. It reports false when the node goes down.
func (r *Runner) add(a *attempt) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down.Err() != nil {
		return false
	}
	r.running[a] = struct{}{}
	return true
}

// drop says that nobody attends to an attempt any more.
func (r *Runner) drop(a *attempt) {
	r.mu.Lock()
	delete(r.running, a)
	r.mu.Unlock()
	close(a.recorded)
}

// stop ends the attempts that begin or run, as the node is taken down, and lets none
// begin any more. They are repeated when it comes up again. A nil Runner has none.
func (r *Runner) stop(ctx context.Context) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.goDown()
	all := slices.Collect(maps.Keys(r.running))
	r.mu.Unlock()
	for _, a := range all {
		select {
		case <-a.recorded:
		case <-ctx.Done():
			return
		}
	}
}

// leftAttempt is a sandbox that an earlier daemon ran a task in.
type leftAttempt struct {
	sandbox *container.Sandbox
	note    attemptNote
}
