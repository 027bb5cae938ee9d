package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// table writes the results for people.
func (r *Results) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	m := r.Machine
	fmt.Fprintf(t, "%s, %d cores, kernel %s, cgroups %s, load %s to %s\n", m.CPU, m.Cores, m.Kernel, m.Cgroups, m.LoadBegin, m.LoadEnd)
	latencyTables(t, "%s", 2, r.Latency)
	rows(t, "per second\tclients\t/s\tcount\tafterwards s\tCPU ms each\t", r.Rate, func(l RateRow) string {
		return fmt.Sprintf("%s\t%d\t%.1f\t%d\t%.2f\t%.2f\t", l.What, l.Clients, l.PerSecond, l.Count, l.Drain, l.CPU)
	})
	rows(t, "half the highest rate\t/s\tp50 ms\tp99 ms\tfailed\t", r.Load, func(l LoadRow) string {
		return fmt.Sprintf("%s arrivals\t%.1f\t%.2f\t%.2f\t%d\t", l.Arrivals, l.PerSecond, l.P50, l.P99, l.Failed)
	})
	r.rest(t)
	r.scaleTable(t)
	latencyTables(t, "from a folder of %s to its first answer", 0, r.Push)
	r.taskTables(t)
	r.serviceTables(t)
	r.routeTables(t)
	rows(t, "goal\tvalue\tbound\tunit\tmet\t", r.Goals, func(g Goal) string {
		return fmt.Sprintf("%s\t%.3f\t%.3f\t%s\t%v\t", g.Text, g.Value, g.Bound, g.Unit, g.Met)
	})
	for _, n := range r.Notes {
		fmt.Fprintf(t, "note: %s\n", n)
	}
	return t.Flush()
}

// rows writes a table: a head, and a line for each of all. Where there are none, it
// writes nothing.
func rows[R any](w io.Writer, head string, all []R, line func(R) string) {
	if len(all) > 0 {
		fmt.Fprintf(w, "\n%s\n", head)
	}
	for _, r := range all {
		fmt.Fprintln(w, line(r))
	}
}

// latencyTables writes a table for each program, whose name goes into the head.
func latencyTables(t io.Writer, head string, digits int, all []LatencyRow) {
	programs, _ := namesOf(all)
	for _, p := range programs {
		of := slices.DeleteFunc(slices.Clone(all), func(l LatencyRow) bool { return l.Program != p })
		rows(t, fmt.Sprintf(head, p)+"\tp50 ms\tp99 ms\tmin ms\truns\t", of, func(l LatencyRow) string {
			return fmt.Sprintf("%s\t%.*f\t%.*f\t%.*f\t%d\t", l.What, digits, l.P50, digits, l.P99, digits, l.Min, l.Runs)
		})
	}
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
		rows(t, fmt.Sprintf("after %d runs (daemon %.1f MB, at rest after %.1f s)\tbefore\tafter\t", l.Runs, l.RSSAfter, l.Rest), l.Kinds, func(k Kind) string {
			note := ""
			if k.Kept {
				note = " (kept, bounded)"
			}
			return fmt.Sprintf("%s%s\t%d\t%d\t", k.What, note, k.Before, k.After)
		})
	}
}

// The marks between which a page quotes the results.
const (
	quoteBegin = "<!-- bench:begin -->"
	quoteEnd   = "<!-- bench:end -->"
)

// pages are those that quote the results, and what each says.
var pages = map[string]func(*Results) string{
	"README.md":          (*Results).figures,
	"docs/benchmarks.md": (*Results).reached,
}

