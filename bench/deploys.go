package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// DeployRow is how long the deploy of a manifest takes, until it says that all is
// as it shall be.
type DeployRow struct {
	What     string  `json:"what"`
	Services int     `json:"services"`
	Times    int     `json:"times"`
	P50      float64 `json:"p50ms"`
	P99      float64 `json:"p99ms"`
}

// ServicesIdleRow is what services use that have nothing to do.
type ServicesIdleRow struct {
	Services int     `json:"services"`
	Seconds  float64 `json:"seconds"`
	CPU      float64 `json:"cpuPercent"` // of one core; the daemon, its helper and the containers
	Daemon   float64 `json:"daemonPercent"`
	RSS      float64 `json:"rssMB"` // of the daemon
}

const (
	deployFresh = "mayfly deploy of services that are not there"
	deploySame  = "mayfly deploy with nothing changed"
	idleCount   = 100
)

// deploys measures the command that people use, first with everything to do and
// then with nothing, and what the services take then that only wait.
func (b *bench) deploys(ctx context.Context) error {
	d, err := b.serviceDaemon(ctx)
	if err != nil {
		return err
	}
	count := pick(b, idleCount, 3)
	manifest, err := b.idleManifest(count)
	if err != nil {
		return err
	}
	first, err := b.deploy(ctx, d, manifest)
	if err != nil {
		return err
	}
	touched, err := d.starts(ctx)
	if err != nil {
		return err
	}
	var same sample
	for range pick(b, 30, 2) {
		took, err := b.deploy(ctx, d, manifest)
		if err != nil {
			return err
		}
		same = append(same, took)
	}
	again, err := d.starts(ctx)
	if err != nil {
		return err
	}
	if again != touched {
		return fmt.Errorf("a deploy with nothing changed touched something:\n%s\n%s", touched, again)
	}
	b.results.Deploys = append(b.results.Deploys,
		DeployRow{What: deployFresh, Services: count, Times: 1, P50: ms(first), P99: ms(first)},
		DeployRow{What: deploySame, Services: count, Times: len(same), P50: ms(same.quantile(.5)), P99: ms(same.quantile(.99))})
	if err := b.idleServices(ctx, d, count); err != nil {
		return err
	}
	for i := range count {
		if err := d.api.DeleteWorkload(ctx, idleName(i)); err != nil {
			return err
		}
	}
	return nil
}

func idleName(i int) string { return fmt.Sprintf("idle-%d", i) }

// idleManifest has services with a port that is asked for every ten seconds,
// as is the default.
func (b *bench) idleManifest(count int) (string, error) {
	var text strings.Builder
	text.WriteString("name: idle\nservices:\n")
	for i := range count {
		fmt.Fprintf(&text, "  %s: {image: appliance, command: [/appliance, provide], provides: {db: {}}, env: {REPORT: \"127.0.0.1:9\"}}\n", idleName(i))
	}
	path := filepath.Join(b.dir, "idle.yaml")
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

// deploy runs the command, and returns how long that took.
func (b *bench) deploy(ctx context.Context, d *daemon, manifest string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, b.binary, "deploy", "-f", manifest)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST="+d.api.Host())
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("mayfly deploy: %w: %s", err, lastLine(string(out)))
	}
	return time.Since(begin), nil
}

// starts lists which containers there are and when they began.
func (d *daemon) starts(ctx context.Context) (string, error) {
	all, err := d.api.ListInstances(ctx, true)
	var text strings.Builder
	for _, in := range all {
		fmt.Fprintln(&text, in.ID, in.Started, in.State)
	}
	return text.String(), err
}

func (b *bench) idleServices(ctx context.Context, d *daemon, count int) error {
	if err := wait(ctx, pick(b, 15*time.Second, 0)); err != nil {
		return err
	}
	all, err := d.totalCPU()
	if err != nil {
		return err
	}
	own, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := wait(ctx, pick(b, 60*time.Second, time.Second)); err != nil {
		return err
	}
	long := time.Since(begun)
	ownAfter, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return err
	}
	allAfter, err := d.totalCPU()
	if err != nil {
		return err
	}
	rss, err := d.rss()
	if err != nil {
		return err
	}
	percent := func(d time.Duration) float64 { return round3(100 * float64(d) / float64(long)) }
	b.results.ServicesIdle = &ServicesIdleRow{
		Services: count, Seconds: round1(long.Seconds()), CPU: percent(allAfter - all), Daemon: percent(ownAfter - own), RSS: mb(float64(rss)),
	}
	return nil
}
