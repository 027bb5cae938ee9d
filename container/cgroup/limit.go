package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// limit sets all that r says.
func (g *Group) limit(r *specs.LinuxResources) error {
	if err := supported(r, g.host.Mode); err != nil {
		return err
	}
	list, err := newDeviceList(r.Devices)
	if err != nil {
		return err
	}
	if g.host.Mode != V2 {
		return g.limitV1(r, list)
	}
	if err := g.limitV2(r); err != nil {
		return err
	}
	return g.host.programs.attach(list, g.fd)
}

func supported(r *specs.LinuxResources, mode Mode) error {
	m, c := r.Memory, r.CPU
	for what, used := range map[string]bool{
		"block I/O": r.BlockIO != nil, "huge pages": len(r.HugepageLimits) > 0, "network classes": r.Network != nil, "rdma": len(r.Rdma) > 0,
		"real-time scheduling":  c != nil && (c.RealtimePeriod != nil || c.RealtimeRuntime != nil),
		"swappiness":            m != nil && m.Swappiness != nil && mode == V2,
		"disabled OOM killer":   m != nil && m.DisableOOMKiller != nil && *m.DisableOOMKiller && mode == V2,
		"unified limits (v2)":   len(r.Unified) > 0 && mode != V2,
		"hierarchical counting": m != nil && m.UseHierarchy != nil && !*m.UseHierarchy,
	} {
		if used {
			return fmt.Errorf("%s: not supported: %w", what, errors.ErrUnsupported)
		}
	}
	return nil
}

// limitV1 sets the limits on v1, devices among them.
func (g *Group) limitV1(r *specs.LinuxResources, list deviceList) error {
	var w writer
	if dir := g.dir("devices"); dir != "" {
		list.write(&w, dir)
	} else {
		w.fail("devices")
	}
	if m := r.Memory; m != nil {
		w.dir = w.need(g, "memory")
		w.set("memory.limit_in_bytes", m.Limit)
		w.optional("memory.memsw.limit_in_bytes", m.Swap)
		w.set("memory.soft_limit_in_bytes", m.Reservation)
		if m.Swappiness != nil {
			w.write("memory.swappiness", decimal(*m.Swappiness))
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			w.write("memory.oom_control", "1")
		}
	}
	if c := r.CPU; c != nil {
		if c.Shares != nil || c.Period != nil || c.Quota != nil || c.Burst != nil || c.Idle != nil {
			w.dir = w.need(g, "cpu")
			w.setUnsigned("cpu.shares", c.Shares)
			w.setUnsigned("cpu.cfs_period_us", c.Period)
			w.set("cpu.cfs_quota_us", c.Quota)
			w.setUnsigned("cpu.cfs_burst_us", c.Burst)
			w.set("cpu.idle", c.Idle)
		}
		if c.Cpus != "" || c.Mems != "" {
			w.dir = w.need(g, "cpuset")
			w.text("cpuset.cpus", c.Cpus)
			w.text("cpuset.mems", c.Mems)
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		w.dir = w.need(g, "pids")
		w.write("pids.max", maximum(*r.Pids.Limit))
	}
	return w.err
}

func (g *Group) limitV2(r *specs.LinuxResources) error {
	w := writer{dir: g.v2}
	if m := r.Memory; m != nil {
		if m.Limit != nil {
			w.write("memory.max", maximum(*m.Limit))
		}
		if swap, ok := swapOnly(m); ok {
			w.optional("memory.swap.max", &swap)
		}
		if m.Reservation != nil {
			w.write("memory.low", maximum(*m.Reservation))
		}
	}
	if c := r.CPU; c != nil {
		if c.Idle != nil {
			w.write("cpu.idle", decimal(*c.Idle))
		}
		if c.Shares != nil && *c.Shares != 0 {
			w.write("cpu.weight", decimal(weight(*c.Shares)))
		}
		if c.Quota != nil || c.Period != nil {
			w.write("cpu.max", cpuMax(c))
		}
		w.setUnsigned("cpu.max.burst", c.Burst)
		w.text("cpuset.cpus", c.Cpus)
		w.text("cpuset.mems", c.Mems)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		w.write("pids.max", maximum(*r.Pids.Limit))
	}
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		if path.Base(file) != file {
			return fmt.Errorf("unified limit %q: not a file name", file)
		}
		w.write(file, r.Unified[file])
	}
	return w.err
}

