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

// each does something to every argument, prints what succeeded, and goes on
// after a failure.
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

// complete completes arguments with what list returns. Completion says nothing
// about what goes wrong.
func (c *cli) complete(list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		cl, err := c.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := list(cmd.Context(), cl)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *cli) completeInstances() cobra.CompletionFunc {
	return c.complete(func(ctx context.Context, cl *client.Client) (names []string, err error) {
		all, err := cl.ListInstances(ctx, true)
		for _, i := range all {
			names = append(names, nameOf(i))
		}
		return names, err
	})
}

func (c *cli) completeImages() cobra.CompletionFunc {
	return c.complete(func(ctx context.Context, cl *client.Client) (names []string, err error) {
		all, err := cl.ListImages(ctx)
		for _, i := range slices.DeleteFunc(all, isCode) {
			names = append(names, i.Name)
		}
		return names, err
	})
}

func (c *cli) completeWorkloads() cobra.CompletionFunc {
	return c.complete(func(ctx context.Context, cl *client.Client) (names []string, err error) {
		all, err := cl.ListWorkloads(ctx)
		for _, r := range all {
			names = append(names, r.Workload.Name)
		}
		return names, err
	})
}

func nameOf(i mayfly.Instance) string {
	if i.Name != "" {
		return i.Name
	}
	return i.ID
}
