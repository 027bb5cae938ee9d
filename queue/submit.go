package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

const (
	// MaxBatch is how many tasks one Submit takes.
	MaxBatch = 1000

	pipeline     = 256 // writes of one Submit without an answer yet
	publishStall = 10 * time.Second
)

// Accepted is the answer to one Submission: the task, or why there is none.
type Accepted struct {
	Task mayfly.Task
	New  bool // false when the key is that of a task that was there already
	Err  error
}

// Submit accepts tasks and answers in their order. A task that was accepted is
// on disk, and pins what it was resolved to: the release that its workload has
// now, or the digest of its image.
//
// All are checked before any is written. Where one cannot be accepted none is,
// and all answers have the same error, which names the number of the bad one,
// from 1: NotFound for an unknown workload, image or parent, Invalid, TooLarge,
// Busy when the queue has no room for all, or Conflict when a key stands for
// another payload. After that an answer's own error is Unavailable or Busy. The
// former leaves open whether the task will run: with a key, submitting it again
// is safe.
func (q *Queue) Submit(ctx context.Context, subs []mayfly.Submission) []Accepted {
	answers := make([]Accepted, len(subs))
	if err := q.submit(ctx, subs, answers); err != nil {
		for i := range answers {
			answers[i] = Accepted{Err: err}
		}
	}
	return answers
}

// submit answers each submission, or returns why none was accepted.
func (q *Queue) submit(ctx context.Context, subs []mayfly.Submission, answers []Accepted) error {
	if len(subs) > MaxBatch {
		return mayfly.Errorf(mayfly.TooLarge, "%d tasks at once, and the limit is %d", len(subs), MaxBatch)
	}
	list := make([]*publish, len(subs))
	resolver := resolver{q: q}
	for i, sub := range subs {
		list[i] = &publish{answer: &answers[i]}
		if err := list[i].prepare(ctx, sub, &resolver); err != nil {
			return Numbered(err, i, len(subs))
		}
	}
	defer q.lockKeys(list)()
	if err := q.findKeys(ctx, list); err != nil {
		return err
	}
	parents := map[parentKey]mayfly.Task{}
	for i, p := range list {
		if err := p.place(ctx, q, parents); err != nil {
			return Numbered(err, i, len(list))
		}
	}
	if err := q.makeRoom(ctx, list); err != nil {
		return err
	}
	if err := q.claimPayloads(list); err != nil {
		return err
	}
	defer q.settlePayloads(list)
	defer q.recheck(list)
	var flying []*publish
	for _, p := range list {
		if p.there || p.same != nil {
			continue
		}
		if len(flying) >= pipeline {
			flying[0].finish(ctx, q)
			flying = flying[1:]
		}
		p.start(q)
		flying = append(flying, p)
	}
	for _, p := range flying {
		p.finish(ctx, q)
	}
	for _, p := range list {
		if p.same != nil {
			*p.answer = *p.same.answer
			p.answer.New = false
		}
	}
	return nil
}

// publish is one task on its way to its stream.
type publish struct {
	task     mayfly.Task
	flow     flowKey
	limits   limits // of its workload, as of the revision
	revision uint64
	payload  []byte
	record   bus.Record // in pending
	msg      *nats.Msg  // in parked; nil when it goes to pending
	later    bool       // it goes to later
	parent   string     // it goes to held, until this task has succeeded
	there    bool       // its key is that of a task that was there already
	same     *publish   // an earlier one of the batch, with the same key
	write    *bus.Write
	future   jetstream.PubAckFuture
	err      error
	answer   *Accepted
	ref      *payloadRef // of an upload that is its payload
	refErr   error       // why that cannot be read
}

