package node

import (
	"context"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
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

// GetInstance returns an instance by id, the beginning of one, or name.
func (n *Node) GetInstance(_ context.Context, space, ref string) (mayfly.Instance, error) {
	in, err := n.store.Instance(space, ref)
	return in.Instance, err
}

// StopInstance asks an instance to end, and kills it when the grace is over.
// It returns when it has ended.
func (n *Node) StopInstance(ctx context.Context, space, ref string, grace time.Duration) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	if in.ended() {
		return nil
	}
	in.sandbox.Blame(mayfly.Cancelled, "it was stopped")
	in.sandbox.Stop(ctx, syscall.SIGTERM, grace)
	return n.awaitEnd(ctx, in)
}

// KillInstance sends a signal to an instance's program.
func (n *Node) KillInstance(ctx context.Context, space, ref string, signal syscall.Signal) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	if in.ended() {
		return mayfly.Errorf(mayfly.Conflict, "instance %s has ended", in.Name)
	}
	if in.sandbox.Main() == nil {
		return mayfly.Errorf(mayfly.Conflict, "instance %s was not started yet", in.Name)
	}
	if signal == syscall.SIGKILL {
		in.sandbox.Blame(mayfly.Cancelled, "it was killed")
	}
	return in.sandbox.Signal(ctx, nil, signal)
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
	var all []*instance
	for _, in := range n.instances {
		all = append(all, in)
	}
	n.mu.Unlock()
	done := make(chan struct{}, len(all))
	waiting := 0
	for _, in := range all {
		if in.ended() {
			continue
		}
		waiting++
		progress("stopping " + in.Name)
		if !n.goTask(func(context.Context) {
			defer func() { done <- struct{}{} }()
			in.sandbox.Blame(mayfly.Cancelled, "the node was taken down")
			in.sandbox.Stop(ctx, syscall.SIGTERM, stopGrace)
			n.awaitEnd(ctx, in)
		}) {
			return errShuttingDown()
		}
	}
	runner.stop(ctx)
	for range waiting {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (in *instance) state() mayfly.State {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.State
}

func (in *instance) ended() bool { return in.state() == mayfly.Exited }
