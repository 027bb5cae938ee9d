package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bounds of one message, unless a single record is larger.
const (
	journalRecords = 64
	journalBytes   = 128 << 10
)

// Write is a record on its way into a Journal.
type Write struct {
	record Record
	key    hashed
	over   uint64 // position of what it replaces
	again  bool   // it is a copy
	done   chan struct{}
	pos    uint64
	err    error
}

// Done is closed when it is known what became of the write.
func (w *Write) Done() <-chan struct{} { return w.done }

// Position is where the record is, or why there is none. It is called after Done.
func (w *Write) Position() (uint64, error) { return w.pos, w.err }

// Write begins to write a record in place of that at a position, or one of which
// there is none if that is 0. One that is not loaded yet counts as none. When
// the key is being written already, that is ErrExists.
func (j *Journal) Write(record Record, over uint64) *Write {
	w := &Write{record: record, key: j.hash(record.Key), over: over, done: make(chan struct{})}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.flying[w.key] != nil {
		w.end(0, ErrExists)
	} else {
		j.admit(w)
	}
	return w
}

// Put is Write, after all was loaded and what is being written of the same key,
// and waits for the end, for five seconds at most. With another error than
// ErrExists, ErrFull or ErrClosed the record may be stored, or be so later.
func (j *Journal) Put(ctx context.Context, record Record, over uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	w := &Write{record: record, key: j.hash(record.Key), over: over, done: make(chan struct{})}
	if err := j.settle(ctx, w.key, func() { j.admit(w) }); err != nil {
		return 0, err
	}
	select {
	case <-w.done:
		return w.pos, w.err
	case <-ctx.Done():
		return 0, fmt.Errorf("write journal %s: %w", j.name, ctx.Err())
	}
}

// settle calls do, with the mutex, when all was loaded and nothing of the key is
// being written.
func (j *Journal) settle(ctx context.Context, key hashed, do func()) error {
	wait := j.loaded
	for {
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("wait for journal %s: %w", j.name, ctx.Err())
		}
		j.mu.Lock()
		if w := j.flying[key]; w != nil {
			j.mu.Unlock()
			wait = w.done
			continue
		}
		do()
		j.mu.Unlock()
		return nil
	}
}

// admit has a write committed if its condition holds.
func (j *Journal) admit(w *Write) {
	have := j.index[w.key]
	if have != 0 && j.keep > 0 && sequenceOf(j.placeOf(have)) < j.first {
		have = 0 // too old
	}
	switch {
	case j.closed:
		w.end(0, ErrClosed)
		return
	case j.fenced:
		w.end(0, ErrFenced)
		return
	case have != w.over:
		w.end(0, ErrExists)
		return
	}
	j.flying[w.key] = w
	j.waiting = append(j.waiting, w)
	if !j.writing {
		j.writing = true
		j.done.Go(j.commit)
	}
}

func (w *Write) end(pos uint64, err error) {
	w.pos, w.err = pos, err
	close(w.done)
}

// commit writes what waits, and what comes meanwhile.
func (j *Journal) commit() {
	for {
		j.mu.Lock()
		batch := j.takeWaiting()
		if len(batch) == 0 {
			j.writing = false
			j.mu.Unlock()
			return
		}
		last, seq, err := j.last, uint64(0), error(nil)
		switch {
		case j.closed:
			err = ErrClosed
		case j.fenced:
			err = ErrFenced
		}
		j.mu.Unlock()
		if err == nil {
			seq, err = j.publish(batch, last)
		}
		j.landed(batch, seq, err)
	}
}

// takeWaiting takes as much as fits one message.
func (j *Journal) takeWaiting() []*Write {
	n, size := 0, 0
	for n < len(j.waiting) && n < journalRecords {
		r := &j.waiting[n].record
		if size += len(r.Head) + len(r.Data) + len(r.Key) + len(r.Label); n > 0 && size > journalBytes {
			break
		}
		n++
	}
	batch := j.waiting[:n:n]
	if j.waiting = j.waiting[n:]; len(j.waiting) == 0 {
		j.waiting = nil
	}
	return batch
}

// landed tells what became of a message's records.
func (j *Journal) landed(batch []*Write, seq uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.last = seq
		j.recent.add(seq, batch)
		if len(batch) > 1 {
			j.tallies[seq] = tally{uint16(len(batch)), uint16(len(batch))}
		}
	}
	for i, w := range batch {
		delete(j.flying, w.key)
		switch at := place(seq, i); {
		case err != nil:
			w.end(0, err)
		case w.over != 0 && j.index[w.key] != w.over: // what it replaces was freed meanwhile
			j.empty(seq)
			w.end(0, ErrExists)
		case w.again:
			old := j.placeOf(w.over)
			j.moved[w.over] = at
			j.empty(sequenceOf(old))
			w.end(w.over, nil)
		default:
			if old := j.index[w.key]; old != 0 { // it is what is replaced, or was loaded meanwhile
				j.leave(old)
			}
			j.index[w.key] = at
			w.end(at, nil)
		}
	}
	if j.keep > 0 && (int64(len(j.index)) > j.keep+j.keep/20 || time.Since(j.swept) > sweepEvery) {
		wakeUp(j.wake)
	}
}

