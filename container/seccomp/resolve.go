package seccomp

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// x32Mark is the bit in a call's number that tells x32 from amd64.
const x32Mark = 1 << 30

// skipped is the number that a tracer writes over a call to have it skipped.
const skipped = math.MaxUint32

// noSuchCall is the answer to calls newer than the profile.
const noSuchCall = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// A family is the architectures that one machine can run.
type family struct {
	native specs.Arch
	others []specs.Arch
}

func families(goarch string) (family, bool) {
	switch goarch {
	case "amd64":
		return family{specs.ArchX86_64, []specs.Arch{specs.ArchX86, specs.ArchX32}}, true
	case "arm64":
		return family{specs.ArchAARCH64, []specs.Arch{specs.ArchARM}}, true
	}
	return family{}, false
}

// columnOf returns where in a row of the table arch stands, -1 if nowhere.
func columnOf(arch specs.Arch) int {
	switch arch {
	case specs.ArchX86_64:
		return 0
	case specs.ArchX86:
		return 1
	case specs.ArchX32:
		return 2
	case specs.ArchAARCH64:
		return 3
	case specs.ArchARM:
		return 4
	}
	return -1
}

// auditArch is how the kernel names an architecture in seccomp_data.arch.
// x32 shares amd64's.
func auditArch(arch specs.Arch) uint32 {
	switch arch {
	case specs.ArchX86:
		return unix.AUDIT_ARCH_I386
	case specs.ArchARM:
		return unix.AUDIT_ARCH_ARM
	case specs.ArchAARCH64:
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

func knownArch(arch specs.Arch) bool {
	switch arch {
	case specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
		specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

// A rule is one way to an action: all conditions hold. A rule without any
// always matches.
type rule struct {
	conditions []specs.LinuxSeccompArg
	action     uint32 // SECCOMP_RET_* with its data
}

// A span is a range of call numbers with one answer; it ends where the next
// one starts.
type span struct {
	start  uint32
	rules  []rule // tried in order; the last one always matches
	narrow bool   // compare only the low half of arguments
}

// answers are the spans of each seccomp_data.arch, from number 0 on, the
// native one first.
type answers []struct {
	audit uint32
	spans []span
}

// resolve works out what to answer to each call of each architecture.
func resolve(profile *specs.LinuxSeccomp, machine family) (answers, error) {
	if profile == nil {
		return nil, errors.New("there is none")
	}
	if err := check(profile); err != nil {
		return nil, err
	}
	deny, err := action(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	byArch := map[specs.Arch]*calls{}
	for _, arch := range append([]specs.Arch{machine.native}, machine.others...) {
		if arch != machine.native && !slices.Contains(profile.Architectures, arch) {
			continue
		}
		if byArch[arch], err = callsOf(profile, arch, deny); err != nil {
			return nil, err
		}
	}
	if machine.native != specs.ArchX86_64 {
		return join(byArch, specs.ArchAARCH64, specs.ArchARM), nil
	}
	all := join(byArch, specs.ArchX86_64, specs.ArchX86)
	all[0].spans = merge(append(all[0].spans, marked(byArch[specs.ArchX86_64], byArch[specs.ArchX32])...))
	return all, nil
}

func join(byArch map[specs.Arch]*calls, order ...specs.Arch) answers {
	var all answers
	for _, arch := range order {
		if c := byArch[arch]; c != nil {
			all = append(all, answers{{auditArch(arch), merge(c.spans(0))}}...)
		}
	}
	return all
}

// marked returns the answers to the numbers of AUDIT_ARCH_X86_64 from the x32
// mark on; x32 is nil when the profile leaves it out, and then its calls end
// the thread. From twice the mark on, bit 30 is clear for a while: those are
// amd64 calls too new to know. A tracer's skipped call is never fatal.
func marked(native, x32 *calls) []span {
	spans := []span{{start: x32Mark, rules: always(unix.SECCOMP_RET_KILL_THREAD)}}
	if x32 != nil {
		spans = x32.spans(x32Mark)
	}
	top := spans[len(spans)-1].rules
	clear := always(native.deny)
	if native.newer() {
		clear = always(noSuchCall)
	} else if x32 == nil {
		clear = top
	}
	spans = append(spans, span{start: 2 * x32Mark, rules: clear}, span{start: 3 * x32Mark, rules: top})
	if x32 == nil {
		spans = append(spans, span{start: skipped, rules: always(native.deny)})
	}
	return spans
}

func always(action uint32) []rule { return []rule{{action: action}} }

// merge joins neighbours that give the same constant answer.
func merge(spans []span) []span { return slices.CompactFunc(spans, same) }

func same(a, b span) bool {
	return len(a.rules) == 1 && len(b.rules) == 1 && a.rules[0].action == b.rules[0].action
}

// check refuses what OCI does not define, also in rules that come to nothing.
func check(profile *specs.LinuxSeccomp) error {
	for _, arch := range profile.Architectures {
		if !knownArch(arch) {
			return fmt.Errorf("architecture %q is not known", arch)
		}
	}
	for i, call := range profile.Syscalls {
		for _, name := range call.Names {
			if name == "" {
				return fmt.Errorf("syscalls[%d] has an empty name", i)
			}
		}
		if _, err := action(call.Action, call.ErrnoRet); err != nil {
			return fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		for _, arg := range call.Args {
			if arg.Index > 5 {
				return fmt.Errorf("syscalls[%d]: argument %d: a call has arguments 0 to 5", i, arg.Index)
			}
			switch arg.Op {
			case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
				specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
			default:
				return fmt.Errorf("syscalls[%d]: operator %q is not known", i, arg.Op)
			}
		}
	}
	return nil
}

// action returns the value that the kernel takes for an OCI action. ERRNO and
// TRACE carry EPERM unless the profile says otherwise.
func action(name specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		data = uint32(*errnoRet & unix.SECCOMP_RET_DATA)
	}
	switch name {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, errors.New("SCMP_ACT_NOTIFY is not supported")
	}
	return 0, fmt.Errorf("action %q is not known", name)
}