// swapOnly turns the sum of memory and swap, which OCI knows, into swap alone.
func swapOnly(m *specs.LinuxMemory) (int64, bool) {
	switch {
	case m.Swap == nil || *m.Swap == 0:
		return 0, false
	case *m.Swap < 0:
		return -1, true
	case m.Limit == nil || *m.Limit <= 0:
		return 0, false
	}
	return max(0, *m.Swap-*m.Limit), true
}

// weight turns v1 shares (2 to 262144, 1024 by default) into a v2 weight (1 to
// 10000, 100 by default) as current OCI runtimes do: a quadratic in the
// logarithms that meets all three.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func cpuMax(c *specs.LinuxCPU) string {
	text := "max"
	if c.Quota != nil && *c.Quota > 0 {
		text = decimal(*c.Quota)
	}
	if c.Period != nil && *c.Period != 0 {
		text += " " + decimal(*c.Period)
	}
	return text
}

// maximum writes a limit; negative numbers mean none.
func maximum(n int64) string {
	if n < 0 {
		return "max"
	}
	return decimal(n)
}

// SetMemory changes the memory limit of a group, in bytes, without swap. The
// kernel takes pages back to get below a lower limit, and fails with EBUSY
// (v1) or kills (v2) when it cannot.
func (g *Group) SetMemory(bytes int64) error {
	if bytes <= 0 {
		return fmt.Errorf("set memory of control group %s: %d bytes: %w", g.Path, bytes, unix.EINVAL)
	}
	var w writer
	if g.host.Mode == V2 {
		w.dir = g.v2
		w.write("memory.max", decimal(bytes))
		w.optional("memory.swap.max", new(int64))
	} else {
		w.dir = w.need(g, "memory")
		// memory never exceeds memory and swap together, at any time
		if now, err := number(w.dir, "memory.limit_in_bytes"); err == nil && bytes > now {
			w.optional("memory.memsw.limit_in_bytes", &bytes)
			w.set("memory.limit_in_bytes", &bytes)
		} else {
			w.set("memory.limit_in_bytes", &bytes)
			w.optional("memory.memsw.limit_in_bytes", &bytes)
		}
	}
	if w.err != nil {
		return fmt.Errorf("set memory of control group: %w", w.err)
	}
	return nil
}

// A writer writes control files until one fails.
type writer struct {
	dir string
	err error
}

// need returns where a v1 controller has the group.
func (w *writer) need(g *Group, controller string) string {
	dir := g.dir(controller)
	if dir == "" {
		w.fail(controller)
	}
	return dir
}

func (w *writer) fail(controller string) {
	if w.err == nil {
		w.err = fmt.Errorf("the host has no %s controller: %w", controller, errors.ErrUnsupported)
	}
}

func (w *writer) write(file string, values ...string) {
	if w.err == nil {
		w.err = write(w.dir, file, values...)
	}
}

func (w *writer) set(file string, n *int64) {
	if n != nil {
		w.write(file, decimal(*n))
	}
}

func (w *writer) setUnsigned(file string, n *uint64) {
	if n != nil {
		w.write(file, decimal(*n))
	}
}

func (w *writer) text(file, value string) {
	if value != "" {
		w.write(file, value)
	}
}

// optional sets a limit whose file is missing where the kernel does not count
// swap.
func (w *writer) optional(file string, n *int64) {
	if n == nil || w.err != nil {
		return
	}
	value := decimal(*n)
	if *n < 0 && file == "memory.swap.max" {
		value = "max"
	}
	if err := write(w.dir, file, value); !errors.Is(err, fs.ErrNotExist) {
		w.err = err
	}
}
