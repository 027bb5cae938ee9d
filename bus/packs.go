package bus

import (
	"container/list"
	"sync"
)

// packsBytes is how many bytes of messages are remembered.
const packsBytes = 8 << 20

// packs remembers messages of many records that were read lately, because
// whoever wants one record soon wants another of the same message.
type packs struct {
	mu    sync.Mutex
	all   map[uint64]*list.Element // by sequence
	order list.List                // of *readPack, the last used first
	bytes int
}

type readPack struct {
	sequence uint64
	records  []Record
	bytes    int
}

func (p *packs) get(seq uint64) []Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.all[seq]
	if e == nil {
		return nil
	}
	p.order.MoveToFront(e)
	return e.Value.(*readPack).records
}

func (p *packs) put(seq uint64, records []Record, bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[uint64]*list.Element{}
	}
	if p.all[seq] != nil {
		return
	}
	p.all[seq] = p.order.PushFront(&readPack{seq, records, bytes})
	for p.bytes += bytes; p.bytes > packsBytes; {
		last := p.order.Remove(p.order.Back()).(*readPack)
		delete(p.all, last.sequence)
		p.bytes -= last.bytes
	}
}
