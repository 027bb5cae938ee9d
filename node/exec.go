package node

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

const (
	// execGrace is the time between SIGHUP and SIGKILL for a program whose
	// client has left.
	execGrace = 5 * time.Second

	// orphanedStreams is how long the news of a program's end waits for others
	// that hold its standard output or error open.
	orphanedStreams = time.Second
)

// runningOf returns the sandbox of a running instance of this node, which ref
// names as store.InstanceOf takes it.
func (n *Node) runningOf(space, ref string) (mayfly.Instance, *container.Sandbox, error) {
	rec, err := n.store.InstanceOf(space, ref)
	if err != nil {
		return rec.Instance, nil, err
	}
	s := n.host.Get(rec.ID)
	switch {
	case rec.State == mayfly.Exited:
		return rec.Instance, nil, mayfly.Errorf(mayfly.Conflict, "instance %s has ended", rec.Name).WithHint("see mayfly logs %s", rec.Name)
	case rec.Node != n.opts.Name || s == nil && rec.State == mayfly.Running:
		return rec.Instance, nil, mayfly.Errorf(mayfly.NotFound, "instance %s is not on this node", rec.Name)
	case s == nil || rec.State == mayfly.Starting || rec.State == mayfly.Created:
		return rec.Instance, nil, mayfly.Errorf(mayfly.Conflict, "instance %s was not started yet", rec.Name)
	}
	return rec.Instance, s, nil
}

// ExecInstance runs a program in a running instance, copies its streams, and
// returns how it ended; one that cannot be executed ends with 126 or 127. When
// ctx ends first, it is sent SIGHUP, and SIGKILL after a grace.
func (n *Node) ExecInstance(ctx context.Context, space, ref string, spec mayfly.ExecSpec, stdin io.Reader, stdout, stderr io.Writer, ready func()) (mayfly.Exit, error) {
	_, s, err := n.runningOf(space, ref)
	if err != nil {
		return mayfly.Exit{}, err
	}
	p, err := execProgram(s, spec)
	if err != nil {
		return mayfly.Exit{}, err
	}
	user := s.User
	if p.User != nil {
		user = *p.User
	}
	streams, err := openStreams(user, &p, stdin != nil)
	if err != nil {
		return mayfly.Exit{}, err
	}
	pr, err := s.Spawn(ctx, p)
	streams.closeTheirs()
	if err != nil {
		streams.close()
		return execFailed(ctx, s, p, err)
	}
	ready()
	return n.conduct(ctx, s, pr, streams, stdin, stdout, stderr)
}

// execProgram is what is to be started in the container.
func execProgram(s *container.Sandbox, spec mayfly.ExecSpec) (p container.Program, err error) {
	if len(spec.Command) == 0 {
		return p, mayfly.Errorf(mayfly.Invalid, "no command is given").WithHint("name one after the container")
	}
	p = container.Program{Argv: spec.Command, Dir: spec.WorkDir}
	if p.Dir == "" {
		p.Dir = "." // the container's
	}
	if p.Env, err = s.CurrentEnv(); err != nil {
		return p, err
	}
	if spec.User != "" {
		u, err := s.LookupUser(spec.User)
		if err != nil {
			return p, err
		}
		p.User = &u
		p.Env = container.WithEnv(p.Env, []string{"HOME=" + u.Home})
	}
	var over []string
	for _, name := range slices.Sorted(maps.Keys(spec.Env)) {
		over = append(over, name+"="+spec.Env[name])
	}
	p.Env = container.WithEnv(p.Env, over)
	return p, nil
}

// execFailed says why a program was not started.
func execFailed(ctx context.Context, s *container.Sandbox, p container.Program, err error) (mayfly.Exit, error) {
	var errno syscall.Errno
	switch {
	case ctx.Err() != nil:
		return mayfly.Exit{}, context.Cause(ctx)
	case errors.As(err, &errno):
		code, detail := container.ExecFailure(p.Argv[0], err)
		if errno == syscall.EAGAIN {
			detail += "; the limit of processes may be too low"
		}
		if p.Dir != "." {
			detail += " (in " + p.Dir + ")"
		}
		return mayfly.Exit{Code: code, Reason: mayfly.ExitedNonZero, Detail: detail, Time: time.Now()}, nil
	case container.IsGone(err):
		return mayfly.Exit{}, mayfly.Errorf(mayfly.Conflict, "instance %s has ended", s.ID)
	}
	return mayfly.Exit{}, err
}

