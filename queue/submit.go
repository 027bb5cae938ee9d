package queue

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
)

// Bounds on what is submitted.
const (
	MaxBatch     = 1000 // tasks of one Submit
	maxRetries   = 100
	maxLabels    = 64
	maxKey       = 256 // bytes
	maxAfter     = 100
	maxDelay     = 366 * 24 * time.Hour
	pipeline     = 256 // publishes of one Submit without an answer yet
	publishStall = 10 * time.Second
)

// Accepted is the answer to one Submission: the task, or why there is none.
type Accepted struct {
	Task mayfly.Task
	New  bool // false when the key is that of a task that was there already
	Err  error
}

// Submit accepts tasks, each by itself, and answers in their order. A task that
// was accepted is on disk. The error of one that was not is Invalid, TooLarge,
// Busy when the queue is full, Conflict when its key stands for another payload,
// or Unavailable, which leaves open whether it will run: with a key, submitting
// it again is safe.
func (q *Queue) Submit(ctx context.Context, subs []mayfly.Submission) []Accepted {
	answers := make([]Accepted, len(subs))
	if len(subs) == 1 {
		answers[0] = q.submitOne(ctx, subs[0])
		return answers
	}
	var flying []*publish
	for i, sub := range subs {
		switch {
		case i >= MaxBatch:
			answers[i].Err = mayfly.Errorf(mayfly.TooLarge, "more than %d tasks at once", MaxBatch)
		case sub.Key != "":
			answers[i] = q.submitOne(ctx, sub)
		default:
			if len(flying) >= pipeline {
				flying[0].finish(ctx, q)
				flying = flying[1:]
			}
			p := q.prepare(ctx, sub)
			p.answer = &answers[i]
			p.start(q)
			flying = append(flying, p)
		}
	}
	for _, p := range flying {
		p.finish(ctx, q)
	}
	return answers
}

func (q *Queue) submitOne(ctx context.Context, sub mayfly.Submission) Accepted {
	var answer Accepted
	p := q.prepare(ctx, sub)
	p.answer = &answer
	if p.err == nil && sub.Key != "" {
		defer q.lockID(p.task.Space, p.task.ID)()
		there, err := q.findKey(ctx, p.task)
		if err == nil {
			return Accepted{Task: there}
		}
		if mayfly.KindOf(err) != mayfly.NotFound {
			p.err = err
		}
	}
	if p.err == nil {
		p.flight = q.begin()
		ack, err := q.js.PublishMsg(ctx, p.msg)
		p.landed(q, ack, err)
	}
	p.conclude()
	return answer
}

// findKey returns the task that has the key already. The caller has locked its
// id.
func (q *Queue) findKey(ctx context.Context, task mayfly.Task) (mayfly.Task, error) {
	for {
		there, err := q.find(ctx, task.Space, task.ID, queueOf(task))
		if err != nil {
			return mayfly.Task{}, err
		}
		if there.task.Digest != task.Digest {
			return mayfly.Task{}, mayfly.Errorf(mayfly.Conflict, "key %q stands for task %s, which has another payload", task.Key, task.ID).
				WithHint("use another key")
		}
		if there.place != inPending || q.vouch(there) {
			return there.task, nil
		}
	}
}

// vouch keeps a pending task from being removed unseen, which could happen to
// one whose submission got no answer. It reports false when that is under way.
func (q *Queue) vouch(there found) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, seen := q.known[there.seq]; seen {
		return true
	}
	if there.seq < q.tidied {
		return false
	}
	l := q.lane(there.task)
	l.leave(there.seq)
	q.wantRead(l)
	return true
}

// publish is one task on its way to its stream.
type publish struct {
	task   mayfly.Task
	msg    *nats.Msg
	later  bool // it goes to later
	flight uint64
	future jetstream.PubAckFuture
	err    error
	answer *Accepted
}

// prepare checks a submission and makes its message.
func (q *Queue) prepare(ctx context.Context, sub mayfly.Submission) *publish {
	p := &publish{}
	if p.task, p.err = newTask(sub); p.err != nil {
		return p
	}
	if p.err = q.room(len(sub.Payload)); p.err != nil {
		return p
	}
	key := flowKey{p.task.Space, queueOf(p.task)}
	if p.err = q.ensureLane(ctx, key, p.task.Priority); p.err != nil {
		return p
	}
	subject := pendingSubject(p.task)
	if p.later = later(p.task); p.later {
		subject = laterSubject(p.task)
		if p.err = q.ensureMinute(ctx, minuteKey{p.task.Space, minuteOf(p.task.NotBefore)}); p.err != nil {
			return p
		}
	}
	if p.msg, p.err = encode(subject, p.task, sub.Payload); p.err == nil {
		expect(p.msg, 0)
	}
	return p
}

// later reports whether a task waits in later for its time.
func later(t mayfly.Task) bool { return time.Until(t.NotBefore) > soon }

// room refuses what would fill the streams, in which some space is kept for
// tasks that are there already.
func (q *Queue) room(size int) error {
	if q.waiting.tasks.Load() < int64(q.opts.MaxTasks) && q.waiting.bytes.Load()+int64(size) < q.opts.MaxBytes {
		return nil
	}
	return full()
}

func full() error {
	return mayfly.Errorf(mayfly.Busy, "the task queue is full").WithHint("submit again when some tasks have run")
}

