package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/manifest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) schedule() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "schedule",
		Short: "Submit tasks at times: by cron, every so often, or once",
		Example: `  mayfly schedule add nightly report --cron '0 3 * * *' --tz Europe/Berlin
  mayfly schedule ls
  mayfly schedule next nightly`,
	}, c.scheduleAdd(), c.scheduleList(), c.scheduleNext(), c.scheduleRun(), c.scheduleRemove(), c.schedulePause(), c.scheduleResume())
}

func (c *cli) completeSchedules() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListSchedules, func(s mayfly.Scheduled) string { return s.Name })
}

func (c *cli) scheduleList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List schedules",
		Example: `  mayfly schedule ls -o json`,
		Args:    atMost(0),
	}
	header := headings("NAME", "RUNS", "WHEN", "NEXT", "LAST", "TASKS", "STATE").sparing("TASKS", "LAST", "RUNS")
	return listing(c, cmd, all((*client.Client).ListSchedules), header, func(s mayfly.Scheduled) []string {
		next := ""
		if ticks := nextTicksOf(s); len(ticks) > 0 {
			next = tickText(ticks[0])
		}
		return []string{s.Name, runsText(s.Schedule), whenText(s.Schedule), next, ago(s.Last), fmt.Sprint(s.Count), scheduleState(s)}
	})
}

// runsText is what a tick does.
func runsText(s mayfly.Schedule) string {
	if s.Emit != nil {
		return "emits " + s.Emit.Type
	}
	return s.Task.Workload + s.Task.Image
}

// whenText is what says when, as the flags have it.
func whenText(s mayfly.Schedule) string {
	switch {
	case s.Cron != "" && s.TimeZone != "":
		return s.Cron + " " + s.TimeZone
	case s.Cron != "":
		return s.Cron
	case s.Every != 0:
		return "every " + manifest.DurationText(s.Every)
	}
	return "at " + s.At.Local().Format(time.DateTime)
}

// tickText is a tick on the clocks that it is in the zone of.
func tickText(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

// nextTicksOf are the ticks to come on the clocks of the schedule: those of its
// cron line's zone, else ours.
func nextTicksOf(s mayfly.Scheduled) []time.Time {
	zone := time.Local
	if s.Cron != "" {
		if there, err := time.LoadLocation(s.TimeZone); err == nil {
			zone = there
		}
	}
	ticks := make([]time.Time, len(s.Next))
	for i, t := range s.Next {
		ticks[i] = t.In(zone)
	}
	return ticks
}

func scheduleState(s mayfly.Scheduled) string {
	switch {
	case s.Paused:
		return "paused"
	case s.Error != "":
		return "failing: " + s.Error
	case s.Ended:
		return "ended"
	case s.Waiting > 0:
		return fmt.Sprintf("active, %d wait", s.Waiting)
	}
	return "active"
}

// upcoming is a tick to come.
type upcoming struct {
	Schedule string    `json:"schedule"`
	Time     time.Time `json:"time"`
}

func (c *cli) scheduleNext() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "next [flags] [SCHEDULE]",
		Short: "Show the next ticks of a schedule, or of all",
		Example: `  mayfly schedule next
  mayfly schedule next -n 5 nightly`,
		Args:              atMost(1),
		ValidArgsFunction: c.completeSchedules(),
	}
	cmd.Flags().IntVarP(&count, "count", "n", 5, "how many")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if count < 1 || count > 1000 {
			return usagef("--count %d is not between 1 and 1000", count)
		}
		cl, err := c.client()
		if err != nil {
			return err
		}
		ticks, err := nextTicks(cmd.Context(), cl, args, count)
		if err != nil {
			return err
		}
		return print(c.stdout, output, ticks, headings("TIME", "SCHEDULE", "IN"), func(t upcoming) []string {
			return []string{tickText(t.Time), t.Schedule, humanAge(time.Until(t.Time))}
		})
	}
	return cmd
}

// nextTicks returns the next ticks of the schedule that is named, or of all.
func nextTicks(ctx context.Context, cl *client.Client, args []string, count int) (ticks []upcoming, err error) {
	add := func(s mayfly.Scheduled) {
		for _, at := range nextTicksOf(s) {
			ticks = append(ticks, upcoming{s.Name, at})
		}
	}
	if len(args) > 0 {
		s, err := cl.GetSchedule(ctx, args[0], count)
		add(s)
		return ticks, err
	}
	list, err := cl.ListSchedules(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b mayfly.Scheduled) int { return nextOf(a).Compare(nextOf(b)) })
	for _, s := range list {
		// Of the first so many, one may have ticks before the first of the last.
		if len(s.Next) == 0 || len(ticks) >= count && s.Next[0].After(ticks[count-1].Time) {
			continue
		}
		if count > 1 {
			if s, err = cl.GetSchedule(ctx, s.Name, count); mayfly.KindOf(err) == mayfly.NotFound {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		add(s)
		slices.SortStableFunc(ticks, func(a, b upcoming) int { return a.Time.Compare(b.Time) })
		ticks = ticks[:min(len(ticks), count)]
	}
	return ticks, nil
}

// nextOf is a schedule's next tick.
func nextOf(s mayfly.Scheduled) (next time.Time) {
	if len(s.Next) > 0 {
		next = s.Next[0]
	}
	return next
}

func (c *cli) scheduleRun() *cobra.Command {
	return &cobra.Command{
		Use:   "run-now SCHEDULE",
		Short: "Submit a schedule's task now, and print its id",
		Long: `Submit a schedule's task now, and print its id. It runs whatever the schedule's
times, its overlap policy and its pause say; the ticks to come heed it as they
would the task of a tick.`,
		Example:           `  mayfly task wait $(mayfly schedule run-now nightly)`,
		Args:              exactly("schedule"),
		ValidArgsFunction: c.completeSchedules(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			task, err := cl.RunSchedule(ctx, args[0])
			return c.said(task.ID, err)
		}),
	}
}

func (c *cli) scheduleRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm SCHEDULE...",
		Short:             "Take schedules away; what they submitted goes on",
		Example:           `  mayfly schedule rm nightly`,
		Args:              atLeast("schedule"),
		ValidArgsFunction: c.completeSchedules(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.RemoveSchedule(ctx, name)
		}),
	}
}

func (c *cli) schedulePause() *cobra.Command {
	return &cobra.Command{
		Use:               "pause SCHEDULE...",
		Short:             "Let ticks pass without a task until the schedules are resumed",
		Example:           `  mayfly schedule pause nightly`,
		Args:              atLeast("schedule"),
		ValidArgsFunction: c.completeSchedules(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			_, err := cl.PauseSchedule(ctx, name)
			return err
		}),
	}
}

func (c *cli) scheduleResume() *cobra.Command {
	return &cobra.Command{
		Use:               "resume SCHEDULE...",
		Short:             "Let ticks make tasks again; what passed is not caught up",
		Example:           `  mayfly schedule resume nightly`,
		Args:              atLeast("schedule"),
		ValidArgsFunction: c.completeSchedules(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			_, err := cl.ResumeSchedule(ctx, name)
			return err
		}),
	}
}
