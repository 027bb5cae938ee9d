// Package event takes events in, finds out who wants them, and delivers them.
//
//	Emit ──► journal ──► dispatcher ──┬──► a task of a function          (queue)
//	             ▲                    ├──► line: in order, or to a URL ──► task, or webhook
//	  replay ────┘                    └──► tail: whoever looks on
//
// What Emit returned for is on disk, in the order of its numbers, and the same
// source and id are the same event for as long as it is kept. Every mapping that
// matches when an event's turn comes gets it at least once. A delivery to a
// function is a task under a key of mapping and event, so what is delivered again,
// after a crash, is the same task; attempts, dead letters and limits are the
// queue's. How far the dispatcher and each line have come is written after what they
// did, some time later, so a crash repeats and loses nothing.
//
// A mapping with an order has at most one task of each key that has neither ended
// nor been buried, and they are submitted in the order of acceptance; so does a
// subscriber's, one call for each task. Such mappings, and subscribers, have a line
// each; all others share the dispatcher's place.
//
// Events are kept for Options.KeepAge and KeepBytes, and longer where somebody has
// not taken them yet. Replay accepts events a second time, for one mapping or all.
// Story says what became of one.
//
// Reading what comes over HTTP is here as well; the server is package api's.
package event

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/store"
)

// Options tune Events. The zero value is fit for production.
type Options struct {
	Log       *slog.Logger    // nil: nothing is logged
	KeepAge   time.Duration   // of events that were delivered; 7 days if zero
	KeepBytes int64           // of those; 1 GiB if zero
	MaxHops   int             // deliveries that may lead to an event; 16 if zero
	Delays    []time.Duration // before each further attempt at a subscriber; about a day in all if nil
	Node      string          // name of this machine, in the source of platform events
}

// Events holds those of every space. Its methods are safe for concurrent use.
type Events struct {
	bus     *bus.Bus
	store   *store.Store
	queue   *queue.Queue
	log     *slog.Logger
	opts    Options
	journal *bus.Journal
	wake    chan struct{} // an event was accepted
	dirty   chan struct{} // something is to be saved
	tells   chan told     // of the platform
	news    uint64        // of the store, that comes next
	loading sync.WaitGroup
	stop    context.CancelFunc

	mu      sync.Mutex
	cursor  uint64 // up to it the dispatcher has given every event on
	saved   cursorRecord
	all     *mappings // as of the last look
	lines   map[string]*line
	tails   map[*Tail]bool
	stats   map[string]*stat // by mapping
	waiting map[string]*line // by space and id of a task
}

// rememberBytes is how much of what was accepted last is given on from memory.
const rememberBytes = 8 << 20

// Open takes what was there before. Nothing is delivered before Run, which the
// queue's Run comes before.
func Open(ctx context.Context, b *bus.Bus, s *store.Store, q *queue.Queue, opts Options) (*Events, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	opts.KeepAge, opts.KeepBytes = cmp.Or(opts.KeepAge, 7*24*time.Hour), cmp.Or(opts.KeepBytes, 1<<30)
	opts.MaxHops = cmp.Or(opts.MaxHops, 16)
	if opts.Delays == nil {
		opts.Delays = queue.CallbackDelays()
	}
	journal, err := b.OpenJournal(ctx, bus.EventsStream, 0)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "open the events: %w", err)
	}
	journal.Remember(rememberBytes)
	e := &Events{
		bus: b, store: s, queue: q, log: opts.Log, opts: opts, journal: journal,
		wake: make(chan struct{}, 1), dirty: make(chan struct{}, 1), tells: make(chan told, maxTold),
		lines: map[string]*line{}, tails: map[*Tail]bool{}, stats: map[string]*stat{}, waiting: map[string]*line{},
	}
	if err := e.loadCursor(ctx); err != nil {
		journal.Close()
		return nil, err
	}
	_, e.news = s.News(store.NewsFilter{}, 1)
	q.OnEnd(e.taskEnded)
	loading, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.loading.Go(func() { e.load(loading) })
	return e, nil
}

// load finds what was accepted before, so that it is known again.
func (e *Events) load(ctx context.Context) {
	for {
		err := e.journal.Load(ctx, func([]bus.Place) bool { return ctx.Err() == nil })
		if err == nil || ctx.Err() != nil {
			return
		}
		e.log.Warn("the events cannot be read; it is tried again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// Close ends what Open began. Run has returned.
func (e *Events) Close() {
	e.stop()
	e.loading.Wait()
	e.journal.Close()
}

// Run delivers events until ctx ends.
func (e *Events) Run(ctx context.Context) error {
	select {
	case <-e.journal.Loaded():
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	parts.Go(func() { e.dispatch(ctx, &parts) })
	parts.Go(func() { e.runSaves(ctx) })
	parts.Go(func() { e.runKeep(ctx) })
	parts.Go(func() { e.runNews(ctx) })
	parts.Go(func() { e.runTells(ctx) })
	<-ctx.Done()
	parts.Wait()
	saving, end := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer end()
	e.save(saving)
	return ctx.Err()
}

func wakeUp(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// retryPause is how long something that failed in the engine is left alone.
const retryPause = time.Second

// pause waits a while, and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// unavailable wraps an error of the engine.
func unavailable(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return mayfly.Errorf(mayfly.Unavailable, "%s: %w", doing, err)
}

// deliveriesStream is where progress is written.
func (e *Events) deliveriesStream(ctx context.Context) (jetstream.Stream, error) {
	stream, err := e.bus.JetStream().Stream(ctx, bus.DeliveriesStream)
	if err != nil {
		return nil, unavailable("open the deliveries", err)
	}
	return stream, nil
}

// platformType begins the types of the platform's own events.
const platformType = "mayfly."

func isPlatform(eventType string) bool { return strings.HasPrefix(eventType, platformType) }
