package seccomp

import (
	"math"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"pgregory.net/rapid"
)

// names lean on few calls, so that rules meet: conditional ones, those that
// i386 multiplexes, the first and the last, and one nobody knows.
func nameGen() *rapid.Generator[string] {
	all := strings.Fields(callNames)
	few := []string{"read", "restart_syscall", "clone", "socket", "accept", "personality", "shmat", "semop", "socketcall", "ipc",
		"mseal", "rseq_slice_yield", "set_tls", "io_setup", "futex_waitv", "no_such_call"}
	return rapid.OneOf(rapid.SampledFrom(few), rapid.SampledFrom(all))
}

// values lean on the edges of halves.
func valueGen() *rapid.Generator[uint64] {
	return rapid.OneOf(rapid.SampledFrom([]uint64{0, 1, 3, math.MaxUint32 - 1, math.MaxUint32, 1 << 32, 1<<32 | 1, math.MaxUint64 - 1, math.MaxUint64,
		math.MaxUint64 - math.MaxUint32, 1 << 63}), rapid.Uint64Range(0, 20), rapid.Uint64())
}

func actionGen() *rapid.Generator[specs.LinuxSeccompAction] {
	return rapid.SampledFrom([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess,
		specs.ActKillThread, specs.ActTrap, specs.ActLog, specs.ActTrace})
}

func errnoGen() *rapid.Generator[*uint] { return rapid.Ptr(rapid.UintRange(0, 70000), true) }

func callGen() *rapid.Generator[specs.LinuxSyscall] {
	return rapid.Custom(func(t *rapid.T) specs.LinuxSyscall {
		return specs.LinuxSyscall{
			Names:    rapid.SliceOfN(nameGen(), 0, 8).Draw(t, "names"),
			Action:   actionGen().Draw(t, "action"),
			ErrnoRet: errnoGen().Draw(t, "errno"),
			Args: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) specs.LinuxSeccompArg {
				return specs.LinuxSeccompArg{
					Index: rapid.UintRange(0, 5).Draw(t, "index"), Value: valueGen().Draw(t, "value"), ValueTwo: valueGen().Draw(t, "two"),
					Op: rapid.SampledFrom([]specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
						specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}).Draw(t, "op"),
				}
			}), 0, 3).Draw(t, "args"),
		}
	})
}

func profileGen() *rapid.Generator[*specs.LinuxSeccomp] {
	return rapid.Custom(func(t *rapid.T) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{
			DefaultAction:   actionGen().Draw(t, "default"),
			DefaultErrnoRet: errnoGen().Draw(t, "errno"),
			Architectures: rapid.SliceOf(rapid.SampledFrom([]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32,
				specs.ArchAARCH64, specs.ArchARM, specs.ArchMIPS})).Draw(t, "architectures"),
			Syscalls: rapid.SliceOfN(callGen(), 0, 30).Draw(t, "syscalls"),
		}
	})
}

// dataGen draws calls that the profile speaks of, with arguments at and next
// to its values, and others.
func dataGen(profile *specs.LinuxSeccomp, archs []specs.Arch) *rapid.Generator[data] {
	var named []string
	values := []uint64{0}
	for _, call := range profile.Syscalls {
		named = append(named, call.Names...)
		for _, arg := range call.Args {
			values = append(values, arg.Value, arg.ValueTwo, arg.Value&arg.ValueTwo, arg.Value+1, arg.Value-1, arg.Value+1<<32, uint64(uint32(arg.Value)))
		}
	}
	named = append(named, "read")
	return rapid.Custom(func(t *rapid.T) data {
		d := data{arch: rapid.SampledFrom(archs).Draw(t, "arch")}
		if number, ok := Number(d.arch, rapid.SampledFrom(named).Draw(t, "call")); ok && rapid.IntRange(0, 5).Draw(t, "known") > 0 {
			d.number = number + rapid.SampledFrom([]uint32{0, 0, 0, 0, 1, math.MaxUint32, 1 << 31}).Draw(t, "beside")
		} else {
			d.number = rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 550), rapid.Uint32Range(x32Mark, x32Mark+600)).Draw(t, "number")
		}
		if d.arch == specs.ArchX32 { // to the kernel, an amd64 call with the mark
			d.arch = specs.ArchX86_64
		}
		for i := range d.args {
			d.args[i] = rapid.OneOf(rapid.SampledFrom(values), rapid.Uint64Range(0, 30)).Draw(t, "arg")
		}
		return d
	})
}

// TestProgramMeansTheProfile holds random programs against the plain reading
// of their profiles.
func TestProgramMeansTheProfile(t *testing.T) {
	for goarch, archs := range map[string][]specs.Arch{
		"amd64": {specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchARM},
		"arm64": {specs.ArchAARCH64, specs.ArchARM, specs.ArchX86},
	} {
		t.Run(goarch, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				profile := profileGen().Draw(t, "profile")
				program, err := CompileFor(profile, goarch)
				if err != nil {
					t.Fatal(err)
				}
				m := newMachine(t, program)
				for _, d := range rapid.SliceOfN(dataGen(profile, archs), 1, 60).Draw(t, "calls") {
					if got, want := m.run(t, d), expect(profile, goarch, d); got != want {
						t.Fatalf("%s %d %x: answer %#x, want %#x", d.arch, d.number, d.args, got, want)
					}
				}
			})
		})
	}
}
