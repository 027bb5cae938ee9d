package router

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
	"github.com/mayfly-run/mayfly/store"
)

// backend is a service as its routes have it: its instances that are ready, and
// how busy each is.
type backend struct {
	key    store.Key
	gate   *gate
	sub    *discovery.Subscription
	ups    atomic.Pointer[[]*upstream] // that take requests
	turn   atomic.Uint64               // where to begin to look for the least busy
	kick   chan struct{}               // something that goes is not used any more, or the settings changed
	over   chan struct{}               // closed when no route leads here
	limits atomic.Pointer[limits]

	mu      sync.Mutex
	news    chan struct{} // closed when ups changes; nil until somebody wants to know
	leaving []*upstream   // withdrawn, with requests in flight
	read    uint64        // revision of ups
}

// limits are those of a service's scale.
type limits struct{ each, queue int }

// upstream is a port of an instance. Where a request may still be on its way to
// it when it is withdrawn, whoever drains it waits.
type upstream struct {
	mayfly.Endpoint
	address string
	backend *backend
	busy    atomic.Int64 // requests in flight
	gone    atomic.Bool  // withdrawn: no new request
	shunned atomic.Int64 // until then (Unix ns) others are tried first, for it took no connection
	before  uint64       // revision that was read last when it was still there; once gone

	mu   sync.Mutex
	idle []keptConn // the one used last is the last
}

type keptConn struct {
	net.Conn
	since time.Time
}

const (
	maxIdle   = 512              // kept connections to one port
	idleTime  = time.Minute      // that one is kept unused
	trustTime = time.Second      // that a kept one is used unseen for what may be repeated
	shunTime  = time.Second      // that an instance is shunned which took no connection
	dialTime  = 3 * time.Second  // until an instance must have taken one
	sweepTime = 15 * time.Second // between looks for kept connections that are of no use: closed ones hold a socket
	dialTries = 3                // instances that are tried
)

// open subscribes to the endpoints of a service.
func (r *Router) openBackend(key store.Key) (*backend, error) {
	b := &backend{key: key, kick: make(chan struct{}, 1), over: make(chan struct{})}
	b.gate = r.gate(&mayfly.Workload{Space: key.Space, Name: key.Name})
	b.limits.Store(&limits{})
	b.ups.Store(&[]*upstream{})
	sub, err := r.opts.Endpoints.Watch(
		discovery.Consumer{Space: key.Space, Workload: "routes", Instance: "of " + key.Name},
		mayfly.Require{Name: key.Name, Service: key.Name, Port: discovery.AnyPort, All: true, Optional: true})
	b.sub = sub
	return b, err
}

// run keeps the instances current until ctx ends or no route leads to the service.
func (b *backend) run(ctx context.Context) {
	defer b.sub.Close()
	sweep := time.NewTicker(sweepTime)
	defer sweep.Stop()
	for {
		endpoints, revision := b.sub.Current()
		b.set(endpoints, revision)
		select {
		case <-b.sub.C():
		case <-b.kick:
		case <-sweep.C:
			b.sweep()
		case <-b.over:
			b.set(nil, b.read)
			return
		case <-ctx.Done():
			b.set(nil, b.read)
			return
		}
	}
}

// set makes the endpoints those that take requests, and acknowledges that others
// are gone when nothing is in flight there.
func (b *backend) set(endpoints []mayfly.Endpoint, revision uint64) {
	old := *b.ups.Load()
	if revision != b.read || len(endpoints) != len(old) {
		var now []*upstream
		for i := range endpoints {
			e := &endpoints[i]
			if e.Protocol == "udp" || e.Protocol == mayfly.AddressOnly {
				continue
			}
			address := net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
			at := slices.IndexFunc(old, func(u *upstream) bool { return u.ID == e.ID && u.address == address })
			if at >= 0 {
				now = append(now, old[at])
			} else {
				now = append(now, &upstream{Endpoint: *e, address: address, backend: b})
			}
		}
		b.ups.Store(&now)
		for _, u := range old {
			if !slices.Contains(now, u) {
				u.before = b.read
				u.gone.Store(true)
				u.closeIdle(func(keptConn) bool { return true })
				b.leaving = append(b.leaving, u)
			}
		}
		b.mu.Lock()
		if b.read = revision; b.news != nil {
			close(b.news)
			b.news = nil
		}
		b.mu.Unlock()
	}
	b.acknowledge()
	instances := map[string]bool{}
	for _, u := range *b.ups.Load() {
		instances[u.Instance] = true
	}
	l := b.limits.Load()
	b.gate.set(len(instances), l.each, l.queue)
}

