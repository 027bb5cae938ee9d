package queue

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/schedule"
	"github.com/mayfly-run/mayfly/store"
)

// Bounds of schedules.
const (
	MaxSchedulePayload = 256_000 // bytes; it is read again at each tick

	maxSchedules = 100_000
	maxWaiting   = 50          // ticks of one schedule whose task waits for an earlier one
	maxFollowed  = 16          // unfinished tasks of one schedule that are remembered
	firing       = 8           // schedules that are fired at a time
	longestSleep = time.Minute // a clock that is set is noticed by then
	steppedBack  = 2 * time.Second
)

// ScheduleOptions tune Schedules. The zero value is fit for production.
type ScheduleOptions struct {
	Log *slog.Logger     // nil: nothing is logged
	Max int              // schedules over all spaces; 100,000 if zero
	Now func() time.Time // the clock on the wall; the machine's if nil

	// Emit accepts an event of a space, and reports whether it is new; nil: ticks
	// that emit events fail.
	Emit func(ctx context.Context, space string, ev mayfly.Event) (fresh bool, err error)
}

// Schedules keeps the schedules of every space and submits a task for each of
// their ticks. Its methods are safe for concurrent use.
//
// All of them are held in memory, without payloads, by the time at which each is
// to be looked at next: one timer serves them all. What a tick did is recorded
// after its task was accepted. Whoever dies in between, or takes another for
// dead, submits the same tick again, and its key keeps the task single. So a
// tick that was within the catch-up window has at most one task, and exactly one
// when somebody was there in time and the overlap policy has not passed it over.
//
// JetStream's own message schedules would fire without a leader, but they know
// nothing of overlap, catch-up and what a clock does in spring, and would write
// each tick into the stream of tasks whether it can be accepted or not.
type Schedules struct {
	tasks  tasks
	record *store.Store
	images Images // nil: what images there are is not known
	bus    *bus.Bus
	js     jetstream.JetStream
	log    *slog.Logger
	opts   ScheduleOptions
	zones  schedule.Zones
	kick   chan struct{} // the first wake has changed
	looked time.Time     // of Run: when the clock was last read

	mu    sync.Mutex
	all   map[schedule.Name]*scheduled
	wakes schedule.Index
}

// tasks is what a tick needs of a Queue.
type tasks interface {
	Submit(ctx context.Context, subs []mayfly.Submission) []Accepted
	Get(ctx context.Context, space, id string) (mayfly.Task, error)
	Cancel(ctx context.Context, space, id string) (mayfly.Task, error)
}

// scheduled is one schedule in memory.
type scheduled struct {
	name schedule.Name

	// Guarded by Schedules.mu:
	poked    bool   // a task of it has ended since it was looked at
	queues   bool   // its overlap policy is to queue
	manifest string // workload whose manifest it is from

	mu        sync.Mutex // held while it is fired, changed or looked at
	gone      bool       // it is not in the map any more
	seq       uint64     // of the definition; 0: there is none
	removal   uint64     // sequence of the message that says so; 0: there is none
	ticksSeq  uint64     // of ticks; 0: there are none
	timetable *schedule.Timetable
	paused    bool
	change    string // of the definition
	ticks     ticks
	failures  int // in a row
}

// OpenSchedules reads all schedules, and makes those of manifests what the
// active releases say. Nothing is fired before Run. The queue submits their
// tasks; it tells of their ends to the schedules that were opened last.
func OpenSchedules(ctx context.Context, q *Queue, opts ScheduleOptions) (*Schedules, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = now
	}
	opts.Max = cmp.Or(opts.Max, maxSchedules)
	s := &Schedules{
		tasks: q, record: q.store, images: q.opts.Images, bus: q.bus, js: q.js, log: opts.Log, opts: opts,
		kick: make(chan struct{}, 1), all: map[schedule.Name]*scheduled{},
	}
	kept, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.reconcile(ctx, kept); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.onEnd = s.ended
	return s, nil
}

// load reads the stream, and returns the schedules of manifests.
func (s *Schedules) load(ctx context.Context) (map[schedule.Name]definition, error) {
	kept := map[schedule.Name]definition{}
	states := map[schedule.Name]bus.Message{}
	from := bus.From{Subject: ">", Limit: 1000}
	for more := true; more; {
		msgs, next, err := s.bus.Read(ctx, bus.SchedulesStream, from)
		if err != nil {
			return nil, unavailable("read the schedules", err)
		}
		for _, msg := range msgs {
			from.Sequence = msg.Sequence + 1
			token := strings.Split(msg.Subject, ".")
			if len(token) != 4 {
				continue
			}
			name := schedule.Name{Space: token[1], Name: token[3]}
			if token[2] == "ticks" {
				states[name] = msg
				continue
			}
			if removed(msg) {
				continue
			}
			e := &scheduled{name: name}
			def, err := s.take(e, msg)
			if err != nil {
				s.log.Error("a schedule that cannot be read is passed over", "subject", msg.Subject, "error", err)
				continue
			}
			s.all[name] = e
			if def.Manifest != "" {
				kept[name] = def
			}
		}
		more = next && len(msgs) > 0
	}
	for name, e := range s.all {
		s.takeTicks(e, states[name])
		s.wakes.Set(name, s.opts.Now())
	}
	return kept, nil
}

