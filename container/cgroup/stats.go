package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
)

// Stats is what a group uses.
type Stats struct {
	Memory      int64 // bytes now, page cache included
	MemoryCache int64 // of them, file pages that can go at once
	MemoryPeak  int64 // bytes at most so far; 0 before Linux 5.19 on v2
	MemoryLimit int64 // bytes; beyond the machine's memory where there is none
	CPU         int64 // microseconds of processor time so far
	Throttled   int64 // microseconds held back by the quota so far
	Throttles   int64 // periods in which that happened
	Pids        int64 // processes and threads now
}

// Stats reads what the group uses. Controllers that the host lacks read as 0.
func (g *Group) Stats() (Stats, error) {
	var s Stats
	r := reader{dir: g.v2}
	if g.host.Mode == V2 {
		s.Memory = r.number("memory.current")
		s.MemoryCache = r.keyed("memory.stat")["inactive_file"]
		s.MemoryPeak = r.number("memory.peak")
		s.MemoryLimit = r.number("memory.max")
		cpu := r.keyed("cpu.stat")
		s.CPU, s.Throttled, s.Throttles = cpu["usage_usec"], cpu["throttled_usec"], cpu["nr_throttled"]
		s.Pids = r.number("pids.current")
		return s, r.failed(g)
	}
	r.dir = g.dir("memory")
	s.Memory = r.number("memory.usage_in_bytes")
	s.MemoryCache = r.keyed("memory.stat")["total_inactive_file"]
	s.MemoryPeak = r.number("memory.max_usage_in_bytes")
	s.MemoryLimit = r.number("memory.limit_in_bytes")
	r.dir = g.dir("cpuacct")
	s.CPU = r.number("cpuacct.usage") / 1000
	r.dir = g.dir("cpu")
	cpu := r.keyed("cpu.stat")
	s.Throttled, s.Throttles = cpu["throttled_time"]/1000, cpu["nr_throttled"]
	r.dir = g.dir("pids")
	s.Pids = r.number("pids.current")
	return s, r.failed(g)
}

// OOMKills returns how many processes of the group the kernel has killed for
// want of memory.
func (g *Group) OOMKills() (int, error) {
	r, file := reader{dir: g.v2}, "memory.events"
	if g.host.Mode != V2 {
		r.dir, file = g.dir("memory"), "memory.oom_control"
	}
	kills := r.keyed(file)["oom_kill"]
	return int(kills), r.failed(g)
}

// A reader reads control files; a missing one is 0 unless the whole group is
// missing.
type reader struct {
	dir  string
	err  error
	some bool // a file was there
}

func (r *reader) number(file string) int64 {
	if r.dir == "" {
		return 0
	}
	n, err := number(r.dir, file)
	r.note(err)
	return n
}

func (r *reader) keyed(file string) map[string]int64 {
	if r.dir == "" {
		return nil
	}
	values, err := keyed(r.dir, file)
	r.note(err)
	return values
}

func (r *reader) note(err error) {
	if err == nil {
		r.some = true
	} else if r.err == nil || errors.Is(r.err, fs.ErrNotExist) {
		r.err = err
	}
}

func (r *reader) failed(g *Group) error {
	if r.err == nil || r.some && errors.Is(r.err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("read control group %s: %w", g.Path, r.err)
}
