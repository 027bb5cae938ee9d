package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// cli is what every verb needs.
type cli struct {
	stdin          *os.File
	stdout, stderr io.Writer
	host, space    string
	keepSignals    func() // gives SIGINT and SIGTERM to the caller
}

// client returns a client of the daemon that the flags name.
func (c *cli) client() (*client.Client, error) {
	if err := mayfly.CheckName("space", c.space); err != nil {
		return nil, err
	}
	cl, err := client.New(c.host)
	if err != nil {
		return nil, err
	}
	return cl.WithSpace(c.space), nil
}

// isTerminal says whether a person looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// exactly, atLeast and atMost are cobra's, with errors that say what is missing.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("the %s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usagef("one argument too many: %q", args[len(names)])
		}
		return nil
	}
}

func atLeast(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("the %s is missing", names[len(args)])
		}
		return nil
	}
}

func atMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("one argument too many: %q", args[n])
		}
		return nil
	}
}

// family makes cmd a verb that has verbs of its own, and by itself only shows
// which.
func (c *cli) family(cmd *cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	cmd.Args = c.noSuchVerb
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(verbs...)
	return cmd
}

// noSuchVerb refuses arguments of a verb that has verbs of its own.
func (c *cli) noSuchVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usagef("there is no verb %q after %s", args[0], cmd.CommandPath())
}

// each does something to every argument, and goes on after a failure.
func (c *cli) each(args []string, do func(string) error) error {
	failed := false
	for _, arg := range args {
		if err := do(arg); err != nil {
			if errors.Is(err, context.Canceled) {
				return err
			}
			fmt.Fprintf(c.stderr, "mayfly: %s\n", err)
			failed = true
		}
	}
	if failed {
		return exitError(1)
	}
	return nil
}

// asking is what a verb does that has nothing to do before it asks the daemon.
func (c *cli) asking(do func(context.Context, *client.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := c.client()
		if err != nil {
			return err
		}
		return do(cmd.Context(), cl, args)
	}
}

// toEach is what a verb does that does something to every argument: it prints
// those with which it succeeded.
func (c *cli) toEach(do func(context.Context, *client.Client, string) error) func(*cobra.Command, []string) error {
	return c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		return c.each(args, func(name string) error { return c.said(name, do(ctx, cl, name)) })
	})
}

// said prints what was done something to, once it was.
func (c *cli) said(what string, err error) error {
	if err == nil {
		fmt.Fprintln(c.stdout, what)
	}
	return err
}

// complete completes arguments with what name says of each that list returns.
// Completion says nothing about what goes wrong.
func complete[T any](c *cli, list func(*client.Client, context.Context) ([]T, error), name func(T) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) (names []string, how cobra.ShellCompDirective) {
		how = cobra.ShellCompDirectiveNoFileComp
		cl, err := c.client()
		if err != nil {
			return nil, how
		}
		all, err := list(cl, cmd.Context())
		if err != nil {
			return nil, how
		}
		for _, v := range all {
			names = append(names, name(v))
		}
		return names, how
	}
}

func (c *cli) completeInstances() cobra.CompletionFunc {
	every := func(cl *client.Client, ctx context.Context) ([]mayfly.Instance, error) {
		return cl.ListInstances(ctx, true)
	}
	return complete(c, every, nameOf)
}

func (c *cli) completeImages() cobra.CompletionFunc {
	own := func(cl *client.Client, ctx context.Context) ([]client.Image, error) {
		all, err := cl.ListImages(ctx)
		return slices.DeleteFunc(all, isCode), err
	}
	return complete(c, own, func(i client.Image) string { return i.Name })
}

func (c *cli) completeWorkloads() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListWorkloads, func(r mayfly.Release) string { return r.Workload.Name })
}

func nameOf(i mayfly.Instance) string {
	if i.Name != "" {
		return i.Name
	}
	return i.ID
}
