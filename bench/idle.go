package main

import (
	"context"
	"time"
)

// IdleRow is what a daemon uses that has nothing to do after all that it did.
type IdleRow struct {
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpuPercent"` // of one core; the daemon, its helper and its containers
	RSS     float64 `json:"rssMB"`
}

// idle measures the daemon that ran everybody's tasks, once it is at rest.
func (b *bench) idle(ctx context.Context) error {
	d, err := b.taskDaemon(ctx)
	if err != nil {
		return err
	}
	if err := wait(ctx, pick(b, 15*time.Second, 0)); err != nil { // in which a node lets spare network namespaces go
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	before, err := d.totalCPU()
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := wait(ctx, pick(b, 30*time.Second, time.Second)); err != nil {
		return err
	}
	after, err := d.totalCPU()
	if err != nil {
		return err
	}
	long := time.Since(begun)
	rss, err := d.rss()
	if err != nil {
		return err
	}
	b.results.Idle = &IdleRow{
		Seconds: round1(long.Seconds()), CPU: round3(100 * float64(after-before) / float64(long)), RSS: mb(float64(rss)),
	}
	return nil
}

// wait lets time pass.
func wait(ctx context.Context, long time.Duration) error {
	select {
	case <-time.After(long):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
