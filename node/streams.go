package node

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// stdinPipe is the standard input of an instance that somebody may attach to.
// It ends when the first who attached has no more to say.
type stdinPipe struct {
	child *os.File // the program's end

	mu  sync.Mutex
	own *os.File // ours; nil once it was taken or closed
}

// newStdinPipe makes a pipe that belongs to the container's user, so that the
// program can open /dev/stdin anew.
func newStdinPipe(u container.User) (*stdinPipe, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if err := r.Chown(int(u.UID), int(u.GID)); err != nil {
		r.Close()
		w.Close()
		return nil, err
	}
	return &stdinPipe{child: r, own: w}, nil
}

// take returns our end to the one who may write to it, nil to all others.
func (p *stdinPipe) take() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.own
	p.own = nil
	return f
}

func (p *stdinPipe) close() {
	if f := p.take(); f != nil {
		f.Close()
	}
}

// AttachInstance passes an instance's output on, and input to it.
func (n *Node) AttachInstance(ctx context.Context, space, ref string, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	in.mu.Lock()
	s, pipe, ended := in.sandbox, in.stdin, in.State == mayfly.Exited
	in.mu.Unlock()
	if ended || s == nil {
		return mayfly.Errorf(mayfly.Conflict, "instance %s is %s", in.Name, in.state()).WithHint("see mayfly logs %s", in.Name)
	}
	if pipe != nil && stdin != nil {
		if w := pipe.take(); w != nil {
			// It ends with the reader, which the caller closes when we return,
			// or with the program.
			n.goTask(func(ctx context.Context) {
				defer w.Close()
				defer context.AfterFunc(ctx, func() { w.Close() })()
				io.Copy(w, stdin)
			})
		}
	}
	return s.Attach(ctx, ready, func(e mayfly.LogEntry) error {
		to := stdout
		if e.Stream == "stderr" {
			to = stderr
		}
		if to == nil {
			return nil
		}
		_, err := to.Write(e.Data)
		return err
	})
}

// InstanceLogs passes an instance's log on.
func (n *Node) InstanceLogs(ctx context.Context, space, ref string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	in, err := n.find(space, ref)
	if err != nil {
		return err
	}
	var ended <-chan struct{} = closedChan()
	in.mu.Lock()
	s := in.sandbox
	in.mu.Unlock()
	if s != nil {
		ended = s.Ended()
	}
	err = container.ReadLog(ctx, n.host.Dir(in.ID), o, ended, each)
	if errors.Is(err, fs.ErrNotExist) { // it could not be made, or was forgotten just now
		return mayfly.Errorf(mayfly.NotFound, "instance %s has no log", in.Name)
	}
	return err
}

// SandboxLogs passes on the log of the sandbox that served a run.
func (n *Node) SandboxLogs(ctx context.Context, id string, o mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	if s := n.host.Get(id); s != nil {
		err := container.ReadLog(ctx, s.Dir(), o, s.Ended(), each)
		if !errors.Is(err, fs.ErrNotExist) { // it was moved just now
			return err
		}
	}
	return n.logs.read(ctx, id, o, each)
}

func closedChan() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
