package client

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds of Run.
const (
	maxStderr  = 64 << 10         // bytes kept for the error, the last ones
	removeTime = 30 * time.Second // for the container, when all is over
)

// RunOptions say more of a program that is run. The zero value of each field is
// what the image says, or the platform's default.
type RunOptions struct {
	// Spec is everything that a container can have. Image and Command are Run's
	// arguments, Stdin follows from the field below.
	Spec   mayfly.InstanceSpec
	Stdin  io.Reader // what the program reads; nothing if nil
	Stdout io.Writer // gets what the program writes as it comes, and Run returns none of it
	Stderr io.Writer // likewise, though the end of it is in the error too
	NoPull bool      // an image that is not there is an error
}

// RunError is a program that ended otherwise than with 0.
type RunError struct {
	Image    string
	Command  []string // what was executed
	Instance string   // id of the container, which is gone
	Exit     mayfly.Exit
	Stderr   []byte // the end of what it wrote there, at most 64 KiB
}

// ExitStatus is the program's: 128+n when signal n ended it, 126 when it could
// not be executed, 127 when it is not there.
func (e *RunError) ExitStatus() int { return e.Exit.Code }

func (e *RunError) Error() string {
	text := fmt.Sprintf("%s in %s ended with exit status %d", quoteWords(e.Command), e.Image, e.Exit.Code)
	if why := e.Exit.Detail; why != "" {
		text += " (" + why + ")"
	} else if e.Exit.Reason != mayfly.ExitedNonZero {
		text += " (" + string(e.Exit.Reason) + ")"
	}
	if last := bytes.TrimSpace(e.Stderr); len(last) > 0 {
		text += ": " + string(last)
	}
	return text
}

// Unwrap gives the error a kind.
func (e *RunError) Unwrap() error {
	kind := mayfly.Failed
	if e.Exit.Reason == mayfly.DeadlinePassed {
		kind = mayfly.TimedOut
	}
	return &mayfly.Error{Kind: kind, Text: string(e.Exit.Reason)}
}

func quoteWords(words []string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$") {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		b.WriteString(w)
	}
	return b.String()
}

// Run runs a program in a fresh container and returns what it wrote to stdout.
// A program that ended otherwise than with 0 is a *RunError. The container is
// removed in every case, and killed when ctx ends first. An image that is not on
// the node is pulled.
func (c *Client) Run(ctx context.Context, image string, argv []string, o RunOptions) ([]byte, error) {
	o.Spec.Stdin = o.Stdin != nil
	made, err := c.create(ctx, image, argv, o)
	if err != nil {
		return nil, err
	}
	defer c.discard(ctx, made.ID)
	attachment, err := c.Attach(ctx, made.ID, o.Spec.Stdin)
	if err != nil {
		return nil, err
	}
	defer attachment.Close()
	if err := c.StartInstance(ctx, made.ID); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	stdout, kept := io.Writer(&out), &tail{to: o.Stderr}
	if o.Stdout != nil {
		stdout = o.Stdout
	}
	ended, err := attachment.Stream(ctx, o.Stdin, stdout, kept)
	if err != nil {
		return out.Bytes(), err
	}
	if ended.Exit == nil {
		return out.Bytes(), mayfly.Errorf(mayfly.Internal, "the daemon does not say how the program ended")
	}
	if ended.Exit.Reason != mayfly.Succeeded || ended.Exit.Code != 0 {
		return out.Bytes(), &RunError{Image: image, Command: ended.Argv, Instance: ended.ID, Exit: *ended.Exit, Stderr: kept.last}
	}
	return out.Bytes(), nil
}

// RunDetached starts a program in a fresh container and returns the instance,
// which goes on by itself: WaitInstance, InstanceLogs and RemoveInstance are
// the caller's, or Spec.AutoRemove.
func (c *Client) RunDetached(ctx context.Context, image string, argv []string, o RunOptions) (mayfly.Instance, error) {
	made, err := c.create(ctx, image, argv, o)
	if err != nil {
		return made, err
	}
	if err := c.StartInstance(ctx, made.ID); err != nil {
		c.discard(ctx, made.ID)
		return made, err
	}
	made.State = mayfly.Running
	return made, nil
}

// create makes the instance, and pulls its image where it is missing. The end
// of ctx waits for the answer, so that what was made is not left behind.
func (c *Client) create(ctx context.Context, image string, argv []string, o RunOptions) (mayfly.Instance, error) {
	spec := o.Spec
	spec.Image, spec.Command = image, argv
	once := func() (mayfly.Instance, error) {
		made, err := c.CreateInstance(context.WithoutCancel(ctx), spec, mayfly.NewID())
		if err == nil && ctx.Err() != nil {
			c.discard(ctx, made.ID)
			err = c.sendError(ctx, ctx.Err())
		}
		return made, err
	}
	if ctx.Err() != nil {
		return mayfly.Instance{}, c.sendError(ctx, ctx.Err())
	}
	made, err := once()
	if o.NoPull || mayfly.KindOf(err) != mayfly.NotFound || strings.HasPrefix(image, "sha256:") {
		return made, err
	}
	if _, missing := c.GetImage(ctx, image); mayfly.KindOf(missing) != mayfly.NotFound {
		return made, err // something else was not found
	}
	if _, err := c.PullImage(ctx, Transfer{Name: image}, nil); err != nil {
		return made, err
	}
	return once()
}

// discard removes a container that nobody wants any more. One that is not
// there is what we want.
func (c *Client) discard(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	_ = c.RemoveInstance(ctx, id, true) // the caller has an error, or the output, that matters more
}

// tail keeps the end of what is written and passes all of it on.
type tail struct {
	to   io.Writer // or nil
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if over := len(t.last) - maxStderr; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	if t.to != nil {
		return t.to.Write(p)
	}
	return len(p), nil
}
