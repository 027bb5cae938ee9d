package main

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
)

func (c *cli) logs() *cobra.Command {
	var follow, times bool
	var tail, since string
	cmd := &cobra.Command{
		Use:   "logs [flags] SERVICE|CONTAINER|RUN|TASK",
		Short: "Show what a service, a container, a run of a function or a task wrote",
		Example: `  mayfly logs web
  mayfly logs -f --tail 20 web
  mayfly logs blog/2
  mayfly logs --since 10m -t web`,
		Args:              exactly("container, run or task"),
		ValidArgsFunction: c.completeInstances(),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := logOptions(follow, tail, since, time.Now())
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if sv, err := cl.GetService(cmd.Context(), args[0]); err == nil {
				return c.serviceLogs(cmd.Context(), cl, sv, opts, times)
			}
			out := newLogPrinter(c.stdout, c.stderr, times)
			err = cl.InstanceLogs(cmd.Context(), args[0], opts, out.print)
			if mayfly.KindOf(err) == mayfly.NotFound {
				err = cl.RunLogs(cmd.Context(), args[0], opts, out.print)
				// Most names of containers cannot be the id of a run or a task.
				if isElsewhere(err) {
					err = cl.TaskLogs(cmd.Context(), args[0], 0, opts, out.print)
				}
				if !isElsewhere(err) {
					return err
				}
				return mayfly.Errorf(mayfly.NotFound, "no service, container, run or task is called %q", args[0]).
					WithHint("see `mayfly services`, `mayfly ps -a`, `mayfly runs` and `mayfly task ls`")
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it ends")
	cmd.Flags().BoolVarP(&times, "timestamps", "t", false, "show when each line was written")
	cmd.Flags().StringVarP(&tail, "tail", "n", "all", "only the last n lines")
	cmd.Flags().StringVar(&since, "since", "", "nothing older: 10m, 2h, or 2026-01-31T12:00:00Z")
	return cmd
}

// isElsewhere says of a look-up that what was named may be something else.
func isElsewhere(err error) bool {
	kind := mayfly.KindOf(err)
	return kind == mayfly.NotFound || kind == mayfly.Invalid
}

func logOptions(follow bool, tail, since string, now time.Time) (mayfly.LogOptions, error) {
	opts := mayfly.LogOptions{Follow: follow, Tail: -1}
	if tail != "all" {
		n, err := strconv.Atoi(tail)
		if err != nil || n < 0 {
			return opts, usagef("--tail %q is neither a number nor all", tail)
		}
		opts.Tail = n
	}
	if since == "" {
		return opts, nil
	}
	var err error
	opts.Since, err = sinceTime(since, now)
	return opts, err
}

// sinceTime reads the value of --since.
func sinceTime(since string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(since); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, ok := parseTime(since); ok {
		return t, nil
	}
	return time.Time{}, usagef("--since %q is neither a duration such as 10m nor a time such as 2026-01-31T12:00:00Z", since)
}

// parseTime reads a time as people write it, in their own zone unless it names
// one.
func parseTime(text string) (time.Time, bool) { return parseTimeIn(text, time.Local) }

// parseTimeIn reads a time that is in a zone unless it names one.
func parseTimeIn(text string, zone *time.Location) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// logPrinter writes entries where they were written to, stdout or stderr, and
// begins each line with its time, if that is wanted, and with the name of the
// process where a container has several. Entries need not be whole lines.
type logPrinter struct {
	to    map[string]io.Writer
	times bool
	open  map[string]bool // streams of processes whose last line has not ended
}

func newLogPrinter(stdout, stderr io.Writer, times bool) *logPrinter {
	return &logPrinter{to: map[string]io.Writer{"stdout": stdout, "stderr": stderr}, times: times, open: map[string]bool{}}
}

func (p *logPrinter) print(e mayfly.LogEntry) error {
	w, ok := p.to[e.Stream]
	if !ok {
		return fmt.Errorf("print log: unknown stream %q", e.Stream)
	}
	if !p.times && e.Process == "" {
		_, err := w.Write(e.Data)
		return err
	}
	var b bytes.Buffer
	of := e.Stream + " " + e.Process
	for line := range bytes.Lines(e.Data) {
		if !p.open[of] && p.times {
			b.WriteString(e.Time.UTC().Format("2006-01-02T15:04:05.000000Z "))
		}
		if !p.open[of] && e.Process != "" {
			b.WriteString(e.Process + " | ")
		}
		b.Write(line)
		p.open[of] = line[len(line)-1] != '\n'
	}
	_, err := w.Write(b.Bytes())
	return err
}