// prepare checks a submission and resolves it.
func (p *publish) prepare(ctx context.Context, sub mayfly.Submission, r *resolver) (err error) {
	if p.task, err = newTask(sub); err != nil {
		return err
	}
	if sub.PayloadRef != "" {
		if err = p.refer(r.q, &sub); err != nil {
			return err
		}
	}
	if int64(p.task.Size) > r.q.opts.MaxPayload {
		return TooLargePayload(r.q.opts.MaxPayload)
	}
	if err = r.resolve(ctx, p); err != nil {
		return err
	}
	if k := p.limits.key; k.Max > 0 && p.task.LimitKey == "" {
		if p.task.LimitKey = limitKey(sub.Payload, k.Field); large(p.task) {
			p.task.LimitKey = limitKeyIn(p.begin(r.q), k.Field)
		}
	}
	p.flow, p.payload = flowKey{p.task.Space, queueOf(p.task)}, sub.Payload
	return nil
}

// place decides where a task goes, and makes its message.
func (p *publish) place(ctx context.Context, q *Queue, parents map[parentKey]mayfly.Task) (err error) {
	if p.there || p.same != nil {
		return nil
	}
	if p.parent, err = q.firstParent(ctx, p.task, parents); err != nil {
		return err
	}
	subject := ""
	switch {
	case p.parent != "":
		subject = heldSubject(p.task, p.parent)
	case later(p.task):
		p.later, subject = true, laterSubject(p.task)
	default:
		p.record, err = journalRecord(p.task, p.payload)
		return err
	}
	if p.msg, err = parkedMessage(subject, p.task, p.payload); err == nil {
		expect(p.msg, 0)
	}
	return err
}

// size is about what the task takes, in bytes.
func (p *publish) size() int64 {
	if p.msg != nil {
		return int64(p.msg.Size())
	}
	return int64(len(p.record.Head) + len(p.record.Data))
}

// lockKeys keeps other submissions with the same keys waiting.
func (q *Queue) lockKeys(list []*publish) (unlock func()) {
	var stripes []int
	for _, p := range list {
		if p.task.Key != "" {
			stripes = append(stripes, stripe(p.task.Space, p.task.ID)%len(q.keys))
		}
	}
	slices.Sort(stripes)
	stripes = slices.Compact(stripes)
	for _, i := range stripes {
		q.keys[i].Lock()
	}
	return func() {
		for _, i := range stripes {
			q.keys[i].Unlock()
		}
	}
}

// findKeys answers those submissions whose key is known.
func (q *Queue) findKeys(ctx context.Context, list []*publish) error {
	var seen map[string]*publish // of this batch
	for i, p := range list {
		if p.task.Key == "" {
			continue
		}
		if seen == nil {
			seen = map[string]*publish{}
		}
		key := entryKey(p.task.Space, p.task.ID)
		if first := seen[key]; first != nil {
			if err := sameDigest(first.task, p.task); err != nil {
				return Numbered(err, i, len(list))
			}
			p.same = first
			continue
		}
		seen[key] = p
		there, err := q.findKey(ctx, p.task)
		switch {
		case err == nil:
			p.there, *p.answer = true, Accepted{Task: there}
		case mayfly.KindOf(err) != mayfly.NotFound:
			return Numbered(err, i, len(list))
		}
	}
	return nil
}

// findKey returns the task that has the key already.
func (q *Queue) findKey(ctx context.Context, task mayfly.Task) (mayfly.Task, error) {
	defer q.lockID(task.Space, task.ID)()
	there, err := q.find(ctx, task.Space, task.ID, queueOf(task))
	if err != nil {
		return mayfly.Task{}, err
	}
	return there.task, sameDigest(there.task, task)
}

func sameDigest(there, task mayfly.Task) error {
	if there.Digest == task.Digest {
		return nil
	}
	return mayfly.Errorf(mayfly.Conflict, "key %q stands for task %s, which has another payload", task.Key, task.ID).
		WithHint("use another key")
}

// later reports whether a task waits in later for its time.
func later(t mayfly.Task) bool { return time.Until(t.NotBefore) > soon }

