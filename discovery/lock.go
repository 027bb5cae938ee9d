package discovery

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Locks is what may be held by one at a time, such as being the active instance of
// a service. To lead is to hold a lock. Its methods are safe for concurrent use.
//
//	          Lock                     Unlock, or released for its holder
//	free ───────────────> held ──────────────────────────────────────────> free,
//	                       │ ^                                or held by the next
//	               Abandon │ │ Keep, or Lock again                 in the queue
//	                       v │
//	                    abandoned ───> after the delay, as with Unlock
//
// A lock is released for a holder whose TTL has passed, whose node is lost, or that
// was not heard of again by the time that its node had settled after a restart.
// As nobody can know whether such a holder is dead or only slow, each time that a
// lock is taken comes with a token that is higher than any before it, over all
// holders, crashes and restarts: what the lock protects can refuse a lower one.
//
// A lock is one message, written only if nobody else wrote meanwhile, and synced.
// Those who wait are in it in their order.
type Locks struct {
	d *Discovery

	// Guarded by the mutex of d.nodes.
	each   map[lockKey]*lockState
	claims map[string]*claim // of this node, by id
	kick   chan struct{}     // something is to be released
}

type lockKey struct{ space, name string }

// LockRequest asks for a lock.
type LockRequest struct {
	Space  string
	Name   string
	Holder string        // who wants it; whoever holds it already gets it again, with the same token
	TTL    time.Duration // Keep must be called so often; 0: it is held as long as this node is alive
	Delay  time.Duration // from Abandon, or a restart of the node, until it is released; Options.Lease if 0, or none
}

// Lock is a lock that is held.
type Lock struct {
	Space  string
	Name   string
	Holder string
	Token  uint64          // higher than that of anyone who held it before
	Lost   <-chan struct{} // closed when it is not held any more
}

// LockHolder is who holds a lock.
type LockHolder struct {
	Holder  string    `json:"holder"`
	Node    string    `json:"node"`
	Token   uint64    `json:"token"`
	Since   time.Time `json:"since"`
	Waiting int       `json:"waiting,omitempty"` // how many others wait for it
}

// lockRecord is the message of a lock.
type lockRecord struct {
	Token  uint64      `json:"token,omitempty"` // 0: the sequence of this message
	Holder *lockClaim  `json:"holder,omitempty"`
	Queue  []lockClaim `json:"queue,omitempty"` // who waits; first come first
	Since  time.Time   `json:"since,omitzero"`
}

// lockClaim is somebody who holds a lock or waits for it.
type lockClaim struct {
	ID     string        `json:"id"`
	Holder string        `json:"holder"`
	Node   string        `json:"node"`
	Epoch  uint64        `json:"epoch"`
	TTL    time.Duration `json:"ttl,omitempty"`   // ns
	Delay  time.Duration `json:"delay,omitempty"` // ns
}

// lockState is a lock as it was last seen.
type lockState struct {
	lockRecord
	sequence uint64        // of its message; 0: there is none
	newest   uint64        // that was seen
	changed  chan struct{} // nil until somebody wants to know
}

// claim is a lockClaim of this process.
type claim struct {
	lockClaim
	key   lockKey
	token uint64    // 0 while it waits
	until time.Time // when it is released; zero: not by itself
	lost  chan struct{}
}

// maxWaiting is how many can wait for one lock.
const maxWaiting = 1000

// Lock takes a lock, as soon as those who asked before have had it or given up.
// It waits until ctx ends.
func (l *Locks) Lock(ctx context.Context, req LockRequest) (*Lock, error) {
	return l.lock(ctx, req, true)
}

// TryLock takes a lock that nobody holds and nobody waits for. Else the error is a
// Conflict that names the holder.
func (l *Locks) TryLock(ctx context.Context, req LockRequest) (*Lock, error) {
	return l.lock(ctx, req, false)
}

func (l *Locks) lock(ctx context.Context, req LockRequest, wait bool) (*Lock, error) {
	if err := checkLock(&req); err != nil {
		return nil, err
	}
	c := &claim{
		lockClaim: lockClaim{ID: mayfly.NewID(), Holder: req.Holder, Node: l.d.opts.Node, Epoch: l.d.opts.Epoch, TTL: req.TTL, Delay: req.Delay},
		key:       lockKey{req.Space, req.Name}, lost: make(chan struct{}),
	}
	if !wait { // as it was given back elsewhere just now
		if err := l.reread(ctx, c.key); err != nil {
			return nil, mayfly.Errorf(mayfly.Unavailable, "lock %q: %w", req.Name, err)
		}
	}
	l.d.nodes.mu.Lock()
	l.claims[c.ID] = c
	l.d.nodes.mu.Unlock()
	for {
		state, changed, err := l.update(ctx, c.key, func(old *lockRecord) (*lockRecord, error) { return l.advance(c, old, wait) })
		if err == nil && state.Holder != nil {
			if held := l.hold(c, state); held != nil {
				return held, nil
			}
		}
		if err == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		l.giveUp(context.WithoutCancel(ctx), c)
		return nil, err
	}
}