// execStreams are the pipes of a program's standard streams.
type execStreams struct {
	in, out, err *os.File // our ends; in may be nil
	theirs       []*os.File
}

func openStreams(u container.User, p *container.Program, input bool) (*execStreams, error) {
	s := &execStreams{}
	for _, f := range []struct {
		ours, theirs **os.File
		input        bool
	}{{&s.in, &p.Stdin, true}, {&s.out, &p.Stdout, false}, {&s.err, &p.Stderr, false}} {
		if f.input && !input {
			continue
		}
		var err error
		if *f.ours, *f.theirs, err = container.PipeFor(u, f.input); err != nil {
			s.closeTheirs()
			s.close()
			return nil, err
		}
		s.theirs = append(s.theirs, *f.theirs)
	}
	return s, nil
}

func (s *execStreams) closeTheirs() {
	for _, f := range s.theirs {
		f.Close()
	}
	s.theirs = nil
}

func (s *execStreams) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

// outlet passes on what it is given until it is shut. It never fails: a program
// whose client has left may go on writing while it ends.
type outlet struct {
	mu sync.Mutex
	to io.Writer // nil once shut
}

func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != nil {
		if _, err := o.to.Write(p); err != nil {
			o.to = nil
		}
	}
	return len(p), nil
}

// shut waits for a write that has begun.
func (o *outlet) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = nil
}

// conduct copies the streams of a program that was started until it has ended,
// and closes them, perhaps later. The copy of stdin ends with the reader, which
// the caller closes when we return.
func (n *Node) conduct(ctx context.Context, s *container.Sandbox, p *container.Process, streams *execStreams, stdin io.Reader, stdout, stderr io.Writer) (mayfly.Exit, error) {
	if stdin != nil {
		in := streams.in
		streams.in = nil
		n.goTask(func(ctx context.Context) {
			defer in.Close()
			defer context.AfterFunc(ctx, func() { in.Close() })()
			io.Copy(in, stdin)
		})
	}
	out, errs := &outlet{to: stdout}, &outlet{to: stderr}
	defer out.shut()
	defer errs.shut()
	copied := make(chan struct{}, 2)
	carry := func(to io.Writer, from *os.File) {
		n.goTask(func(context.Context) {
			passOn(to, from)
			copied <- struct{}{}
		})
	}
	carry(out, streams.out)
	carry(errs, streams.err)
	select {
	case <-p.Done():
	case <-ctx.Done():
		n.hangUp(s, p, streams.close)
		return mayfly.Exit{}, context.Cause(ctx)
	}
	defer streams.close()
	for _, f := range []*os.File{streams.out, streams.err} {
		if err := f.SetReadDeadline(time.Now().Add(orphanedStreams)); err != nil {
			return p.Exit(), err
		}
	}
	for range 2 {
		select {
		case <-copied:
		case <-ctx.Done():
			return p.Exit(), nil
		}
	}
	return p.Exit(), nil
}

// passOn copies a pipe until nobody holds its other end. Where that is so no sooner
// than at the deadline for reading, it ends with what is in the pipe then: who takes
// it may be slow.
func passOn(to io.Writer, from *os.File) {
	_, err := io.Copy(to, from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	left := 0
	if raw, err := from.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if from.SetReadDeadline(time.Time{}) == nil {
		io.CopyN(to, from, int64(left))
	}
}

// hangUp ends a program whose client has left, and calls then. One that is still
// there when this daemon ends is the next one's, which finds it.
func (n *Node) hangUp(s *container.Sandbox, p *container.Process, then func()) {
	begun := n.goTask(func(ctx context.Context) {
		defer then()
		asking, cancel := context.WithTimeout(ctx, execGrace) // init may not answer
		defer cancel()
		if s.Signal(asking, p, syscall.SIGHUP) != nil {
			return // it has ended
		}
		select {
		case <-p.Done():
		case <-asking.Done():
			if ctx.Err() == nil {
				_ = s.Signal(ctx, p, syscall.SIGKILL) // it may have ended just now
			}
		}
	})
	if !begun {
		then()
	}
}

// hangUpStrays ends what an earlier daemon ran in a sandbox for clients of its
// own: programs without a name.
func (n *Node) hangUpStrays(s *container.Sandbox) {
	for _, p := range s.Spawned() {
		if p.Name() == "" {
			n.hangUp(s, p, func() {})
		}
	}
}
