// Package queue is the durable half of tasks: runs that wait their turn. It
// accepts them, says which goes next to a runner that asks, and records how
// each ended.
//
//	               Submit
//	                 │
//	   not before    ▼      Next            Started
//	later ───────► queued ───────► starting ───────► running
//	                 ▲ │               │                │ Done
//	        backoff  │ │ Cancel        ├────────────────┘
//	                 │ │               ▼
//	                 ├─│── attempts left? ── final ──► succeeded, failed, timed-out,
//	                 │ └─────────────────────────────► out-of-memory, cancelled
//	                 │                 │                  ▲
//	          Retry  │                 ▼ retries used up  │ Purge
//	                 └────────────── buried ──────────────┘
//
// What Submit returned for is on disk, as one record, and there is no other. An
// accepted task gets exactly one outcome, which is created and never
// overwritten, so an attempt that comes too late loses. At any moment one of five
// places holds a task: pending and outcome, which are journals of package bus,
// later, held and dead, which share a stream. A crash can leave it in two, and
// what has left pending can come back there: an outcome beats the rest, a dead
// letter beats a pending task of no later attempt, pending beats later, and later
// beats held. Whoever reads a task that was there before Open looks at the other
// places first.
//
// A task that comes after others is held until all of those have succeeded. One
// that ends in another way cancels it, when those that it names before have ended,
// and then what comes after it; a buried one keeps it waiting.
//
// Between spaces and between workloads of a space turns are shared fairly, by
// the time that their tasks run, whatever is queued. Within a workload the
// higher priority goes first, a step of priority being worth 30 seconds of
// waiting, so that nothing starves; tasks of the same priority go in order. A
// grant is not written down: it is held by this process and ends with it, and a
// task whose container survived is taken over with Adopt before Run.
//
// Memory grows by some 50 bytes with each task that is queued: the first few of
// each workload are held, and the rest is read, by its position, when its turn is
// near. A start looks once, in one pass, where each workload's tasks are, and
// grants when it knows; tasks are accepted meanwhile. There is no polling: an
// idle queue does nothing.
//
// What a workload is, and how many of its tasks may run at once, is said by the
// store: a submission is resolved against it, and limits follow the active
// release. A task keeps the release that it was resolved to, whatever is
// deployed later. Deleting a workload deletes its releases; a task that finds
// its own gone when its turn comes ends as failed, without a retry.
//
// Running a task, its timeout and its logs are left to the caller of Next.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// MaxInline is the size in bytes up to which a payload lies in its task's
// message; one that is larger lies in a file. It is part of the data's format.
const MaxInline = 1_000_000

// Options tune a Queue. The zero value is fit for production.
type Options struct {
	Log      *slog.Logger // nil: nothing is logged
	Images   Images       // nil: tasks of images are refused
	MaxTasks int          // that wait, over all workloads; 2,000,000 if zero
	MaxBytes int64        // of those, with their payloads; 7/8 of what the stream holds if zero
	Output   int          // bytes kept of a result; 256 kB if zero
	Readers  int          // that read on in the streams; 4 if zero
	Calls    int          // callbacks made at once, a quarter of them to one host; 16 if zero

	MaxPayload int64         // bytes of one payload; 256 MB if zero
	KeepAge    time.Duration // of outcomes; bus.OutcomesMaxAge if zero
	KeepCount  int64         // outcomes; bus.OutcomesMax if zero
}

