package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

func newLocks(d *Discovery) *Locks {
	return &Locks{d: d, each: map[lockKey]*lockState{}, claims: map[string]*claim{}, kick: make(chan struct{}, 1)}
}

// Locks returns the locks, which all nodes share.
func (d *Discovery) Locks() *Locks { return d.locks }

func (k lockKey) subject() string { return bus.LockSubject(k.space, token(k.name)) }

func (l *Locks) state(key lockKey) *lockState {
	state := l.each[key]
	if state == nil {
		state = &lockState{}
		l.each[key] = state
	}
	return state
}

func (s *lockState) wait() <-chan struct{} {
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *lockState) tell() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// tellAll is after a node was lost or came back.
func (l *Locks) tellAll() {
	for _, state := range l.each {
		state.tell()
	}
	wakeUp(l.kick)
}

// update writes what change makes of a lock, again and again until nobody else
// wrote meanwhile, and returns the record with its token, and what is closed when
// it changes. change is called with the mutex held; where it returns what it got,
// nothing is written.
func (l *Locks) update(ctx context.Context, key lockKey, change func(old *lockRecord) (*lockRecord, error)) (lockRecord, <-chan struct{}, error) {
	for {
		l.d.nodes.mu.Lock()
		state := l.state(key)
		old, seen := state.lockRecord, state.sequence
		next, err := change(&old)
		if err != nil || next == &old {
			changed := state.wait()
			l.d.nodes.mu.Unlock()
			return old, changed, err
		}
		l.d.nodes.mu.Unlock()
		seq, err := l.write(ctx, key, next, seen)
		if err == nil {
			l.d.nodes.mu.Lock()
			l.apply(key, *next, seq)
			state := l.state(key)
			now, changed := state.lockRecord, state.wait()
			l.d.nodes.mu.Unlock()
			return now, changed, nil
		}
		if errors.Is(err, bus.ErrExists) {
			err = l.reread(ctx, key)
		}
		if err != nil {
			return lockRecord{}, nil, mayfly.Errorf(mayfly.Unavailable, "lock %q: %w", key.name, err)
		}
	}
}

// write writes a lock if its newest message is still the one seen. The message of
// one that nobody holds goes when every node has seen it; the next token is higher
// nevertheless, as sequences go on.
func (l *Locks) write(ctx context.Context, key lockKey, r *lockRecord, seen uint64) (uint64, error) {
	// A write that was begun is waited for, so that it is known whether it was done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequenceForSubject(seen, key.subject())}
	if r.Holder == nil {
		opts = append(opts, jetstream.WithMsgTTL(bus.MarkerTTL))
	}
	data, err := json.Marshal(r)
	if err != nil {
		return 0, fmt.Errorf("encode lock: %w", err)
	}
	ack, err := l.d.bus.JetStream().PublishMsg(ctx, &nats.Msg{Subject: key.subject(), Data: data}, opts...)
	if err != nil {
		return 0, bus.WriteError(err)
	}
	return ack.Sequence, nil
}

// reread takes a lock from the stream itself.
func (l *Locks) reread(ctx context.Context, key lockKey) error {
	msg, err := l.d.bus.Last(ctx, bus.LocksStream, key.subject())
	if err != nil && !errors.Is(err, bus.ErrNoMessage) {
		return err
	}
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	if err != nil {
		state := l.state(key) // it was free, and its message has gone
		state.lockRecord, state.sequence = lockRecord{}, 0
		return nil
	}
	l.take(msg.Subject, msg.Data, msg.Sequence)
	return nil
}

// take applies a message of the stream. The mutex is held.
func (l *Locks) take(subject string, data []byte, seq uint64) {
	parts := strings.Split(subject, ".")
	name, err := untoken(parts[len(parts)-1])
	var r lockRecord
	if err = errors.Join(err, json.Unmarshal(data, &r)); err != nil || len(parts) != 4 {
		l.d.log.Error("a lock is passed over", "subject", subject, "error", err)
		return
	}
	l.apply(lockKey{parts[1], name}, r, seq)
}

