package queue

import (
	"container/heap"
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// timer is something to do at a time: let an entry have its turn, read a lane
// again, move the tasks of a minute, or one of them, to pending.
type timer struct {
	at      time.Time
	entry   *entry
	lane    *lane
	flow    *flow
	stalled bool // match is to be called again
	minute  minuteKey
	subject string
}

// wall is a time by the wall clock only.
func wall(t time.Time) time.Time { return t.Round(0) }

// clock is timers and who waits for the first.
type clock struct {
	heap timerHeap
	wake chan struct{}
}

func newClock() clock { return clock{wake: make(chan struct{}, 1)} }

func (c *clock) add(t timer) {
	heap.Push(&c.heap, t)
	if c.heap[0].at.Equal(t.at) {
		wake(c.wake)
	}
}

func (q *Queue) addTimer(t timer) { q.timers.add(t) }

// addMinute has the tasks of a minute moved when it comes.
func (q *Queue) addMinute(key minuteKey) {
	n, err := strconv.ParseInt(key.minute, 10, 64)
	if err != nil || q.minutes[key] {
		return
	}
	q.minutes[key] = true
	q.laters.add(timer{at: time.Unix(n*60, 0).Add(-soon), minute: key})
}

// runClock does what is due, one after the other, until ctx ends.
func (q *Queue) runClock(ctx context.Context, c *clock, do func(context.Context, timer)) {
	for {
		q.mu.Lock()
		var wait <-chan time.Time
		var due *timer
		if len(c.heap) > 0 {
			if d := time.Until(c.heap[0].at); d > 0 {
				wait = time.After(min(d, lookAgain))
			} else {
				t := heap.Pop(&c.heap).(timer)
				due = &t
			}
		}
		q.mu.Unlock()
		if due != nil && ctx.Err() == nil {
			do(ctx, *due)
			continue
		}
		select {
		case <-wait:
		case <-c.wake:
		case <-ctx.Done():
			return
		}
	}
}

// ring handles a timer of an entry or a lane.
func (q *Queue) ring(_ context.Context, t timer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case t.lane != nil:
		q.wantRead(t.lane)
	case t.flow != nil:
		t.flow.bucket.timed = false
		q.update(t.flow)
		q.match()
	case t.subject != "":
		t.at = wall(time.Now())
		q.laters.add(t)
	case t.stalled:
		q.stalled = false
		q.match()
	case t.entry.timed:
		t.entry.timed = false
		q.enqueue(t.entry)
	}
}

// promote handles a timer of a minute or of a task in it.
func (q *Queue) promote(ctx context.Context, t timer) {
	if q.bus.Room() == bus.NoRoom { // to move is to write
		t.at = wall(time.Now().Add(retryRead))
		q.mu.Lock()
		defer q.mu.Unlock()
		q.laters.add(t)
		return
	}
	var err error
	if t.subject != "" {
		err = q.moveLater(ctx, t.subject)
	} else {
		err = q.moveMinute(ctx, t.minute)
	}
	if err != nil && ctx.Err() == nil {
		q.log.Warn("a task whose time has come waits on; it is tried again", "error", err)
		t.at = wall(time.Now().Add(retryRead))
		q.mu.Lock()
		q.laters.add(t)
		q.mu.Unlock()
	}
}

// moveMinute moves the tasks of a minute that are due to pending, and has the
// others moved when they are. The minute is looked at again until it has passed
// and is empty.
func (q *Queue) moveMinute(ctx context.Context, key minuteKey) error {
	subject := bus.LaterSubject(key.space, key.minute, "*", "*", "*")
	again, empty := minuteEnd(key), true
	for from := uint64(1); ; {
		msg, err := q.bus.Next(ctx, bus.ParkedStream, subject, from)
		if errors.Is(err, bus.ErrNoMessage) {
			break
		}
		if err != nil {
			return unavailable("read the tasks of a minute", err)
		}
		from = msg.Sequence + 1
		task, err := readParked(msg)
		if err != nil {
			q.log.Error("a task that cannot be read is passed over", "sequence", msg.Sequence, "error", err)
			continue
		}
		empty = false
		if !later(task) {
			if err := q.moveLater(ctx, msg.Subject); err != nil {
				return err
			}
		} else if !q.addLater(task) {
			again = wall(time.Now().Add(soon / 2))
			break
		}
	}
	if empty && time.Since(again) > time.Minute {
		return q.forgetMinute(ctx, key)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if time.Until(again) < 0 {
		again = wall(time.Now().Add(time.Minute))
	}
	q.laters.add(timer{at: again, minute: key})
	return nil
}

// addLater has a task of this minute or the next moved at its time, unless
// there are too many.
func (q *Queue) addLater(task mayfly.Task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.laters.heap) > farTimers {
		return false
	}
	q.laters.add(timer{at: task.NotBefore.Add(-soon), subject: laterSubject(task)})
	return true
}