// makeRoom refuses what would fill the streams, in which some space is kept for
// tasks that are there already, and has the index name the minutes of the others.
func (q *Queue) makeRoom(ctx context.Context, list []*publish) error {
	var tasks, bytes int64
	for _, p := range list {
		if !p.there && p.same == nil {
			tasks, bytes = tasks+1, bytes+p.size()
		}
	}
	if tasks == 0 {
		return nil
	}
	if q.bus.Room() != bus.RoomForAll {
		return diskFull()
	}
	if q.waiting.tasks.Load()+tasks > int64(q.opts.MaxTasks) || !q.roomFor(ctx, bytes) {
		return full()
	}
	for _, p := range list {
		if p.there || p.same != nil {
			continue
		}
		q.mu.Lock()
		q.noteLimits(p)
		if p.parent != "" {
			q.addParent(parentKey{p.task.Space, p.parent})
		}
		q.mu.Unlock()
		if p.later {
			if err := q.ensureMinute(ctx, minuteKey{p.task.Space, minuteOf(p.task.NotBefore)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// diskFull is what a submission gets while the rest of the disk is kept for what
// was accepted already.
func diskFull() error {
	return mayfly.Errorf(mayfly.Busy, "the disk of the data directory is nearly full, so no new tasks are accepted").
		WithHint("free some of it, and submit again")
}

func full() error {
	return mayfly.Errorf(mayfly.Busy, "the task queue is full").WithHint("submit again when some tasks have run")
}

// start begins to write the task.
func (p *publish) start(q *Queue) {
	if p.msg == nil {
		p.write = q.tasks.Write(p.record, 0)
	} else if p.future, p.err = q.js.PublishMsgAsync(p.msg, jetstream.WithStallWait(publishStall)); p.err != nil {
		p.landed(q, p.err)
	}
}

// finish waits for the answer of the stream.
func (p *publish) finish(ctx context.Context, q *Queue) {
	switch {
	case p.write != nil:
		p.awaitWrite(ctx, q)
	case p.future != nil:
		select {
		case <-p.future.Ok():
			p.landed(q, nil)
		case err := <-p.future.Err():
			p.landed(q, err)
		case <-ctx.Done():
			p.landed(q, ctx.Err())
		}
	}
	p.conclude(ctx, q)
}

// awaitWrite waits until the task is in pending, but not for ever: then it is
// offered whenever that is.
func (p *publish) awaitWrite(ctx context.Context, q *Queue) {
	stall := time.NewTimer(publishStall)
	defer stall.Stop()
	select {
	case <-p.write.Done():
		p.err = p.written(q)
		return
	case <-ctx.Done():
		p.err = ctx.Err()
	case <-stall.C:
		p.err = errors.New("there is no answer yet")
	}
	p.err = unavailable("write the queue", p.err)
	go func() { // until the journal is closed at most
		<-p.write.Done()
		if err := p.written(q); err != nil {
			q.log.Debug("a task was not accepted after all", "task", p.task.ID, "error", err)
		}
	}()
}

// written offers a task that is in pending.
func (p *publish) written(q *Queue) error {
	seq, err := p.write.Position()
	if err != nil {
		return fullError(err)
	}
	q.waiting.add(1, p.size())
	q.mu.Lock()
	defer q.mu.Unlock()
	q.offer(p.task, seq, p.payload)
	return nil
}

// landed takes the answer for a task that goes to parked.
func (p *publish) landed(q *Queue, err error) {
	if err != nil {
		p.err = fullError(err)
		return
	}
	if p.later {
		q.noteLater(p.task)
	}
	q.waiting.add(1, p.size())
}

// conclude writes the answer. A key that was not there and then was is that of
// an earlier submission which got no answer.
func (p *publish) conclude(ctx context.Context, q *Queue) {
	switch {
	case p.err == nil:
		*p.answer = Accepted{Task: p.task, New: true}
	case errors.Is(p.err, bus.ErrExists) && p.task.Key != "":
		p.answer.Task, p.answer.Err = q.findKey(ctx, p.task)
	default:
		p.answer.Err = p.err
	}
}