// apply takes a newer state of a lock. The mutex is held.
func (l *Locks) apply(key lockKey, r lockRecord, seq uint64) {
	state := l.state(key)
	if seq <= state.newest {
		return
	}
	if r.Token == 0 {
		r.Token = seq
	}
	state.lockRecord, state.sequence, state.newest = r, seq, seq
	for _, c := range slices.Concat(r.Queue, claimsOf(r.Holder)) {
		if c.Node != l.d.opts.Node {
			l.d.nodes.node(c.Node, time.Now()) // its lease begins
		}
	}
	for id, c := range l.claims {
		if c.key == key && c.token != 0 && (r.Holder == nil || r.Holder.ID != id) {
			close(c.lost)
			delete(l.claims, id)
		}
	}
	state.tell()
	wakeUp(l.kick)
}

func claimsOf(c *lockClaim) []lockClaim {
	if c == nil {
		return nil
	}
	return []lockClaim{*c}
}

// settle is after this node has settled. Whoever had a lock with a TTL or a delay
// has that time to be heard of in; other locks that were not taken up again are
// released.
func (l *Locks) settle() {
	for key, state := range l.each {
		h := state.Holder
		if h != nil && h.Node == l.d.opts.Node && max(h.TTL, h.Delay) > 0 && l.claims[h.ID] == nil {
			c := &claim{lockClaim: *h, key: key, token: state.Token, lost: make(chan struct{})}
			l.claims[c.ID] = c
			c.until = time.Now().Add(max(c.TTL, c.Delay))
		}
	}
	wakeUp(l.kick)
}

// load reads the stream once.
func (l *Locks) load(ctx context.Context) error {
	for from := uint64(1); ; {
		msgs, more, err := l.d.bus.Read(ctx, bus.LocksStream, bus.From{Subject: bus.LockSubject("*", "*"), Sequence: from, Limit: loadBatch})
		if err != nil && !errors.Is(err, bus.ErrNoMessage) {
			return mayfly.Errorf(mayfly.Unavailable, "read the locks: %w", err)
		}
		l.d.nodes.mu.Lock()
		for _, msg := range msgs {
			l.take(msg.Subject, msg.Data, msg.Sequence)
			from = msg.Sequence + 1
		}
		l.d.nodes.mu.Unlock()
		if !more || len(msgs) == 0 {
			return nil
		}
	}
}

// runLocks follows the locks, and releases those of this node that nobody holds
// any more.
func (d *Discovery) runLocks(ctx context.Context) error {
	stop, err := d.locks.follow(ctx)
	for err != nil {
		if ctx.Err() != nil {
			return nil
		}
		d.log.Warn("the locks are not followed; it is tried again", "error", err)
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil
		}
		stop, err = d.locks.follow(ctx)
	}
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-d.locks.kick:
		case <-ctx.Done():
			return nil
		}
		due, next := d.locks.due(time.Now())
		timer.Stop()
		for _, c := range due {
			if err := d.locks.release(ctx, c.key, c.ID); err != nil && ctx.Err() == nil {
				d.log.Warn("a lock is not released; it is tried again", "lock", c.key.name, "error", err)
				next = time.Now().Add(retryPause)
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// due lists what this node is to release, and when there may be more.
func (l *Locks) due(now time.Time) (list []claim, next time.Time) {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	for key, state := range l.each {
		h := state.Holder
		if h == nil {
			if state.changed == nil && now.Sub(state.Since) > bus.MarkerTTL {
				delete(l.each, key)
			}
			continue
		}
		if h.Node != l.d.opts.Node {
			continue
		}
		c := l.claims[h.ID]
		switch {
		case c == nil && !l.alive(h):
			list = append(list, claim{lockClaim: *h, key: key})
		case c == nil || c.until.IsZero():
		case !now.Before(c.until):
			list = append(list, *c)
		case next.IsZero() || c.until.Before(next):
			next = c.until
		}
	}
	return list, next
}

// follow applies what other nodes write.
func (l *Locks) follow(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	cons, err := l.d.bus.JetStream().OrderedConsumer(ctx, bus.LocksStream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return nil, err
	}
	return l.d.consume(cons, "locks", func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		if err != nil {
			l.d.log.Error("a lock is passed over", "error", err)
			return
		}
		l.d.nodes.mu.Lock()
		defer l.d.nodes.mu.Unlock()
		l.take(msg.Subject(), msg.Data(), meta.Sequence.Stream)
	})
}
