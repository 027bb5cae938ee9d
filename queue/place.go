package queue

import (
	"context"
	"errors"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// place is where a task was found.
type place string

const (
	inPending place = "pending"
	inLater   place = "later"
	inHeld    place = "held"
	inDead    place = "dead"
	inOutcome place = "outcome"
)

// found is a task as it is kept.
type found struct {
	task  mayfly.Task
	place place
	seq   uint64
	data  []byte // payload or result; nil when the task was found in memory
}

func notFound(id string) error {
	return mayfly.Errorf(mayfly.NotFound, "no task %q", id).
		WithHint("its outcome may be too old; `mayfly task ls` lists those that are kept")
}

// find looks for a task in all places, in the order in which they beat each
// other. The caller has locked the id. The queue may be "*".
func (q *Queue) find(ctx context.Context, space, id, queue string) (found, error) {
	got, err := q.findEnded(ctx, space, id, queue)
	if err == nil || mayfly.KindOf(err) != mayfly.NotFound {
		return got, err
	}
	q.mu.Lock()
	if e := q.entries[entryKey(space, id)]; e != nil {
		defer q.mu.Unlock()
		return found{task: e.view(), place: inPending, seq: e.seq}, nil
	}
	q.mu.Unlock()
	got, err = q.findPending(ctx, space, id, queue)
	if err == nil && q.parkedOnce && got.seq <= q.tasks.Opened() {
		twin, err := q.look(ctx, inLater, laterWherever(got.task), id)
		if err == nil && twin.task.Attempt > got.task.Attempt { // see settleLater
			return twin, nil
		}
	}
	if mayfly.KindOf(err) == mayfly.NotFound {
		got, err = q.look(ctx, inLater, bus.LaterSubject(space, "*", queue, "*", id), id)
	}
	if mayfly.KindOf(err) == mayfly.NotFound {
		got, err = q.look(ctx, inHeld, bus.HeldSubject(space, "*", queue, "*", id), id)
	}
	return got, err
}

// findEnded looks for an outcome or a dead letter.
func (q *Queue) findEnded(ctx context.Context, space, id, queue string) (found, error) {
	got, err := q.findOutcome(ctx, space, id)
	if mayfly.KindOf(err) != mayfly.NotFound {
		return got, err
	}
	got, err = q.look(ctx, inDead, bus.DeadSubject(space, queue, id), id)
	if err != nil {
		return got, err
	}
	// A dead letter that was brought back is beaten by the task, until it goes.
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[entryKey(space, id)]; e != nil && e.task.Attempt > got.task.Attempt {
		return found{}, notFound(id)
	}
	got.task.State = mayfly.TaskBuried
	return got, nil
}

func (q *Queue) findOutcome(ctx context.Context, space, id string) (found, error) {
	return lookIn(ctx, inOutcome, q.outcomes, space, id)
}

// findPending looks for a task in pending. The queue may be "*".
func (q *Queue) findPending(ctx context.Context, space, id, queue string) (found, error) {
	got, err := lookIn(ctx, inPending, q.tasks, space, id)
	if err == nil && queue != "*" && queue != queueOf(got.task) {
		return found{}, notFound(id)
	}
	return got, err
}

// lookIn reads one place that is a journal.
func lookIn(ctx context.Context, where place, j *bus.Journal, space, id string) (found, error) {
	rec, err := j.Find(ctx, entryKey(space, id))
	if errors.Is(err, bus.ErrNoMessage) {
		return found{}, notFound(id)
	}
	if err != nil {
		return found{}, unavailable("look for task "+id, err)
	}
	task, err := readRecord(rec)
	return found{task: task, place: where, seq: rec.Position, data: rec.Data}, err
}

// look reads one place of parked.
func (q *Queue) look(ctx context.Context, where place, subject, id string) (found, error) {
	msg, err := q.bus.Last(ctx, bus.ParkedStream, subject)
	if errors.Is(err, bus.ErrNoMessage) {
		return found{}, notFound(id)
	}
	if err != nil {
		return found{}, unavailable("look for task "+id, err)
	}
	task, err := readParked(msg)
	return found{task: task, place: where, seq: msg.Sequence, data: msg.Data}, err
}

// settle decides whether a pending task that was read is to be done. One from
// before Open may be elsewhere too, where the last process ended between two
// writes.
func (q *Queue) settle(ctx context.Context, task mayfly.Task, rec bus.Record) (keep bool, err error) {
	if rec.Position <= q.tasks.Opened() {
		defer q.lockID(task.Space, task.ID)()
		ended, err := q.findEnded(ctx, task.Space, task.ID, queueOf(task))
		switch {
		case err == nil && (ended.place == inOutcome || ended.task.Attempt >= task.Attempt):
			return false, nil
		case err == nil:
			err = q.unpark(ctx, ended.seq)
		case mayfly.KindOf(err) == mayfly.NotFound:
			err = nil
		}
		if err != nil {
			return false, err
		}
		if q.parkedOnce {
			if stale, err := q.settleLater(ctx, task); stale || err != nil {
				return false, err
			}
		}
	}
	if !later(task) {
		return true, nil
	}
	return false, q.postpone(ctx, task, rec.Position, rec.Data)
}

// settleLater decides between a pending task and the same one in later. Pending
// beats it, but not as an earlier attempt: when the newest message of a subject
// is removed one by one, as a retry that is put off, a crash can bring back one
// that it had replaced.
func (q *Queue) settleLater(ctx context.Context, task mayfly.Task) (stale bool, err error) {
	twin, err := q.look(ctx, inLater, laterWherever(task), task.ID)
	switch {
	case mayfly.KindOf(err) == mayfly.NotFound:
		return false, nil
	case err != nil || twin.task.Attempt > task.Attempt:
		return err == nil, err
	}
	return false, q.unpark(ctx, twin.seq)
}

// laterWherever is the subject of a task in later, whatever its minute.
func laterWherever(t mayfly.Task) string {
	return bus.LaterSubject(t.Space, "*", queueOf(t), strconv.Itoa(t.Priority), t.ID)
}

// unpark removes a message of parked; one that is not there is no error.
func (q *Queue) unpark(ctx context.Context, seq uint64) error {
	if err := bus.Remove(ctx, q.parked, seq); err != nil {
		return unavailable("remove a task that has moved", err)
	}
	return nil
}

// Get returns a task of a space, with its state now.
func (q *Queue) Get(ctx context.Context, space, id string) (mayfly.Task, error) {
	got, err := q.get(ctx, space, id)
	return got.task, err
}

func (q *Queue) get(ctx context.Context, space, id string) (found, error) {
	if err := checkID(space, id); err != nil {
		return found{}, err
	}
	defer q.lockID(space, id)()
	return q.find(ctx, space, id, "*")
}

// Result returns what a task that has ended returned: the first part of it,
// when the task says that it was cut.
func (q *Queue) Result(ctx context.Context, space, id string) ([]byte, error) {
	got, err := q.get(ctx, space, id)
	if err != nil {
		return nil, err
	}
	if got.place != inOutcome {
		return nil, mayfly.Errorf(mayfly.Conflict, "task %s is %s and has no result", id, got.task.State)
	}
	return got.data, nil
}

func checkID(space, id string) error {
	if err := mayfly.CheckName("space", space); err != nil {
		return err
	}
	if !idPattern.MatchString(id) {
		return mayfly.Errorf(mayfly.Invalid, "task id %q is not an id", id)
	}
	return nil
}

// expect makes a write conditional on the sequence of its subject's message, 0
// meaning that there is none.
func expect(msg *nats.Msg, seq uint64) {
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, formatSeq(seq))
}
