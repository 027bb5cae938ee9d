package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// A task that comes after others is held under the first of them, in the order
// in which it names them, that has not succeeded: those before it have. Whoever
// writes it there looks at that parent afterwards, and whoever ends a parent
// looks for what is held under it afterwards, so neither misses the other; what
// a crash kept from being looked at is looked at by Run.

// heldWorkers is how many parents, and of each how many tasks that come after
// it, are dealt with at once.
const heldWorkers = 4

// parentKey is a task that others come after.
type parentKey struct{ space, id string }

// over reports whether a task has ended and will not come back.
func over(t mayfly.Task) bool { return t.State.Ended() && t.State != mayfly.TaskBuried }

// firstParent is the first task after which a new one comes that has not
// succeeded yet; empty when there is none. One that cannot succeed any more is a
// Conflict. Those that were looked at are in seen.
func (q *Queue) firstParent(ctx context.Context, task mayfly.Task, seen map[parentKey]mayfly.Task) (string, error) {
	var first string
	for _, id := range task.After {
		key := parentKey{task.Space, id}
		parent, known := seen[key]
		var err error
		if !known {
			parent, err = q.Get(ctx, task.Space, id)
			seen[key] = parent
		}
		switch {
		case mayfly.KindOf(err) == mayfly.NotFound:
			return "", mayfly.Errorf(mayfly.NotFound, "there is no task %q for the new one to come after", id).
				WithHint("its outcome may be too old; `mayfly task ls` lists those that are kept")
		case err != nil:
			return "", err
		case over(parent) && parent.State != mayfly.TaskSucceeded:
			return "", mayfly.Errorf(mayfly.Conflict, "task %q is %s, and what comes after it would never run", id, parent.State)
		case parent.State != mayfly.TaskSucceeded && first == "":
			first = id
		}
	}
	return first, nil
}

// readHeld learns which tasks others come after.
func (q *Queue) readHeld(ctx context.Context) error {
	info, err := q.parked.Info(ctx, jetstream.WithSubjectFilter(bus.HeldSubject("*", "*", "*", "*", "*")))
	if err != nil {
		return unavailable("read which tasks are held", err)
	}
	for subject := range info.State.Subjects {
		if token := strings.Split(subject, "."); len(token) == 7 {
			q.lookAt(parentKey{token[1], token[3]})
		}
	}
	return nil
}

// addParent notes that something comes after a task.
func (q *Queue) addParent(key parentKey) {
	if _, there := q.parents[key]; !there {
		q.parents[key] = false
	}
}

func (q *Queue) isParent(key parentKey) bool {
	_, there := q.parents[key]
	return there
}

// lookAt has what comes after a task looked at.
func (q *Queue) lookAt(key parentKey) {
	if !q.parents[key] {
		q.parents[key] = true
		q.toWake = append(q.toWake, key)
		wake(q.wakeHeld)
	}
}

// recheck has the parents looked at of what was submitted, which may have ended
// meanwhile.
func (q *Queue) recheck(list []*publish) {
	for _, p := range list {
		if p.parent != "" {
			q.mu.Lock()
			q.lookAt(parentKey{p.task.Space, p.parent})
			q.mu.Unlock()
		}
	}
}

