package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// leftovers counts what a daemon holds after a few runs and after many, when
// the function is deleted. The goroutines are those of a dump, which ends the
// daemon; so another with the same settings is dumped before.
func (b *bench) leftovers(ctx context.Context) error {
	fresh, err := b.upStatic(ctx, "fresh")
	if err != nil {
		return err
	}
	if err := b.fewRuns(ctx, fresh); err != nil {
		return err
	}
	goroutines, err := fresh.dump(ctx)
	if err != nil {
		return err
	}
	d, err := b.upStatic(ctx, "runs")
	if err != nil {
		return err
	}
	if err := b.fewRuns(ctx, d); err != nil { // what the first make for good
		return err
	}
	before, err := d.census()
	if err != nil {
		return err
	}
	row := LeftoverRow{}
	if err := b.many(ctx, d, &row); err != nil {
		return err
	}
	after, err := d.census()
	if err != nil {
		return err
	}
	threads, err := d.dump(ctx)
	if err != nil {
		return err
	}
	for i, c := range before {
		row.Kinds = append(row.Kinds, Kind{What: c.what, Before: c.n, After: after[i].n, Kept: c.kept})
	}
	row.Kinds = append(row.Kinds, Kind{What: "goroutines", Before: goroutines, After: threads})
	b.results.Leftovers = &row
	return nil
}

// fewRuns calls the function until everything that a node keeps waiting has
// been used, and deletes it.
func (b *bench) fewRuns(ctx context.Context, d *daemon) error {
	for range pick(b, 100, 10) {
		if err := d.call(ctx, "static"); err != nil {
			return err
		}
	}
	if err := d.rest(ctx, "static"); err != nil {
		return err
	}
	return b.calm(ctx)
}

// restMost is how long removing sandboxes may go on after the last run.
const restMost = 2 * time.Minute

// spare is longer than a node keeps network namespaces that nobody needs, and
// than the kernel takes to delete them.
const spare = 14 * time.Second

// rest deletes a function and waits for the daemon to be done with it.
func (d *daemon) rest(ctx context.Context, function string) error {
	if err := d.api.DeleteWorkload(ctx, function); err != nil {
		return err
	}
	d.web.CloseIdleConnections()
	d.api.Close()
	limit := time.Now().Add(restMost)
	for d.sandboxes() > 0 && time.Now().Before(limit) {
		if err := d.settle(ctx); err != nil {
			return err
		}
	}
	return d.settle(ctx)
}

// calm waits until a node at rest holds only what it always does.
func (b *bench) calm(ctx context.Context) error {
	select {
	case <-time.After(pick(b, spare, 2*time.Second)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// many makes the runs.
func (b *bench) many(ctx context.Context, d *daemon, row *LeftoverRow) error {
	if err := d.deploy(ctx, static("static")); err != nil {
		return err
	}
	count := pick(b, 10_000, 100)
	for row.Runs < count {
		n, err := crowd(ctx, func(ctx context.Context) error { return d.call(ctx, "static") }, 4, time.Second)
		if err != nil {
			return err
		}
		row.Runs += n
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	rss, err := d.rss()
	if err != nil {
		return err
	}
	row.RSSAfter = mb(float64(rss))
	begun := time.Now()
	if err := d.rest(ctx, "static"); err != nil {
		return err
	}
	row.Rest = round3(time.Since(begun).Seconds())
	return b.calm(ctx)
}

// tally is how many of a kind there are.
type tally struct {
	what string
	n    int
	kept bool // there are to be more: a bounded record of what ran
}

// census counts what the daemon has in the kernel and on disk.
func (d *daemon) census() ([]tally, error) {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", d.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	cgroups, processes, err := d.cgroups()
	if err != nil {
		return nil, err
	}
	spaces := map[string]bool{}
	for _, pid := range append(processes, fmt.Sprint(d.cmd.Process.Pid)) {
		links, _ := filepath.Glob("/proc/" + pid + "/fd/*")
		for _, l := range append(links, "/proc/"+pid+"/ns/net") {
			if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "net:[") {
				spaces[to] = true
			}
		}
	}
	veths, err := filepath.Glob("/sys/class/net/mf-" + d.token() + "/brif/*")
	if err != nil {
		return nil, err
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", d.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	list := []tally{
		{what: "mounts", n: strings.Count(string(mounts), d.dir)},
		{what: "network namespaces", n: len(spaces)},
		{what: "cgroups", n: cgroups},
		{what: "processes in them", n: len(processes)},
		{what: "veths on the bridge", n: len(veths)},
		{what: "addresses in use", n: d.neighbours()},
		{what: "files open in the daemon", n: len(open)},
	}
	for _, sub := range []struct {
		dir  string
		kept bool
	}{{"sandboxes", false}, {"volatile", false}, {"init", false}, {"images", false}, {"code", false}, {"", false}, {"tmp", false}, {"logs", true}, {"jetstream", true}, {"streams", true}} {
		list = append(list, d.files(sub.dir, sub.kept))
	}
	return list, nil
}

// neighbours is how many addresses the daemon has told the kernel about: each
// sandbox's is a permanent neighbour on the bridge.
func (d *daemon) neighbours() int {
	text, err := os.ReadFile("/proc/net/arp")
	if err != nil {
		return 0
	}
	return strings.Count(string(text), "mf-"+d.token())
}

// cgroups is how many cgroups the daemon has, in all hierarchies, and the
// processes in them.
func (d *daemon) cgroups() (n int, pids []string, err error) {
	seen := map[string]bool{}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() || !strings.Contains(path, "/mayfly-"+d.token()) {
			return nil // others' cgroups come and go
		}
		n++
		text, _ := os.ReadFile(path + "/cgroup.procs")
		for pid := range strings.FieldsSeq(string(text)) {
			seen[pid] = true
		}
		return nil
	})
	for pid := range seen {
		pids = append(pids, pid)
	}
	return n, pids, err
}

// files counts what lies beneath a part of the data directory, or, for the
// empty name, directly in it.
func (d *daemon) files(sub string, kept bool) tally {
	t := tally{what: "files in " + sub + "/", kept: kept}
	if sub == "" {
		t.what = "files in the data directory itself"
		entries, _ := os.ReadDir(d.dir)
		t.n = len(entries)
		return t
	}
	filepath.WalkDir(filepath.Join(d.dir, sub), func(_ string, _ fs.DirEntry, err error) error {
		if err == nil {
			t.n++
		}
		return nil
	})
	return t
}

// dump has the daemon write its goroutines down, which ends it, and counts
// them.
func (d *daemon) dump(ctx context.Context) (int, error) {
	if err := d.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return 0, err
	}
	select {
	case <-d.ended:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer d.abandon()
	text, err := os.ReadFile(d.log)
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "goroutine ") && strings.HasSuffix(line, ":\n") {
			n++
		}
	}
	if n == 0 {
		return 0, mayfly.Errorf(mayfly.Internal, "the daemon wrote no goroutines down: %s", lastLine(string(text)))
	}
	return n, nil
}
