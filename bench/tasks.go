package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TasksRow is how fast a queue ran jobs that do nothing. The rates are medians
// of the runs, in jobs per second.
type TasksRow struct {
	What     string    `json:"what"`
	Jobs     int       `json:"jobs"`
	Inserted float64   `json:"insertedPerSecond"`         // until the last was accepted
	Worked   float64   `json:"workedPerSecond,omitempty"` // of workers that began when all was accepted
	InAll    float64   `json:"inAllPerSecond"`            // until the last outcome was recorded
	CPU      float64   `json:"cpuMs"`                     // of each job, with its store, its worker and the client
	Runs     []float64 `json:"runs"`                      // InAll of each
}

// jobsRun is one run of a contender.
type jobsRun struct {
	rates peerRates
	cpu   time.Duration
}

// jobContender is a queue that is asked to run jobs.
type jobContender struct {
	what string
	once func(ctx context.Context, jobs int) (jobsRun, error)
	runs []jobsRun
}

// apart is said of workers that begin when everything was submitted.
const apart = ", workers apart"

// mayflyTasks is what Mayfly's queue is called in the results.
const mayflyTasks = "mayfly"

// tasks has 16 clients submit jobs one by one, to Mayfly and to the peers in
// turns. The peers run their jobs in both ways that there are, while jobs are
// submitted and afterwards, and are judged by the better one.
func (b *bench) tasks(ctx context.Context) error {
	d, err := b.taskDaemon(ctx)
	if err != nil {
		return err
	}
	peers, err := b.openPeers(ctx)
	if err != nil {
		return err
	}
	all := []*jobContender{{what: mayflyTasks, once: func(ctx context.Context, jobs int) (jobsRun, error) { return d.jobs(ctx, noop, jobs) }}}
	for _, p := range peers {
		for _, after := range []bool{false, true} {
			c := &jobContender{what: p.name, once: func(ctx context.Context, jobs int) (r jobsRun, err error) {
				r.rates, r.cpu, err = p.jobs(ctx, jobs, after)
				return r, err
			}}
			if after {
				c.what += apart
			}
			all = append(all, c)
		}
	}
	jobs := pick(b, 20_000, 300)
	if err := b.jobRounds(ctx, all, jobs, pick(b, 3, 1), d); err != nil {
		return err
	}
	for _, c := range all {
		b.results.Tasks = append(b.results.Tasks, c.row(jobs))
	}
	return nil
}

// jobRounds runs every contender in turn. Before that each runs some jobs that
// do not count.
func (b *bench) jobRounds(ctx context.Context, all []*jobContender, jobs, rounds int, d *daemon) error {
	for i := range rounds + 1 {
		for j := range all {
			c := all[(i+j)%len(all)]
			n := jobs
			if i == 0 {
				n = jobs / 10
			}
			r, err := c.once(ctx, n)
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			if i > 0 {
				b.say("%s: %.0f/s in all, %.3f ms of CPU each", c.what, r.rates.InAll, ms(r.cpu)/float64(n))
				c.runs = append(c.runs, r)
			}
			if err := d.settle(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *jobContender) row(jobs int) TasksRow {
	row := TasksRow{What: c.what, Jobs: jobs}
	var inserted, worked, cpu []float64
	for _, r := range c.runs {
		inserted, worked = append(inserted, r.rates.Inserted), append(worked, r.rates.Worked)
		row.Runs = append(row.Runs, round1(r.rates.InAll))
		cpu = append(cpu, ms(r.cpu)/float64(jobs))
	}
	row.Inserted, row.Worked, row.InAll, row.CPU = round1(median(inserted)), round1(median(worked)), median(row.Runs), round3(median(cpu))
	return row
}

// median is the middle one, or the lower of the two.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)/2]
}

func round1(v float64) float64 { return float64(int64(v*10+0.5)) / 10 }

// jobs submits tasks of a function that does nothing. The clock stops when the
// last outcome is on disk.
func (d *daemon) jobs(ctx context.Context, function string, count int) (r jobsRun, err error) {
	return d.jobsOf(ctx, function, count, func(int) mayfly.Submission { return mayfly.Submission{Workload: function} })
}

// jobsOf is jobs with what each client submits.
func (d *daemon) jobsOf(ctx context.Context, function string, count int, sub func(client int) mayfly.Submission) (r jobsRun, err error) {
	before, err := d.cpuWithOurs()
	if err != nil {
		return r, err
	}
	begun := time.Now()
	inserted, ids, err := d.submitMany(ctx, count, sub)
	if err != nil {
		return r, err
	}
	if err := d.awaitAll(ctx, ids); err != nil {
		return r, err
	}
	end := time.Now()
	after, err := d.cpuWithOurs()
	if err != nil {
		return r, err
	}
	// Whatever was submitted before those that were waited for may still have
	// run then; the record knows.
	last, err := d.lastEnd(ctx, function, begun, count)
	if err != nil {
		return r, err
	}
	if last.After(end) {
		end = last
	}
	r.rates.Inserted = float64(count) / inserted.Seconds()
	r.rates.InAll = float64(count) / end.Sub(begun).Seconds()
	r.cpu = after - before
	return r, nil
}

// cpuWithOurs is the processor time of the daemon, its containers and the
// clients, which are in this process.
func (d *daemon) cpuWithOurs() (time.Duration, error) {
	theirs, err := d.totalCPU()
	if err != nil {
		return 0, err
	}
	ours, err := ownCPU()
	return theirs + ours, err
}

// noop and when are functions: one answers every request with nothing, the
// other says when it was started.
const (
	noop = "noop"
	when = "when"
)

// taskDaemon is a daemon with the functions noop and when. Parts share it.
func (b *bench) taskDaemon(ctx context.Context) (*daemon, error) {
	if b.queue != nil {
		return b.queue, nil
	}
	d, err := b.upNoop(ctx, "tasks")
	if err != nil {
		return nil, err
	}
	b.queue = d
	return d, nil
}

// upNoop starts a daemon with the functions noop and when.
func (b *bench) upNoop(ctx context.Context, name string, flags ...string) (*daemon, error) {
	d, err := b.up(ctx, name, flags...)
	if err != nil {
		return nil, err
	}
	if err := b.importNoop(ctx, d); err != nil {
		return nil, err
	}
	for _, w := range []mayfly.Workload{noopFunction(noop), {
		Name: when, Image: noopImage, Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"/noop"}},
	}} {
		if err := d.deploy(ctx, w); err != nil {
			return nil, err
		}
	}
	return d, d.settle(ctx)
}

const noopImage = "bench-noop"

// noopFunction is a function that answers every request with nothing, in
// containers that serve many.
func noopFunction(name string) mayfly.Workload {
	return mayfly.Workload{
		Name: name, Image: noopImage, Protocol: mayfly.HTTP, Isolation: mayfly.IsolationInstance,
		Process: mayfly.Process{Command: []string{"/noop", "serve"}},
	}
}

// importNoop gives the daemon the image of the two.
func (b *bench) importNoop(ctx context.Context, d *daemon) error {
	root := filepath.Join(b.dir, "noop")
	if _, err := os.Stat(root); err != nil {
		program, err := b.goBuild(ctx, ".", "./bench/noop")
		if err != nil {
			return err
		}
		if err := errors.Join(os.Mkdir(root, 0o755), os.Rename(program, root+"/noop"), tarFile(root+".tar", root)); err != nil {
			return err
		}
	}
	return d.importTar(ctx, noopImage, root+".tar")
}