// runHeld deals with parents that have ended, until ctx ends.
func (q *Queue) runHeld(ctx context.Context) {
	for {
		q.mu.Lock()
		var key parentKey
		if len(q.toWake) > 0 {
			key, q.toWake = q.toWake[0], q.toWake[1:]
			q.parents[key] = false
		}
		if len(q.toWake) > 0 {
			wake(q.wakeHeld) // another worker
		}
		q.mu.Unlock()
		if key == (parentKey{}) {
			select {
			case <-q.wakeHeld:
				continue
			case <-ctx.Done():
				return
			}
		}
		err := q.wakeChildren(ctx, key)
		if err == nil {
			continue
		}
		if ctx.Err() == nil {
			q.log.Warn("what comes after a task waits on; it is tried again", "task", key.id, "error", err)
		}
		select {
		case <-time.After(retryRead):
			q.mu.Lock()
			q.lookAt(key)
			q.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// wakeChildren deals with all that is held under a task, if that has ended.
func (q *Queue) wakeChildren(ctx context.Context, key parentKey) error {
	parent, err := q.Get(ctx, key.space, key.id)
	switch {
	case mayfly.KindOf(err) == mayfly.NotFound:
	case err != nil:
		return err
	case !over(parent):
		return nil
	}
	from := bus.From{Subject: bus.HeldSubject(key.space, key.id, "*", "*", "*"), Limit: readBatch}
	for more := true; more; {
		msgs, next, err := q.bus.Read(ctx, bus.ParkedStream, from)
		if err != nil {
			return unavailable("read what comes after task "+key.id, err)
		}
		if err := q.advanceAll(ctx, msgs, key.id); err != nil {
			return err
		}
		if more = next && len(msgs) > 0; more {
			from.Sequence = msgs[len(msgs)-1].Sequence + 1
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.parents[key] { // and nothing was held there meanwhile
		delete(q.parents, key)
	}
	return nil
}

func (q *Queue) advanceAll(ctx context.Context, msgs []bus.Message, parent string) error {
	errs := make([]error, heldWorkers)
	var workers sync.WaitGroup
	for w := range heldWorkers {
		workers.Go(func() {
			for i := w; i < len(msgs) && errs[w] == nil; i += heldWorkers {
				errs[w] = q.advance(ctx, msgs[i], parent)
			}
		})
	}
	workers.Wait()
	return errors.Join(errs...)
}

// advance moves a task on that is held under a parent which has ended: to
// another parent, to pending or to later, or to its own end.
func (q *Queue) advance(ctx context.Context, msg bus.Message, parent string) error {
	task, err := readParked(msg)
	if err != nil {
		q.log.Error("a task that cannot be read is passed over", "sequence", msg.Sequence, "error", err)
		return nil
	}
	next, why, err := q.nextParent(ctx, task, parent)
	if err != nil {
		return err
	}
	defer q.lockID(task.Space, task.ID)()
	got, err := q.find(ctx, task.Space, task.ID, queueOf(task))
	switch {
	case mayfly.KindOf(err) == mayfly.NotFound:
		return nil // it was cancelled, and that is long ago
	case err != nil:
		return err
	case got.place != inHeld || got.seq != msg.Sequence: // a crash left it in two places
		return q.unpark(ctx, msg.Sequence)
	case why != "":
		return q.cancelHeld(ctx, task, msg, why)
	case next != "":
		return q.holdUnder(ctx, task, msg, next)
	case later(task):
		return q.delayHeld(ctx, task, msg)
	}
	return q.toPending(ctx, task, msg)
}

// nextParent is the first parent, from that under which a task is held on, that
// has not succeeded; empty when all have. If one never will, it says why the task
// cannot run.
func (q *Queue) nextParent(ctx context.Context, task mayfly.Task, parent string) (next, why string, err error) {
	for _, id := range task.After[max(0, slices.Index(task.After, parent)):] {
		got, err := q.Get(ctx, task.Space, id)
		switch {
		case mayfly.KindOf(err) == mayfly.NotFound:
			return "", fmt.Sprintf("task %s, after which it was to run, is not known any more", id), nil
		case err != nil:
			return "", "", err
		case !over(got):
			return id, "", nil
		case got.State != mayfly.TaskSucceeded:
			return "", fmt.Sprintf("task %s, after which it was to run, is %s", id, got.State), nil
		}
	}
	return "", "", nil
}

// cancelHeld ends a held task that can never run.
func (q *Queue) cancelHeld(ctx context.Context, task mayfly.Task, msg bus.Message, why string) error {
	task.State, task.Ended, task.Detail = mayfly.TaskCancelled, now(), why
	if err := q.conclude(ctx, task, nil); err != nil {
		return err
	}
	q.waiting.add(-1, 0)
	q.tell(task)
	return q.unpark(ctx, msg.Sequence)
}

// holdUnder moves a held task to another parent, which is looked at afterwards.
func (q *Queue) holdUnder(ctx context.Context, task mayfly.Task, msg bus.Message, parent string) error {
	key := parentKey{task.Space, parent}
	q.mu.Lock()
	q.addParent(key)
	q.mu.Unlock()
	err := q.moveParked(ctx, heldSubject(task, parent), task, msg)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lookAt(key)
	return err
}

// delayHeld moves a held task whose parents have succeeded to later.
func (q *Queue) delayHeld(ctx context.Context, task mayfly.Task, msg bus.Message) error {
	if err := q.ensureMinute(ctx, minuteKey{task.Space, minuteOf(task.NotBefore)}); err != nil {
		return err
	}
	if err := q.moveParked(ctx, laterSubject(task), task, msg); err != nil {
		return err
	}
	q.noteLater(task)
	return nil
}

// moveParked moves a task within parked.
func (q *Queue) moveParked(ctx context.Context, subject string, task mayfly.Task, msg bus.Message) error {
	out, err := parkedMessage(subject, task, msg.Data)
	if err != nil {
		return err
	}
	expect(out, 0)
	if _, err = q.js.PublishMsg(ctx, out); err != nil {
		if err = writeError(err); !errors.Is(err, bus.ErrExists) {
			return err
		}
	}
	return q.unpark(ctx, msg.Sequence)
}

// ParentResults returns what the tasks after which a granted one comes have
// returned, by id. One whose outcome is too old is not in it.
func (q *Queue) ParentResults(ctx context.Context, g *Grant) (map[string][]byte, error) {
	results := make(map[string][]byte, len(g.Task.After))
	for _, id := range g.Task.After {
		got, err := q.findOutcome(ctx, g.Task.Space, id)
		if err == nil {
			results[id] = got.data
		} else if mayfly.KindOf(err) != mayfly.NotFound {
			return nil, err
		}
	}
	return results, nil
}
