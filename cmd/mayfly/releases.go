package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) releases() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "releases [flags] NAME",
		Short: "List the releases of a function or a service, newest first",
		Example: `  mayfly releases web
  mayfly releases hello -o json`,
		Args:              exactly("name"),
		ValidArgsFunction: c.completeWorkloads(),
	}
	get := func(ctx context.Context, cl *client.Client, args []string) ([]mayfly.ServiceRelease, error) {
		return cl.Releases(ctx, args[0])
	}
	header := headings("RELEASE", "FROM", "DIGEST", "CREATED", "RUNNING", "STATE").sparing("DIGEST")
	return listing(c, cmd, get, header, func(r mayfly.ServiceRelease) []string {
		running := ""
		if r.Workload.Service != nil {
			running = strconv.Itoa(r.Running)
		}
		return []string{strconv.Itoa(r.Number), fromText(&r.Workload), shortDigest(r.Release.Image), ago(r.Created), running, releaseState(r)}
	})
}

// fromText is what a workload's root comes from.
func fromText(w *mayfly.Workload) string {
	if w.Stack != "" {
		return "stack " + w.Stack
	}
	return w.Image
}

func releaseState(r mayfly.ServiceRelease) string {
	if r.Workload.Service == nil {
		switch {
		case r.Wanted:
			return "active"
		case r.GivenUp:
			return "given up"
		}
		return ""
	}
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{{r.Wanted, "wanted"}, {r.Stable, "stable"}, {r.GivenUp, "given up"}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ", ")
}

func (c *cli) rollback() *cobra.Command {
	var wait bool
	var to int
	cmd := &cobra.Command{
		Use:   "rollback [flags] NAME",
		Short: "Go back to an earlier release of a function or a service",
		Long: `Go back to the release of a function before the present one, or the last release of
a service that was healthy before it, or to any other that is named.

A function's takes over when one sandbox of it is ready. A service's replaces the
present one bit by bit; one that was given up is tried again.`,
		Example: `  mayfly rollback hello
  mayfly rollback web --to 3`,
		Args:              exactly("name"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to < 0 || to == 0 && cmd.Flags().Changed("to") {
				return usagef("--to %d is not a release", to)
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			active, err := cl.GetWorkload(ctx, args[0])
			if err != nil {
				return err
			}
			if active.Workload.Service == nil {
				return c.rollbackFunction(ctx, cl, args[0], to)
			}
			return c.wishEach(ctx, args, wait, func(ctx context.Context, cl *client.Client, name string) (mayfly.Supervised, error) {
				return cl.RollbackService(ctx, name, to)
			}, func(s mayfly.Supervised) string { return fmt.Sprintf("%s release %d", s.Name, s.Release) })
		},
	}
	cmd.Flags().IntVar(&to, "to", 0, "the release to go back to")
	waitFlag(cmd, &wait)
	return cmd
}

func (c *cli) rollbackFunction(ctx context.Context, cl *client.Client, name string, to int) error {
	view := c.progress()
	r, err := cl.Rollback(ctx, name, to, func(p client.Progress) {
		if !isOutcome(name, p.Text) { // stdout says it
			view.report(p)
		}
	})
	view.done()
	return c.said(fmt.Sprintf("%s release %d", name, r.Number), err)
}

func (c *cli) diff() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [flags] NAME [RELEASE [RELEASE]]",
		Short: "Show what differs between two releases",
		Long: `Show what differs between the active release of a function or a service and the one
before it, the one that is named, or between two that are named: settings, and the
files of the code by name.`,
		Example: `  mayfly diff hello
  mayfly diff hello 3
  mayfly diff hello 3 5 -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("the name is missing")
			}
			return atMost(3)(cmd, args)
		},
		ValidArgsFunction: c.completeWorkloads(),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var between [2]int
		for i, text := range args[1:] {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return usagef("%q is not a release", text)
			}
			between[i] = n
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		d, err := cl.Diff(cmd.Context(), args[0], between[0], between[1])
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(c.stdout, d)
		}
		c.printDiff(args[0], d)
		return nil
	}
	return cmd
}

func (c *cli) printDiff(name string, d mayfly.ReleaseDiff) {
	fmt.Fprintf(c.stdout, "%s: from release %d to release %d\n", name, d.From, d.To)
	orNone := func(text string) string {
		if text == "" {
			return "(none)"
		}
		return plain(text)
	}
	for _, s := range d.Settings {
		fmt.Fprintf(c.stdout, "  %s: %s -> %s\n", s.Name, orNone(s.From), orNone(s.To))
	}
	for _, f := range d.Files {
		fmt.Fprintf(c.stdout, "  %-7s %s\n", f.Change, plain(f.Name))
	}
	switch {
	case d.Unread != "":
		fmt.Fprintf(c.stdout, "  the files are not compared: %s\n", d.Unread)
	case len(d.Settings)+len(d.Files) == 0:
		fmt.Fprintln(c.stdout, "  nothing differs")
	}
}
