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

// clockTicks is the kernel's unit of time in /proc/PID/stat, per second.
const clockTicks = 100

// treeCPU is the processor time of a process, of the children that it has now
// and of those that it has waited for.
func treeCPU(pid int) (time.Duration, error) {
	total, err := statCPU(pid)
	if err != nil {
		return 0, err
	}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, f := range lists {
		text, _ := os.ReadFile(f)
		for child := range strings.FieldsSeq(string(text)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				return 0, err
			}
			if t, err := treeCPU(n); err == nil { // or it has ended
				total += t
			}
		}
	}
	return total, nil
}

// statCPU is the processor time of a process and of the children that it has
// waited for.
func statCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in brackets, may hold anything.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, text)
	}
	var ticks int64
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

// ownCPU is the processor time of this process.
func ownCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
