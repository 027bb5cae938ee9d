package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// table writes the results for people.
func (r *Results) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	m := r.Machine
	fmt.Fprintf(t, "%s, %d cores, kernel %s, cgroups %s, load %s to %s\n", m.CPU, m.Cores, m.Kernel, m.Cgroups, m.LoadBegin, m.LoadEnd)
	last := ""
	for _, l := range r.Latency {
		if l.Program != last {
			fmt.Fprintf(t, "\n%s\tp50 ms\tp99 ms\tmin ms\truns\t\n", l.Program)
			last = l.Program
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%d\t\n", l.What, l.P50, l.P99, l.Min, l.Runs)
	}
	if len(r.Rate) > 0 {
		fmt.Fprint(t, "\nper second\tclients\t/s\tcount\tafterwards s\tCPU ms each\t\n")
	}
	for _, l := range r.Rate {
		fmt.Fprintf(t, "%s\t%d\t%.1f\t%d\t%.2f\t%.2f\t\n", l.What, l.Clients, l.PerSecond, l.Count, l.Drain, l.CPU)
	}
	if len(r.Load) > 0 {
		fmt.Fprint(t, "\nhalf the highest rate\t/s\tp50 ms\tp99 ms\tfailed\t\n")
	}
	for _, l := range r.Load {
		fmt.Fprintf(t, "%s arrivals\t%.1f\t%.2f\t%.2f\t%d\t\n", l.Arrivals, l.PerSecond, l.P50, l.P99, l.Failed)
	}
	r.rest(t)
	r.scaleTable(t)
	r.pushTable(t)
	r.taskTables(t)
	r.serviceTables(t)
	r.routeTables(t)
	fmt.Fprint(t, "\ngoal\tvalue\tbound\tunit\tmet\t\n")
	for _, g := range r.Goals {
		fmt.Fprintf(t, "%s\t%.3f\t%.3f\t%s\t%v\t\n", g.Text, g.Value, g.Bound, g.Unit, g.Met)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(t, "note: %s\n", n)
	}
	return t.Flush()
}

func (r *Results) rest(t io.Writer) {
	if b := r.Burst; b != nil {
		fmt.Fprintf(t, "\n%d at once: %d answered, %d refused, %d other, %d lost, %d hung; the last after %.0f ms %s\n",
			b.Requests, b.OK, b.Refused, b.Other, b.Lost, b.Hung, b.Slowest, b.Note)
	}
	if m := r.Memory; m != nil {
		fmt.Fprintf(t, "\nidle daemon %.1f MB; %d sandboxes wait, each takes %.2f MB (%.2f MB freed when they go); the daemon grew by %.1f MB\n",
			m.IdleRSS, m.Waiting, m.Come, m.Go, m.RSSGrowth)
	}
	if l := r.Leftovers; l != nil {
		fmt.Fprintf(t, "\nafter %d runs (daemon %.1f MB, at rest after %.1f s)\tbefore\tafter\t\n", l.Runs, l.RSSAfter, l.Rest)
		for _, k := range l.Kinds {
			note := ""
			if k.Kept {
				note = " (kept, bounded)"
			}
			fmt.Fprintf(t, "%s%s\t%d\t%d\t\n", k.What, note, k.Before, k.After)
		}
	}
}

// The marks between which README.md quotes the results.
const (
	readmeBegin = "<!-- bench:begin -->"
	readmeEnd   = "<!-- bench:end -->"
)

// writeReadme puts the results into a page.
func writeReadme(page, results string) error {
	text, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read %s: %w", results, err)
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	next, err := quote(string(old), &r)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(next), 0o644)
}

// quote replaces what is between the marks.
func quote(page string, r *Results) (string, error) {
	head, rest, ok := strings.Cut(page, readmeBegin)
	_, tail, ok2 := strings.Cut(rest, readmeEnd)
	if !ok || !ok2 {
		return "", errors.New("it lacks " + readmeBegin + " or " + readmeEnd)
	}
	return head + readmeBegin + "\n" + r.markdown() + readmeEnd + tail, nil
}

// markdown is what README.md says.
func (r *Results) markdown() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "`make bench` on %s: %s, %d cores, kernel %s, cgroups %s, load averages %s\n"+
		"before and %s after. One run, interleaved; Mayfly over HTTP, with network, limits and seccomp on. p50 (p99) in\n"+
		"milliseconds:\n\n", r.Date.Format("2 January 2006"), m.CPU, m.Cores, m.Kernel, m.Cgroups, m.LoadBegin, m.LoadEnd)
	var names []string
	seen := map[string]bool{}
	head, line := "| |", "|---|"
	for _, l := range r.Latency {
		if !seen[l.What] {
			names, seen[l.What] = append(names, l.What), true
		}
		if !seen["program "+l.Program] {
			seen["program "+l.Program] = true
			head, line = head+" "+l.Program+" |", line+"---:|"
		}
	}
	fmt.Fprintf(&b, "%s\n%s\n", head, line)
	for _, name := range names {
		fmt.Fprintf(&b, "| %s |", name)
		for _, p := range programs() {
			if l := r.latency(p.name, name); l != nil {
				fmt.Fprintf(&b, " %.1f (%.1f) |", l.P50, l.P99)
			}
		}
		b.WriteString("\n")
	}
	r.markdownRates(&b)
	r.markdownPush(&b)
	r.markdownRoutes(&b)
	r.markdownDemand(&b)
	r.markdownServices(&b)
	r.markdownGoals(&b)
	return b.String()
}

func (r *Results) markdownRates(b *strings.Builder) {
	b.WriteString("\nFresh containers of the static program per second:\n\n| clients | 1 | 4 | 16 | CPU ms each |\n|---|---:|---:|---:|---:|\n")
	for _, what := range []string{"fork+exec", "crun run", "runc run", freshRate} {
		if r.highest(what) > 0 {
			cpu := "not measured"
			if used := r.cpu(what, 4); used > 0 {
				cpu = fmt.Sprintf("%.1f", used)
			}
			fmt.Fprintf(b, "| %s | %.0f | %.0f | %.0f | %s |\n",
				what, r.perSecond(what, 1), r.perSecond(what, 4), r.perSecond(what, mostRooms), cpu)
		}
	}
}

func (r *Results) markdownGoals(b *strings.Builder) {
	b.WriteString("\n| what it is to reach | bound | measured | |\n|---|---:|---:|---|\n")
	for _, g := range r.Goals {
		met := "yes"
		if !g.Met {
			met = "**not met**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", g.Text, figure(g.Bound, g.Unit), figure(g.Value, g.Unit), met)
	}
	b.WriteString("\nEvery figure is in [bench/results.json](bench/results.json); [docs/benchmarks.md](docs/benchmarks.md) says how it is measured.\n")
}

func figure(v float64, unit string) string {
	if unit == "requests" || unit == "things" || unit == "/s" {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.2f %s", v, unit)
}
