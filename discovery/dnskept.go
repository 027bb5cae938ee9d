package discovery

import "encoding/binary"

// Bounds of what a reader keeps.
const (
	maxKept      = 1 << 20 // bytes
	maxKeptQuery = 256     // bytes of a question
	maxKeptTurns = 16      // records of an answer
)

// kept is the answers that a reader gave, ready to be sent again to the same kind
// of consumer that asks the same in the same bytes. Any change of the names or of
// the view ends all of it, so that nothing is answered that is not so any more:
// what is kept is from after the view was as its clock says.
type kept struct {
	names   *names
	clock   uint64
	answers map[string][][]byte // of each turn
	bytes   int
	key     []byte
}

func newKept() *kept { return &kept{answers: map[string][][]byte{}} }

// look finds the answer to a question, if there is one, with its number put in.
// Without one, what is found instead is to be given to add.
func (k *kept) look(s *DNS, t *task, packet []byte, who *Consumer) bool {
	if names, clock := s.names.Load(), s.d.nodes.clock.Load(); names != k.names || clock != k.clock {
		k.names, k.clock, k.bytes = names, clock, 0
		clear(k.answers)
	}
	k.key = k.key[:0]
	if len(packet) > maxKeptQuery {
		return false
	}
	// All that an answer depends on, but for the view and the names.
	for _, part := range []string{who.Space, who.App, who.Workload} {
		k.key = append(binary.AppendUvarint(k.key, uint64(len(part))), part...)
	}
	k.key = append(k.key, packet[2:]...)
	turns := k.answers[string(k.key)]
	if len(turns) == 0 {
		return false
	}
	i := 0
	if len(turns) > 1 {
		t.turn, t.turned = s.turn.Add(1), true
		i = int(t.turn % uint32(len(turns)))
	}
	if len(turns[i]) == 0 {
		return false
	}
	t.out = append(t.out[:0], turns[i]...)
	copy(t.out, packet[:2])
	return true
}

// add keeps the answer of this turn.
func (k *kept) add(t *task, turns int) {
	turns = max(turns, 1)
	if len(k.key) == 0 || turns > maxKeptTurns {
		return
	}
	list := k.answers[string(k.key)]
	if len(list) != turns {
		if k.bytes > maxKept {
			k.bytes = 0
			clear(k.answers)
		}
		list = make([][]byte, turns)
		k.answers[string(k.key)] = list
		k.bytes += len(k.key) + turns*24 + 100
	}
	i := int(t.turn % uint32(turns))
	list[i] = append(list[i][:0], t.out...)
	k.bytes += len(t.out)
}
