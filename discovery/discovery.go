// Package discovery knows the endpoints that are there, and tells those who
// require them.
//
// Each node vouches for its own endpoints: it publishes them to a stream in memory
// and says every second that it is there. Each node makes a view of its own of
// what all of them say; what a node that is silent for longer than its lease had
// said is not shown until it is heard of again. The view is changed by this node's
// own word at once, without the engine, and by that of others as it arrives.
//
// A node that starts again within its lease changes nothing for anyone: what its
// former self published stays until Settle, and what is published again by then as
// it was is no change. Close withdraws nothing.
//
// A Subscription tells a consumer that what it may use has changed. Changes are
// coalesced, so a consumer that is slow skips what lies between, and never holds
// anyone up. Unless it wants all endpoints it is given one, and keeps it for as
// long as that is there. Drain withdraws an endpoint and waits until everyone who
// has seen it says that it is not used any more.
//
// Whether an instance is ready, and what is done in a consumer when something
// changes, is left to others.
package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

// Options tune a Discovery. The zero value is fit for production, apart from Node.
type Options struct {
	Node      string        // this node's name; required
	Epoch     uint64        // of this start, higher than that of any before; from the clock if 0
	Zone      string        // this node's
	Heartbeat time.Duration // between two; 1 s if 0
	Lease     time.Duration // for how long a node may be silent; 5 s if 0
	Grace     time.Duration // after which Settle is called; 30 s if 0
	Log       *slog.Logger  // nil: nothing is logged
}

// Discovery is a node's view of all endpoints, and its word for its own. Its
// methods are safe for concurrent use.
type Discovery struct {
	bus   *bus.Bus
	store *store.Store
	conn  *nats.Conn
	log   *slog.Logger
	opts  Options
	locks *Locks
	nodes *nodes // its mutex guards all that follows, too

	written map[string]string // subjects of this node's endpoints, by id
	dirty   map[string]struct{}
	kick    chan struct{} // there is something dirty
	settled chan struct{}
	calm    bool // settled is closed
}

// Open returns a view with what other nodes have published, and with what this
// node had published before it was started again, if the engine remembers. Run
// keeps it current.
func Open(ctx context.Context, b *bus.Bus, s *store.Store, opts Options) (*Discovery, error) {
	if opts.Node == "" {
		return nil, errors.New("open discovery: the node has no name")
	}
	opts.Heartbeat = cmp.Or(opts.Heartbeat, time.Second)
	opts.Lease = cmp.Or(opts.Lease, 5*time.Second)
	opts.Grace = cmp.Or(opts.Grace, 30*time.Second)
	opts.Epoch = cmp.Or(opts.Epoch, uint64(time.Now().UnixNano()))
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	d := &Discovery{
		bus: b, store: s, conn: b.JetStream().Conn(), log: opts.Log, opts: opts,
		nodes:   newNodes(opts.Node, opts.Lease),
		written: map[string]string{}, dirty: map[string]struct{}{},
		kick: make(chan struct{}, 1), settled: make(chan struct{}),
	}
	d.locks = newLocks(d)
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	if err := d.locks.load(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Run publishes this node's endpoints and follows those of others until ctx ends.
// It returns when all that it started has ended.
func (d *Discovery) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	drains := make(chan *nats.Msg, maxDrains)
	sub, err := d.conn.ChanSubscribe(bus.DrainSubject(), drains) // before anyone hears of this node
	if err != nil {
		return fmt.Errorf("listen to drains: %w", err)
	}
	defer sub.Unsubscribe()
	var parts sync.WaitGroup
	parts.Go(func() { d.runDrains(ctx, drains) })
	for _, part := range []func(context.Context) error{d.runWrites, d.runFollow, d.runAlive, d.runLocks} {
		parts.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				d.log.Error("discovery", "error", err)
			}
		})
	}
	parts.Go(func() {
		select {
		case <-time.After(d.opts.Grace):
			d.Settle()
		case <-d.settled:
		case <-ctx.Done():
		}
	})
	parts.Wait()
	return ctx.Err()
}

