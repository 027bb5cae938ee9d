package cgroup

import (
	"slices"
	"testing"
)

func TestDetect(t *testing.T) {
	const (
		v2      = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
		unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		cpu     = "30 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
		memory  = "31 24 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		again   = "33 24 0:28 / /mnt/memory rw - cgroup cgroup rw,memory\n"
		systemd = "32 24 0:30 / /sys/fs/cgroup/sys\\040temd rw - cgroup cgroup rw,xattr,name=systemd\n"
		own     = "5:memory:/m\n4:cpu,cpuacct:/c\n1:name=systemd:/init.scope\n0::/system.slice/mayfly.service\n"
	)
	for _, test := range []struct {
		name, mounts, own string
		mode              Mode
		unified, self     string
		trees             []string
	}{
		{"v2", v2, "0::/system.slice/mayfly.service\n", V2, "/sys/fs/cgroup", "/system.slice/mayfly.service", nil},
		{"v1", cpu + memory + systemd, own, V1, "", "", []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/sys temd"}},
		{"hybrid", systemd + unified + cpu + memory + again, own, Hybrid, "/sys/fs/cgroup/unified", "/system.slice/mayfly.service",
			[]string{"/sys/fs/cgroup/sys temd", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"}},
		{"v2 with systemd's own tree", v2 + systemd, own, V2, "/sys/fs/cgroup", "/system.slice/mayfly.service", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := detect(test.mounts, test.own)
			if err != nil {
				t.Fatal(err)
			}
			var trees []string
			for _, tree := range h.Hierarchies {
				trees = append(trees, tree.Mount)
			}
			if h.Mode != test.mode || h.Unified != test.unified || h.Self != test.self || !slices.Equal(trees, test.trees) {
				t.Errorf("got %s, unified %q, self %q, trees %q", h.Mode, h.Unified, h.Self, trees)
			}
		})
	}
	if _, err := detect("22 1 0:20 / /proc rw - proc proc rw\n", "0::/\n"); err == nil {
		t.Error("no control groups: no error")
	}
}

func FuzzDetect(f *testing.F) {
	f.Add("29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n")
	f.Add("31 24 0:28 / /m rw - cgroup cgroup rw,memory\n", "5:memory,:/m\n:::\n")
	f.Add("- - - - - - cgroup", ":")
	f.Fuzz(func(t *testing.T, mounts, self string) {
		if h, err := detect(mounts, self); err == nil && h.Unified == "" && len(h.Hierarchies) == 0 {
			t.Error("a host without anything")
		}
	})
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares weigh %d, want %d", shares, got, want)
		}
	}
}
