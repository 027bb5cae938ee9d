package bus

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
)

// Load goes on finding what was there when the journal was opened, the oldest
// message first, and hands it to take until that returns false. A record that was
// replaced or written again is told of more than once, at each of its positions.
func (j *Journal) Load(ctx context.Context, take func([]Place) bool) error {
	select {
	case <-j.loaded:
		return nil
	default:
	}
	more := true
	err := j.bus.Scan(ctx, j.name, "", j.read+1, func(msgs []Message) bool {
		var places []Place
		for _, msg := range msgs {
			if msg.Sequence > j.opened {
				break
			}
			places = j.loadMessage(msg, places)
		}
		more = take(places)
		return more && msgs[len(msgs)-1].Sequence < j.opened
	})
	if err != nil {
		return err
	}
	if !more && j.read < j.opened {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.read < j.opened { // the newest were removed
		j.gone.add(j.read+1, j.opened)
	}
	close(j.loaded)
	wakeUp(j.wake)
	return nil
}

// loadMessage takes a message into the index.
func (j *Journal) loadMessage(msg Message, places []Place) []Place {
	list, err := unpack(msg)
	j.mu.Lock()
	defer j.mu.Unlock()
	if msg.Sequence > j.read+1 {
		j.gone.add(j.read+1, msg.Sequence-1)
	}
	j.read = msg.Sequence
	if err != nil {
		j.log.Error("a part of a journal is passed over", "journal", j.name, "error", err)
		j.gone.add(msg.Sequence, msg.Sequence) // nobody can ever free it
		return places
	}
	if len(list) > 1 {
		j.tallies[msg.Sequence] = tally{uint16(len(list)), uint16(len(list))}
	}
	for i, r := range list {
		h, at := j.hash(r.Key), place(msg.Sequence, i)
		old := j.index[h]
		if old != 0 && sequenceOf(j.placeOf(old)) > msg.Sequence { // it was written since
			j.empty(msg.Sequence)
			continue
		}
		if old != 0 {
			j.leave(old)
		}
		j.index[h] = r.Position
		if r.Position != at {
			j.moved[r.Position] = at
		}
		places = append(places, Place{r.Key, r.Label, r.Position})
	}
	return places
}

// Loaded is closed when Load has found everything.
func (j *Journal) Loaded() <-chan struct{} { return j.loaded }

// Get returns the records at positions, in ascending order. What is not there
// any more is left out.
func (j *Journal) Get(ctx context.Context, positions []uint64) ([]Record, error) {
	var all []Record
	for len(positions) > 0 {
		g := j.gather(positions)
		if err := j.fetch(ctx, g); err != nil {
			return nil, err
		}
		all = append(all, g.found...)
		positions = positions[:0:0]
		j.mu.Lock()
		for here, pos := range g.at { // it was written again before it could be read
			if j.placeOf(pos) != here {
				positions = append(positions, pos)
			}
		}
		j.mu.Unlock()
	}
	j.mu.Lock()
	all = slices.DeleteFunc(all, func(r Record) bool { return j.index[j.hash(r.Key)] != r.Position })
	j.mu.Unlock()
	slices.SortFunc(all, func(x, y Record) int { return cmp.Compare(x.Position, y.Position) })
	return all, nil
}

// gathering is records that are wanted.
type gathering struct {
	at    map[uint64]uint64   // positions that were not found yet, by place
	in    map[uint64][]uint64 // their places, by sequence
	found []Record
}

func (j *Journal) gather(positions []uint64) *gathering {
	g := &gathering{at: make(map[uint64]uint64, len(positions)), in: map[uint64][]uint64{}}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, pos := range positions {
		here := j.placeOf(pos)
		g.at[here] = pos
		g.in[sequenceOf(here)] = append(g.in[sequenceOf(here)], here)
	}
	return g
}

// pick takes what is wanted of a message.
func (g *gathering) pick(seq uint64, list []Record) {
	for _, here := range g.in[seq] {
		i := int(here & (1<<placeBits - 1))
		if pos, open := g.at[here]; !open || i >= len(list) || list[i].Position != pos {
			continue
		}
		delete(g.at, here)
		r := list[i]
		if len(list) > 1 { // so that one does not keep the others in memory
			r.Head, r.Data = bytes.Clone(r.Head), bytes.Clone(r.Data)
		}
		g.found = append(g.found, r)
	}
}

// fetch reads the messages that something is wanted of.
func (j *Journal) fetch(ctx context.Context, g *gathering) error {
	var missing []uint64
	for seq := range g.in {
		if list := j.packs.get(seq); list != nil {
			g.pick(seq, list)
		} else {
			missing = append(missing, seq)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	msgs, err := j.bus.Get(ctx, j.name, missing)
	if err != nil {
		return err
	}
	for _, msg := range msgs {
		list, err := unpack(msg)
		if err != nil {
			return fmt.Errorf("read journal %s: %w", j.name, err)
		}
		if len(list) > 1 && j.keep == 0 { // what the stream drops by itself is not remembered
			j.packs.put(msg.Sequence, list, len(msg.Data))
		}
		g.pick(msg.Sequence, list)
	}
	return nil
}

// Find returns the record of a key, or ErrNoMessage, when all was loaded and
// nothing of the key is being written.
func (j *Journal) Find(ctx context.Context, key string) (Record, error) {
	h, last := j.hash(key), uint64(0)
	for {
		pos := uint64(0)
		if err := j.settle(ctx, h, func() { pos = j.index[h] }); err != nil {
			return Record{}, err
		}
		if pos == last { // it is where nothing was found
			j.forget(h, pos)
			return Record{}, ErrNoMessage
		}
		list, err := j.Get(ctx, []uint64{pos})
		if err != nil {
			return Record{}, err
		}
		if len(list) > 0 {
			return list[0], nil
		}
		last = pos // it may have been replaced before it could be read
	}
}

// forget drops a record from the index that the stream has dropped.
func (j *Journal) forget(h hashed, pos uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.index[h] == pos {
		delete(j.index, h)
		delete(j.moved, pos)
	}
}

// Have returns which of the keys have a record, when all was loaded. One that
// the stream has dropped lately may be among them.
func (j *Journal) Have(ctx context.Context, keys []string) (map[string]bool, error) {
	select {
	case <-j.loaded:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for journal %s: %w", j.name, ctx.Err())
	}
	there := map[string]bool{}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, key := range keys {
		if j.index[j.hash(key)] != 0 {
			there[key] = true
		}
	}
	return there, nil
}

// backBatch is how many messages Back reads at once, where they are not large.
const backBatch = 128

// Back hands records to take, the newest first, those before a position only if
// that is not 0, until take returns false. It is for a journal of which nothing is
// freed: what was written again is not where its position says.
func (j *Journal) Back(ctx context.Context, before uint64, take func(Record) bool) error {
	j.mu.Lock()
	first, end := j.first, j.last+1
	j.mu.Unlock()
	if before != 0 {
		end = min(end, sequenceOf(before)+1)
	}
	for size := uint64(backBatch); end > first; {
		start := max(first, end-min(end, size))
		msgs, more, err := j.bus.Read(ctx, j.name, From{Subject: ">", Sequence: start, Limit: int(end - start)})
		if err != nil {
			return err
		}
		if more && len(msgs) > 0 && msgs[len(msgs)-1].Sequence < end-1 { // they are too large for one answer
			size = max(1, size/2)
			continue
		}
		for _, msg := range slices.Backward(msgs) {
			if msg.Sequence < end && !j.backOne(msg, before, take) {
				return nil
			}
		}
		end = start
	}
	return nil
}

// backOne hands the records of a message to take.
func (j *Journal) backOne(msg Message, before uint64, take func(Record) bool) bool {
	list, err := unpack(msg)
	if err != nil {
		j.log.Error("a part of a journal is passed over", "journal", j.name, "error", err)
	}
	for _, r := range slices.Backward(list) {
		if (before == 0 || r.Position < before) && !take(r) {
			return false
		}
	}
	return true
}
