package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// calls are the rules of one architecture by call number.
type calls struct {
	arch    specs.Arch
	deny    uint32            // the default action
	rules   map[uint32][]rule // without the default at the end
	largest uint32            // of all numbers that the profile names; 0 if none
}

func callsOf(profile *specs.LinuxSeccomp, arch specs.Arch, deny uint32) (*calls, error) {
	c := &calls{arch: arch, deny: deny, rules: map[uint32][]rule{}}
	for _, call := range profile.Syscalls {
		act, err := action(call.Action, call.ErrnoRet)
		if err != nil {
			return nil, err
		}
		alternatives := c.alternatives(call.Args)
		for _, name := range call.Names {
			multiplexer, subcall := multiplexed(arch, name)
			number, ok := Number(arch, name)
			if ok {
				c.largest = max(c.largest, number)
			}
			if act == deny {
				continue
			}
			for _, conditions := range alternatives {
				if ok {
					c.add(number, rule{conditions, act})
				}
				if subcall != 0 {
					c.add(multiplexer, rule{through(conditions, subcall), act})
				}
			}
		}
	}
	return c, nil
}

// add puts a rule behind those that the call has. One that always matches
// takes the place of all before it and bars all after it.
func (c *calls) add(number uint32, r rule) {
	have := c.rules[number]
	switch {
	case len(have) == 1 && len(have[0].conditions) == 0:
	case len(r.conditions) == 0:
		c.rules[number] = []rule{r}
	default:
		c.rules[number] = append(have, r)
	}
}

// alternatives returns the sets of conditions of which one must hold: each
// condition by itself where an argument is named twice, else all in one.
// Conditions that always hold are left out.
func (c *calls) alternatives(args []specs.LinuxSeccompArg) [][]specs.LinuxSeccompArg {
	var seen [6]bool
	twice := false
	for _, arg := range args {
		twice = twice || seen[arg.Index]
		seen[arg.Index] = true
	}
	var sets [][]specs.LinuxSeccompArg
	for _, arg := range args {
		var kept []specs.LinuxSeccompArg
		if !c.tautology(arg) {
			kept = []specs.LinuxSeccompArg{arg}
		}
		if twice || len(sets) == 0 {
			sets = append(sets, kept)
		} else {
			sets[0] = append(sets[0], kept...)
		}
	}
	if len(sets) == 0 {
		sets = [][]specs.LinuxSeccompArg{nil}
	}
	return sets
}

func (c *calls) tautology(arg specs.LinuxSeccompArg) bool {
	mask := arg.Value
	if c.narrow() {
		mask = uint64(uint32(mask))
	}
	return arg.Op == specs.OpMaskedEqual && mask == 0
}

// narrow reports whether the architecture's arguments have 32 bits.
func (c *calls) narrow() bool {
	return c.arch != specs.ArchX86_64 && c.arch != specs.ArchAARCH64
}

// newer reports whether calls above the largest are answered ENOSYS.
func (c *calls) newer() bool { return c.largest > 0 && !lenient(c.deny) }

// spans returns the answers to the numbers from first on.
func (c *calls) spans(first uint32) []span {
	numbers := make([]uint32, 0, len(c.rules))
	for number := range c.rules {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	spans := []span{{start: first, rules: always(c.deny)}}
	put := func(s span) { // over one that starts at the same number
		if spans[len(spans)-1].start == s.start {
			spans = spans[:len(spans)-1]
		}
		spans = append(spans, s)
	}
	for _, number := range numbers {
		rules := c.rules[number]
		if len(rules[len(rules)-1].conditions) != 0 {
			rules = append(rules, rule{action: c.deny})
		}
		put(span{start: number, rules: rules, narrow: c.narrow()})
		put(span{start: number + 1, rules: always(c.deny)})
	}
	if c.newer() {
		put(span{start: c.largest + 1, rules: always(noSuchCall)})
	}
	return spans
}

// lenient are the actions that let a call through, or leave it to a tracer.
func lenient(action uint32) bool {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// through returns the conditions for a call made by way of a multiplexer,
// whose argument 0 is the number of the call. Its argument 1 is a pointer to
// the call's own arguments, out of a filter's reach; a condition on argument
// 0 is lost, which runc accepts too.
func through(conditions []specs.LinuxSeccompArg, subcall uint64) []specs.LinuxSeccompArg {
	out := []specs.LinuxSeccompArg{{Index: 0, Value: subcall, Op: specs.OpEqualTo}}
	for _, condition := range conditions {
		if condition.Index != 0 {
			out = append(out, condition)
		}
	}
	return out
}
