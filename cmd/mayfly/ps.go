package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) ps() *cobra.Command {
	var all, quiet, whole bool
	cmd := &cobra.Command{
		Use:   "ps [flags]",
		Short: "List containers, newest first",
		Example: `  mayfly ps
  mayfly ps -a -o json
  mayfly rm $(mayfly ps -aq)`,
		Args: atMost(0),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that have ended too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "do not shorten commands")
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
		list, err := cl.ListInstances(ctx, all)
		if err != nil {
			return err
		}
		if quiet {
			for _, i := range list {
				fmt.Fprintln(c.stdout, i.ID)
			}
			return nil
		}
		header := headings("ID", "NAME", "SERVICE", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS").sparing("COMMAND", "CREATED", "IMAGE", "SERVICE")
		return print(c.stdout, output, list, header, func(i mayfly.Instance) []string {
			command := strings.Join(i.Argv, " ")
			if !whole && *output != "wide" {
				command = shorten(command, 30)
			}
			if i.State == mayfly.Exited {
				i.Ports = nil // others may have them by now
			}
			return []string{i.ID, i.Name, serviceText(i), i.Image, command, ago(i.Created), status(i), portsText(i.Ports)}
		})
	})
	return cmd
}

// serviceText is the replica of a service that a container is, or belongs to.
func serviceText(i mayfly.Instance) string {
	if i.Replica == 0 {
		return ""
	}
	text := fmt.Sprintf("%s/%d", i.Workload, i.Replica)
	if i.Sidecar != "" {
		text += " " + i.Sidecar
	}
	return text
}

func status(i mayfly.Instance) string {
	switch {
	case i.State == mayfly.Running && !i.Started.IsZero():
		return "up " + humanAge(time.Since(i.Started))
	case i.State == mayfly.Exited && i.Exit != nil:
		text := string(i.Exit.Reason)
		if i.Exit.Reason == mayfly.ExitedNonZero || i.Exit.Code != 0 {
			text += " (" + strconv.Itoa(i.Exit.Code) + ")"
		}
		return text + " " + ago(i.Exit.Time)
	}
	return string(i.State)
}

func portsText(ports []mayfly.Port) string {
	var all []string
	for _, p := range ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		host := p.HostIP
		switch {
		case host == "":
			host = "*"
		case strings.Contains(host, ":"):
			host = "[" + host + "]"
		}
		all = append(all, fmt.Sprintf("%s:%d->%d/%s", host, p.Host, p.Container, protocol))
	}
	return strings.Join(all, ", ")
}

func (c *cli) wait() *cobra.Command {
	return &cobra.Command{
		Use:               "wait CONTAINER...",
		Short:             "Wait until containers have ended, and print their exit codes",
		Example:           `  mayfly wait web`,
		Args:              atLeast("container"),
		ValidArgsFunction: c.completeInstances(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			return c.each(args, func(ref string) error {
				i, err := cl.WaitInstance(ctx, ref)
				if err == nil && i.Exit != nil {
					fmt.Fprintln(c.stdout, i.Exit.Code)
				}
				return err
			})
		}),
	}
}

func (c *cli) stop() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "stop [flags] CONTAINER...",
		Short: "Ask containers to end, and kill them after a while",
		Long: `Ask containers to end, and kill them after a while. That of a service, SERVICE/2,
is drained first, has the grace that its manifest says, and is followed by another;
a service is stopped by mayfly scale SERVICE=0.`,
		Example: `  mayfly stop task-1
  mayfly stop -t 1m scratch
  mayfly stop web/2`,
		Args:              atLeast("container"),
		ValidArgsFunction: c.completeInstances(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, ref string) error {
			return cl.StopInstance(ctx, ref, grace)
		}),
	}
	cmd.Flags().VarP(&seconds{&grace, 10 * time.Second}, "time", "t", "how long to wait between SIGTERM and SIGKILL; a number is seconds")
	grace = 10 * time.Second
	return cmd
}

// seconds is a flag of a duration, in which a plain number is seconds.
type seconds struct {
	value    *time.Duration
	standard time.Duration
}

func (s *seconds) String() string { return s.standard.String() }

// Set is part of pflag.Value.
func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		*s.value = time.Duration(n) * time.Second
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return errors.New("give a time, such as 30s or 5m")
	}
	*s.value = d
	return nil
}

// Type is part of pflag.Value.
func (s *seconds) Type() string { return "duration" }

func (c *cli) kill() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "kill [flags] CONTAINER...",
		Short: "Send a signal to containers",
		Example: `  mayfly kill web
  mayfly kill -s HUP web
  mayfly kill db/1`,
		Args:              atLeast("container"),
		ValidArgsFunction: c.completeInstances(),
		RunE: func(cmd *cobra.Command, args []string) error {
			signal, ok := mayfly.ParseSignal(name)
			if !ok {
				return usagef("%q is not a signal; try TERM, HUP or 15", name)
			}
			return c.toEach(func(ctx context.Context, cl *client.Client, ref string) error {
				return cl.KillInstance(ctx, ref, signal)
			})(cmd, args)
		},
	}
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "the signal, by name or number")
	return cmd
}

func (c *cli) rm() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] CONTAINER...",
		Short: "Forget ended containers and their logs",
		Example: `  mayfly rm job1 job2
  mayfly rm -f web`,
		Args:              atLeast("container"),
		ValidArgsFunction: c.completeInstances(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, ref string) error {
			return cl.RemoveInstance(ctx, ref, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill those that run")
	return cmd
}

func (c *cli) inspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME...",
		Short: "Show all there is to know about containers, functions, runs, tasks, schedules and images, as JSON",
		Long: `Show all there is to know about containers, functions, runs, tasks, schedules and
images, as a JSON list. Each name is looked up in this order, and the first that is found
is shown.`,
		Example: `  mayfly inspect web
  mayfly inspect debian:12`,
		Args:              atLeast("name"),
		ValidArgsFunction: c.completeInstances(),
		RunE: func(cmd *cobra.Command, args []string) error {
			found := []any{}
			err := c.each(args, func(name string) error {
				v, err := c.find(cmd.Context(), name)
				if err == nil {
					found = append(found, v)
				}
				return err
			})
			if len(found) == 0 {
				return err
			}
			return errors.Join(printJSON(c.stdout, found), err)
		},
	}
}

func (c *cli) find(ctx context.Context, name string) (any, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	lookups := []func() (any, error){
		func() (any, error) { return cl.GetInstance(ctx, name) },
		func() (any, error) { return cl.GetWorkload(ctx, name) },
		func() (any, error) { return cl.GetRun(ctx, name) },
		func() (any, error) { return cl.GetTask(ctx, name) },
		func() (any, error) { return cl.GetSchedule(ctx, name, 5) },
		func() (any, error) { return cl.GetImage(ctx, name) },
	}
	for _, lookup := range lookups {
		v, err := lookup()
		if err == nil {
			return v, nil
		}
		// A name that is too odd for one of them may fit the next.
		if !isElsewhere(err) {
			return nil, err
		}
	}
	return nil, mayfly.Errorf(mayfly.NotFound, "no container, function, run, task, schedule or image is called %q", name)
}
