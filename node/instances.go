package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/store"
)

// ListInstances returns the instances of a space, oldest first; without all,
// those that have not ended.
func (n *Node) ListInstances(_ context.Context, space string, all bool) ([]mayfly.Instance, error) {
	list := []mayfly.Instance{}
	for _, in := range n.store.Instances(space) {
		if all || in.State != mayfly.Exited {
			list = append(list, in.Instance)
		}
	}
	return list, nil
}

// GetInstance returns an instance by id, the beginning of one, name, or SERVICE/N.
func (n *Node) GetInstance(_ context.Context, space, ref string) (mayfly.Instance, error) {
	in, err := n.recordOf(space, ref)
	return in.Instance, err
}

// recordOf returns the instance that ref means as store.InstanceOf takes it, but for
// SERVICE, which is no instance.
func (n *Node) recordOf(space, ref string) (store.Instance, error) {
	if strings.Contains(ref, "/") {
		return n.store.InstanceOf(space, ref)
	}
	return n.store.Instance(space, ref)
}

// StopInstance asks an instance to end, and kills it when the grace is over.
// It returns when it has ended. One of a service is drained first, has the grace
// that the service says, and is followed by another; SERVICE/N means it too.
func (n *Node) StopInstance(ctx context.Context, space, ref string, grace time.Duration) error {
	rec, err := n.store.InstanceOf(space, ref)
	if err != nil {
		return err
	}
	if rec.Replica > 0 && rec.Workload == ref {
		return mayfly.Errorf(mayfly.Conflict, "%s is a service, and starts another container for one that stops", ref).
			WithHint("mayfly scale %s=0 stops it; mayfly restart %s replaces its containers, mayfly stop %s/1 one of them", ref, ref, ref)
	}
	in, err := n.find(space, rec.ID)
	if err != nil {
		return err
	}
	if in.ended() {
		return nil
	}
	if !n.replicas.renew(ctx, in, "it was stopped by hand") {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n.stopInstance(ctx, in, "it was stopped", grace)
	}
	return n.awaitEnd(ctx, in)
}

// KillInstance sends a signal to the program of an instance, which ref names as
// store.InstanceOf takes it.
func (n *Node) KillInstance(ctx context.Context, space, ref string, signal syscall.Signal) error {
	rec, err := n.store.InstanceOf(space, ref)
	if err != nil {
		return err
	}
	in, err := n.find(space, rec.ID)
	if err != nil {
		return err
	}
	if in.ended() {
		return mayfly.Errorf(mayfly.Conflict, "instance %s has ended", in.Name)
	}
	if in.sandbox.Main() == nil && in.state() != mayfly.Running {
		return mayfly.Errorf(mayfly.Conflict, "instance %s was not started yet", in.Name)
	}
	if signal == syscall.SIGKILL {
		in.sandbox.Blame(mayfly.Cancelled, "it was killed")
	}
	if in.sandbox.Main() == nil {
		return signalProcesses(ctx, in.sandbox, signal)
	}
	return in.sandbox.Signal(ctx, nil, signal)
}

// signalProcesses sends a signal to all programs of a container that has no main
// one; SIGKILL is for the container.
func signalProcesses(ctx context.Context, s *container.Sandbox, signal syscall.Signal) error {
	if signal == syscall.SIGKILL {
		s.Kill()
		return nil
	}
	for _, p := range s.Spawned() {
		if p.Name() == "" || isClosed(p.Done()) {
			continue
		}
		if err := s.Signal(ctx, p, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// WaitInstance returns an instance when it has ended.
func (n *Node) WaitInstance(ctx context.Context, space, ref string) (mayfly.Instance, error) {
	in, err := n.find(space, ref)
	if err != nil {
		return mayfly.Instance{}, err
	}
	if err := n.awaitEnd(ctx, in); err != nil {
		return mayfly.Instance{}, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.Instance.Instance, nil
}

// awaitEnd waits until an instance's end is recorded.
func (n *Node) awaitEnd(ctx context.Context, in *instance) error {
	select {
	case <-in.recorded:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// RemoveInstance forgets an instance that has ended; with force it is killed
// first.
func (n *Node) RemoveInstance(ctx context.Context, space, ref string, force bool) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	if !in.ended() {
		if !force {
			return mayfly.Errorf(mayfly.Conflict, "instance %s is %s", in.Name, in.state()).
				WithHint("stop it first, or remove it with --force")
		}
		in.sandbox.Blame(mayfly.Cancelled, "it was removed")
	}
	return n.forget(ctx, in)
}

// InstanceStats says what an instance uses now.
func (n *Node) InstanceStats(_ context.Context, space, ref string) (mayfly.Stats, error) {
	in, err := n.find(space, ref)
	if err != nil {
		return mayfly.Stats{}, err
	}
	if in.ended() {
		return mayfly.Stats{}, mayfly.Errorf(mayfly.Conflict, "instance %s has ended", in.Name)
	}
	return in.sandbox.Stats()
}

// StopAll stops every instance and every task's attempt, and lets nothing start any more.
func (n *Node) StopAll(ctx context.Context, progress func(string)) error {
	n.mu.Lock()
	n.stopped = true
	runner := n.runner
	n.mu.Unlock()
	ended, err := n.stopThose(ctx, progress, func(in *instance) bool { return in.Assigned == "" })
	if err != nil {
		return err
	}
	n.replicas.stopAll(ctx, progress)
	// What is left of replicas nobody has taken over yet: the node has just started.
	late, err := n.stopThose(ctx, progress, func(in *instance) bool { return in.Assigned != "" })
	if err != nil {
		return err
	}
	runner.stop(ctx)
	for _, e := range append(ended, late...) {
		select {
		case <-e:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// stopThose stops instances, all at once. It returns what is closed when they have
// ended.
func (n *Node) stopThose(ctx context.Context, progress func(string), which func(*instance) bool) (ended []chan struct{}, err error) {
	n.mu.Lock()
	all := slices.Collect(maps.Values(n.instances))
	n.mu.Unlock()
	for _, in := range all {
		if !which(in) || in.ended() {
			continue
		}
		progress("stopping " + in.Name)
		done := make(chan struct{})
		ended = append(ended, done)
		if !n.goTask(func(context.Context) {
			defer close(done)
			n.stopInstance(ctx, in, "the node was taken down", stopGrace)
			n.awaitEnd(ctx, in)
		}) {
			return nil, errShuttingDown()
		}
	}
	return ended, nil
}

func (in *instance) state() mayfly.State {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.State
}

func (in *instance) ended() bool { return in.state() == mayfly.Exited }