// take makes of a schedule in memory what its definition says. The caller holds
// its mutex.
func (s *Schedules) take(e *scheduled, msg bus.Message) (definition, error) {
	def, err := decodeDefinition(msg)
	if err != nil {
		return def, err
	}
	timetable, err := schedule.NewTimetable(def.Schedule, &s.zones)
	if err != nil {
		return def, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	e.timetable, e.seq = timetable, msg.Sequence
	e.paused, e.change = def.Paused, def.Change
	e.ticks = e.ticks.under(def)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.queues, e.manifest = def.Overlap == mayfly.OverlapQueue, def.Manifest
	return def, nil
}

// takeTicks takes how far a schedule has come, from a message or from none. It
// keeps what the definition, which was taken before, says.
func (s *Schedules) takeTicks(e *scheduled, msg bus.Message) {
	since := e.ticks.Since
	e.ticksSeq = msg.Sequence
	fresh := ticks{State: schedule.State{Since: since}, Change: e.change}
	if msg.Sequence == 0 {
		e.ticks = fresh
		return
	}
	got, err := decodeTicks(msg)
	if err != nil {
		s.log.Error("how far a schedule has come cannot be read; it goes on from now", "subject", msg.Subject, "error", err)
		fresh.State = schedule.NewState(s.opts.Now())
		got = fresh
	}
	e.ticks = got.under(definition{Change: e.change, Since: since})
}

// Run fires ticks until ctx ends.
func (s *Schedules) Run(ctx context.Context) error {
	for {
		s.pass(ctx)
		if err := ctx.Err(); err != nil {
			return err
		}
		var wait <-chan time.Time
		s.mu.Lock()
		first := s.wakes.First()
		s.mu.Unlock()
		if !first.IsZero() {
			wait = time.After(min(first.Sub(s.opts.Now()), longestSleep))
		}
		select {
		case <-wait:
		case <-s.kick:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pass looks at every schedule whose time has come.
func (s *Schedules) pass(ctx context.Context) {
	at := s.opts.Now()
	if s.looked.Sub(at) > steppedBack {
		s.wakeAll(at)
	}
	s.looked = at
	var group errgroup.Group
	group.SetLimit(firing)
	for ctx.Err() == nil {
		s.mu.Lock()
		name, due := s.wakes.Pop(at)
		s.mu.Unlock()
		if !due {
			break
		}
		group.Go(func() error {
			e := s.lock(name)
			defer s.unlock(e)
			if e.seq != 0 {
				s.setWake(e, s.fire(ctx, e))
			}
			return nil
		})
	}
	group.Wait()
}

// wakeAll has every schedule looked at: their wakes were computed under a clock
// that was ahead.
func (s *Schedules) wakeAll(at time.Time) {
	s.log.Info("the clock was set back; every schedule is looked at again")
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.all {
		s.wakes.Set(name, at)
	}
}

// setWake has a schedule looked at again at a time, or at once when a task of
// its has ended meanwhile.
func (s *Schedules) setWake(e *scheduled, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.poked {
		at = s.opts.Now()
	}
	s.wakes.Set(e.name, at)
}

// ended has the schedule of a task that has ended looked at, when others may
// wait for that.
func (s *Schedules) ended(task mayfly.Task) {
	name := task.Labels[schedule.Label]
	if name == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.all[schedule.Name{Space: task.Space, Name: name}]; e != nil && e.queues {
		e.poked = true
		s.wakes.Set(e.name, s.opts.Now())
		wake(s.kick)
	}
}

// lock returns the schedule of a name, which may have no definition, with its
// mutex held until unlock.
func (s *Schedules) lock(name schedule.Name) *scheduled {
	for {
		s.mu.Lock()
		e := s.all[name]
		if e == nil {
			e = &scheduled{name: name}
			s.all[name] = e
		}
		s.mu.Unlock()
		e.mu.Lock()
		if !e.gone {
			return e
		}
		e.mu.Unlock()
	}
}

// unlock releases a schedule, and forgets one that has no definition.
func (s *Schedules) unlock(e *scheduled) {
	defer e.mu.Unlock()
	if e.seq != 0 {
		return
	}
	e.gone = true
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, e.name)
	s.wakes.Set(e.name, time.Time{})
}