func checkLock(req *LockRequest) error {
	if err := mayfly.CheckName("space", req.Space); err != nil {
		return err
	}
	if req.Name == "" || len(req.Name) > maxID || req.Holder == "" || len(req.Holder) > maxID {
		return mayfly.Errorf(mayfly.Invalid, "a lock needs a name and a holder of at most %d bytes", maxID)
	}
	if req.TTL < 0 || req.Delay < 0 {
		return mayfly.Errorf(mayfly.Invalid, "lock %q: a time is negative", req.Name)
	}
	return nil
}

// advance brings a claim nearer to its lock: it makes of the record what it is to
// be, or returns it as it is when there is nothing to do but wait.
func (l *Locks) advance(c *claim, old *lockRecord, wait bool) (*lockRecord, error) {
	next := *old
	next.Queue = slices.Clone(old.Queue)
	if h := old.Holder; h != nil && l.alive(h) {
		switch {
		case h.ID == c.ID:
			return old, nil
		case h.Holder == c.Holder && h.Node == c.Node:
			if h.Epoch == c.Epoch {
				return old, nil
			}
			next.Holder = &c.lockClaim // it was its own before the restart
			return &next, nil
		case !wait:
			return nil, mayfly.Errorf(mayfly.Conflict, "lock %q is held by %s", c.key.name, h.Holder)
		case slices.ContainsFunc(next.Queue, func(o lockClaim) bool { return o.ID == c.ID }):
			return old, nil
		case len(next.Queue) >= maxWaiting:
			return nil, mayfly.Errorf(mayfly.Busy, "%d wait for lock %q already", maxWaiting, c.key.name)
		}
		next.Queue = append(next.Queue, c.lockClaim)
		return &next, nil
	}
	if !slices.ContainsFunc(next.Queue, func(o lockClaim) bool { return o.ID == c.ID }) {
		next.Queue = append(next.Queue, c.lockClaim)
	}
	l.next(&next)
	if !wait && next.Holder.ID != c.ID {
		return nil, mayfly.Errorf(mayfly.Conflict, "lock %q is waited for by %s", c.key.name, next.Holder.Holder)
	}
	return &next, nil
}

// next gives a lock to whoever has waited longest.
func (l *Locks) next(r *lockRecord) {
	r.Token, r.Holder, r.Since = 0, nil, time.Now().UTC()
	for len(r.Queue) > 0 && r.Holder == nil {
		c := r.Queue[0]
		if r.Queue = r.Queue[1:]; l.alive(&c) {
			r.Holder = &c
		}
	}
}

// alive reports whether a claim counts. The mutex is held.
func (l *Locks) alive(c *lockClaim) bool {
	if c.Node == l.d.opts.Node {
		return l.claims[c.ID] != nil || c.Epoch != l.d.opts.Epoch && !l.d.calm
	}
	return !l.d.nodes.node(c.Node, time.Now()).lost
}

// hold makes a claim of a record that gives the lock to it, or to the same holder.
func (l *Locks) hold(c *claim, r lockRecord) *Lock {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	if state := l.each[c.key]; state == nil || state.Holder == nil || state.Holder.ID != r.Holder.ID {
		return nil // not any more
	}
	if r.Holder.ID != c.ID {
		first := l.claims[r.Holder.ID]
		if first == nil || first.Holder != c.Holder {
			return nil
		}
		delete(l.claims, c.ID)
		c = first
	}
	c.token = r.Token
	l.extend(c)
	return &Lock{Space: c.key.space, Name: c.key.name, Holder: c.Holder, Token: c.token, Lost: c.lost}
}

// extend gives a claim another TTL.
func (l *Locks) extend(c *claim) {
	c.until = time.Time{}
	if c.TTL > 0 {
		c.until = time.Now().Add(c.TTL)
		wakeUp(l.kick)
	}
}

