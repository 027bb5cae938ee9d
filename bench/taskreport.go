package main

import (
	"fmt"
	"io"
)

// taskTables writes what was measured about tasks.
func (r *Results) taskTables(t io.Writer) {
	if len(r.Tasks) > 0 {
		fmt.Fprint(t, "\njobs that do nothing\tinserted /s\tworked /s\tin all /s\tCPU ms each\t\n")
	}
	for _, l := range r.Tasks {
		worked := "at once"
		if l.Worked > 0 {
			worked = fmt.Sprintf("%.0f", l.Worked)
		}
		fmt.Fprintf(t, "%s\t%.0f\t%s\t%.0f\t%.3f\t\n", l.What, l.Inserted, worked, l.InAll, l.CPU)
	}
	if e := r.Enqueue; e != nil {
		fmt.Fprintf(t, "\nsubmitted one by one over HTTP: %.0f/s; bare publishes of the same %d bytes: %.0f/s; ratio %.2f\n", e.HTTP, e.Bytes, e.Bare, e.Ratio)
	}
	if len(r.First) > 0 {
		fmt.Fprint(t, "\nto the first instruction\tp50 ms\tp99 ms\truns\t\n")
	}
	for _, l := range r.First {
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%d\t\n", l.What, l.P50, l.P99, l.Runs)
	}
	if len(r.Limits) > 0 {
		fmt.Fprint(t, "\na limit that holds nothing up\tin all /s\tCPU ms each\t\n")
	}
	for _, l := range r.Limits {
		fmt.Fprintf(t, "%s\t%.0f\t%.3f\t\n", l.What, l.InAll, l.CPU)
	}
	if e := r.Events; e != nil {
		fmt.Fprintf(t, "\nevent accepted to handler started: p50 %.2f ms, p99 %.2f ms; sent to started: %.2f, %.2f\n%d events at once: accepted %.0f/s, handled %.0f/s, %d at once of %d, %d lost, %d twice\n",
			e.P50, e.P99, e.SentP50, e.SentP99, e.Burst, e.Accepted, e.Handled, e.Most, e.Limit, e.Lost, e.Twice)
	}
	if len(r.Flat) > 0 {
		fmt.Fprint(t, "\nqueued\tworkloads\tper second\tCPU ms each\tbytes of heap each\topen s\tclose s\t\n")
	}
	for _, l := range r.Flat {
		fmt.Fprintf(t, "%d\t%d\t%.0f\t%.3f\t%.0f\t%.2f\t%.2f\t\n", l.Queued, l.Workloads, l.PerSecond, l.CPU, l.Memory, l.Open, l.Close)
	}
	if n := r.Node; n != nil {
		fmt.Fprintf(t, "\na node with %d tasks queued stops in %.2f s, starts in %.2f s and takes %.1f MB\n", n.Queued, n.Stop, n.Start, n.RSS)
	}
	if i := r.Idle; i != nil {
		fmt.Fprintf(t, "\nidle for %.0f s: %.3f %% of a core, %.1f MB\n", i.Seconds, i.CPU, i.RSS)
	}
}
