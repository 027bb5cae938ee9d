package seccomp

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestDefaultIsUpstream(t *testing.T) {
	sum := sha256.Sum256(defaultProfile)
	if got, want := hex.EncodeToString(sum[:]), "536529b665dd0972c37bfb569f5d4ac8a53592e7b00752bc39ff063ca9864c74"; got != want {
		t.Errorf("default.json has the hash %s; it is upstream's, unchanged: take a newer one whole and note its commit", got)
	}
}

// TestDefaultByCapability spells out what a capability opens.
func TestDefaultByCapability(t *testing.T) {
	allows := func(p *specs.LinuxSeccomp, name string) bool {
		for _, call := range p.Syscalls {
			if call.Action == specs.ActAllow && len(call.Args) == 0 && slices.Contains(call.Names, name) {
				return true
			}
		}
		return false
	}
	for _, test := range []struct {
		capability, opens string
	}{
		{"CAP_SYS_ADMIN", "mount"}, {"CAP_SYS_ADMIN", "clone"}, {"CAP_SYS_ADMIN", "clone3"}, {"CAP_SYS_CHROOT", "chroot"},
		{"CAP_SYS_MODULE", "init_module"}, {"CAP_SYS_TIME", "settimeofday"}, {"CAP_SYS_BOOT", "reboot"}, {"CAP_BPF", "bpf"},
		{"CAP_PERFMON", "perf_event_open"}, {"CAP_SYSLOG", "syslog"}, {"CAP_SYS_PTRACE", "kcmp"}, {"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
	} {
		if p := Default(nil, "amd64"); allows(p, test.opens) {
			t.Errorf("%s is allowed without %s", test.opens, test.capability)
		}
		if p := Default([]string{test.capability}, "amd64"); !allows(p, test.opens) {
			t.Errorf("%s is not allowed with %s", test.opens, test.capability)
		}
	}
	if p := Default(dockerCaps(), "amd64"); !allows(p, "ptrace") { // Linux 4.8 and later
		t.Error("ptrace is not allowed")
	}
}

func TestDefaultByArchitecture(t *testing.T) {
	for _, test := range []struct {
		goarch string
		archs  []specs.Arch
		has    string
		hasNot string
	}{
		{"amd64", []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, "arch_prctl", "set_tls"},
		{"arm64", []specs.Arch{specs.ArchAARCH64, specs.ArchARM}, "set_tls", "modify_ldt"},
	} {
		p := Default(nil, test.goarch)
		if !slices.Equal(p.Architectures, test.archs) {
			t.Errorf("%s: architectures %v", test.goarch, p.Architectures)
		}
		var names []string
		for _, call := range p.Syscalls {
			names = append(names, call.Names...)
		}
		if !slices.Contains(names, test.has) || slices.Contains(names, test.hasNot) {
			t.Errorf("%s: want %s and no %s", test.goarch, test.has, test.hasNot)
		}
	}
}

func TestKernelVersions(t *testing.T) {
	for release, want := range map[string][2]int{"6.1.0-28-amd64": {6, 1}, "5.15": {5, 15}, "4.8-rc1": {4, 8}, "": {}, "strange": {}} {
		if got := kernelVersion(release); got != want {
			t.Errorf("%q is %v, want %v", release, got, want)
		}
	}
	if !atLeast([2]int{4, 8}, "4.8") || atLeast([2]int{4, 7}, "4.8") || !atLeast([2]int{5, 0}, "4.8") {
		t.Error("versions compare wrongly")
	}
}

// TestTable holds a few numbers that never change, and that names and numbers
// lead to each other on every architecture.
func TestTable(t *testing.T) {
	for _, test := range []struct {
		arch   specs.Arch
		name   string
		number uint32
	}{
		{specs.ArchX86_64, "read", 0}, {specs.ArchX86_64, "openat2", 437}, {specs.ArchX86_64, "uretprobe", 335},
		{specs.ArchX86, "socketcall", 102}, {specs.ArchX86, "clone3", 435}, {specs.ArchX32, "execve", 520 | x32Mark}, {specs.ArchX32, "read", x32Mark},
		{specs.ArchAARCH64, "read", 63}, {specs.ArchAARCH64, "openat", 56}, {specs.ArchARM, "set_tls", 0xf0005}, {specs.ArchARM, "clone", 120},
	} {
		if got, ok := Number(test.arch, test.name); !ok || got != test.number {
			t.Errorf("%s %s is %d, %t; want %d", test.arch, test.name, got, ok, test.number)
		}
	}
	for _, absent := range []struct {
		arch specs.Arch
		name string
	}{{specs.ArchX86_64, "socketcall"}, {specs.ArchAARCH64, "open"}, {specs.ArchX32, "uselib"}, {specs.ArchX86_64, "nothing"}, {specs.ArchMIPS, "read"}} {
		if n, ok := Number(absent.arch, absent.name); ok {
			t.Errorf("%s has %s as %d", absent.arch, absent.name, n)
		}
	}
	for _, arch := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM} {
		count := 0
		for _, name := range strings.Fields(callNames) {
			if number, ok := Number(arch, name); ok {
				count++
				if back, ok := Name(arch, number); !ok || back != name {
					t.Errorf("%s %d is %s and %s", arch, number, name, back)
				}
			}
		}
		if count < 300 {
			t.Errorf("%s has %d calls", arch, count)
		}
	}
}