// acknowledge says what is not used any more.
func (b *backend) acknowledge() {
	b.leaving = slices.DeleteFunc(b.leaving, func(u *upstream) bool { return u.busy.Load() == 0 })
	upTo := b.read
	for _, u := range b.leaving {
		upTo = min(upTo, u.before)
	}
	b.sub.Ack(upTo)
}

// configure follows the scale of the service's release.
func (b *backend) configure(w *mayfly.Workload) {
	next := limits{w.PerInstance(), w.Scale.Queue}
	if next.queue == 0 {
		next.queue = mayfly.DefaultQueue
	}
	if *b.limits.Load() != next {
		b.limits.Store(&next)
		b.nudge()
	}
}

func (b *backend) nudge() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// changed is closed when other instances are ready.
func (b *backend) changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.news == nil {
		b.news = make(chan struct{})
	}
	return b.news
}

func (b *backend) ready() bool { return len(*b.ups.Load()) > 0 }

// pick returns the least busy instance that has the port, counting the request
// that it is for; nil if there is none.
func (b *backend) pick(port string, not ...*upstream) *upstream {
	for {
		ups := *b.ups.Load()
		var best *upstream
		var least int64
		begin := int(b.turn.Add(1) % uint64(max(len(ups), 1)))
		for i := range ups {
			u := ups[(begin+i)%len(ups)]
			if u.Name != port || slices.Contains(not, u) {
				continue
			}
			busy := u.busy.Load()
			if until := u.shunned.Load(); until != 0 && until > time.Now().UnixNano() {
				busy += 1 << 32
			}
			if best == nil || busy < least {
				best, least = u, busy
			}
		}
		if best == nil {
			return nil
		}
		best.busy.Add(1)
		if !best.gone.Load() {
			return best
		}
		best.done() // it went at this moment
	}
}

// done ends what pick began.
func (u *upstream) done() {
	if u.busy.Add(-1) == 0 && u.gone.Load() {
		u.backend.nudge()
	}
}

// take returns a kept connection, nil if there is none. A careful one looks
// whether it is still open, as one that cannot try again must.
func (u *upstream) take(careful bool) net.Conn {
	for {
		u.mu.Lock()
		n := len(u.idle)
		if n == 0 {
			u.mu.Unlock()
			return nil
		}
		c := u.idle[n-1]
		u.idle = u.idle[:n-1]
		u.mu.Unlock()
		if !careful && time.Since(c.since) < trustTime || idle(c.Conn) {
			return c.Conn
		}
		c.Close()
	}
}

func (u *upstream) keep(conn net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.gone.Load() || len(u.idle) >= maxIdle {
		conn.Close()
		return
	}
	u.idle = append(u.idle, keptConn{conn, time.Now()})
}

func (u *upstream) closeIdle(which func(keptConn) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.idle = slices.DeleteFunc(u.idle, func(c keptConn) bool {
		if !which(c) {
			return false
		}
		c.Close()
		return true
	})
}

func (b *backend) sweep() {
	for _, u := range *b.ups.Load() {
		u.closeIdle(func(c keptConn) bool { return time.Since(c.since) > idleTime || !idle(c.Conn) })
	}
}

// visitor is one request at a service.
type visitor struct {
	backend *backend
	port    string
	careful bool // it may not be sent twice
	up      *upstream
}

// leave ends what admit began.
func (x *visitor) leave() {
	if x.up != nil {
		x.up.done()
	}
	x.backend.gate.leave()
}

// connect is part of peer. Where an instance takes no connection, another one is
// tried: nothing was sent.
func (x *visitor) connect(ctx context.Context, fresh bool) (net.Conn, bool, error) {
	if !fresh {
		if conn := x.up.take(x.careful); conn != nil {
			return conn, true, nil
		}
	}
	var failed []*upstream
	d := net.Dialer{Timeout: dialTime}
	for {
		conn, err := d.DialContext(ctx, "tcp", x.up.address)
		if err == nil {
			return conn, false, nil
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		x.up.shunned.Store(time.Now().Add(shunTime).UnixNano())
		failed = append(failed, x.up)
		var next *upstream
		if len(failed) < dialTries {
			next = x.backend.pick(x.port, failed...)
		}
		if next == nil {
			return nil, false, mayfly.Errorf(mayfly.Unavailable, "service %s takes no connection: %w", x.backend.key.Name, err)
		}
		x.up.done()
		x.up = next
	}
}

// giveBack is part of peer.
func (x *visitor) giveBack(conn net.Conn, keep bool) {
	if keep {
		x.up.keep(conn)
		return
	}
	conn.Close()
}

// tell is part of peer.
func (x *visitor) tell(func(name, value string)) {}
