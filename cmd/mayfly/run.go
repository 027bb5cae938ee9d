package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) runVerb() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a program in a fresh container",
		Long: `Run a program in a fresh container.

Without -d, what the program writes appears here, signals are passed on to it,
and its exit status is ours: 128+n when signal n ended it, 126 when it cannot be
executed, 127 when it is not there. 125 is a failure of ours. A second Ctrl-C
kills it. An image that is not on the node is pulled first.

Flags end at IMAGE: what follows belongs to the program.`,
		Example: `  mayfly run --rm debian:12 echo hello
  echo 1+1 | mayfly run --rm -i -m 64m --network none debian:12 bc
  mayfly run -d --name web -p 8000:80 -v ./site:/srv:ro nginx`,
		Args:              atLeast("image"),
		ValidArgsFunction: c.completeImages(),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.spec(args)
			if err != nil {
				return err
			}
			spec.Space = c.space
			cl, err := c.client()
			if err != nil {
				return err
			}
			return c.runInstance(cmd.Context(), cl, spec, &f)
		},
	}
	f.register(cmd)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (c *cli) runInstance(ctx context.Context, cl *client.Client, spec mayfly.InstanceSpec, f *runFlags) error {
	made, err := c.create(ctx, cl, spec, f.pull)
	if err != nil {
		return err
	}
	if f.detach {
		if err := cl.StartInstance(ctx, made.ID); err != nil {
			return c.discard(ctx, cl, made, err)
		}
		fmt.Fprintln(c.stdout, made.ID)
		return nil
	}
	attachment, err := cl.Attach(ctx, made.ID, spec.Stdin)
	if err != nil {
		return c.discard(ctx, cl, made, err)
	}
	defer attachment.Close()

	// From here on signals are the program's. Those that come before it runs
	// are passed on once it does.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	c.keepSignals()
	if ctx.Err() != nil {
		return c.discard(ctx, cl, made, ctx.Err())
	}
	ctx = context.WithoutCancel(ctx)
	if err := cl.StartInstance(ctx, made.ID); err != nil {
		return c.discard(ctx, cl, made, err)
	}
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		c.passSignals(ctx, cl, made.ID, signals, ended)
	}()
	instance, err := attachment.Stream(ctx, c.inputOf(spec), c.stdout, c.stderr)
	close(ended)
	<-passed
	if err != nil {
		return fmt.Errorf("%w (the container may still run: mayfly logs -f %s)", err, nameOf(made))
	}
	return c.exitOf(instance)
}

func (c *cli) inputOf(spec mayfly.InstanceSpec) io.Reader {
	if spec.Stdin {
		return c.stdin
	}
	return nil
}

// create makes the instance, and fetches its image where it is missing.
func (c *cli) create(ctx context.Context, cl *client.Client, spec mayfly.InstanceSpec, pull string) (mayfly.Instance, error) {
	if pull == "always" {
		if err := c.fetch(ctx, cl, client.Transfer{Name: spec.Image}); err != nil {
			return mayfly.Instance{}, err
		}
	}
	made, err := c.createOnce(ctx, cl, spec)
	if pull != "missing" || mayfly.KindOf(err) != mayfly.NotFound || strings.HasPrefix(spec.Image, "sha256:") { // no registry is asked for that
		return made, err
	}
	if _, missing := cl.GetImage(ctx, spec.Image); mayfly.KindOf(missing) != mayfly.NotFound {
		return made, err // something else was not found
	}
	fmt.Fprintf(c.stderr, "pulling %s, which is not on the node\n", spec.Image)
	if err := c.fetch(ctx, cl, client.Transfer{Name: spec.Image}); err != nil {
		return made, err
	}
	return c.createOnce(ctx, cl, spec)
}

// createOnce makes the instance. An interrupt waits for the answer, so that
// what was made meanwhile is not left behind.
func (c *cli) createOnce(ctx context.Context, cl *client.Client, spec mayfly.InstanceSpec) (mayfly.Instance, error) {
	made, err := cl.CreateInstance(context.WithoutCancel(ctx), spec, mayfly.NewID())
	if err == nil && ctx.Err() != nil {
		return made, c.discard(ctx, cl, made, ctx.Err())
	}
	return made, err
}

// discard removes what could not be started.
func (c *cli) discard(ctx context.Context, cl *client.Client, made mayfly.Instance, cause error) error {
	ctx = context.WithoutCancel(ctx)
	if err := cl.RemoveInstance(ctx, made.ID, true); err != nil && mayfly.KindOf(err) != mayfly.NotFound {
		return fmt.Errorf("%w; %s is left over: %w", cause, nameOf(made), err)
	}
	return cause
}

// passSignals sends signals on until the program has ended. The second SIGINT
// becomes SIGKILL, for programs that do not heed the first.
func (c *cli) passSignals(ctx context.Context, cl *client.Client, id string, signals <-chan os.Signal, ended <-chan struct{}) {
	interrupts := 0
	for {
		select {
		case <-ended:
			return
		case s := <-signals:
			number := s.(syscall.Signal)
			if number == syscall.SIGINT {
				if interrupts++; interrupts > 1 {
					number = syscall.SIGKILL
				}
			}
			err := cl.KillInstance(ctx, id, number)
			if kind := mayfly.KindOf(err); err != nil && kind != mayfly.NotFound && kind != mayfly.Conflict {
				fmt.Fprintf(c.stderr, "mayfly: %s was not passed on: %s\n", s, err)
			}
		}
	}
}

// exitOf is how we end for a program that ended so.
func (c *cli) exitOf(i mayfly.Instance) error {
	if i.Exit == nil {
		return mayfly.Errorf(mayfly.Internal, "the daemon does not say how %s ended", nameOf(i))
	}
	e := *i.Exit
	switch {
	case e.Reason == mayfly.Succeeded && e.Code == 0:
		return nil
	case e.Reason == mayfly.ExitedNonZero && e.Detail == "":
	case e.Detail != "":
		fmt.Fprintf(c.stderr, "mayfly: %s\n", plain(e.Detail))
	default:
		fmt.Fprintf(c.stderr, "mayfly: the program ended: %s\n", e.Reason)
	}
	if e.Code <= 0 || e.Code > 255 {
		return exitError(125)
	}
	return exitError(e.Code)
}
