// Command mayfly runs a node and talks to one.
//
// Every verb but up and doctor goes through the API client, so it does the
// same over a socket as over a network. Results go to stdout, everything else
// to stderr. The exit status is that of the program that ran; failures of ours
// are 125 for run and exec and 1 for the other verbs.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // schedules need the zones, also where the machine has none

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// version is set by the linker.
var version = "devel"

func main() {
	c := &cli{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(c.run(os.Args[1:]))
}

// run runs one command and returns the exit status.
func (c *cli) run(args []string) int {
	root := c.root()
	root.SetArgs(args)
	ctx, stop := c.interruptible(context.Background())
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var exit exitError
	if errors.As(err, &exit) {
		return int(exit)
	}
	if context.Cause(ctx) == errInterrupted {
		return 130
	}
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(c.stderr, "mayfly: %s; see `%s --help`\n", err, cmd.CommandPath())
	} else {
		fmt.Fprintf(c.stderr, "mayfly: %s\n", err)
	}
	if cmd.Name() == "run" || cmd.Name() == "exec" {
		return 125
	}
	return 1
}

// exitError is an exit status whose reason was told already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// flagError says of a flag's value what it should have been, in place of what
// the function that reads it is called.
func flagError(err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	should := bad.Unwrap().Error()
	switch bad.GetFlag().Value.Type() {
	case "float64":
		should = "give a number"
	case "int", "int64":
		should = "give a whole number"
	case "duration":
		should = "give a time, such as 30s or 5m"
	case "bool":
		should = "give true or false"
	}
	return fmt.Errorf("--%s %q: %s", bad.GetFlag().Name, bad.GetValue(), should)
}

var errInterrupted = errors.New("interrupted")

// interruptible returns a context that the first SIGINT or SIGTERM ends; a
// second one ends us at once. A verb that has signals for something else calls
// c.keepSignals.
func (c *cli) interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	c.keepSignals = func() { signal.Stop(signals) }
	finished := make(chan struct{})
	go func() {
		select {
		case <-signals:
			signal.Stop(signals)
			cancel(errInterrupted)
		case <-finished:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(finished)
		cancel(nil)
	}
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "mayfly",
		Short:         "Run code in containers that live only as long as they are needed",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			text := fmt.Sprintf("there is no verb %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				text += "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usagef("%s", text)
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	root.PersistentFlags().StringVar(&c.host, "host", "", "where the daemon is: unix:///path or http://host:port (default $MAYFLY_HOST, else the socket of this machine)")
	root.PersistentFlags().StringVar(&c.space, "space", cmp.Or(os.Getenv(client.SpaceVariable), mayfly.DefaultSpace), "the space to work in, or $MAYFLY_SPACE")
	root.AddGroup(&cobra.Group{ID: "node", Title: "The node:"}, &cobra.Group{ID: "instance", Title: "Containers:"},
		&cobra.Group{ID: "image", Title: "Images:"}, &cobra.Group{ID: "service", Title: "Services:"}, &cobra.Group{ID: "workload", Title: "Functions and releases:"},
		&cobra.Group{ID: "task", Title: "Tasks:"}, &cobra.Group{ID: "event", Title: "Events:"}, &cobra.Group{ID: "data", Title: "Data and settings:"})
	add := func(group string, verbs ...*cobra.Command) {
		for _, v := range verbs {
			v.GroupID = group
			root.AddCommand(v)
		}
	}
	add("node", c.up(), c.down(), c.doctor(), c.version())
	add("instance", c.runVerb(), c.exec(), c.cp(), c.ps(), c.logs(), c.wait(), c.stop(), c.kill(), c.rm(), c.inspect(), c.stats())
	add("image", c.images(), c.pull(), c.rmi(), c.stack())
	add("service", c.services(), c.graph(), c.why(), c.scale(), c.load(), c.restart(), c.events(), c.endpoint(), c.forward())
	add("workload", c.pushCode(), c.deploy(), c.call(), c.workloads(), c.releases(), c.rollback(), c.diff(), c.runs(), c.delete(), c.mapRoute(), c.unmapRoute(), c.routes())
	add("task", c.task(), c.schedule())
	add("event", c.event(), c.mapEvent(), c.unmapEvent(), c.triggers())
	add("data", c.volume(), c.secret(), c.config())
	return root
}
