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

	pipeline     = 256 // publishes of one Submit without an answer yet
	publishStall = 10 * time.Second
	doubtWait    = time.Second // until a submission without an answer is looked for
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
	if len(list) == 1 {
		list[0].publish(ctx, q)
		return nil
	}
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
	msg      *nats.Msg
	payload  []byte
	later    bool     // it goes to later
	parent   string   // it goes to held, until this task has succeeded
	there    bool     // its key is that of a task that was there already
	same     *publish // an earlier one of the batch, with the same key
	flight   uint64
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
	if k := p.limits.key; k.Max > 0 {
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
	subject := pendingSubject(p.task)
	switch {
	case p.parent != "":
		subject = heldSubject(p.task, p.parent)
	case later(p.task):
		p.later, subject = true, laterSubject(p.task)
	}
	if p.msg, err = encode(subject, p.task, p.payload); err == nil {
		expect(p.msg, 0)
	}
	return err
}

// pending reports whether the task goes to pending at once.
func (p *publish) pending() bool { return !p.later && p.parent == "" }

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
	for {
		there, err := q.find(ctx, task.Space, task.ID, queueOf(task))
		if err != nil {
			return mayfly.Task{}, err
		}
		if err := sameDigest(there.task, task); err != nil {
			return mayfly.Task{}, err
		}
		if there.place != inPending || q.vouch(there) {
			return there.task, nil
		}
	}
}

func sameDigest(there, task mayfly.Task) error {
	if there.Digest == task.Digest {
		return nil
	}
	return mayfly.Errorf(mayfly.Conflict, "key %q stands for task %s, which has another payload", task.Key, task.ID).
		WithHint("use another key")
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
	q.leave(q.lane(there.task), there.seq)
	return true
}

// later reports whether a task waits in later for its time.
func later(t mayfly.Task) bool { return time.Until(t.NotBefore) > soon }

// makeRoom refuses what would fill the streams, in which some space is kept for
// tasks that are there already, and has the index name the minutes of the others.
func (q *Queue) makeRoom(ctx context.Context, list []*publish) error {
	var tasks, bytes int64
	for _, p := range list {
		if !p.there && p.same == nil {
			tasks, bytes = tasks+1, bytes+int64(p.msg.Size())
		}
	}
	if tasks == 0 {
		return nil
	}
	if q.bus.Room() != bus.RoomForAll {
		return diskFull()
	}
	if q.waiting.tasks.Load()+tasks > int64(q.opts.MaxTasks) || q.waiting.bytes.Load()+q.payloads.used.Load()+bytes > q.opts.MaxBytes {
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

// publish writes the task and waits for the answer of the stream.
func (p *publish) publish(ctx context.Context, q *Queue) {
	if p.there {
		return
	}
	p.flight = q.begin()
	ack, err := q.js.PublishMsg(ctx, p.msg)
	p.landed(q, ack, err)
	p.conclude(ctx, q)
}

func (p *publish) start(q *Queue) {
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
	p.conclude(ctx, q)
}

// landed takes the answer of the stream. Where there is none, the task may be
// stored or not, and is looked for a little later.
func (p *publish) landed(q *Queue, ack *jetstream.PubAck, err error) {
	if err == nil && p.later {
		q.noteLater(p.task)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		p.err = writeError(err)
		switch {
		case errors.Is(p.err, errFull):
			p.err = full()
		case !errors.Is(p.err, errExists) && p.pending():
			q.addTimer(timer{at: time.Now().Add(doubtWait), doubt: p})
			return // and nothing is removed unseen until then
		}
		q.flights.end(p.flight)
		return
	}
	q.flights.end(p.flight)
	q.waiting.add(1, int64(p.msg.Size()))
	if p.pending() {
		q.offer(p.task, ack.Sequence, p.msg.Data)
	}
}

// lookAgain looks for a task whose submission got no answer.
func (p *publish) lookAgain(ctx context.Context, q *Queue) {
	got, err := q.look(ctx, inPending, bus.TasksStream, p.msg.Subject, p.task.ID)
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err == nil:
		if _, seen := q.known[got.seq]; !seen && got.seq >= q.tidied {
			q.waiting.add(1, int64(p.msg.Size()))
			q.leave(q.lane(p.task), got.seq)
		}
	case mayfly.KindOf(err) != mayfly.NotFound:
		q.addTimer(timer{at: time.Now().Add(doubtWait), doubt: p})
		return
	}
	q.flights.end(p.flight)
}

// conclude writes the answer. A key that was not there and then was is that of
// an earlier submission which got no answer.
func (p *publish) conclude(ctx context.Context, q *Queue) {
	switch {
	case p.err == nil:
		*p.answer = Accepted{Task: p.task, New: true}
	case errors.Is(p.err, errExists) && p.task.Key != "":
		p.answer.Task, p.answer.Err = q.findKey(ctx, p.task)
	default:
		p.answer.Err = p.err
	}
}

// begin notes a write to tasks that is under way.
func (q *Queue) begin() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.flights.begin()
}