// Publish makes endpoints of this node known, or known anew where they have
// changed. Node and Zone are set to this node's. They are in the view when it
// returns, and on their way to other nodes.
func (d *Discovery) Publish(endpoints ...mayfly.Endpoint) error {
	for i := range endpoints {
		if err := check(&endpoints[i]); err != nil {
			return err
		}
	}
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	for _, e := range endpoints {
		e.Node, e.Zone = d.opts.Node, d.opts.Zone
		subject := subjectOf(&e)
		old, ok := d.nodes.each[d.opts.Node].has[e.ID]
		if ok && old.epoch == d.opts.Epoch && same(&old.Endpoint, &e) {
			continue
		}
		if before := d.written[e.ID]; before != "" && before != subject {
			d.nodes.put(d.opts.Node, e.ID, nil, time.Time{})
			d.write(before)
		}
		d.written[e.ID] = subject
		d.nodes.put(d.opts.Node, e.ID, &vouched{Endpoint: e, epoch: d.opts.Epoch}, time.Time{})
		d.write(subject)
	}
	return nil
}

func check(e *mayfly.Endpoint) error {
	if err := mayfly.CheckName("space", e.Space); err != nil {
		return err
	}
	if err := mayfly.CheckName("service", e.Service); err != nil {
		return err
	}
	if e.ID == "" || e.Name == "" || e.Address == "" || e.Port == 0 && e.Protocol != mayfly.AddressOnly {
		return mayfly.Errorf(mayfly.Invalid, "endpoint %q of service %q lacks an id, a name, an address or a port", e.ID, e.Service)
	}
	if len(e.ID) > maxID {
		return mayfly.Errorf(mayfly.Invalid, "the id of an endpoint of service %q has %d bytes, and the limit is %d", e.Service, len(e.ID), maxID)
	}
	return nil
}

// Withdraw takes endpoints of this node back. Consumers are told, and not waited
// for. One that is not there is no error.
func (d *Discovery) Withdraw(ids ...string) {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	for _, id := range ids {
		d.withdraw(id)
	}
}

func (d *Discovery) withdraw(id string) {
	subject := d.written[id]
	if subject == "" {
		return
	}
	delete(d.written, id)
	d.nodes.put(d.opts.Node, id, nil, time.Time{})
	d.write(subject)
}

// Settle says that this node has published again what it found running when it
// started. What its former self published besides is withdrawn. It happens by
// itself after Options.Grace.
func (d *Discovery) Settle() {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	if d.calm {
		return
	}
	d.calm = true
	d.locks.settle()
	for id, e := range d.nodes.each[d.opts.Node].has {
		if e.epoch != d.opts.Epoch {
			d.withdraw(id)
		}
	}
	close(d.settled)
}

// Settled is closed after Settle. Before that, an endpoint that is not in the view
// may be about to be published again.
func (d *Discovery) Settled() <-chan struct{} { return d.settled }

// Find returns what a Subscription would get if it were made now: one endpoint, or
// all in a stable order, or none. The slice is shared and must not be written to.
func (d *Discovery) Find(c Consumer, r mayfly.Require) ([]mayfly.Endpoint, error) {
	sel, err := newSelector(c, &r)
	if err != nil {
		return nil, err
	}
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	return d.nodes.find(sel, c, r.All), nil
}

// Get returns an endpoint by its id.
func (d *Discovery) Get(id string) (mayfly.Endpoint, bool) {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	if e := d.nodes.entries[id]; e != nil {
		return e.Endpoint, true
	}
	return mayfly.Endpoint{}, false
}

// Watch subscribes a consumer to what it requires. The error is of the kind
// Invalid. Close the subscription.
func (d *Discovery) Watch(c Consumer, r mayfly.Require) (*Subscription, error) {
	sel, err := newSelector(c, &r)
	if err != nil {
		return nil, err
	}
	return d.nodes.watch(sel, c, r), nil
}
