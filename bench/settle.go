package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// quiet is the time for which a daemon must have used next to no CPU to have
// done what a call leaves to do: making the next sandbox, removing the last.
const (
	quiet     = 25 * time.Millisecond
	quietCPU  = time.Millisecond
	quietMost = 5 * time.Second
)

// settle waits until the daemon is quiet, so that what one call leaves behind
// is not charged to whoever is measured next.
func (d *daemon) settle(ctx context.Context) error {
	limit := time.Now().Add(quietMost)
	used, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return err
	}
	for time.Now().Before(limit) {
		select {
		case <-time.After(quiet): // nothing tells when work is done that is off every path
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ended:
			return errGone
		}
		now, err := cpuOf(d.cmd.Process.Pid)
		if err != nil {
			return err
		}
		if now-used < quietCPU {
			return nil
		}
		used = now
	}
	return nil
}

// cpuOf is how long the threads of a process have run.
func cpuOf(pid int) (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, errGone
	}
	var total time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended
		}
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n)
	}
	return total, nil
}

// rss is the resident memory of the daemon's process, in bytes.
func (d *daemon) rss() (int64, error) {
	return kilobytes(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid), "VmRSS:")
}

// kilobytes reads one line of a file in the form of /proc/meminfo, as bytes.
func kilobytes(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
