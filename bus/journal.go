package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Journal keeps records in a stream, of which this process is the only writer. A
// message holds many: what is written at the same time shares a message, and so
// the one sync that it costs. It knows in memory where the record of each key
// is, about 40 bytes for each.
//
// A message is removed when no record in it is left. What is left in one from
// which others have gone is written again after a while, with its position, so
// that nothing that was freed is kept, and found by the next OpenJournal, for
// long. Until then it may be: whoever frees a record must know it again.
//
// Its methods are safe for concurrent use.
type Journal struct {
	bus     *Bus
	log     *slog.Logger
	name    string // of the stream
	subject string
	keep    int64
	stream  jetstream.Stream
	seeds   [2]maphash.Seed
	opened  uint64        // last sequence then
	loaded  chan struct{} // closed when all of it is in the index
	stop    context.CancelFunc
	done    sync.WaitGroup
	wake    chan struct{} // there is something to remove
	packs   packs

	mu      sync.Mutex
	closed  bool
	index   map[hashed]uint64 // positions of records, by key
	most    int               // keys that the index had, as Tidy saw it
	moved   map[uint64]uint64 // places of records that were written again, by position
	tallies map[uint64]tally  // of messages with many records, by sequence
	flying  map[hashed]*Write // being written
	waiting []*Write          // to be written
	writing bool              // commit is at work
	fenced  bool              // somebody else has written the stream
	recent  recent            // what was written last
	read    uint64            // sequence up to which Load has come
	last    uint64            // newest sequence
	first   uint64            // before which there is nothing
	gone    ranges            // sequences from first on that hold no record
	lonely  []freed           // messages without a record, to be removed
	thinned []freed           // messages with fewer records than they had
	swept   time.Time         // when the index was compared with the stream
}

// hashed is a key. That two keys have the same is as likely as guessing a UUID.
type hashed [2]uint64

// tally counts the records of a message.
type tally struct{ live, of uint16 }

// freed is a message that lost a record.
type freed struct {
	sequence uint64
	when     time.Time
}

// Record is what a Journal keeps.
type Record struct {
	Key      string // no two records have the same. Neither it nor the label has spaces or commas
	Label    string // for Load to tell
	Position uint64 // orders records by when they were first written; set by the journal
	Head     []byte
	Data     []byte
}

// Place tells of a record that is there.
type Place struct {
	Key, Label string
	Position   uint64
}

// What writes get after Close, and after somebody else has written the stream.
var (
	ErrClosed = errors.New("the journal is closed")
	ErrFenced = errors.New("another process writes the journal now")
)

// A position is a message's sequence and the number of a record in it.
const placeBits = 8

func place(sequence uint64, i int) uint64 { return sequence<<placeBits | uint64(i) }

func sequenceOf(place uint64) uint64 { return place >> placeBits }

// OpenJournal opens the journal of a stream of the list. What is there is found
// when Load has been called until its end. With keep above 0 the oldest records go
// when there are more, about a twentieth late, and never a part of a message.
func (b *Bus) OpenJournal(ctx context.Context, stream string, keep int64) (*Journal, error) {
	handle, err := b.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", stream, err)
	}
	state := handle.CachedInfo().State
	j := &Journal{
		bus: b, log: b.log, name: stream, subject: JournalSubject(stream), keep: keep, stream: handle,
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, opened: state.LastSeq,
		loaded: make(chan struct{}), wake: make(chan struct{}, 1),
		index: map[hashed]uint64{}, moved: map[uint64]uint64{}, tallies: map[uint64]tally{}, flying: map[hashed]*Write{},
		last: state.LastSeq, first: max(state.FirstSeq, 1), swept: time.Now(),
	}
	j.read = j.first - 1
	if j.read >= j.opened {
		close(j.loaded)
	}
	running, stop := context.WithCancel(context.Background())
	j.stop = stop
	j.done.Go(func() { j.runTidy(running) })
	return j, nil
}

// Close ends writes that have not begun, with ErrClosed, and waits for the
// others. The bus stays open.
func (j *Journal) Close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.stop()
	j.done.Wait()
}

func (j *Journal) hash(key string) hashed {
	return hashed{maphash.String(j.seeds[0], key), maphash.String(j.seeds[1], key)}
}

// Opened is a position: up to it are the records that were there when the journal
// was opened.
func (j *Journal) Opened() uint64 { return place(j.opened+1, 0) - 1 }

// Bytes is what the stream takes.
func (j *Journal) Bytes(ctx context.Context) (int64, error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at journal %s: %w", j.name, err)
	}
	return int64(info.State.Bytes), nil
}

// Len is how many records there are, as far as they were loaded.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.index)
}

// Live reports whether the record of a key is at a position.
func (j *Journal) Live(key string, position uint64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.index[j.hash(key)] == position
}

// Free gives up the record of a key, if it is at that position, and what is being
// written over it. Where it is now is reused some time later.
func (j *Journal) Free(key string, position uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.hash(key); j.index[h] == position {
		delete(j.index, h)
		j.leave(position)
	}
}

// placeOf is where the record of a position is now.
func (j *Journal) placeOf(position uint64) uint64 { return cmp.Or(j.moved[position], position) }

// leave notes that nothing is to be kept where the record of a position is.
func (j *Journal) leave(position uint64) {
	at := j.placeOf(position)
	delete(j.moved, position)
	j.empty(sequenceOf(at))
}

// empty notes that a message has a record less.
func (j *Journal) empty(seq uint64) {
	if seq < j.first {
		delete(j.tallies, seq)
		return
	}
	t, many := j.tallies[seq]
	if t.live--; many && t.live > 0 {
		if j.tallies[seq] = t; t.live == t.of-1 {
			j.thinned = append(j.thinned, freed{seq, time.Now()})
		}
	} else {
		delete(j.tallies, seq)
		j.gone.add(seq, seq)
		j.lonely = append(j.lonely, freed{seq, time.Now()})
	}
	if n := len(j.lonely); n == 1 || n%tidyEvery == 0 || len(j.thinned) == 1 {
		wakeUp(j.wake)
	}
}

func wakeUp(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
