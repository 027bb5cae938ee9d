package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) completeServices() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListServices, func(s mayfly.Supervised) string { return s.Name })
}

func (c *cli) services() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "services [flags] [SERVICE...]",
		Short: "List services, or the replicas of those that are named",
		Example: `  mayfly services
  mayfly services web
  mayfly services --watch
  mayfly services -o json`,
		ValidArgsFunction: c.completeServices(),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print each change of a service, until Ctrl-C")
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		if watch {
			return c.watchServices(ctx, cl, args, output)
		}
		if len(args) == 0 {
			list, err := cl.ListServices(ctx)
			if err != nil {
				return err
			}
			header := headings("NAME", "STATE", "READY", "RELEASE", "IMAGE", "SINCE", "REASON").sparing("IMAGE", "SINCE")
			return print(c.stdout, output, list, header, serviceRow)
		}
		var named []mayfly.Supervised
		failed := c.each(args, func(name string) error {
			sv, err := cl.GetService(ctx, name)
			if err == nil {
				named = append(named, sv)
			}
			return err
		})
		if len(named) == 0 && failed != nil {
			return failed
		}
		return errors.Join(c.printReplicas(output, named), failed)
	})
	return cmd
}

func serviceRow(s mayfly.Supervised) []string {
	return []string{s.Name, s.State, fmt.Sprintf("%d/%d", s.Ready, s.Wanted), releaseText(s), s.Image, ago(s.Rollout.Since), s.Reason}
}

// releaseText is the wanted release, and the one that runs instead.
func releaseText(s mayfly.Supervised) string {
	text := strconv.Itoa(s.Release)
	if s.Rollout.State == mayfly.RolloutRolledBack {
		text += fmt.Sprintf(" (%d runs)", s.Rollout.Stable)
	}
	return text
}

// printReplicas prints the replicas of services; as JSON the services.
func (c *cli) printReplicas(output *format, list []mayfly.Supervised) error {
	if *output == "json" {
		return print(c.stdout, output, list, heading{}, nil)
	}
	var all []mayfly.ReplicaStatus
	for _, s := range list {
		all = append(all, s.Replicas...)
	}
	header := headings("REPLICA", "STATE", "RELEASE", "NODE", "CONTAINER", "ADDRESS", "PORTS", "RESTARTS", "AGE", "REASON").sparing("NODE", "CONTAINER", "PORTS", "ADDRESS", "RELEASE")
	return print(c.stdout, output, all, header, func(r mayfly.ReplicaStatus) []string {
		reason := r.Reason
		if r.Stop && r.Why != "" {
			reason = r.Why
		}
		switch r.State {
		case mayfly.ReplicaWaiting, mayfly.ReplicaBackoff, mayfly.ReplicaFailed, mayfly.ReplicaCompleted, mayfly.ReplicaStopped:
			r.Address, r.Ports = "", nil // were those of a container that has ended
		}
		return []string{
			fmt.Sprintf("%s/%d", r.Workload, r.Number), string(r.State), strconv.Itoa(r.Release), r.Node, r.Instance, r.Address, portsText(r.Ports),
			strconv.Itoa(r.Restarts), humanAge(time.Since(r.Created)), reason,
		}
	})
}

// watchServices prints changes until ctx ends. Ctrl-C is how one leaves.
func (c *cli) watchServices(ctx context.Context, cl *client.Client, names []string, output *format) error {
	tell := func(s mayfly.Supervised) error {
		if *output == "json" {
			return printJSONLine(c.stdout, s)
		}
		_, err := fmt.Fprintln(c.stdout, serviceLine(time.Now(), s))
		return err
	}
	switch len(names) {
	case 0:
		return cl.WatchServices(ctx, tell)
	case 1:
		return cl.WatchService(ctx, names[0], tell)
	}
	return usagef("name one service to watch, or none for all")
}

func serviceLine(now time.Time, s mayfly.Supervised) string {
	line := fmt.Sprintf("%s %s %s %d/%d release %s", now.Format("15:04:05.000"), s.Name, s.State, s.Ready, s.Wanted, releaseText(s))
	if s.Reason != "" {
		line += ": " + s.Reason
	}
	return plain(line)
}

func (c *cli) scale() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "scale [flags] SERVICE=N...",
		Short: "Say how many replicas services have",
		Long: `Say how many replicas services have. It holds for releases to come, too, until
SERVICE=default makes it what the manifest says again.`,
		Example: `  mayfly scale web=3 worker=0
  mayfly scale web=default`,
		Args:              atLeast("SERVICE=N"),
		ValidArgsFunction: c.completeServices(),
		RunE: func(cmd *cobra.Command, args []string) error {
			counts, err := parseScales(args)
			if err != nil {
				return err
			}
			return c.wishEach(cmd.Context(), args, wait, func(ctx context.Context, cl *client.Client, arg string) (mayfly.Supervised, error) {
				name, _, _ := strings.Cut(arg, "=")
				return cl.ScaleService(ctx, name, counts[arg])
			}, func(s mayfly.Supervised) string { return fmt.Sprintf("%s=%d", s.Name, s.Wanted) })
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

// parseScales reads SERVICE=N for each argument; nil is the default.
func parseScales(args []string) (map[string]*int, error) {
	counts := map[string]*int{}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, usagef("%q is not SERVICE=N, such as web=3", arg)
		}
		if text == "default" {
			counts[arg] = nil
			continue
		}
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, usagef("%q is not a number of replicas", text)
		}
		count := int(n)
		counts[arg] = &count
	}
	return counts, nil
}

