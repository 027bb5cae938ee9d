package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// listFlags choose tasks.
type listFlags struct {
	workload, since string
	states, labels  []string
	limit           int
}

func (f *listFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.workload, "workload", "w", "", "of this function only")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "that have NAME=VALUE; again for more")
	fs.StringVar(&f.since, "since", "", "submitted since: 10m, 2h, or 2026-01-31T12:00:00Z")
	fs.IntVarP(&f.limit, "limit", "n", 50, "most tasks to show")
}

func (f *listFlags) filter() (filter client.TaskFilter, err error) {
	filter = client.TaskFilter{Workload: f.workload, Limit: f.limit}
	for _, s := range f.states {
		for state := range strings.SplitSeq(s, ",") {
			filter.States = append(filter.States, mayfly.TaskState(state))
		}
	}
	if f.limit < 1 {
		return filter, usagef("--limit is at least 1")
	}
	if f.since != "" {
		if filter.Since, err = sinceTime(f.since, time.Now()); err != nil {
			return filter, err
		}
	}
	filter.Labels, err = labelsOf(f.labels)
	return filter, err
}

func (c *cli) taskList() *cobra.Command {
	var f listFlags
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [flags]",
		Aliases: []string{"list"},
		Short:   "List tasks: those that wait, the oldest first, then those that have ended, the newest first",
		Example: `  mayfly task ls --state queued,running --workload thumbnail
  mayfly task ls --label album=holiday --since 1h -o json`,
		Args: atMost(0),
	}
	f.register(cmd)
	cmd.Flags().StringArrayVarP(&f.states, "state", "s", nil, "queued, starting, running, succeeded, failed, timed-out, out-of-memory, cancelled or buried; again, or with commas, for more")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		filter, err := f.filter()
		if err != nil {
			return err
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		list, err := cl.ListTasks(cmd.Context(), filter)
		if err != nil {
			return err
		}
		if quiet {
			for _, t := range list {
				fmt.Fprintln(c.stdout, t.ID)
			}
			return nil
		}
		header := headings("TASK", "RUNS", "STATE", "PRIORITY", "ATTEMPT", "SUBMITTED", "TOOK").sparing("PRIORITY", "ATTEMPT", "TOOK")
		return print(c.stdout, output, list, header, taskRow)
	}
	return cmd
}

func taskRow(t mayfly.Task) []string {
	return []string{t.ID, taskName(t), stateText(t), fmt.Sprint(t.Priority), fmt.Sprint(t.Attempt), ago(t.Accepted), took(t)}
}

// took is how long the last attempt ran.
func took(t mayfly.Task) string {
	if len(t.Attempts) == 0 {
		return ""
	}
	return attemptTime(t.Attempts[len(t.Attempts)-1])
}

func attemptTime(a mayfly.Attempt) string {
	begun := a.Started
	if begun.IsZero() {
		begun = a.Granted
	}
	switch {
	case begun.IsZero():
		return ""
	case a.Ended.IsZero():
		return humanDuration(time.Since(begun))
	}
	return humanDuration(a.Ended.Sub(begun))
}

func (c *cli) taskGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "get [flags] TASK",
		Short:             "Show a task, its attempts and why each ended",
		Example:           `  mayfly task get 06gzt10ccxe7bbhwe06q`,
		Args:              exactly("task"),
		ValidArgsFunction: c.completeTasks(),
	}
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		task, err := cl.GetTask(ctx, args[0])
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(c.stdout, task)
		}
		return printTask(c.stdout, *output, task)
	})
	return cmd
}

// printTask prints a task for a person.
func printTask(w io.Writer, f format, t mayfly.Task) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, text string) {
		if text != "" {
			fmt.Fprintf(tw, "%s\t%s\n", name, plain(text))
		}
	}
	row("task", t.ID)
	if t.Workload != "" {
		row("function", fmt.Sprintf("%s, release %d", t.Workload, t.Release))
	} else {
		row("image", t.Image)
		row("command", strings.Join(t.Argv, " "))
	}
	row("state", stateText(t))
	if p := t.Progress; p != nil {
		row("progress", strings.TrimSpace(fmt.Sprintf("%.3g%% %s", p.Percent, p.Message))+", "+ago(p.Time))
	}
	row("submitted", clock(t.Accepted))
	row("ended", clock(t.Ended))
	row("payload", humanSize(int64(t.Size)))
	row("key", t.Key)
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(t.Labels)) {
		labels = append(labels, name+"="+t.Labels[name])
	}
	row("labels", strings.Join(labels, ", "))
	row("limits", taskLimits(t))
	row("after", strings.Join(t.After, ", "))
	row("callback", t.Callback)
	if err := tw.Flush(); err != nil || len(t.Attempts) == 0 {
		return err
	}
	fmt.Fprintln(w)
	return printTable(w, f, headings("ATTEMPT", "NODE", "CONTAINER", "STARTED", "TOOK", "END").sparing("NODE", "CONTAINER"), len(t.Attempts), func(i int) []string {
		a := t.Attempts[i]
		begun := a.Started
		if begun.IsZero() {
			begun = a.Granted
		}
		return []string{fmt.Sprint(a.Number), a.Node, a.Instance, begun.Local().Format(time.DateTime), attemptTime(a), exitText(a.Exit)}
	})
}

func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime) + ", " + ago(t)
}

func taskLimits(t mayfly.Task) string {
	var all []string
	if t.Priority != 0 {
		all = append(all, fmt.Sprintf("priority %d", t.Priority))
	}
	if t.Timeout > 0 {
		all = append(all, "timeout "+manifest.DurationText(t.Timeout))
	}
	if t.Memory > 0 {
		all = append(all, "memory "+binarySize(t.Memory))
	}
	if t.Retries.Max > 0 {
		all = append(all, fmt.Sprintf("%d of %d retries used", t.Retried, t.Retries.Max))
	}
	return strings.Join(all, ", ")
}
