package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// childrenCPU is the processor time of every program that the bench has
// waited for, and of those that these waited for.
func childrenCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// totalCPU is the processor time of the daemon, of what it started and has not
// yet waited for, and of all its containers. What a container used before it
// was in its cgroup is missing.
func (d *daemon) totalCPU() (time.Duration, error) {
	total, err := cpuOf(d.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", d.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, f := range children {
		text, _ := os.ReadFile(f)
		for child := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				return 0, err
			}
			if d.isContainer(pid) {
				continue
			}
			if t, err := cpuOf(pid); err == nil {
				total += t
			}
		}
	}
	inside, err := d.containersCPU()
	return total + inside, err
}

func (d *daemon) isContainer(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	return err != nil || strings.Contains(string(text), "/mayfly-"+d.token())
}

// containersCPU reads the cgroup above all containers, which remembers those
// that are gone.
func (d *daemon) containersCPU() (time.Duration, error) {
	name := "/mayfly-" + d.token()
	if text, err := os.ReadFile("/sys/fs/cgroup/cpuacct" + name + "/cpuacct.usage"); err == nil {
		ns, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return time.Duration(ns), err
	}
	text, err := os.ReadFile("/sys/fs/cgroup" + name + "/cpu.stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "usage_usec ")
	us, err := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
	return time.Duration(us) * time.Microsecond, err
}
