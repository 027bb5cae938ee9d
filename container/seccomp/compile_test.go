package seccomp

import (
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// dockerCaps are the capabilities that Docker leaves to a container.
func dockerCaps() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

// data is the kernel's struct seccomp_data.
type data struct {
	arch   specs.Arch
	number uint32
	args   [6]uint64
}

// A machine runs programs by golang.org/x/net/bpf, which is no part of what
// is tested.
type machine struct{ vm *bpf.VM }

func newMachine(t rapid.TB, program []unix.SockFilter) machine {
	t.Helper()
	checkAsKernel(t, program)
	raw := make([]bpf.RawInstruction, len(program))
	for i, in := range program {
		raw[i] = bpf.RawInstruction{Op: in.Code, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program holds instructions that are not classic BPF")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

// run feeds each word big-endian, as the VM reads them, where the kernel has
// it in the machine's own order.
func (m machine) run(t rapid.TB, d data) uint32 {
	t.Helper()
	packet := make([]byte, 64)
	binary.BigEndian.PutUint32(packet[0:], d.number)
	binary.BigEndian.PutUint32(packet[4:], auditArch(d.arch))
	for i, arg := range d.args {
		binary.BigEndian.PutUint32(packet[16+8*i:], uint32(arg))
		binary.BigEndian.PutUint32(packet[20+8*i:], uint32(arg>>32))
	}
	got, err := m.vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

// checkAsKernel holds a program against what seccomp(2) and bpf_check_classic
// refuse, and against a path longer than the tree warrants.
func checkAsKernel(t rapid.TB, program []unix.SockFilter) {
	t.Helper()
	if len(program) == 0 || len(program) > 4096 {
		t.Fatalf("%d instructions", len(program))
	}
	for i, in := range program {
		left := uint64(len(program) - i - 1)
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K%4 != 0 || in.K >= 64 {
				t.Fatalf("instruction %d loads from %d", i, in.K)
			}
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_RET | unix.BPF_K:
		case unix.BPF_JMP | unix.BPF_JA:
			if uint64(in.K) >= left {
				t.Fatalf("instruction %d jumps out", i)
			}
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			if uint64(in.Jt) >= left || uint64(in.Jf) >= left {
				t.Fatalf("instruction %d jumps out", i)
			}
		default:
			t.Fatalf("instruction %d has code %#x", i, in.Code)
		}
	}
	if program[len(program)-1].Code != unix.BPF_RET|unix.BPF_K {
		t.Fatal("the program does not end with a return")
	}
}

// expect says what a profile means, straight from the profile: no ranges, no
// precomputed tables, one pass per call.
func expect(profile *specs.LinuxSeccomp, goarch string, d data) uint32 {
	native := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[goarch]
	deny, _ := action(profile.DefaultAction, profile.DefaultErrnoRet)
	arch := d.arch
	if arch == specs.ArchX86_64 && d.number&(1<<30) != 0 {
		if arch = specs.ArchX32; !slices.Contains(profile.Architectures, arch) {
			if d.number == math.MaxUint32 {
				return deny
			}
			return unix.SECCOMP_RET_KILL_THREAD
		}
	}
	runs := map[string][]specs.Arch{"amd64": {specs.ArchX86, specs.ArchX32}, "arm64": {specs.ArchARM}}[goarch]
	if arch != native && !(slices.Contains(profile.Architectures, arch) && slices.Contains(runs, arch)) {
		return unix.SECCOMP_RET_KILL_THREAD
	}
	var conditional, unconditional []uint32
	var largest uint32
	for _, call := range profile.Syscalls {
		act, _ := action(call.Action, call.ErrnoRet)
		for _, name := range call.Names {
			number, ok := Number(arch, name)
			if ok {
				largest = max(largest, number)
			}
			multiplexer, subcall := multiplexed(arch, name)
			for _, way := range []struct{ taken, muxed bool }{{ok && number == d.number, false}, {subcall != 0 && multiplexer == d.number, true}} {
				if !way.taken || act == deny {
					continue
				}
				if verdict := matches(call.Args, arch, d.args, way.muxed, subcall); verdict == "always" {
					unconditional = append(unconditional, act)
				} else if verdict == "yes" {
					conditional = append(conditional, act)
				}
			}
		}
	}
	switch {
	case d.number > largest && largest > 0 && !lenient(deny):
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	case arch == specs.ArchX86_64 && d.number > 1<<30 && !slices.Contains(profile.Architectures, specs.ArchX32):
		return unix.SECCOMP_RET_KILL_THREAD
	case len(unconditional) > 0:
		return unconditional[0]
	case len(conditional) > 0:
		return conditional[0]
	}
	return deny
}

func matches(conditions []specs.LinuxSeccompArg, arch specs.Arch, args [6]uint64, muxed bool, subcall uint64) string {
	narrow := arch != specs.ArchX86_64 && arch != specs.ArchAARCH64
	counts := map[uint]int{}
	for _, c := range conditions {
		counts[c.Index]++
	}
	twice := slices.Max(append(slices.Collect(mapValues(counts)), 0)) > 1
	constant, all, some := true, true, false
	for _, c := range conditions {
		arg, value, two := args[c.Index], c.Value, c.ValueTwo
		if narrow {
			arg, value, two = uint64(uint32(arg)), uint64(uint32(value)), uint64(uint32(two))
		}
		trivial := c.Op == specs.OpMaskedEqual && value == 0
		hold := map[specs.LinuxSeccompOperator]bool{
			specs.OpNotEqual: arg != value, specs.OpEqualTo: arg == value,
			specs.OpLessThan: arg < value, specs.OpLessEqual: arg <= value,
			specs.OpGreaterThan: arg > value, specs.OpGreaterEqual: arg >= value,
			specs.OpMaskedEqual: arg&value == two&value,
		}[c.Op]
		if muxed && c.Index == 0 { // replaced by the number of the subcall
			hold, trivial = true, true
		}
		constant = constant && trivial || twice && trivial
		all, some = all && hold, some || hold
		if twice && trivial {
			constant, all, some = true, true, true
			break
		}
	}
	if muxed && uint32(args[0]) != uint32(subcall) {
		return "no"
	}
	switch {
	case constant && !muxed:
		return "always"
	case twice && some, !twice && all:
		return "yes"
	}
	return "no"
}

func mapValues(m map[uint]int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// telling returns how many of n sets of arguments are worth asking about: all
// where the call's rules have conditions.
func telling(profile *specs.LinuxSeccomp, arch specs.Arch, number uint32, n int) int {
	name, _ := Name(arch, number)
	for _, call := range profile.Syscalls {
		if len(call.Args) > 0 && slices.Contains(call.Names, name) || name == "socketcall" {
			return n
		}
	}
	return 1
}

// TestDefaultMeansTheProfile asks about every call that has a number near a
// known one, on every architecture, for telling arguments.
func TestDefaultMeansTheProfile(t *testing.T) {
	args := [][6]uint64{{}, {8}, {0x20000}, {0x20008}, {math.MaxUint32}, {math.MaxUint64}, {37}, {38}, {39}, {40}, {41},
		{1 << 40}, {1<<40 | 8}, {0x10000000}, {0x7E020000}, {17}, {0x4000}, {1, 0x7E020000}}
	capSets := map[string][]string{"none": nil, "docker": dockerCaps(), "admin": append(dockerCaps(), "CAP_SYS_ADMIN", "CAP_SYS_NICE", "CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_BPF")}
	archs := map[string][]specs.Arch{"amd64": {specs.ArchX86_64, specs.ArchX86, specs.ArchARM}, "arm64": {specs.ArchAARCH64, specs.ArchARM, specs.ArchX86}}
	var numbers []uint32
	for n := range uint32(600) { // beyond x32's last
		numbers = append(numbers, n, n|x32Mark)
	}
	for n := range uint32(10) { // arm's own, and around the marks
		numbers = append(numbers, n|0xf0000, n|0x80000000, n|0xc0000000)
	}
	numbers = append(numbers, 1<<29, x32Mark-1, 2*x32Mark-1, math.MaxUint32, math.MaxUint32-1)
	for name, caps := range capSets {
		for goarch, archs := range archs {
			t.Run(name+"/"+goarch, func(t *testing.T) {
				profile := Default(caps, goarch)
				program, err := CompileFor(profile, goarch)
				if err != nil {
					t.Fatal(err)
				}
				m := newMachine(t, program)
				for _, arch := range archs {
					for _, number := range numbers {
						for _, args := range args[:telling(profile, arch, number, len(args))] {
							d := data{arch, number, args}
							if got, want := m.run(t, d), expect(profile, goarch, d); got != want {
								call, _ := Name(arch, number)
								t.Fatalf("%s %d (%s) %x: answer %#x, want %#x", arch, number, call, args, got, want)
							}
						}
					}
				}
			})
		}
	}
}
