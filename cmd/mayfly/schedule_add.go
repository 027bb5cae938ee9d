package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
)

// scheduleFlags are the flags of schedule add: those of a task, and when.
type scheduleFlags struct {
	submitFlags
	cron, zone             string
	every, jitter, catchUp time.Duration
	once, start, end       string
	times                  int
	overlap                string
	paused, replace        bool
	emit, subject, source  string
}

func (c *cli) scheduleAdd() *cobra.Command {
	var f scheduleFlags
	cmd := &cobra.Command{
		Use:   "add [flags] SCHEDULE FUNCTION [-] | add --image IMAGE [flags] SCHEDULE -- [COMMAND [ARG...]] | add --emit TYPE [flags] SCHEDULE [-]",
		Short: "Submit a task at times from now on",
		Long: `Submit a task at times from now on: by a line of cron, every so often, or once.
The task is as "task submit" makes it; with - its payload is read from stdin.
With --emit each tick emits an event in place of a task, and the payload is its data.

The line has five fields, minute hour day month weekday, or six with seconds in
front: numbers, names, *, a-b, */n, lists; L is the month's last day, 5#1 the
first Friday, 5L the last; or @hourly, @daily, @weekly, @monthly, @yearly. Times
are in the zone of --tz, UTC without it. Where clocks are turned, nothing runs
twice and nothing is left out.

While the task of an earlier tick has not ended, a tick is skipped; with --overlap
queue its task waits for the other's end, with replace the other is cancelled.
A tick for which nobody was there in time, as after a downtime, is made up for
within the time of --catch-up.`,
		Example: `  mayfly schedule add nightly report --cron '0 3 * * *' --tz Europe/Berlin
  mayfly schedule add poll fetch --every 90s --overlap replace --payload '{"from": "news"}'
  mayfly schedule add party greet --at 2026-12-31T23:59 --payload everybody
  mayfly schedule add --image debian:12 tidy --cron @hourly --jitter 5m -- sh -c 'du -s /var'`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeWorkloads(),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := f.schedule(cmd, args)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if s.Task.Payload, err = f.readPayload(c.stdin, args[1:]); err != nil {
				return err
			}
			if s.Emit != nil && s.Task.Payload != nil {
				s.Emit.Data, s.Task.Payload = s.Task.Payload, nil
				s.Emit.DataContentType = contentOf(s.Emit.Data)
			}
			add := cl.AddSchedule
			if f.replace {
				add = cl.PutSchedule
			}
			made, err := add(cmd.Context(), s)
			if err != nil {
				return err
			}
			text := s.Name
			if ticks := nextTicksOf(made); len(ticks) > 0 {
				text += ": next at " + tickText(ticks[0])
			}
			fmt.Fprintln(c.stdout, text)
			return nil
		},
	}
	f.register(cmd)
	return cmd
}

func (f *scheduleFlags) register(cmd *cobra.Command) {
	f.registerTask(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.cron, "cron", "", "a line of cron, such as '0 3 * * mon-fri'")
	fs.StringVar(&f.zone, "tz", "", "the time zone of --cron, such as Europe/Berlin (default UTC)")
	fs.DurationVar(&f.every, "every", 0, "how often, such as 90s or 36h; the first is so long after now, or at --start")
	fs.StringVar(&f.once, "at", "", "once, at a time such as 2026-01-31T12:00")
	fs.StringVar(&f.start, "start", "", "no tick before this time")
	fs.StringVar(&f.end, "end", "", "no tick after this time")
	fs.IntVar(&f.times, "times", 0, "at most so many tasks (default no limit)")
	fs.DurationVar(&f.jitter, "jitter", 0, "let each tick be late by a part of this, such as 5m")
	fs.StringVar(&f.overlap, "overlap", "skip", "while an earlier task has not ended: skip, queue or replace")
	fs.DurationVar(&f.catchUp, "catch-up", 0, "how late a tick may be and still run (default 5m, for --at any time)")
	fs.StringVar(&f.emit, "emit", "", "emit an event of this type in place of a task")
	fs.StringVar(&f.subject, "subject", "", "what the event of --emit is about")
	fs.StringVar(&f.source, "source", "", "where the event of --emit happened (default the schedule)")
	fs.BoolVar(&f.paused, "paused", false, "add it paused")
	fs.BoolVar(&f.replace, "replace", false, "replace the schedule of that name, if there is one")
	_ = cmd.RegisterFlagCompletionFunc("overlap", cobra.FixedCompletions([]string{"skip", "queue", "replace"}, cobra.ShellCompDirectiveNoFileComp))

	fs.IntVar(&f.retries, "retries", 0, "attempts after the first (default the function's)")
	fs.StringVar(&f.callback, "callback", "", "URL that is told of the end of each task")
	fs.StringVarP(&f.memory, "memory", "m", "", "limit of the task, such as 512m (default the function's)")
}

// schedule is what the flags ask for, apart from the payload.
func (f *scheduleFlags) schedule(cmd *cobra.Command, args []string) (s mayfly.Schedule, err error) {
	dash := cmd.ArgsLenAtDash()
	if len(args) == 0 || dash == 0 {
		return s, usagef("the schedule is missing")
	}
	if dash > 0 {
		dash--
	}
	s = mayfly.Schedule{
		Name: args[0], Cron: f.cron, TimeZone: f.zone, Every: f.every, Times: f.times, Jitter: f.jitter, CatchUp: f.catchUp,
		Overlap: mayfly.Overlap(f.overlap), Paused: f.paused,
	}
	if f.emit != "" {
		s.Emit = &mayfly.Event{Type: f.emit, Subject: f.subject, Source: f.source}
		if len(args) > 2 || len(args) == 2 && args[1] != "-" {
			return s, usagef("a schedule with --emit runs no function: %q", args[1])
		}
	} else if s.Task, err = f.submitFlags.task(cmd, dash, args[1:]); err != nil {
		return s, err
	}
	zone := time.Local
	if f.zone != "" {
		if there, err := time.LoadLocation(f.zone); err == nil {
			zone = there // or the daemon says what is wrong with it
		}
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"at", f.once, &s.At}, {"start", f.start, &s.Start}, {"end", f.end, &s.End}} {
		at, ok := parseTimeIn(t.text, zone)
		if t.text != "" && !ok {
			return s, usagef("--%s %q is not a time, such as 2026-01-31T12:00", t.flag, t.text)
		}
		*t.to = at
	}
	return s, f.checkWhen(cmd)
}

// checkWhen refuses what the daemon cannot tell from what was left out.
func (f *scheduleFlags) checkWhen(cmd *cobra.Command) error {
	ways := 0
	for _, name := range []string{"cron", "every", "at"} {
		if cmd.Flags().Changed(name) {
			ways++
		}
	}
	switch {
	case ways == 0:
		return usagef("one of --cron, --every and --at is missing")
	case ways > 1:
		return usagef("--cron, --every and --at exclude each other")
	}
	return nil
}