// Queue holds the tasks of every space. Its methods are safe for concurrent use.
type Queue struct {
	bus        *bus.Bus
	store      *store.Store
	js         jetstream.JetStream
	log        *slog.Logger
	opts       Options
	tasks      *bus.Journal // of pending
	outcomes   *bus.Journal
	parked     jetstream.Stream
	ids        [256]sync.Mutex    // one task moves or is looked up at a time
	keys       [256]sync.Mutex    // one submission with a key at a time; locked before ids
	indexMu    sync.Mutex         // held while the index is written
	scanned    chan struct{}      // closed when what was there before Open is known
	parkedOnce bool               // something was parked then
	since      time.Time          // of Open
	waiting    gauge              // what the streams hold, about
	measureMu  sync.Mutex         // held while they are asked
	measured   time.Time          // then
	payloads   *payloads          // the large ones
	stop       context.CancelFunc // of the readers
	quit       chan struct{}      // closed by Close
	done       sync.WaitGroup

	mu       sync.Mutex
	running  bool // Run was called
	closed   bool
	spaces   spaceHeap          // with a flow that can be granted from
	vtime    time.Duration      // clock of the space that went last
	bySpace  map[string]*space  // all
	flows    map[flowKey]*flow  // all
	limits   map[flowKey]limits // of workloads that set any
	deployed uint64             // revision of the record that limits are of
	entries  map[string]*entry  // by space and id: known in memory and not ended
	claimed  map[string]bool    // by space and id: Cancel ends it, and it is not in entries
	askers   []*asker           // of Next, the oldest first
	timers   clock              // of entries and lanes, by the clock that nobody sets
	laters   clock              // of minutes and tasks in later, by the wall clock
	minutes  map[minuteKey]bool
	scanning bool                                  // what was there before Open is being looked at
	arrivals []arrival                             // written meanwhile
	toRead   []*lane                               // lanes to read on
	most     int                                   // entries, about
	held     int                                   // bytes of payloads of entries
	waiters  bells                                 // of Wait, rung when a task has ended
	watchers bells                                 // of Watch, rung at every change
	onEnd    func(mayfly.Task)                     // is told of every end; nil: nobody
	ends     []func(task mayfly.Task, purged bool) // the same
	stalled  bool                                  // match waits for room on the disk
	readCond *sync.Cond                            // toRead changed, or closed

	onBacklog   func(space, workload string) // is told of a backlog; nil: nobody
	backlogMost int                          // of which it is told

	parents  map[parentKey]bool // of tasks that are held; true when those are to be looked at
	toWake   []parentKey        // of parents, those that are true
	wakeHeld chan struct{}      // toWake has something
	calls    calls              // callbacks that are to be made
	secrets  map[string]string  // of spaces
}

// gauge counts what waits, about: messages of other origin are not seen.
type gauge struct{ tasks, bytes atomic.Int64 }

func (g *gauge) add(tasks, bytes int64) {
	g.tasks.Add(tasks)
	g.bytes.Add(bytes)
}

// Open looks which workloads have tasks; when there are many, that goes on while
// the first are granted. Nothing is granted before Run, so that
// what survived can be adopted. Workloads and their limits are those of s.
func Open(ctx context.Context, b *bus.Bus, s *store.Store, opts Options) (*Queue, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.MaxTasks = cmp.Or(opts.MaxTasks, 2_000_000)
	opts.MaxBytes = cmp.Or(opts.MaxBytes, bus.TasksMaxBytes/8*7)
	opts.Output = cmp.Or(opts.Output, 256<<10)
	opts.MaxPayload = cmp.Or(opts.MaxPayload, 256<<20)
	opts.Readers = cmp.Or(opts.Readers, 4)
	opts.Calls = cmp.Or(opts.Calls, 16)
	opts.KeepAge, opts.KeepCount = cmp.Or(opts.KeepAge, bus.OutcomesMaxAge), cmp.Or(opts.KeepCount, bus.OutcomesMax)
	q := &Queue{
		bus: b, store: s, js: b.JetStream(), log: opts.Log, opts: opts, since: time.Now(), most: manyEntries,
		bySpace: map[string]*space{}, flows: map[flowKey]*flow{}, entries: map[string]*entry{},
		limits: map[flowKey]limits{}, claimed: map[string]bool{}, minutes: map[minuteKey]bool{}, waiters: bells{}, watchers: bells{}, parents: map[parentKey]bool{}, wakeHeld: make(chan struct{}, 1),
		calls: newCalls(), secrets: map[string]string{},
		quit: make(chan struct{}), timers: newClock(), laters: newClock(), scanned: make(chan struct{}), scanning: true,
	}
	q.readCond = sync.NewCond(&q.mu)
	q.applyLimits(s.Snapshot(), time.Time{})
	if err := q.keep(ctx); err != nil {
		return nil, err
	}
	if err := q.load(ctx); err != nil {
		return nil, err
	}
	var err error
	if q.payloads, err = openPayloads(filepath.Join(b.Dir(), payloadsDir)); err != nil {
		return nil, err
	}
	reading, stop := context.WithCancel(context.Background())
	q.stop = stop
	for range opts.Readers {
		q.done.Go(func() { q.readLanes(reading) })
	}
	if q.scanning {
		q.done.Go(func() { q.scan(reading) })
	}
	q.done.Go(func() { q.loadOutcomes(reading) })
	return q, nil
}

