package event

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/queue"
)

// Bounds of a line.
const (
	lineWindow = 1024 // events that it has taken and that are not over
	lineCalls  = 8    // calls of a subscriber at once, where the mapping says nothing
)

// line delivers to one mapping, in order where it has one. It takes events that
// match into its window, starts those whose turn it is, and lets go of those that
// are over. Its place in the journal and what is in the window are written down.
type line struct {
	events *Events
	id     string
	stop   context.CancelFunc
	ended  chan struct{}
	wake   chan struct{}

	mu      sync.Mutex
	m       *mapping
	next    uint64             // what matches up to it is in the window, or over
	target  uint64             // up to it something matches
	window  []*item            // by number
	keys    map[string][]*item // those of an order, by number; the first may start
	out     map[string]*item   // started, by task
	calls   int                // being made
	quiet   time.Time          // no call before it: the subscriber asked for that
	written string             // what is on disk
	taken   []ending           // by a subscriber, the last ones
	lost    []ending           // given up, the last ones
	dropped uint64             // highest number that was in lost and is not any more
}

// item is an event that a line has taken.
type item struct {
	event   mayfly.AcceptedEvent
	key     string
	keyed   bool
	started bool
	tries   int       // calls that failed
	err     string    // of the last that failed
	due     time.Time // of the next
}

// lineRecord is a line as it is written down.
type lineRecord struct {
	Next    uint64     `json:"next"`
	Open    []openItem `json:"open,omitempty"`
	Quiet   time.Time  `json:"quiet,omitzero"`
	Lost    []ending   `json:"lost,omitempty"`
	Dropped uint64     `json:"dropped,omitempty"`
}

type openItem struct {
	Number uint64    `json:"n"`
	Tries  int       `json:"t,omitempty"`
	Error  string    `json:"e,omitempty"`
	Due    time.Time `json:"d,omitzero"`
}

// startLines starts lines of mappings that are new, and ends those of mappings
// that are gone.
func (e *Events) startLines(ctx context.Context, parts *sync.WaitGroup) {
	all := e.current()
	e.mu.Lock()
	var gone []*line
	for id, l := range e.lines {
		if m := all.byID[id]; m != nil && m.lined() {
			l.change(m)
			continue
		}
		delete(e.lines, id)
		gone = append(gone, l)
	}
	var fresh []*line
	for id, m := range all.byID {
		if m.lined() && e.lines[id] == nil {
			l := &line{events: e, id: id, m: m, ended: make(chan struct{}), wake: make(chan struct{}, 1), keys: map[string][]*item{}, out: map[string]*item{}}
			l.next = max(m.Since, e.cursor)
			l.target = l.next
			if m.Since > 0 {
				l.next = m.Since // it was made by itself, and may have matched since
			}
			e.lines[id] = l
			fresh = append(fresh, l)
		}
	}
	e.mu.Unlock()
	for _, l := range gone {
		l.stop()
		<-l.ended
		if err := e.dropProgress(ctx, l.m.Space, l.id); err != nil {
			e.log.Warn("a mapping that is gone has left something", "mapping", l.id, "error", err)
		}
	}
	for _, l := range fresh {
		running, stop := context.WithCancel(ctx)
		l.stop = stop
		parts.Go(func() { defer close(l.ended); l.run(running) })
	}
}

// change gives the line its mapping as it is now.
func (l *line) change(m *mapping) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m != m {
		l.m = m
		wakeUp(l.wake)
	}
}

// reach notes that an event matches.
func (l *line) reach(number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = max(l.target, number)
	wakeUp(l.wake)
}

// run delivers until ctx ends.
func (l *line) run(ctx context.Context) {
	client := queue.NewCaller()
	defer client.CloseIdleConnections()
	var calls sync.WaitGroup
	defer calls.Wait()
	for !l.restore(ctx) {
		if !pause(ctx, retryPause) {
			return
		}
	}
	for {
		err := l.fill(ctx)
		if err == nil {
			err = l.startAll(ctx, client, &calls)
		}
		var timer <-chan time.Time
		if err != nil {
			if ctx.Err() == nil {
				l.events.log.Warn("events of a mapping wait on; it is tried again", "mapping", l.id, "error", err)
			}
			timer = time.After(retryPause)
		} else if wait := l.untilDue(); wait > 0 {
			timer = time.After(min(wait, time.Minute)) // the clock may be set
		}
		select {
		case <-l.wake:
		case <-timer:
		case <-ctx.Done():
			return
		}
	}
}