// Keep gives a holder another TTL, or takes Abandon back. The error is a Conflict
// when the lock is not held with the token on this node.
func (l *Locks) Keep(space, name string, token uint64) error {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	c, err := l.claimOf(space, name, token)
	if err == nil {
		l.extend(c)
	}
	return err
}

// Resume takes up a lock that was abandoned, for another than who held it. The
// error is a Conflict when it is not abandoned with the token on this node.
func (l *Locks) Resume(space, name string, token uint64) (*Lock, error) {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	c, err := l.claimOf(space, name, token)
	if err != nil {
		return nil, err
	}
	if c.Epoch == l.d.opts.Epoch && (c.TTL > 0 || c.until.IsZero()) {
		return nil, mayfly.Errorf(mayfly.Conflict, "lock %q is held by %s", name, c.Holder)
	}
	l.extend(c)
	return &Lock{Space: space, Name: name, Holder: c.Holder, Token: token, Lost: c.lost}, nil
}

// claimOf returns the claim by which a lock is held here. After a restart the
// token alone is enough to take it up again.
func (l *Locks) claimOf(space, name string, token uint64) (*claim, error) {
	key := lockKey{space, name}
	state := l.each[key]
	if state == nil || state.Holder == nil || state.Token != token || state.Holder.Node != l.d.opts.Node || !l.alive(state.Holder) {
		return nil, mayfly.Errorf(mayfly.Conflict, "lock %q is not held with token %d", name, token)
	}
	c := l.claims[state.Holder.ID]
	if c == nil {
		c = &claim{lockClaim: *state.Holder, key: key, token: token, lost: make(chan struct{})}
		l.claims[c.ID] = c
	}
	return c, nil
}

// Abandon says that the holder may be dead. The lock is released after its delay,
// unless Keep or Lock is called before. A token that does not hold the lock is no
// error.
func (l *Locks) Abandon(space, name string, token uint64) {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	if c, err := l.claimOf(space, name, token); err == nil {
		c.until = time.Now().Add(cmp.Or(c.Delay, l.d.opts.Lease))
		wakeUp(l.kick)
	}
}

// Unlock releases a lock. The next in the queue has it when it returns. The error
// is a Conflict when the lock is not held with the token on this node.
func (l *Locks) Unlock(ctx context.Context, space, name string, token uint64) error {
	l.d.nodes.mu.Lock()
	c, err := l.claimOf(space, name, token)
	l.d.nodes.mu.Unlock()
	if err != nil {
		return err
	}
	return l.release(ctx, c.key, c.ID)
}

// release takes a lock from a claim.
func (l *Locks) release(ctx context.Context, key lockKey, id string) error {
	_, _, err := l.update(ctx, key, func(old *lockRecord) (*lockRecord, error) {
		if old.Holder == nil || old.Holder.ID != id {
			return old, nil
		}
		next := *old
		next.Queue = slices.Clone(old.Queue)
		l.next(&next)
		return &next, nil
	})
	return err
}

// giveUp takes a claim out of the queue, and the lock from it if it just got it.
func (l *Locks) giveUp(ctx context.Context, c *claim) {
	l.d.nodes.mu.Lock()
	delete(l.claims, c.ID)
	l.d.nodes.mu.Unlock()
	_, _, err := l.update(ctx, c.key, func(old *lockRecord) (*lockRecord, error) {
		next := *old
		next.Queue = slices.DeleteFunc(slices.Clone(old.Queue), func(o lockClaim) bool { return o.ID == c.ID })
		if old.Holder != nil && old.Holder.ID == c.ID {
			l.next(&next)
		} else if len(next.Queue) == len(old.Queue) {
			return old, nil
		}
		return &next, nil
	})
	if err != nil { // passed over when its turn comes, or released by runLocks
		l.d.log.Debug("leave the queue of a lock", "lock", c.key.name, "error", err)
	}
}

// Holder returns who holds a lock, and whether anyone alive does.
func (l *Locks) Holder(space, name string) (LockHolder, bool) {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	state := l.each[lockKey{space, name}]
	if state == nil || state.Holder == nil || !l.alive(state.Holder) {
		return LockHolder{}, false
	}
	return LockHolder{Holder: state.Holder.Holder, Node: state.Holder.Node, Token: state.Token, Since: state.Since, Waiting: len(state.Queue)}, true
}

// Changed returns a channel that is closed when the holder of a lock may have
// changed. Take it before Holder, and nothing is missed.
func (l *Locks) Changed(space, name string) <-chan struct{} {
	l.d.nodes.mu.Lock()
	defer l.d.nodes.mu.Unlock()
	return l.state(lockKey{space, name}).wait()
}
