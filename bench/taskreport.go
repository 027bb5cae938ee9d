package main

import (
	"fmt"
	"io"
)

// taskTables writes what was measured about tasks.
func (r *Results) taskTables(t io.Writer) {
	rows(t, "jobs that do nothing\tinserted /s\tworked /s\tin all /s\tCPU ms each\t", r.Tasks, func(l TasksRow) string {
		return fmt.Sprintf("%s\t%.0f\t%s\t%.0f\t%.3f\t", l.What, l.Inserted, measured("%.0f", l.Worked, "at once"), l.InAll, l.CPU)
	})
	if e := r.Enqueue; e != nil {
		fmt.Fprintf(t, "\nsubmitted one by one over HTTP: %.0f/s; bare publishes of the same %d bytes: %.0f/s; ratio %.2f\n", e.HTTP, e.Bytes, e.Bare, e.Ratio)
	}
	rows(t, "to the first instruction\tp50 ms\tp99 ms\truns\t", r.First, func(l FirstRow) string {
		return fmt.Sprintf("%s\t%.2f\t%.2f\t%d\t", l.What, l.P50, l.P99, l.Runs)
	})
	rows(t, "a limit that holds nothing up\tin all /s\tCPU ms each\t", r.Limits, func(l TasksRow) string {
		return fmt.Sprintf("%s\t%.0f\t%.3f\t", l.What, l.InAll, l.CPU)
	})
	if e := r.Events; e != nil {
		fmt.Fprintf(t, "\nevent accepted to handler started: p50 %.2f ms, p99 %.2f ms; sent to started: %.2f, %.2f\n%d events at once: accepted %.0f/s, handled %.0f/s, %d at once of %d, %d lost, %d twice\n",
			e.P50, e.P99, e.SentP50, e.SentP99, e.Burst, e.Accepted, e.Handled, e.Most, e.Limit, e.Lost, e.Twice)
	}
	rows(t, "queued\tworkloads\tper second\tCPU ms each\tbytes of heap each\topen s\tclose s\t", r.Flat, func(l FlatRow) string {
		return fmt.Sprintf("%d\t%d\t%.0f\t%.3f\t%.0f\t%.2f\t%.2f\t", l.Queued, l.Workloads, l.PerSecond, l.CPU, l.Memory, l.Open, l.Close)
	})
	if n := r.Node; n != nil {
		fmt.Fprintf(t, "\na node with %d tasks queued stops in %.2f s, starts in %.2f s and takes %.1f MB\n", n.Queued, n.Stop, n.Start, n.RSS)
	}
	if i := r.Idle; i != nil {
		fmt.Fprintf(t, "\nidle for %.0f s: %.3f %% of a core, %.1f MB\n", i.Seconds, i.CPU, i.RSS)
	}
}