func (p *publish) start(q *Queue) {
	if p.err != nil {
		return
	}
	p.flight = q.begin()
	if p.future, p.err = q.js.PublishMsgAsync(p.msg, jetstream.WithStallWait(publishStall)); p.err != nil {
		p.landed(q, nil, p.err)
	}
}

// finish waits for the answer of the stream.
func (p *publish) finish(ctx context.Context, q *Queue) {
	if p.future != nil {
		select {
		case ack := <-p.future.Ok():
			p.landed(q, ack, nil)
		case err := <-p.future.Err():
			p.landed(q, nil, err)
		case <-ctx.Done():
			p.landed(q, nil, ctx.Err())
		}
	}
	p.conclude()
}

// landed takes the answer of the stream. Where there is none, the task may be
// stored or not: it is left for the reader of its lane, so that it cannot be
// removed unseen.
func (p *publish) landed(q *Queue, ack *jetstream.PubAck, err error) {
	if err == nil && p.later {
		q.noteLater(p.task)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	floor := q.flights.end(p.flight)
	if err != nil {
		p.err = writeError(err)
		if errors.Is(p.err, errFull) {
			p.err = full()
		} else if !errors.Is(p.err, errExists) && !p.later {
			l := q.lane(p.task)
			l.leave(floor + 1)
			q.wantRead(l)
		}
		return
	}
	q.waiting.add(1, int64(p.msg.Size()))
	if !p.later {
		q.offer(p.task, ack.Sequence, p.msg.Data)
	}
}

func (p *publish) conclude() {
	if p.err != nil {
		p.answer.Err = p.err
		return
	}
	p.answer.Task, p.answer.New = p.task, true
}

// begin notes a write to tasks that is under way.
func (q *Queue) begin() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.flights.begin()
}

// newTask checks a submission and returns its task.
func newTask(sub mayfly.Submission) (mayfly.Task, error) {
	if sub.Space == "" {
		sub.Space = mayfly.DefaultSpace
	}
	if err := checkSubmission(sub); err != nil {
		return mayfly.Task{}, err
	}
	task := mayfly.Task{
		ID: mayfly.NewID(), Space: sub.Space, Workload: sub.Workload, Release: sub.Release,
		Image: sub.Image, Argv: sub.Argv,
		State: mayfly.TaskQueued, Priority: sub.Priority, Accepted: now(), NotBefore: sub.NotBefore.UTC(),
		Timeout: sub.Timeout, Memory: sub.Memory, Retries: sub.Retries,
		Key: sub.Key, Labels: sub.Labels, Callback: sub.Callback, After: sub.After,
		Size: len(sub.Payload), Attempt: 1,
	}
	if sub.Key != "" {
		task.ID = keyID(task.Space, queueOf(task), sub.Key)
		task.Digest = digest(sub.Payload)
	}
	return task, nil
}

func checkSubmission(sub mayfly.Submission) error {
	if err := checkQueue(sub.Space, sub.Workload); err != nil {
		return err
	}
	invalid := func(format string, args ...any) error { return mayfly.Errorf(mayfly.Invalid, format, args...) }
	r := sub.Retries
	switch {
	case (sub.Workload == "") == (sub.Image == ""):
		return invalid("a task needs either a workload or an image")
	case sub.Image == "" && len(sub.Argv) > 0:
		return invalid("arguments are for tasks of an image")
	case len(sub.Payload) > MaxPayload:
		return mayfly.Errorf(mayfly.TooLarge, "the payload has %d bytes, and the limit is %d", len(sub.Payload), MaxPayload).
			WithHint("put it where the task can fetch it, and submit its address")
	case sub.Priority < 0 || sub.Priority > mayfly.MaxPriority:
		return invalid("priority %d is not between 0 and %d", sub.Priority, mayfly.MaxPriority)
	case time.Until(sub.NotBefore) > maxDelay:
		return invalid("the task is to start at %s, which is more than a year away", sub.NotBefore.Format(time.RFC3339))
	case sub.Timeout < 0 || sub.Memory < 0:
		return invalid("timeout and memory cannot be negative")
	case len(sub.Key) > maxKey:
		return invalid("the key has %d bytes, and the limit is %d", len(sub.Key), maxKey)
	case len(sub.Labels) > maxLabels || len(sub.After) > maxAfter:
		return invalid("a task has at most %d labels and comes after at most %d others", maxLabels, maxAfter)
	case r.Max < 0 || r.Max > maxRetries || len(r.Delays) > maxRetries:
		return invalid("a task has at most %d retries", maxRetries)
	case r.Jitter < 0 || r.Jitter > 1 || r.Backoff < 0 || r.Longest < 0 || r.MemoryUpTo < 0:
		return invalid("backoff and memory cannot be negative, and jitter is between 0 and 1")
	}
	for _, d := range r.Delays {
		if d < 0 || d > maxDelay {
			return invalid("a delay of %s before a retry is not between 0 and a year", d)
		}
	}
	for _, id := range sub.After {
		if !idPattern.MatchString(id) {
			return invalid("task id %q is not an id", id)
		}
	}
	return checkCallback(sub.Callback)
}

func checkCallback(raw string) error {
	if raw == "" {
		return nil
	}
	if u, err := url.Parse(raw); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return mayfly.Errorf(mayfly.Invalid, "callback %q is not an http or https URL", raw)
	}
	return nil
}