// restore takes what was written down, and reports whether that was possible.
func (l *line) restore(ctx context.Context) bool {
	rec := lineRecord{}
	err := l.events.readProgress(ctx, l.m.Space, l.id, &rec)
	var records []bus.Record
	if err == nil && len(rec.Open) > 0 {
		numbers := make([]uint64, len(rec.Open))
		for i, o := range rec.Open {
			numbers[i] = o.Number
		}
		records, err = l.events.journal.Get(ctx, numbers)
	}
	if err != nil {
		if ctx.Err() == nil {
			l.events.log.Warn("a mapping waits to be read", "mapping", l.id, "error", err)
		}
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if rec.Next > 0 {
		l.next = rec.Next
	}
	l.quiet, l.lost, l.dropped = rec.Quiet, rec.Lost, rec.Dropped
	open := map[uint64]openItem{}
	for _, o := range rec.Open {
		open[o.Number] = o
	}
	for i := range records {
		a, err := decode(&records[i])
		if err != nil {
			l.events.log.Error("an event is passed over", "mapping", l.id, "error", err)
			continue
		}
		it := l.take(a)
		o := open[a.Number]
		it.tries, it.err, it.due = o.Tries, o.Error, o.Due
	}
	l.target = max(l.target, l.next)
	return true
}

// take puts an event into the window, behind all others.
func (l *line) take(a mayfly.AcceptedEvent) *item {
	it := &item{event: a}
	if l.m.OrderBy != "" {
		it.key, it.keyed = field(&a.Event, l.m.OrderBy)
	}
	l.window = append(l.window, it)
	if it.keyed {
		l.keys[it.key] = append(l.keys[it.key], it)
	}
	return it
}

// fill takes events into the window while there is room.
func (l *line) fill(ctx context.Context) error {
	l.mu.Lock()
	next, target, room := l.next, l.target, lineWindow-len(l.window)
	m := l.m
	l.mu.Unlock()
	if next >= target || room <= 0 {
		return nil
	}
	var list []mayfly.AcceptedEvent
	bytes := 0
	err := l.events.journal.After(ctx, next, func(r bus.Record) bool {
		if r.Position > target {
			return false
		}
		next = r.Position
		a, err := decode(&r)
		if err != nil {
			l.events.log.Error("an event is passed over", "mapping", l.id, "error", err)
			return true
		}
		if a.Space == m.Space && m.matches(&a) {
			list = append(list, a)
			bytes += len(r.Data)
		}
		return len(list) < room && bytes < dispatchBytes
	})
	if err != nil {
		return unavailable("read the events", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range list {
		l.take(a)
	}
	if l.next == next { // nothing is left up to the target
		next = target
	}
	if l.next = next; next < target && len(l.window) < lineWindow {
		wakeUp(l.wake)
	}
	wakeUp(l.events.dirty)
	return nil
}

// ready returns the events whose turn it is, and marks them as started.
func (l *line) ready(at time.Time) (list []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet.After(at) {
		return nil
	}
	most := lineWindow
	if l.m.URL != "" {
		most = cmp.Or(l.m.Concurrency, lineCalls)
	}
	for _, it := range l.window {
		if l.m.URL != "" && l.calls >= most {
			break
		}
		if it.started || it.due.After(at) || it.keyed && l.keys[it.key][0] != it {
			continue
		}
		it.started = true
		if l.m.URL != "" {
			l.calls++
		}
		list = append(list, it)
	}
	return list
}

// untilDue is how long nothing is to be done but what wake says; 0 for ever.
func (l *line) untilDue() (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	sooner := func(t time.Time) {
		if d := t.Sub(at); d > 0 && (wait == 0 || d < wait) {
			wait = d
		}
	}
	sooner(l.quiet)
	for _, it := range l.window {
		if !it.started {
			sooner(it.due)
		}
	}
	return wait
}

// startAll starts what can be started.
func (l *line) startAll(ctx context.Context, client *http.Client, calls *sync.WaitGroup) error {
	list := l.ready(time.Now())
	l.mu.Lock()
	m := l.m
	l.mu.Unlock()
	if m.URL != "" {
		for _, it := range list {
			calls.Go(func() { l.call(ctx, client, m, it) })
		}
		return nil
	}
	for i, it := range list {
		if err := l.submit(ctx, m, it); err != nil {
			l.mu.Lock()
			for _, other := range list[i:] {
				other.started = false
			}
			l.mu.Unlock()
			return err
		}
	}
	return nil
}

// submit makes the task of an event. Where that was there already, and has ended,
// the event is over.
func (l *line) submit(ctx context.Context, m *mapping, it *item) error {
	d := delivery{m, &it.event}
	answer := l.events.queue.Submit(ctx, []mayfly.Submission{submission(d)})[0]
	if err := l.events.submitted(d, answer); err != nil {
		return err
	}
	if answer.Err != nil {
		l.over(it)
		return nil
	}
	key := taskKey(m.Space, answer.Task.ID)
	l.mu.Lock()
	l.out[key] = it
	l.mu.Unlock()
	l.events.mu.Lock()
	l.events.waiting[key] = l
	l.events.mu.Unlock()
	// It may have ended before anybody waited for that.
	task, err := l.events.queue.Get(ctx, m.Space, answer.Task.ID)
	if mayfly.KindOf(err) == mayfly.NotFound || err == nil && task.State.Ended() {
		l.events.endWaiting(key)
	}
	return nil
}

func taskKey(space, id string) string { return space + "." + id }

// endWaiting tells the line of a task that has ended.
func (e *Events) endWaiting(key string) {
	e.mu.Lock()
	l := e.waiting[key]
	delete(e.waiting, key)
	e.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	it := l.out[key]
	delete(l.out, key)
	l.mu.Unlock()
	if it != nil {
		l.over(it)
	}
}

// over lets go of an event, and lets the next of its key start.
func (l *line) over(it *item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.window, it); i >= 0 {
		l.window = slices.Delete(l.window, i, i+1)
	}
	if it.keyed {
		list := slices.DeleteFunc(l.keys[it.key], func(other *item) bool { return other == it })
		if l.keys[it.key] = list; len(list) == 0 {
			delete(l.keys, it.key)
		}
	}
	wakeUp(l.wake)
	wakeUp(l.events.dirty)
}

// save writes down where the line is, if that has changed. An idle line is where
// the dispatcher is.
func (l *line) save(ctx context.Context, cursor uint64) error {
	l.mu.Lock()
	if len(l.window) == 0 && l.next >= l.target {
		l.next = max(l.next, cursor)
		l.target = max(l.target, l.next)
	}
	rec := lineRecord{Next: l.next, Quiet: l.quiet, Lost: slices.Clone(l.lost), Dropped: l.dropped}
	for _, it := range l.window {
		rec.Open = append(rec.Open, openItem{it.event.Number, it.tries, it.err, it.due})
	}
	space, before := l.m.Space, l.written
	l.mu.Unlock()
	now := fmt.Sprint(rec)
	if now == before {
		return nil
	}
	if err := l.events.writeProgress(ctx, space, l.id, rec); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written = now
	return nil
}

// floor is the first event that the line may still need.
func (l *line) floor(cursor uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.window) > 0:
		return min(l.window[0].event.Number, l.next+1)
	case l.next < l.target:
		return l.next + 1
	}
	return cursor + 1
}

// failed notes that a delivery was given up.
func (e *Events) failed(m *mapping, why string) {
	e.log.Warn("a delivery of an event was given up", "space", m.Space, "mapping", m.ID, "to", m.Target(), "error", why)
	e.count(m.ID, func(s *stat) {
		s.failures++
		s.failing, s.err, s.last = true, why, time.Now().UTC()
	})
}
