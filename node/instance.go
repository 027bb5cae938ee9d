package node

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/store"
)

// instance is one that was asked for by itself, not by a function's call.
type instance struct {
	mu sync.Mutex // one change at a time; taken before the node's
	store.Instance

	sandbox *container.Sandbox // nil when it had ended before this daemon
	start   container.Program
	stdin   *stdinPipe // nil unless somebody may write to it
	removed bool
	watched bool // under the node's mu, not this one

	recorded chan struct{} // closed when its end is on record
}

func newInstance(rec store.Instance) *instance {
	in := &instance{Instance: rec, recorded: make(chan struct{})}
	if rec.State == mayfly.Exited {
		close(in.recorded)
	}
	return in
}

// CreateInstance makes an instance of an image and leaves it waiting.
func (n *Node) CreateInstance(ctx context.Context, spec mayfly.InstanceSpec) (mayfly.Instance, error) {
	none := mayfly.Instance{}
	if err := checkSpec(&spec); err != nil {
		return none, err
	}
	select {
	case <-n.begun: // until then the instances are those of earlier daemons
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	if err := n.volumes.Define(ctx, spec.Space, spec.Volumes); err != nil {
		return none, err
	}
	img, err := n.images.Get(ctx, spec.Image)
	if err != nil {
		return none, err
	}
	id := mayfly.NewID()
	if spec.Name == "" {
		spec.Name = inventName(id)
	}
	rec := mayfly.Instance{
		ID: id, Space: spec.Space, Name: spec.Name, Node: n.opts.Name, Image: spec.Image, Digest: img.Digest,
		State: mayfly.Starting, Created: time.Now(), Labels: spec.Labels, Resources: spec.Resources,
		Timeout: spec.Timeout, AutoRemove: spec.AutoRemove,
	}
	in := newInstance(store.Instance{Instance: rec})
	err = n.make(ctx, in, order{
		asked: asked{
			Process: spec.Process, Resources: spec.Resources, mounts: spec.Mounts, ports: spec.Ports,
			readOnly: spec.ReadOnly, network: spec.Network,
		},
		hostname: spec.Hostname, stdin: spec.Stdin, volumes: spec.Volumes, self: self{Space: spec.Space, Labels: spec.Labels},
	})
	if err != nil {
		return none, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.Instance.Instance, nil
}

// order is what an instance is made of, besides its image.
type order struct {
	asked
	hostname string
	stdin    bool
	several  bool // programs, which their caller starts
	volumes  []mayfly.VolumeMount
	secrets  []mayfly.SecretMount
	configs  []mayfly.ConfigMount
	self     self
}

// make records an instance and furnishes it. Whoever finds it meanwhile waits
// for in.mu, and sees it whole or ended.
func (n *Node) make(ctx context.Context, in *instance, o order) (err error) {
	in.mu.Lock()
	if in.Revision, err = n.store.PutInstance(ctx, in.Instance.Instance); err != nil {
		in.mu.Unlock()
		return err
	}
	if err = n.admit(in); err == nil {
		err = n.furnish(ctx, in, o)
	}
	if err == nil {
		in.mu.Unlock()
		return nil
	}
	in.State = mayfly.Exited
	in.Exit = &mayfly.Exit{Code: 125, Reason: mayfly.Rejected, Detail: err.Error(), Time: time.Now()}
	close(in.recorded)
	in.mu.Unlock()
	return errors.Join(err, n.forget(context.WithoutCancel(ctx), in))
}

// admit has an instance be one of those of the node. While that is taken down there
// are no further ones but those of keepers, which end what they have begun.
func (n *Node) admit(in *instance) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.instances[in.ID] = in
	if n.stopped && in.Assigned == "" {
		return errTakenDown()
	}
	return nil
}

// furnish makes the sandbox of an instance that was recorded. in.mu is held.
func (n *Node) furnish(ctx context.Context, in *instance, o order) error {
	volumes, err := n.volumes.Claim(ctx, in.Instance.Instance, o.volumes)
	if err != nil {
		return err
	}
	o.mounts = slices.Concat(o.mounts, volumes)
	values, err := n.material.Resolve(in.Space, o.secrets, o.configs)
	if err != nil {
		return err
	}
	o.Env = over(o.Env, values.Env)
	t, err := n.template(ctx, in.Digest, in.ID, o.asked)
	if err != nil {
		return err
	}
	if len(t.argv) == 0 && !o.several {
		return mayfly.Errorf(mayfly.Invalid, "image %s says no command", in.Image).WithHint("give one after the image")
	}
	if err := n.volumes.Fill(ctx, in.Instance.Instance, o.volumes, volumes, t.config.Lower); err != nil {
		return err
	}
	s, err := n.sandboxWith(ctx, in.ID, t, values, o.self, o.hostname)
	if err != nil {
		return err
	}
	in.sandbox = s
	in.start = container.Program{Argv: t.argv, Dir: t.config.WorkDir, Env: s.Env()}
	if in.StopSignal == "" {
		in.StopSignal = t.signal
	}
	if o.stdin {
		if in.stdin, err = newStdinPipe(t.config.User); err != nil {
			return err
		}
	}
	in.Argv, in.Address, in.Ports = t.argv, s.Address, s.Ports
	in.State = mayfly.Created
	if err := n.update(ctx, in); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watchLocked(in)
	return nil
}

// update records an instance as it is. in.mu is held.
func (n *Node) update(ctx context.Context, in *instance) (err error) {
	in.Revision, err = n.store.UpdateInstance(ctx, in.Instance.Instance, in.Revision)
	return err
}

// StartInstance starts the program of a created instance. One that cannot be
// executed ends the instance with 126 or 127, as in a shell.
func (n *Node) StartInstance(ctx context.Context, space, ref string) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	return n.start(ctx, in)
}