func (c *cli) restart() *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "restart [flags] SERVICE...",
		Short: "Replace all replicas of services, bit by bit",
		Long: `Replace all replicas of services by new ones of the same release, bit by bit as an
update does: a healthy one goes when another has taken its place.`,
		Example:           `  mayfly restart web`,
		Args:              atLeast("service"),
		ValidArgsFunction: c.completeServices(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.wishEach(cmd.Context(), args, wait, func(ctx context.Context, cl *client.Client, name string) (mayfly.Supervised, error) {
				return cl.RestartService(ctx, name)
			}, func(s mayfly.Supervised) string { return s.Name })
		},
	}
	waitFlag(cmd, &wait)
	return cmd
}

func waitFlag(cmd *cobra.Command, wait *bool) {
	cmd.Flags().BoolVar(wait, "wait", false, "return when it is so, and fail when it cannot be")
}

// wishEach asks for something of each service, and says what was asked for.
func (c *cli) wishEach(ctx context.Context, args []string, wait bool,
	ask func(context.Context, *client.Client, string) (mayfly.Supervised, error), said func(mayfly.Supervised) string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	return c.each(args, func(arg string) error {
		s, err := ask(ctx, cl, arg)
		if err == nil && wait {
			s, err = awaitService(ctx, cl, s.Name, s.Release, nil)
		}
		return c.said(said(s), err)
	})
}

// errSettled ends a watch.
var errSettled = errors.New("settled")

// awaitService returns when a release of a service runs as it shall, and tells of
// each change until then, unless tell is nil. When the release is given up, the
// error (kind Failed) says why; when another one follows meanwhile, it is a
// Conflict.
func awaitService(ctx context.Context, cl *client.Client, name string, release int, tell func(mayfly.Supervised)) (last mayfly.Supervised, err error) {
	err = cl.WatchService(ctx, name, func(s mayfly.Supervised) error {
		last = s
		if tell != nil {
			tell(s)
		}
		ro := &s.Rollout
		switch {
		case s.State == mayfly.ServiceDeleted:
			return mayfly.Errorf(mayfly.Conflict, "service %s was deleted meanwhile", name)
		case s.Release != release:
			return mayfly.Errorf(mayfly.Conflict, "release %d of %s follows meanwhile", s.Release, name)
		case ro.State == mayfly.RolloutRolledBack:
			return mayfly.Errorf(mayfly.Failed, "release %d of %s was given up, and release %d is back: %s", release, name, ro.Stable, ro.Reason)
		case ro.State == mayfly.RolloutFailed:
			return mayfly.Errorf(mayfly.Failed, "release %d of %s failed: %s", release, name, ro.Reason)
		case ro.State == mayfly.RolloutDone && s.Ready >= s.Wanted && len(s.Replicas) == s.Wanted:
			return errSettled
		}
		return nil
	})
	if errors.Is(err, errSettled) {
		err = nil
	}
	return last, err
}

func (c *cli) events() *cobra.Command {
	var follow bool
	var since, kind string
	var limit int
	cmd := &cobra.Command{
		Use:   "events [flags] [SUBJECT]",
		Short: "Show what happened: decisions, and why",
		Example: `  mayfly events
  mayfly events -f web
  mayfly events --since 1h --type rollout -o json`,
		Args:              atMost(1),
		ValidArgsFunction: c.completeServices(),
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until Ctrl-C")
	cmd.Flags().StringVar(&since, "since", "", "nothing older: 10m, 2h, or 2026-01-31T12:00:00Z")
	cmd.Flags().StringVar(&kind, "type", "", "such as service.ready, or a noun: service, rollout, replica, endpoint, volume...")
	cmd.Flags().IntVarP(&limit, "limit", "n", 1000, "at most the last so many of what has happened already")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f := client.NewsFilter{Type: kind, Limit: limit}
		if limit < 0 {
			return usagef("--limit %d is negative", limit)
		}
		if limit == 0 {
			f.Limit = -1
		}
		if len(args) > 0 {
			f.Subject = args[0]
		}
		if since != "" {
			var err error
			if f.Since, err = sinceTime(since, time.Now()); err != nil {
				return err
			}
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		if follow {
			return cl.WatchNews(cmd.Context(), f, func(n mayfly.News) error { return printNews(c.stdout, output, n) })
		}
		list, err := cl.ListNews(cmd.Context(), f)
		if err != nil {
			return err
		}
		return print(c.stdout, output, list, headings("TIME", "SUBJECT", "TYPE", "TEXT").sparing("TYPE"), func(n mayfly.News) []string {
			return []string{n.Time.Local().Format(time.DateTime), newsSubject(n), n.Type, n.Text}
		})
	}
	return cmd
}

func newsSubject(n mayfly.News) string {
	if n.Replica > 0 {
		return fmt.Sprintf("%s/%d", n.Subject, n.Replica)
	}
	return n.Subject
}

// printNews prints one piece of news: a line.
func printNews(w io.Writer, output *format, n mayfly.News) error {
	if *output == "json" {
		return printJSONLine(w, n)
	}
	_, err := fmt.Fprintln(w, plain(fmt.Sprintf("%s %s %s: %s", n.Time.Local().Format(time.DateTime), newsSubject(n), n.Type, n.Text)))
	return err
}
