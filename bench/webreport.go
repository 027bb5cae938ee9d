package main

import (
	"fmt"
	"strings"
)

// markdownRoutes compares what is between clients and a program.
func (r *Results) markdownRoutes(b *strings.Builder) {
	head := fmt.Sprintf("Web requests to one program that answers at once, %d clients over kept connections:\n\n"+
		"| between them and it | per second | ms, p50 | p99 | CPU µs each |\n|---|---:|---:|---:|---:|", routeClients)
	rows(b, head, r.Routes, func(l RouteRow) string {
		return fmt.Sprintf("| %s | %.0f | %.1f | %.1f | %s |", l.What, l.PerSecond, l.P50, l.P99, measured("%.0f", l.CPU, ""))
	})
}

// markdownDemand says how soon something runs for which there is work.
func (r *Results) markdownDemand(b *strings.Builder) {
	if s := r.Scale; s != nil {
		rows(b, "From none to as many as are needed:\n\n| first request of a static program | ms, p50 | p99 |\n|---|---:|---:|", s.Wake, func(l WakeRow) string {
			return fmt.Sprintf("| %s | %.1f | %.1f |", l.What, l.P50, l.P99)
		})
		rows(b, "| clients that begin at once | instances | all there after | p99 steady after | p99 then | errors |\n|---|---:|---:|---:|---:|---:|", s.Step, func(l StepRow) string {
			return fmt.Sprintf("| %d, of a %s | %d | %.1f s | %.0f s | %.0f ms | %d of %d |",
				l.Clients, l.What, l.Instances, l.All, l.Steady, l.P99, l.Errors, l.Requests)
		})
	}
	if e := r.Events; e != nil {
		fmt.Fprintf(b, "\nA handler in a waiting container starts %.1f ms (p99 %.1f) after its event was accepted, %.1f ms (%.1f) after it was sent.\n"+
			"Of %d events in a burst, accepted at %.0f a second for a function with `concurrency: %d`, %.0f a second were handled, at most %d at once, %d lost and %d twice.\n",
			e.P50, e.P99, e.SentP50, e.SentP99, e.Burst, e.Accepted, e.Limit, e.Handled, e.Most, e.Lost, e.Twice)
	}
}