// load takes the handles and the index.
func (q *Queue) load(ctx context.Context) error {
	var err error
	if q.tasks, err = q.bus.OpenJournal(ctx, bus.TasksStream, 0); err != nil {
		return unavailable("open the queue", err)
	}
	if q.outcomes, err = q.bus.OpenJournal(ctx, bus.OutcomesStream, q.opts.KeepCount); err != nil {
		return unavailable("open the queue", err)
	}
	if q.parked, err = q.js.Stream(ctx, bus.ParkedStream); err != nil {
		return unavailable("open the queue", err)
	}
	parked := q.parked.CachedInfo().State
	q.parkedOnce = parked.Msgs > 0
	q.waiting.add(int64(parked.Msgs), 0)
	if err := q.measure(ctx); err != nil {
		return err
	}
	if err := q.readHeld(ctx); err != nil {
		return err
	}
	if err := q.readIndex(ctx); err != nil {
		return err
	}
	return q.scanSome(ctx, scanFirst)
}

// Run grants tasks until ctx ends or the queue is closed. It is called once,
// after what survived was adopted.
func (q *Queue) Run(ctx context.Context) error {
	q.applyLimits(q.store.Snapshot(), time.Now())
	q.mu.Lock()
	if q.running || q.closed {
		q.mu.Unlock()
		return errors.New("run queue: it ran already or is closed")
	}
	q.running = true
	q.match()
	q.tellBacklogs()
	q.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	parts.Go(func() {
		defer cancel()
		select {
		case <-q.quit:
		case <-ctx.Done():
		}
	})
	parts.Go(func() { q.runClock(ctx, &q.timers, q.ring) })
	parts.Go(func() { q.runClock(ctx, &q.laters, q.promote) })
	parts.Go(func() { q.runPayloads(ctx) })
	parts.Go(func() { q.followRecord(ctx) })
	parts.Go(func() { q.runCallbacks(ctx) })
	for range heldWorkers {
		parts.Go(func() { q.runHeld(ctx) })
	}
	parts.Wait()
	q.mu.Lock()
	q.running = false
	q.mu.Unlock()
	return ctx.Err()
}

// Close ends Run and everything that waits. What runs stays granted as far as
// the streams are concerned: the next Open finds it queued. The bus stays open.
func (q *Queue) Close() {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return
	}
	q.closed = true
	close(q.quit)
	for _, a := range q.askers {
		close(a.ch)
	}
	q.askers = nil
	q.readCond.Broadcast()
	q.mu.Unlock()
	q.stop()
	q.tasks.Close()
	q.outcomes.Close()
	q.done.Wait()
	q.payloads.close()
}

// lockID keeps all else from moving or looking up the task.
func (q *Queue) lockID(space, id string) (unlock func()) {
	m := &q.ids[stripe(space, id)%len(q.ids)]
	m.Lock()
	return m.Unlock
}

// stripe spreads tasks over locks.
func stripe(space, id string) int {
	var h uint32 = 2166136261
	for _, c := range []byte(space + id) {
		h = (h ^ uint32(c)) * 16777619
	}
	return int(h)
}

// errClosed is what every call gets after Close.
var errClosed = mayfly.Errorf(mayfly.Unavailable, "the task queue is closed")

// writeError is bus.ErrExists or bus.ErrFull, or what else the caller is to be told.
func writeError(err error) error {
	switch err = bus.WriteError(err); {
	case errors.Is(err, bus.ErrExists), errors.Is(err, bus.ErrFull):
		return err
	case errors.Is(err, bus.ErrClosed):
		return errClosed
	}
	return unavailable("write the queue", err)
}

// fullError is writeError for what can be tried again when there is room.
func fullError(err error) error {
	if err = writeError(err); errors.Is(err, bus.ErrFull) {
		return full()
	}
	return err
}

// unavailable wraps an error of the engine; what did not answer may do so later.
func unavailable(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return mayfly.Errorf(mayfly.Unavailable, "%s: %w", doing, err)
}

// now is the wall clock without the reading that JSON would lose.
func now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
