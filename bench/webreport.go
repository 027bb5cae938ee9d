package main

import (
	"fmt"
	"strings"
)

// markdownRoutes compares what is between clients and a program.
func (r *Results) markdownRoutes(b *strings.Builder) {
	if len(r.Routes) == 0 {
		return
	}
	fmt.Fprintf(b, "\nWeb requests to one program that answers at once, %d clients over kept connections:\n\n"+
		"| between them and it | per second | ms, p50 | p99 | CPU µs each |\n|---|---:|---:|---:|---:|\n", routeClients)
	for _, l := range r.Routes {
		cpu := ""
		if l.CPU > 0 {
			cpu = fmt.Sprintf("%.0f", l.CPU)
		}
		fmt.Fprintf(b, "| %s | %.0f | %.1f | %.1f | %s |\n", l.What, l.PerSecond, l.P50, l.P99, cpu)
	}
}

// markdownDemand says how soon something runs for which there is work.
func (r *Results) markdownDemand(b *strings.Builder) {
	if s := r.Scale; s != nil {
		b.WriteString("\nFrom none to as many as are needed:\n\n| first request of a static program | ms, p50 | p99 |\n|---|---:|---:|\n")
		for _, l := range s.Wake {
			fmt.Fprintf(b, "| %s | %.1f | %.1f |\n", l.What, l.P50, l.P99)
		}
		b.WriteString("\n| clients that begin at once | instances | all there after | p99 steady after | p99 then | errors |\n|---|---:|---:|---:|---:|---:|\n")
		for _, l := range s.Step {
			fmt.Fprintf(b, "| %d, of a %s | %d | %.1f s | %.0f s | %.0f ms | %d of %d |\n",
				l.Clients, l.What, l.Instances, l.All, l.Steady, l.P99, l.Errors, l.Requests)
		}
	}
	if e := r.Events; e != nil {
		fmt.Fprintf(b, "\nA handler in a waiting container starts %.1f ms (p99 %.1f) after its event was accepted, %.1f ms (%.1f) after it was sent.\n"+
			"Of %d events in a burst, accepted at %.0f a second for a function with `concurrency: %d`, %.0f a second were handled, at most %d at once, %d lost and %d twice.\n",
			e.P50, e.P99, e.SentP50, e.SentP99, e.Burst, e.Accepted, e.Limit, e.Handled, e.Most, e.Lost, e.Twice)
	}
}