func minuteEnd(key minuteKey) time.Time {
	n, _ := strconv.ParseInt(key.minute, 10, 64)
	return time.Unix(n*60+60, 0)
}

func (q *Queue) forgetMinute(ctx context.Context, key minuteKey) error {
	q.indexMu.Lock()
	defer q.indexMu.Unlock()
	stream, err := q.js.Stream(ctx, bus.QueuesStream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(bus.MinuteSubject(key.space, key.minute)))
	}
	if err != nil {
		return unavailable("forget a minute", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.minutes, key)
	return nil
}

// moveLater moves one task to pending. It is offered only when it is no longer
// in later, so no attempt of it can run while it is in both.
func (q *Queue) moveLater(ctx context.Context, subject string) error {
	msg, err := q.bus.Last(ctx, bus.ParkedStream, subject)
	if errors.Is(err, bus.ErrNoMessage) {
		return nil // cancelled
	}
	if err != nil {
		return unavailable("read a task whose time has come", err)
	}
	task, err := readParked(msg)
	if err != nil {
		return err
	}
	defer q.lockID(task.Space, task.ID)()
	_, err = q.findEnded(ctx, task.Space, task.ID, queueOf(task))
	if err == nil {
		return q.unpark(ctx, msg.Sequence)
	}
	if mayfly.KindOf(err) != mayfly.NotFound {
		return err
	}
	if n := len(task.Attempts); task.Attempt > 1 && n > 0 && now().Before(task.Attempts[n-1].Ended) && later(task) {
		task.NotBefore = now().Add(soon) // the clock was set back since
	}
	return q.toPending(ctx, task, msg)
}

// timeRetry has a task that was parked for its retry moved after its delay,
// should the wall clock be set back meanwhile.
func (q *Queue) timeRetry(task mayfly.Task) {
	if len(q.timers.heap) < farTimers {
		q.addTimer(timer{at: time.Now().Add(time.Until(task.NotBefore) - soon), subject: laterSubject(task)})
	}
}

// toPending moves a parked task, whose id is locked, to pending.
func (q *Queue) toPending(ctx context.Context, task mayfly.Task, msg bus.Message) error {
	rec, err := journalRecord(task, msg.Data)
	if err != nil {
		return err
	}
	seq, err := q.tasks.Put(ctx, rec, 0)
	if errors.Is(err, bus.ErrExists) {
		old, lookErr := q.findPending(ctx, task.Space, task.ID, "*")
		if lookErr == nil && old.task.Attempt < task.Attempt { // see settleLater
			seq, err = q.tasks.Put(ctx, rec, old.seq)
		} else if lookErr == nil {
			seq = old.seq // an earlier call gave up
		}
	}
	if err != nil && !errors.Is(err, bus.ErrExists) {
		return writeError(err)
	}
	if err := q.unpark(ctx, msg.Sequence); err != nil || seq == 0 {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.offer(task, seq, msg.Data)
	return nil
}

// postpone moves a pending task whose time is far away to later.
func (q *Queue) postpone(ctx context.Context, task mayfly.Task, seq uint64, data []byte) error {
	if err := q.ensureMinute(ctx, minuteKey{task.Space, minuteOf(task.NotBefore)}); err != nil {
		return err
	}
	msg, err := parkedMessage(laterSubject(task), task, data)
	if err != nil {
		return err
	}
	expect(msg, 0)
	if _, err := q.js.PublishMsg(ctx, msg); err != nil {
		if err = writeError(err); !errors.Is(err, bus.ErrExists) {
			return err
		}
	}
	q.noteLater(task)
	q.tasks.Free(entryKey(task.Space, task.ID), seq)
	return nil
}

// noteLater has a task moved whose minute may have been looked at already.
func (q *Queue) noteLater(task mayfly.Task) {
	if time.Until(task.NotBefore) < 2*time.Minute {
		q.addLater(task)
	}
}

type timerHeap []timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)        { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = timer{}
	*h = old[:len(old)-1]
	return x
}
