// Package seccomp turns an OCI seccomp profile into the classic BPF program
// that the kernel runs before every system call of a container, without cgo.
//
// Default gives Docker's default profile for a capability set; Compile turns
// any profile into a program; Install puts a program onto the calling thread.
// Compile is pure: the same profile always gives the same program, so callers
// keep it (one per capability set) instead of compiling for each container.
//
// A program answers as runc's does for the same profile, and the tests hold
// it against a real runc:
//
//   - A call above the largest one that the profile names answers ENOSYS
//     instead of an unfriendly default action, so that programs fall back to
//     older calls. A default of ALLOW, LOG or TRACE has no such rule.
//   - Names that nobody knows, or that an architecture lacks, are ignored.
//     So are rules whose action is the default one.
//   - A rule without arguments beats rules with arguments for the same call;
//     of several such rules the first one counts.
//   - A rule that names one argument twice matches when any of its
//     conditions does, others when all do.
//   - 32-bit architectures, x32 too, compare the low half of an argument.
//   - On i386 a rule for a socket or System V IPC call also covers the same
//     call made through socketcall or ipc.
//   - A process of an architecture outside the profile loses the calling
//     thread (KILL_THREAD). The machine's own architecture is always inside.
//
// Where several rules with arguments match one call and their actions differ,
// the first in the profile counts; runc leaves that open. Two known differences
// are on purpose: several size comparisons of one argument mean what they say
// (libseccomp 2.5.4 mixes some of them up), and on i386 the largest call that
// the profile names may be a socket or IPC call.
//
// A call's number is found by binary search over ranges of equal answers. For
// calls that are allowed whatever their arguments, Linux 5.11 and later ask
// the program once, when it is installed, and keep the answers in a bitmap.
//
// The package reads nothing but the kernel's version and leaves no_new_privs,
// capabilities and threads to the caller.
package seccomp

//go:generate go run gen.go

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Compile returns the program for a profile on the machine's architecture.
// It fails when the profile holds an action, operator, argument index or
// architecture that OCI does not define, asks for SCMP_ACT_NOTIFY (no listener
// is served), or comes out longer than the kernel takes.
func Compile(profile *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	return CompileFor(profile, runtime.GOARCH)
}

// CompileFor is Compile for a machine of another architecture, "amd64" or
// "arm64" as GOARCH names them.
func CompileFor(profile *specs.LinuxSeccomp, goarch string) ([]unix.SockFilter, error) {
	family, ok := families(goarch)
	if !ok {
		return nil, fmt.Errorf("compile seccomp profile: architecture %q is not supported", goarch)
	}
	answers, err := resolve(profile, family)
	if err != nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	program := assemble(answers)
	if len(program) > maxProgram {
		return nil, fmt.Errorf("compile seccomp profile: it takes %d instructions and the kernel allows %d", len(program), maxProgram)
	}
	return program, nil
}

// maxProgram is the kernel's BPF_MAXINSNS.
const maxProgram = 4096

// Flags returns the flags of a profile for Install. A profile that says
// nothing (nil, not empty) gets SECCOMP_FILTER_FLAG_SPEC_ALLOW, as in runc.
func Flags(profile *specs.LinuxSeccomp) (uint, error) {
	if profile.Flags == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint
	for _, flag := range profile.Flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_TSYNC": // a new program has one thread
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		default:
			return 0, fmt.Errorf("seccomp flag %q is not supported", flag)
		}
	}
	return flags, nil
}

// Install puts the program onto the calling thread, and by that onto all that
// it forks and executes; other threads of the process stay as they are, so
// the caller has locked the goroutine to its thread. The thread has
// no_new_privs set or CAP_SYS_ADMIN. There is no way back.
func Install(program []unix.SockFilter, flags uint) error {
	if len(program) == 0 || len(program) > maxProgram {
		return fmt.Errorf("install seccomp program: %d instructions: %w", len(program), unix.EINVAL)
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("install seccomp program: %w", errno)
	}
	return nil
}

// Number returns the number of a system call on an architecture as the kernel
// sees it: x32 numbers carry their mark, bit 30.
func Number(arch specs.Arch, name string) (uint32, bool) {
	i := columnOf(arch)
	numbers, ok := row(name)
	if i < 0 || !ok || numbers[i] < 0 {
		return 0, false
	}
	number := uint32(numbers[i])
	if arch == specs.ArchX32 {
		number |= x32Mark
	}
	return number, true
}

// Name is Number the other way round, by a search through all names; it
// serves messages, not fast paths.
func Name(arch specs.Arch, number uint32) (string, bool) {
	for name := range strings.FieldsSeq(callNames) {
		if n, ok := Number(arch, name); ok && n == number {
			return name, true
		}
	}
	return "", false
}
