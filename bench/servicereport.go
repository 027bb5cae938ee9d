package main

import (
	"fmt"
	"io"
	"strings"
)

// judgeServices holds the figures about services against the goals.
func (r *Results) judgeServices() {
	for _, l := range r.Told {
		if l.What == toldCrash || l.What == toldReady {
			r.atMost(fmt.Sprintf("%s: the last of %d, p99", l.What, l.Consumers), l.LastP99, 50, "ms")
		}
	}
	r.judgeView()
	for _, l := range r.Names {
		if l.Offered > 0 {
			r.atMost("DNS answers to one who asks at a pace, p99", l.P99, 1, "ms")
		} else if l.Clients == mostAsking {
			r.atLeast("DNS answers for each second of a core", l.PerCore, 30_000, "/s")
		}
	}
	for _, l := range r.Deploys {
		if l.What == deploySame {
			r.atMost(fmt.Sprintf("%s, %d services, p99", l.What, l.Services), l.P99, 200, "ms")
		}
	}
	if i := r.ServicesIdle; i != nil {
		r.atMost(fmt.Sprintf("CPU of %d idle services", i.Services), i.CPU, 0.5, "% of a core")
	}
}

// judgeView compares the same changes among few and among many.
func (r *Results) judgeView() {
	for _, l := range r.View {
		if l.Endpoints == fewMoving {
			continue
		}
		what := fmt.Sprintf("%d endpoints with %d watchers, %d moving", l.Endpoints, l.Watchers, l.Moving)
		r.atMost(what+": told of what does not concern them", float64(l.Stray), 0, "watchers")
		r.atMost(fmt.Sprintf("%s: CPU of a change: 1.5 times that among %d", what, fewMoving), l.CPU, 1.5*r.View[0].CPU, "µs")
	}
}

// serviceTables writes what was measured about services.
func (r *Results) serviceTables(t io.Writer) {
	rows(t, "news of a provider\tconsumers\tfirst p50 ms\tlast p50 ms\tlast p99 ms\ttimes\t", r.Told, func(l ToldRow) string {
		return fmt.Sprintf("%s\t%d\t%.1f\t%.1f\t%.1f\t%d\t", l.What, l.Consumers, l.FirstP50, l.LastP50, l.LastP99, l.Times)
	})
	rows(t, "endpoints\twatchers\tmoving\tCPU us a change\twritten\ttold p50 us\ttold p99 us\tstray\t", r.View, func(l ViewRow) string {
		return fmt.Sprintf("%d\t%d\t%d\t%.1f\t%.2f\t%.1f\t%.1f\t%d\t", l.Endpoints, l.Watchers, l.Moving, l.CPU, l.Written, l.P50, l.P99, l.Stray)
	})
	rows(t, "DNS clients\toffered/s\tanswers/s\tper s of a core\tp50 ms\tp99 ms\twrong\t", r.Names, func(l NamesRow) string {
		return fmt.Sprintf("%d\t%.0f\t%.0f\t%.0f\t%.3f\t%.3f\t%d\t", l.Clients, l.Offered, l.PerSecond, l.PerCore, l.P50, l.P99, l.Wrong)
	})
	rows(t, "deploy\tservices\tp50 ms\tp99 ms\ttimes\t", r.Deploys, func(l DeployRow) string {
		return fmt.Sprintf("%s\t%d\t%.0f\t%.0f\t%d\t", l.What, l.Services, l.P50, l.P99, l.Times)
	})
	if i := r.ServicesIdle; i != nil {
		fmt.Fprintf(t, "\n%d idle services for %.0f s: %.3f %% of a core, the daemon %.3f %% and %.1f MB\n", i.Services, i.Seconds, i.CPU, i.Daemon, i.RSS)
	}
}

// markdownServices is what README.md says of services beside those of others.
func (r *Results) markdownServices(b *strings.Builder) {
	rows(b, "Services, where the others' consumers ask their name server every 2 ms:\n\n| | ms, p50 of the last | p99 |\n|---|---:|---:|", r.Told, func(l ToldRow) string {
		return fmt.Sprintf("| %s (%d) | %.1f | %.1f |", l.What, l.Consumers, l.LastP50, l.LastP99)
	})
	rows(b, "| | services | ms, p50 |\n|---|---:|---:|", r.Deploys, func(l DeployRow) string {
		return fmt.Sprintf("| %s | %d | %.0f |", l.What, l.Services, l.P50)
	})
}
