package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/mayfly-run/mayfly"
)

// memory measures what a daemon takes that does nothing, and what sandboxes
// take that wait: by how much MemAvailable drops while many come, and rises
// when they go, with the kernel's and the daemon's share in it.
func (b *bench) memory(ctx context.Context) error {
	d, err := b.up(ctx, "memory")
	if err != nil {
		return err
	}
	row := MemoryRow{}
	if err := d.settle(ctx); err != nil {
		return err
	}
	idle, err := d.rss()
	if err != nil {
		return err
	}
	row.IdleRSS = mb(float64(idle))
	if err := d.importStatic(ctx, b.material); err != nil {
		return err
	}
	before, err := d.available(ctx)
	if err != nil {
		return err
	}
	names := []string{}
	for i := range pick(b, 200, 5) {
		w := static(fmt.Sprintf("wait-%d", i))
		w.Process = mayfly.Process{Command: []string{"/bin/echo", answer}}
		if err := d.deploy(ctx, w); err != nil {
			return err
		}
		names = append(names, w.Name)
	}
	during, err := d.available(ctx)
	if err != nil {
		return err
	}
	row.Waiting = d.sandboxes()
	full, err := d.rss()
	if err != nil {
		return err
	}
	row.RSSGrowth = mb(float64(full - idle))
	for _, name := range names {
		if err := d.api.DeleteWorkload(ctx, name); err != nil {
			return err
		}
	}
	after, err := d.available(ctx)
	if err != nil {
		return err
	}
	if row.Waiting == 0 {
		return fmt.Errorf("no sandbox waits after %d deploys", len(names))
	}
	row.Come = mb(float64(before-during) / float64(row.Waiting))
	row.Go = mb(float64(after-during) / float64(row.Waiting))
	b.results.Memory = &row
	return d.down(ctx)
}

// available is MemAvailable once the daemon is quiet and caches are dropped.
func (d *daemon) available(ctx context.Context) (int64, error) {
	if err := d.settle(ctx); err != nil {
		return 0, err
	}
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return 0, err
	}
	return kilobytes("/proc/meminfo", "MemAvailable:")
}

// sandboxes is how many sandboxes the daemon has.
func (d *daemon) sandboxes() int {
	n := 0
	for _, sub := range []string{"/sandboxes", "/volatile"} {
		entries, err := os.ReadDir(d.dir + sub)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && e.Name()[0] != '.' { // that is no sandbox
				n++
			}
		}
	}
	return n
}