// How long a message is tried.
const (
	journalTimeout = 5 * time.Second // by Put
	journalTry     = time.Second     // for an answer: one that was lost when the engine was stopped never comes
	journalPause   = 100 * time.Millisecond
)

// publish writes a message after the one with the sequence last. Where there is
// no answer it writes it again: the condition keeps it from being there twice.
func (j *Journal) publish(batch []*Write, last uint64) (uint64, error) {
	id := strconv.FormatUint(rand.Uint64(), 36)
	msg := pack(j.subject, id, batch)
	msg.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
	for said := false; ; said = true {
		seq, known, err := j.try(msg, id)
		if known {
			return seq, err
		}
		j.mu.Lock()
		closed := j.closed
		j.mu.Unlock()
		if closed {
			return 0, fmt.Errorf("write journal %s: %w", j.name, err)
		}
		if !said {
			j.log.Warn("a journal got no answer; it is tried again", "journal", j.name, "error", err)
		}
		time.Sleep(journalPause)
	}
}

// try writes a message once, and says whether it is known what became of it.
func (j *Journal) try(msg *nats.Msg, id string) (seq uint64, known bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), journalTry)
	defer cancel()
	ack, err := j.bus.js.PublishMsg(ctx, msg)
	if err == nil {
		return ack.Sequence, true, nil
	}
	switch err = WriteError(err); {
	case errors.Is(err, ErrExists):
		return j.refused(ctx, id)
	case errors.Is(err, ErrFull), errors.Is(err, nats.ErrMaxPayload):
		return 0, true, err
	}
	// The engine also answers while it is stopped.
	return 0, answered(err) && !storeFailed(err), err
}

// refused is for a message that is not the next.
func (j *Journal) refused(ctx context.Context, id string) (seq uint64, known bool, err error) {
	msg, err := j.bus.Last(ctx, j.name, j.subject)
	if err != nil && !errors.Is(err, ErrNoMessage) {
		return 0, false, err
	}
	if have, _, _ := strings.Cut(msg.Header.Get(journalHeader), ","); err == nil && have == id {
		return msg.Sequence, true, nil // the answer to an earlier try was lost
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fenced = true
	j.log.Error("a journal was written by somebody else, and is not written any more", "journal", j.name)
	return 0, true, ErrFenced
}

// The header of a message is a random id and a directory: of each record the key,
// the label, the lengths of head and data, and its position if it was written
// before. The data are heads and data of all.
const journalHeader = "Mayfly-Journal"

func pack(subject, id string, batch []*Write) *nats.Msg {
	size := 0
	for _, w := range batch {
		size += len(w.record.Head) + len(w.record.Data)
	}
	data, dir := make([]byte, 0, size), append(make([]byte, 0, 128*len(batch)), id...)
	for _, w := range batch {
		r := &w.record
		data = append(append(data, r.Head...), r.Data...)
		dir = append(append(dir, ','), r.Key...)
		dir = append(append(dir, ' '), r.Label...)
		dir = strconv.AppendInt(append(dir, ' '), int64(len(r.Head)), 10)
		dir = strconv.AppendInt(append(dir, ' '), int64(len(r.Data)), 10)
		if w.again {
			dir = strconv.AppendUint(append(dir, ' '), w.over, 10)
		}
	}
	return &nats.Msg{Subject: subject, Header: nats.Header{journalHeader: {string(dir)}}, Data: data}
}

// unpack returns the records of a message; without its data, their places only.
func unpack(msg Message) ([]Record, error) {
	bad := func() ([]Record, error) {
		return nil, fmt.Errorf("read message %d: it is not of a journal", msg.Sequence)
	}
	_, dir, found := strings.Cut(msg.Header.Get(journalHeader), ",")
	if !found {
		return bad()
	}
	entries := strings.Split(dir, ",")
	if len(entries) > 1<<placeBits {
		return bad()
	}
	list, data := make([]Record, len(entries)), msg.Data
	for i, entry := range entries {
		field := strings.Split(entry, " ")
		if len(field) < 4 || len(field) > 5 {
			return bad()
		}
		head, err1 := strconv.Atoi(field[2])
		size, err2 := strconv.Atoi(field[3])
		if err1 != nil || err2 != nil || head < 0 || size < 0 {
			return bad()
		}
		list[i] = Record{Key: field[0], Label: field[1], Position: place(msg.Sequence, i)}
		if len(field) == 5 {
			pos, err := strconv.ParseUint(field[4], 10, 64)
			if err != nil || pos == 0 || sequenceOf(pos) >= msg.Sequence {
				return bad()
			}
			list[i].Position = pos
		}
		if msg.Data != nil {
			if head > len(data) || size > len(data)-head {
				return bad()
			}
			list[i].Head, list[i].Data, data = data[:head:head], data[head:head+size:head+size], data[head+size:]
		}
	}
	if len(data) > 0 {
		return bad()
	}
	return list, nil
}