func (n *Node) start(ctx context.Context, in *instance) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.State != mayfly.Created {
		return mayfly.Errorf(mayfly.Conflict, "instance %s is %s", in.Name, in.State)
	}
	p := in.start
	if in.stdin != nil {
		p.Stdin = in.stdin.child
	}
	_, err := in.sandbox.Start(ctx, p)
	if in.stdin != nil {
		in.stdin.child.Close()
	}
	if err != nil {
		code, detail := container.ExecFailure(p.Argv[0], err)
		if errors.Is(err, syscall.EAGAIN) {
			detail += "; the limit of processes may be too low"
		}
		in.sandbox.Fail(code, detail)
		return nil
	}
	in.State, in.Started = mayfly.Running, time.Now()
	if err := n.update(ctx, in); err != nil {
		return err
	}
	if in.Timeout > 0 {
		n.goTask(func(ctx context.Context) { n.enforce(ctx, in.sandbox, in.Started.Add(in.Timeout)) })
	}
	return nil
}

// stopGrace is the time between SIGTERM and SIGKILL where nobody says.
const stopGrace = 10 * time.Second

// enforce stops a sandbox whose deadline passes.
func (n *Node) enforce(ctx context.Context, s *container.Sandbox, deadline time.Time) {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-s.Ended():
	case <-ctx.Done(): // the next daemon goes on
	case <-t.C:
		s.Blame(mayfly.DeadlinePassed, "its timeout passed")
		s.Stop(ctx, syscall.SIGTERM, stopGrace)
	}
}

// watchLocked has an instance's end recorded. n.mu is held. Before Run nothing
// is watched; begin makes up for it.
func (n *Node) watchLocked(in *instance) {
	if in.watched {
		return
	}
	s := in.sandbox
	adopted := in.State == mayfly.Running
	in.watched = n.goTaskLocked(func(ctx context.Context) {
		if adopted {
			n.hangUpStrays(s)
		}
		if in.Timeout > 0 && adopted {
			n.goTask(func(ctx context.Context) { n.enforce(ctx, s, in.Started.Add(in.Timeout)) })
		}
		select {
		case <-s.Ended():
			if err := n.recordEnd(context.WithoutCancel(ctx), in, s.Exit()); err != nil {
				n.opts.Log.Error("record end of instance", "id", in.ID, "err", err)
			}
		case <-ctx.Done():
		}
	})
}

// recordEnd records how an instance ended, and forgets it if it was to be
// removed.
func (n *Node) recordEnd(ctx context.Context, in *instance, e mayfly.Exit) error {
	in.mu.Lock()
	in.State, in.Exit = mayfly.Exited, &e
	if in.stdin != nil {
		in.stdin.close()
	}
	gone := in.removed
	var err error
	if !gone {
		err = n.update(ctx, in)
	}
	in.mu.Unlock()
	n.letGo(ctx, in.ID) // before anybody hears of the end, and wants them for another
	close(in.recorded)
	if in.AutoRemove && !gone {
		return errors.Join(err, n.forget(ctx, in))
	}
	return err
}

// forget removes an instance and all that is left of it.
func (n *Node) forget(ctx context.Context, in *instance) error {
	in.mu.Lock()
	in.removed = true
	s := in.sandbox
	in.mu.Unlock()
	var errs []error
	if s != nil {
		s.Remove()
	} else {
		errs = append(errs, n.host.Discard(in.ID))
	}
	errs = append(errs, n.store.DeleteInstance(ctx, in.Space, in.ID))
	errs = append(errs, n.images.Release(ctx, in.ID))
	n.letGo(ctx, in.ID)
	n.mu.Lock()
	delete(n.instances, in.ID)
	n.mu.Unlock()
	return errors.Join(errs...)
}

// find returns the instance of this node that ref means, as recordOf takes it.
func (n *Node) find(space, ref string) (*instance, error) {
	rec, err := n.recordOf(space, ref)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	in := n.instances[rec.ID]
	if in == nil {
		return nil, mayfly.Errorf(mayfly.NotFound, "instance %s is not on this node", ref)
	}
	return in, nil
}
