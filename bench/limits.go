package main

import (
	"context"
	"fmt"

	"github.com/mayfly-run/mayfly"
)

// limits runs tasks of functions that do nothing, with and without limits that
// hold none of them up, in turns: the difference is what a limit costs.
func (b *bench) limits(ctx context.Context) error {
	d, err := b.taskDaemon(ctx)
	if err != nil {
		return err
	}
	var all []*jobContender
	for _, l := range []struct {
		what string
		set  func(*mayfly.Workload)
	}{
		{"no limit", func(*mayfly.Workload) {}},
		{"concurrency", func(w *mayfly.Workload) { w.Concurrency = 1000 }},
		{"rate", func(w *mayfly.Workload) { w.Rate = mayfly.Rate{PerSecond: 1e6, Burst: 1e6} }},
		{"key", func(w *mayfly.Workload) { w.Key = mayfly.KeyLimit{Field: "user.id", Max: 1000} }},
	} {
		w := noopFunction(fmt.Sprintf("noop-%d", len(all)))
		l.set(&w)
		if err := d.deploy(ctx, w); err != nil {
			return err
		}
		all = append(all, &jobContender{what: l.what, once: func(ctx context.Context, jobs int) (jobsRun, error) {
			return d.jobsOf(ctx, w.Name, jobs, func(client int) mayfly.Submission {
				payload := fmt.Appendf(nil, `{"user":{"id":%d}}`, client)
				return mayfly.Submission{Workload: w.Name, Payload: payload}
			})
		}})
	}
	jobs := pick(b, 5000, 100)
	if err := b.jobRounds(ctx, all, jobs, pick(b, 3, 1), d); err != nil {
		return err
	}
	for _, c := range all {
		b.results.Limits = append(b.results.Limits, c.row(jobs))
	}
	return nil
}