// writePages puts the results into the pages of a checkout.
func writePages(checkout string) error {
	text, err := os.ReadFile(filepath.Join(checkout, "bench/results.json"))
	if err != nil {
		return err
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("read the results: %w", err)
	}
	for page, says := range pages {
		page = filepath.Join(checkout, page)
		old, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		next, err := quote(string(old), says(&r))
		if err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
		if err := os.WriteFile(page, []byte(next), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// quote replaces what is between the marks.
func quote(page, text string) (string, error) {
	head, rest, ok := strings.Cut(page, quoteBegin)
	_, tail, ok2 := strings.Cut(rest, quoteEnd)
	if !ok || !ok2 {
		return "", errors.New("it lacks " + quoteBegin + " or " + quoteEnd)
	}
	return head + quoteBegin + "\n" + text + quoteEnd + tail, nil
}

// figures is what README.md says.
func (r *Results) figures() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s One run, interleaved; Mayfly over HTTP, with network, limits and seccomp on. p50 (p99) in\nmilliseconds:\n", r.machine())
	markdownLatency(&b, "", 1, r.Latency)
	r.markdownRates(&b)
	markdownLatency(&b, "From a folder of code to its first answer, ms, p50 (p99):\n\n", 0, r.Push)
	r.markdownRoutes(&b)
	r.markdownDemand(&b)
	r.markdownServices(&b)
	r.markdownMet(&b)
	return b.String()
}

// machine says when and where it was measured.
func (r *Results) machine() string {
	m := r.Machine
	return fmt.Sprintf("`make bench` on %s: %s, %d cores, kernel %s, cgroups %s, load averages %s\nbefore and %s after.",
		r.Date.Format("2 January 2006"), m.CPU, m.Cores, m.Kernel, m.Cgroups, m.LoadBegin, m.LoadEnd)
}

// markdownLatency writes p50 (p99), with a column for each program.
func markdownLatency(b *strings.Builder, title string, digits int, all []LatencyRow) {
	programs, whats := namesOf(all)
	head := "| | " + strings.Join(programs, " | ") + " |\n|---|" + strings.Repeat("---:|", len(programs))
	rows(b, title+head, whats, func(what string) string {
		line := "| " + what + " |"
		for _, p := range programs {
			if l := latencyOf(all, p, what); l != nil {
				line += fmt.Sprintf(" %.*f (%.*f)", digits, l.P50, digits, l.P99)
			}
			line += " |"
		}
		return line
	})
}

// namesOf are the programs of rows, and what was done with them, each once.
func namesOf(all []LatencyRow) (programs, whats []string) {
	for _, l := range all {
		if !slices.Contains(programs, l.Program) {
			programs = append(programs, l.Program)
		}
		if !slices.Contains(whats, l.What) {
			whats = append(whats, l.What)
		}
	}
	return programs, whats
}

func (r *Results) markdownRates(b *strings.Builder) {
	there := slices.DeleteFunc([]string{"fork+exec", "crun run", "runc run", freshRate}, func(what string) bool { return r.highest(what) == 0 })
	rows(b, "Fresh containers of the static program per second:\n\n| clients | 1 | 4 | 16 | CPU ms each |\n|---|---:|---:|---:|---:|", there, func(what string) string {
		return fmt.Sprintf("| %s | %.0f | %.0f | %.0f | %s |",
			what, r.perSecond(what, 1), r.perSecond(what, 4), r.perSecond(what, mostRooms), measured("%.1f", r.cpu(what, 4), "not measured"))
	})
}

// measured is a figure, or what stands for one that there is not.
func measured(format string, v float64, otherwise string) string {
	if v > 0 {
		return fmt.Sprintf(format, v)
	}
	return otherwise
}

// markdownMet says how many of the goals are met, and which are not.
func (r *Results) markdownMet(b *strings.Builder) {
	missed := slices.DeleteFunc(slices.Clone(r.Goals), func(g Goal) bool { return g.Met })
	fmt.Fprintf(b, "\n%d of %d goals were met in this run; [docs/benchmarks.md](docs/benchmarks.md) lists them, and says how all this is measured. "+
		"Every figure is in [bench/results.json](bench/results.json).\n", len(r.Goals)-len(missed), len(r.Goals))
	rows(b, "Not met:\n", missed, func(g Goal) string {
		return fmt.Sprintf("- %s: %s, where the bound is %s.", g.Text, figure(g.Value, g.Unit), figure(g.Bound, g.Unit))
	})
}

// reached is what docs/benchmarks.md says: every goal.
func (r *Results) reached() string {
	var b strings.Builder
	b.WriteString(r.machine() + "\n")
	rows(&b, "| what it is to reach | bound | measured | |\n|---|---:|---:|---|", r.Goals, func(g Goal) string {
		met := "yes"
		if !g.Met {
			met = "**not met**"
		}
		return fmt.Sprintf("| %s | %s | %s | %s |", g.Text, figure(g.Bound, g.Unit), figure(g.Value, g.Unit), met)
	})
	return b.String()
}

// figure shows three digits that count, and all before the point.
func figure(v float64, unit string) string {
	if v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}
