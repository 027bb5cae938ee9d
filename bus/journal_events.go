package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// After hands records behind a position to take, in the order of their positions,
// up to the present end, until take returns false. Like Back it is for a journal of
// which nothing is freed.
func (j *Journal) After(ctx context.Context, position uint64, take func(Record) bool) error {
	j.mu.Lock()
	first, last := j.first, j.last
	list, whole := j.recent.after(position)
	j.mu.Unlock()
	if whole {
		for _, r := range list {
			if !take(r) {
				return nil
			}
		}
		return nil
	}
	for next := max(first, sequenceOf(position)); next <= last; {
		msgs, more, err := j.bus.Read(ctx, j.name, From{Subject: ">", Sequence: next, Limit: backBatch})
		if err != nil {
			return err
		}
		for _, msg := range msgs {
			next = msg.Sequence + 1
			list, err := unpack(msg)
			if err != nil {
				j.log.Error("a part of a journal is passed over", "journal", j.name, "error", err)
			}
			for _, r := range list {
				if r.Position > position && !take(r) {
					return nil
				}
			}
		}
		if !more || len(msgs) == 0 {
			return nil
		}
	}
	return nil
}

// Remember lets After find so many bytes of what is written from now on without
// reading the stream.
func (j *Journal) Remember(bytes int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.recent = recent{most: bytes, from: place(j.last+1, 0) - 1}
}

// recent is what was written last, in order, as far as it is remembered.
type recent struct {
	most  int    // bytes; 0: nothing is
	bytes int    // of list
	from  uint64 // position behind which all that there is is in list
	list  []Record
}

// add remembers what was written in a message.
func (r *recent) add(seq uint64, batch []*Write) {
	if r.most == 0 {
		return
	}
	for i, w := range batch {
		record := w.record
		record.Position = place(seq, i)
		r.list = append(r.list, record)
		r.bytes += len(record.Head) + len(record.Data)
	}
	drop := 0
	for r.bytes > r.most && drop < len(r.list) {
		r.bytes -= len(r.list[drop].Head) + len(r.list[drop].Data)
		r.from = r.list[drop].Position
		r.list[drop] = Record{}
		drop++
	}
	r.list = r.list[drop:]
}

// after is what was written behind a position, if all of that is remembered.
func (r *recent) after(position uint64) (list []Record, whole bool) {
	if r.most == 0 || position < r.from {
		return nil, false
	}
	i, found := slices.BinarySearchFunc(r.list, position, func(x Record, at uint64) int { return cmp.Compare(x.Position, at) })
	if found {
		i++
	}
	return slices.Clone(r.list[i:]), true
}

// Last is the position of the newest record, or of the newest that there was.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return place(j.last+1, 0) - 1
}

// Oldest is when the oldest message was written, and what all of them take in
// bytes. It is the zero time where there is none.
func (j *Journal) Oldest(ctx context.Context) (at time.Time, bytes int64, err error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return at, 0, fmt.Errorf("look at journal %s: %w", j.name, err)
	}
	if info.State.Msgs > 0 {
		at = info.State.FirstTime
	}
	return at, int64(info.State.Bytes), nil
}

// Drop removes the messages that were written before a time, or so large a part of
// all, whichever is more, but none with a record from the position on. It is for a
// journal of which nothing is freed.
func (j *Journal) Drop(ctx context.Context, before time.Time, part float64, position uint64) error {
	if !j.mayTidy() {
		return nil
	}
	j.mu.Lock()
	first, last := j.first, j.last
	j.mu.Unlock()
	front := first + uint64(part*float64(last+1-min(first, last+1)))
	msgs, _, err := j.bus.Read(ctx, j.name, From{Subject: ">", Time: before, Limit: 2})
	switch {
	case err != nil && !errors.Is(err, ErrNoMessage):
		return err
	case len(msgs) > 0:
		front = max(front, msgs[0].Sequence)
	default:
		front = last + 1
	}
	front = min(front, sequenceOf(position), last+1)
	if front <= first {
		return nil
	}
	if err := j.stream.Purge(ctx, jetstream.WithPurgeSequence(front)); err != nil {
		return fmt.Errorf("drop the oldest of journal %s: %w", j.name, err)
	}
	j.begin(front)
	j.sweep(front)
	return nil
}
