package seccomp

import (
	"math"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Where seccomp_data keeps its fields, in bytes (linux/seccomp.h). Both
// machines are little-endian: an argument's low half comes first.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// assembler writes a program from its end to its beginning, because every
// jump goes forward: its targets are then already in place. A place is
// counted from the end of the program and so stays true while it grows.
type assembler struct {
	reversed []unix.SockFilter
	returns  map[uint32]int // the newest place of each return value
}

// assemble returns the program: find the architecture, then the number's
// span by halving, then try the span's rules.
func assemble(all answers) []unix.SockFilter {
	a := &assembler{returns: map[uint32]int{}}
	next := a.ret(unix.SECCOMP_RET_KILL_THREAD)
	for _, arch := range slices.Backward(all) {
		tree := a.load(offNumber, a.tree(arch.spans))
		next = a.branch(unix.BPF_JEQ, arch.audit, tree, next)
	}
	a.load(offArch, next)
	slices.Reverse(a.reversed)
	return a.reversed
}

// tree writes the search for the number in A and returns where it starts.
func (a *assembler) tree(spans []span) int {
	if len(spans) == 1 {
		return a.rules(spans[0])
	}
	if len(spans) == 3 && spans[1].start+1 == spans[2].start && same(spans[0], spans[2]) {
		around := a.rules(spans[2])
		return a.branch(unix.BPF_JEQ, spans[1].start, a.rules(spans[1]), around)
	}
	middle := len(spans) / 2
	above := a.tree(spans[middle:])
	below := a.tree(spans[:middle])
	return a.branch(unix.BPF_JGE, spans[middle].start, above, below)
}

// rules writes a span's rules, which are tried in order.
func (a *assembler) rules(s span) int {
	last := len(s.rules) - 1
	next := a.ret(s.rules[last].action)
	for _, r := range slices.Backward(s.rules[:last]) {
		hit := a.ret(r.action)
		for _, condition := range slices.Backward(r.conditions) {
			hit = a.condition(condition, s.narrow, hit, next)
		}
		next = hit
	}
	return next
}

// condition writes one comparison that goes on at yes or at no.
func (a *assembler) condition(c specs.LinuxSeccompArg, narrow bool, yes, no int) int {
	switch c.Op {
	case specs.OpNotEqual:
		return a.masked(c.Index, math.MaxUint64, c.Value, narrow, no, yes)
	case specs.OpLessThan:
		return a.above(unix.BPF_JGE, c.Index, c.Value, narrow, no, yes)
	case specs.OpLessEqual:
		return a.above(unix.BPF_JGT, c.Index, c.Value, narrow, no, yes)
	case specs.OpGreaterEqual:
		return a.above(unix.BPF_JGE, c.Index, c.Value, narrow, yes, no)
	case specs.OpGreaterThan:
		return a.above(unix.BPF_JGT, c.Index, c.Value, narrow, yes, no)
	case specs.OpMaskedEqual:
		return a.masked(c.Index, c.Value, c.ValueTwo, narrow, yes, no)
	}
	return a.masked(c.Index, math.MaxUint64, c.Value, narrow, yes, no)
}

// masked compares the bits of an argument that mask holds; at least one half
// has some.
func (a *assembler) masked(index uint, mask, value uint64, narrow bool, yes, no int) int {
	if uint32(mask) != 0 {
		yes = a.maskedHalf(low(index), uint32(mask), uint32(value), yes, no)
	}
	if !narrow && mask>>32 != 0 {
		yes = a.maskedHalf(low(index)+4, uint32(mask>>32), uint32(value>>32), yes, no)
	}
	return yes
}

func (a *assembler) maskedHalf(offset, mask, value uint32, yes, no int) int {
	at := a.branch(unix.BPF_JEQ, value&mask, yes, no)
	if mask != math.MaxUint32 {
		at = a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	}
	return a.load(offset, at)
}

// above compares by size; op is BPF_JGT or BPF_JGE and settles the low half.
func (a *assembler) above(op uint16, index uint, value uint64, narrow bool, yes, no int) int {
	at := a.load(low(index), a.branch(op, uint32(value), yes, no))
	if narrow {
		return at
	}
	at = a.branch(unix.BPF_JEQ, uint32(value>>32), at, no)
	at = a.branch(unix.BPF_JGT, uint32(value>>32), yes, at)
	return a.load(low(index)+4, at)
}

func low(index uint) uint32 { return offArgs + 8*uint32(index) }

func (a *assembler) emit(code uint16, k uint32) int {
	a.reversed = append(a.reversed, unix.SockFilter{Code: code, K: k})
	return len(a.reversed) - 1
}

// load reads a word into A and goes on at next.
func (a *assembler) load(offset uint32, next int) int {
	if a.distance(next) != 0 {
		a.again(next)
	}
	return a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
}

// branch writes a conditional jump, whose reach is 255 instructions.
func (a *assembler) branch(op uint16, k uint32, yes, no int) int {
	yes = a.near(yes)
	no = a.near(no)
	at := a.emit(unix.BPF_JMP|op|unix.BPF_K, k)
	jump := &a.reversed[at]
	jump.Jt, jump.Jf = uint8(at-1-yes), uint8(at-1-no)
	return at
}

// near returns a place in reach of a jump that is written next, or next but
// one, and does the same as place.
func (a *assembler) near(place int) int {
	if a.distance(place) < math.MaxUint8 {
		return place
	}
	return a.again(place)
}

// again writes an instruction that does what place does.
func (a *assembler) again(place int) int {
	if to := a.reversed[place]; to.Code == unix.BPF_RET|unix.BPF_K {
		a.returns[to.K] = a.emit(to.Code, to.K)
		return a.returns[to.K]
	}
	return a.emit(unix.BPF_JMP|unix.BPF_JA, uint32(a.distance(place)))
}

// distance is how many instructions lie between place and one written now.
func (a *assembler) distance(place int) int { return len(a.reversed) - 1 - place }

// ret returns a place that returns value, and writes it if none is in reach.
func (a *assembler) ret(value uint32) int {
	if place, ok := a.returns[value]; ok && a.distance(place) < math.MaxUint8 {
		return place
	}
	a.returns[value] = a.emit(unix.BPF_RET|unix.BPF_K, value)
	return a.returns[value]
}
