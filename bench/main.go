// Command bench compares containers made by Mayfly with those of other
// programs, on one machine, in one run, interleaved: what the machine and its
// other users do, they do to all alike.
//
// Its tasks it compares with jobs of River and asynq.
//
// It needs root and bin/mayfly (make build). What it compares with is whatever
// is installed of crun, runc, podman, docker, PostgreSQL and Redis. It writes a table to stdout
// and results.json, with every goal and whether it is met. It keeps what it
// makes beneath a temporary directory and removes it. docs/benchmarks.md says
// how each figure is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	quick  bool
	long   bool
	alone  bool   // without the peers, which are built from modules of others
	only   string // parts, with commas between; all if empty
	binary string // mayfly
	out    string // results; nowhere if empty
}

func main() {
	var o options
	var quoted bool
	flag.BoolVar(&o.quick, "quick", false, "a smoke test: few samples, figures that mean nothing")
	flag.BoolVar(&o.long, "long", false, "a million tasks too, where there are 100,000 at most")
	flag.StringVar(&o.only, "only", "", "parts to run, with commas between: "+strings.Join(partNames(), ", ")+"; queue: from tasks to idle; services: from told to orchestrators")
	flag.StringVar(&o.binary, "mayfly", "bin/mayfly", "the program to measure")
	flag.StringVar(&o.out, "o", "", "where the results go (default bench/results.json when every part is run in full)")
	flag.BoolVar(&quoted, "quote", false, "only put bench/results.json into README.md and docs/benchmarks.md")
	flag.Parse()
	if o.out == "" && !o.quick && o.only == "" {
		o.out = "bench/results.json"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if quoted {
		err = writePages(".")
	} else {
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// bench is one run of the comparison.
type bench struct {
	options
	dir      string // temporary, short: paths of sockets are bounded
	material material
	rooms    *rooms
	rivals   []*rival
	queue    *daemon  // of the parts about tasks; nil until one needs it
	services *daemon  // of the parts about services; likewise
	docker   []string // command line of the client of a dockerd of our own; likewise

	dockerPID int // of that dockerd
	results   *Results
	closers   []func()
}

// part is one chapter of the results.
type part struct {
	name   string
	run    func(*bench, context.Context) error
	rivals bool // it needs them
}

func parts() []part {
	return []part{
		{"latency", (*bench).latency, true},
		{"rate", (*bench).rate, true},
		{"load", (*bench).load, false},
		{"burst", (*bench).burst, false},
		{"scale", (*bench).scale, false},
		{"push", (*bench).pushes, false},
		{"memory", (*bench).memory, false},
		{"leftovers", (*bench).leftovers, false},
		{"tasks", (*bench).tasks, false},
		{"enqueue", (*bench).enqueue, false},
		{"first", (*bench).first, false},
		{"limits", (*bench).limits, false},
		{"events", (*bench).events, false},
		{"flat", (*bench).flat, false},
		{"idle", (*bench).idle, false},
		{"told", (*bench).told, false},
		{"view", (*bench).view, false},
		{"names", (*bench).dnsNames, false},
		{"deploys", (*bench).deploys, false},
		{"orchestrators", (*bench).orchestrators, false},
		{"routes", (*bench).webRoutes, false},
	}
}

func partAt(name string) int {
	return slices.IndexFunc(parts(), func(p part) bool { return p.name == name })
}

func partNames() []string {
	var names []string
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// chosen returns the parts that were asked for, in their order.
func chosen(only string) ([]part, error) {
	all := parts()
	switch only {
	case "":
		return all, nil
	case "queue":
		return all[partAt("tasks"):partAt("told")], nil
	case "services":
		return all[partAt("told"):partAt("routes")], nil
	}
	var some []part
	for name := range strings.SplitSeq(only, ",") {
		found := false
		for _, p := range all {
			if p.name == name {
				some, found = append(some, p), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no part %q; there are %s", name, strings.Join(partNames(), ", "))
		}
	}
	return some, nil
}

func run(ctx context.Context, o options) (err error) {
	todo, err := chosen(o.only)
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("containers need root")
	}
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	b := &bench{options: o}
	defer func() { b.close() }()
	if err := b.open(ctx, slices.ContainsFunc(todo, func(p part) bool { return p.rivals })); err != nil {
		return err
	}
	begun := time.Now()
	for _, p := range todo {
		b.say("%s", p.name)
		if err := b.part(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		b.results.Took = time.Since(begun).Round(time.Second).String()
		b.results.Machine.LoadEnd = loadAverage()
		b.results.judge()
		if err := b.results.save(o.out); err != nil {
			return err
		}
	}
	return b.results.table(os.Stdout)
}

// part runs one part, for as long as it may take: many times what it does.
func (b *bench) part(ctx context.Context, p part) error {
	limit := time.Hour
	if b.quick {
		limit = 10 * time.Minute
	}
	late := fmt.Errorf("not done within %s", limit)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	err := p.run(b, ctx)
	if err != nil && context.Cause(ctx) == late {
		return fmt.Errorf("%w: %w", late, err)
	}
	return err
}

func (b *bench) open(ctx context.Context, rivals bool) error {
	dir, err := os.MkdirTemp("", "mfb-")
	if err != nil {
		return err
	}
	b.dir = dir
	b.onClose(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.say("remove %s: %v", dir, err)
		}
	})
	if b.binary, err = keepBinary(b.binary, dir); err != nil {
		return err
	}
	if b.material, err = makeMaterial(dir); err != nil {
		return fmt.Errorf("make images: %w", err)
	}
	b.rooms = newRooms()
	b.onClose(b.rooms.close)
	if b.results, err = newResults(ctx, b.options); err != nil {
		return err
	}
	if rivals {
		b.rivals, err = b.openRivals(ctx)
	}
	return err
}

// keepBinary copies the program, so that a build meanwhile changes nothing.
func keepBinary(path, dir string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w; make build makes it", err)
	}
	kept := filepath.Join(dir, "mayfly")
	return kept, os.WriteFile(kept, text, 0o755)
}

func (b *bench) onClose(f func()) { b.closers = append(b.closers, f) }

// close undoes everything, the last that was done first.
func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// say tells on stderr how far the run has come.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// pick is the full run's value, or the smoke test's.
func pick[T any](b *bench, full, quick T) T {
	if b.quick {
		return quick
	}
	return full
}
