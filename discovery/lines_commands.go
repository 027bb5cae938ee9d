package discovery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// errLater is the answer of a command that answers by itself.
var errLater = errors.New("it answers later")

// duration is one in JSON as people write it: "1.5s".
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 || v > lineMost {
		return mayfly.Errorf(mayfly.Invalid, "%q is not a duration from 0s to %v", text, lineMost)
	}
	*d = duration(v)
	return nil
}

func (d duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// decode reads the JSON of a command. What it does not know it refuses, so that a
// misspelt word is not silently nothing.
func decode(body []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil && dec.More() {
		err = errors.New("something follows the JSON")
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "read the command: %w", err)
	}
	return nil
}

type lineHelloBody struct {
	Space   string   `json:"space"`
	Token   string   `json:"token"`
	Name    string   `json:"name"`    // by which people know the client
	Timeout duration `json:"timeout"` // after which its silence ends the connection
}

type lineWelcome struct {
	Protocol int      `json:"protocol"`
	Node     string   `json:"node"`
	Space    string   `json:"space"`
	Timeout  duration `json:"timeout"`
}

func (s *lineSession) hello(_ context.Context, _ string, body []byte) (any, error) {
	var b lineHelloBody
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if s.greeted {
		return nil, mayfly.Errorf(mayfly.Invalid, "hello was said before")
	}
	space := cmp.Or(s.guest.Space, b.Space, mayfly.DefaultSpace)
	if b.Space != "" && b.Space != space {
		return nil, mayfly.Errorf(mayfly.Denied, "this connection is for space %q", space)
	}
	if err := mayfly.CheckName("space", space); err != nil {
		return nil, err
	}
	if s.guest.Admit != nil {
		if err := s.guest.Admit(space, b.Token); err != nil {
			return nil, err
		}
	}
	if len(b.Name) > maxID {
		return nil, mayfly.Errorf(mayfly.Invalid, "a name has at most %d bytes", maxID)
	}
	if b.Timeout > 0 {
		s.timeout = max(time.Duration(b.Timeout), lineLeast)
	}
	s.greeted = true
	s.consumer = Consumer{
		Space: space, App: s.guest.App, Zone: s.guest.Zone,
		Workload: cmp.Or(s.guest.Workload, b.Name, "outside"), Instance: cmp.Or(s.guest.Instance, s.label),
	}
	return lineWelcome{1, s.d.opts.Node, space, duration(s.timeout)}, nil
}

type lineRegister struct {
	Service  string            `json:"service"`
	Name     string            `json:"name"`
	Protocol string            `json:"protocol"`
	Address  string            `json:"address"`
	Port     uint16            `json:"port"`
	Role     string            `json:"role"`
	Tags     map[string]string `json:"tags"`
	TTL      duration          `json:"ttl"`
}

type lineID struct {
	ID string `json:"id"`
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$`)

func (s *lineSession) register(_ context.Context, _ string, body []byte) (any, error) {
	var b lineRegister
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if s.guest.ReadOnly {
		return nil, mayfly.Errorf(mayfly.Denied, "this connection may not register endpoints")
	}
	if len(s.endpoints) >= maxLineItems {
		return nil, mayfly.Errorf(mayfly.Busy, "%d endpoints are registered already", maxLineItems)
	}
	e, err := s.endpointOf(&b)
	if err != nil {
		return nil, err
	}
	if err := s.mayTake(&e); err != nil {
		return nil, err
	}
	if old := s.registered(e); old != nil {
		e.ID, e.Since = old.ID, old.Since // what it was is replaced
	}
	ttl := time.Duration(b.TTL)
	if ttl > 0 {
		ttl = max(ttl, lineLeast)
	}
	if err := s.d.Publish(e); err != nil {
		return nil, err
	}
	if err := s.mayTake(&e); err != nil { // it was deployed meanwhile
		s.d.Withdraw(e.ID)
		return nil, err
	}
	s.endpoints[e.ID] = &lineEndpoint{Endpoint: e, ttl: ttl}
	return lineID{e.ID}, nil
}

// guestID is how the ids begin of what guests register.
const guestID = "line."

func isGuests(id string) bool { return strings.HasPrefix(id, guestID) }

// mayTake refuses an endpoint under the name of a workload that is not the guest's.
func (s *lineSession) mayTake(e *mayfly.Endpoint) error {
	if e.Service == s.guest.Workload || !s.d.deployed(e.Space, e.Service) {
		return nil
	}
	return mayfly.Errorf(mayfly.Denied, "the service %s is a workload's", e.Service).WithHint("take a name that no workload has")
}

func (s *lineSession) endpointOf(b *lineRegister) (mayfly.Endpoint, error) {
	e := mayfly.Endpoint{
		ID: guestID + mayfly.NewID(), Space: s.consumer.Space, Service: cmp.Or(b.Service, s.guest.Workload), App: s.guest.App,
		Name: cmp.Or(b.Name, b.Protocol, "main"), Protocol: cmp.Or(b.Protocol, "tcp"), Address: b.Address, Port: b.Port,
		Role: b.Role, Tags: b.Tags, Instance: s.guest.Instance, Outside: s.guest.Instance == "", Since: time.Now().UTC(),
	}
	if err := mayfly.CheckName("port", e.Name); err != nil {
		return e, err
	}
	if err := mayfly.CheckName("protocol", e.Protocol); err != nil {
		return e, err
	}
	if e.Role != "" {
		if err := mayfly.CheckName("role", e.Role); err != nil {
			return e, err
		}
	}
	if e.Address == "" {
		e.Address = s.guest.Address
	}
	if e.Address == "" {
		if peer, ok := s.conn.RemoteAddr().(*net.TCPAddr); ok {
			e.Address = peer.AddrPort().Addr().Unmap().WithZone("").String()
		}
	}
	ip, err := netip.ParseAddr(e.Address)
	if err == nil && (ip.IsUnspecified() || ip.IsMulticast()) || err != nil && !hostPattern.MatchString(e.Address) {
		return e, mayfly.Errorf(mayfly.Invalid, "%q is not an address that an endpoint can have", e.Address)
	}
	return e, nil
}

// registered returns what is registered under the same name.
func (s *lineSession) registered(e mayfly.Endpoint) *lineEndpoint {
	for _, old := range s.endpoints {
		if old.Service == e.Service && old.Name == e.Name {
			return old
		}
	}
	return nil
}

type lineWithdraw struct {
	ID   string   `json:"id"`
	Wait duration `json:"wait"`
}

type lineDrained struct {
	Waited  duration   `json:"waited"`
	Pending []Consumer `json:"pending"`
}

func (s *lineSession) withdraw(ctx context.Context, id string, body []byte) (any, error) {
	b := lineWithdraw{Wait: duration(30 * time.Second)}
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	e := s.endpoints[b.ID]
	if e == nil {
		return nil, mayfly.Errorf(mayfly.NotFound, "this connection has not registered endpoint %q", b.ID)
	}
	answer, err := s.background(ctx, id, func() (any, error) {
		report := s.d.Drain(ctx, []string{b.ID}, time.Duration(b.Wait))
		return lineDrained{duration(report.Waited), append([]Consumer{}, report.Pending...)}, nil
	})
	if err == nil {
		delete(s.endpoints, b.ID)
		s.d.Withdraw(b.ID) // before whatever the client says next
	}
	return answer, err
}

type lineSubscribe struct {
	mayfly.Require
	Ack bool `json:"ack"` // the client acknowledges, and drains wait for it
}

type lineEndpoints struct {
	ID        string            `json:"id,omitempty"` // of the command that subscribed
	Revision  uint64            `json:"revision,omitempty"`
	Endpoints []mayfly.Endpoint `json:"endpoints"`
}

func (s *lineSession) subscribe(ctx context.Context, id string, body []byte) (any, error) {
	var b lineSubscribe
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if s.subs[id] != nil {
		return nil, mayfly.Errorf(mayfly.Conflict, "there is a subscription %q already", id)
	}
	if len(s.subs) >= maxLineItems {
		return nil, mayfly.Errorf(mayfly.Busy, "there are %d subscriptions already", maxLineItems)
	}
	if err := s.inside(&b.Require); err != nil {
		return nil, err
	}
	c := s.consumer
	c.NoAck = !b.Ack
	sub, err := s.d.Watch(c, b.Require)
	if err != nil {
		return nil, err
	}
	s.subs[id] = sub
	list, revision := sub.Current()
	s.running.Go(func() { s.follow(ctx, id, sub, revision) })
	return lineEndpoints{id, revision, append([]mayfly.Endpoint{}, list...)}, nil
}

// follow pushes what a subscription shows, each time that it changes.
func (s *lineSession) follow(ctx context.Context, id string, sub *Subscription, pushed uint64) {
	for {
		select {
		case <-sub.C():
		case <-sub.Done():
			return
		case <-ctx.Done():
			return
		}
		list, revision := sub.Current()
		if revision == pushed {
			continue
		}
		pushed = revision
		s.send(ctx, line("!", "changed", lineEndpoints{id, revision, append([]mayfly.Endpoint{}, list...)}))
	}
}

// inside refuses what is in another space.
func (s *lineSession) inside(r *mayfly.Require) error {
	if r.Space != "" && r.Space != s.consumer.Space {
		return mayfly.Errorf(mayfly.Denied, "this connection is for space %q", s.consumer.Space)
	}
	return nil
}

func (s *lineSession) unsubscribe(_ context.Context, _ string, body []byte) (any, error) {
	var b lineID
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	sub := s.subs[b.ID]
	if sub == nil {
		return nil, noSubscription(b.ID)
	}
	delete(s.subs, b.ID)
	sub.Close()
	return nil, nil
}

func noSubscription(id string) error {
	return mayfly.Errorf(mayfly.NotFound, "there is no subscription %q", id)
}

func (s *lineSession) find(_ context.Context, _ string, body []byte) (any, error) {
	var r mayfly.Require
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if err := s.inside(&r); err != nil {
		return nil, err
	}
	list, err := s.d.Find(s.consumer, r)
	return lineEndpoints{Endpoints: append([]mayfly.Endpoint{}, list...)}, err
}

type lineAck struct {
	ID       string `json:"id"`
	Revision uint64 `json:"revision"`
}

func (s *lineSession) ack(_ context.Context, _ string, body []byte) (any, error) {
	var b lineAck
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	sub := s.subs[b.ID]
	if sub == nil {
		return nil, noSubscription(b.ID)
	}
	sub.Ack(b.Revision)
	return nil, nil
}

type lineLock struct {
	Name  string    `json:"name"`
	Delay duration  `json:"delay"` // from the connection's end until it is released
	Wait  *duration `json:"wait"`  // nil: as long as the connection is there
}

type lineToken struct {
	Name  string `json:"name"`
	Token uint64 `json:"token"`
}

func (s *lineSession) lock(ctx context.Context, id string, body []byte) (any, error) {
	var b lineLock
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if err := s.mayLock(b.Name); err != nil {
		return nil, err
	}
	req := LockRequest{Space: s.consumer.Space, Name: b.Name, Holder: s.consumer.Workload + " " + s.label, Delay: cmp.Or(time.Duration(b.Delay), s.d.opts.Lease)}
	return s.background(ctx, id, func() (any, error) {
		held, err := s.take(ctx, req, b.Wait)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.locks[b.Name] = held.Token
		s.mu.Unlock()
		s.running.Go(func() { s.watchLock(ctx, held) })
		return lineToken{b.Name, held.Token}, nil
	})
}

func (s *lineSession) mayLock(name string) error {
	if s.guest.ReadOnly {
		return mayfly.Errorf(mayfly.Denied, "this connection may not lock")
	}
	if strings.HasPrefix(name, "_") {
		return mayfly.Errorf(mayfly.Denied, "locks whose names begin with '_' are Mayfly's own")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.locks[name]; ok {
		return mayfly.Errorf(mayfly.Conflict, "this connection holds lock %q already", name)
	}
	if len(s.locks) >= maxLineItems {
		return mayfly.Errorf(mayfly.Busy, "%d locks are held already", maxLineItems)
	}
	return nil
}

func (s *lineSession) take(ctx context.Context, req LockRequest, wait *duration) (*Lock, error) {
	if wait == nil {
		return s.d.Locks().Lock(ctx, req)
	}
	if *wait == 0 {
		return s.d.Locks().TryLock(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*wait))
	defer cancel()
	held, err := s.d.Locks().Lock(ctx, req)
	if errors.Is(err, context.DeadlineExceeded) {
		err = mayfly.Errorf(mayfly.TimedOut, "lock %q was not free within %v", req.Name, time.Duration(*wait))
	}
	return held, err
}

// watchLock tells the client when a lock that it did not give back is not its own
// any more.
func (s *lineSession) watchLock(ctx context.Context, held *Lock) {
	select {
	case <-held.Lost:
	case <-ctx.Done():
		return
	}
	s.mu.Lock()
	mine := s.locks[held.Name] == held.Token
	if mine {
		delete(s.locks, held.Name)
	}
	s.mu.Unlock()
	if mine {
		s.send(ctx, line("!", "lost", lineToken{held.Name, held.Token}))
	}
}

// resume takes a lock over from a connection that has ended.
func (s *lineSession) resume(ctx context.Context, _ string, body []byte) (any, error) {
	var b lineToken
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	if err := s.mayLock(b.Name); err != nil {
		return nil, err
	}
	held, err := s.d.Locks().Resume(s.consumer.Space, b.Name, b.Token)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.locks[b.Name] = b.Token
	s.mu.Unlock()
	s.running.Go(func() { s.watchLock(ctx, held) })
	return b, nil
}

func (s *lineSession) unlock(ctx context.Context, _ string, body []byte) (any, error) {
	var b lineToken
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	s.mu.Lock()
	token, ok := s.locks[b.Name]
	delete(s.locks, b.Name)
	s.mu.Unlock()
	if !ok || b.Token != 0 && b.Token != token {
		return nil, mayfly.Errorf(mayfly.Conflict, "this connection does not hold lock %q with that token", b.Name)
	}
	return nil, s.d.Locks().Unlock(ctx, s.consumer.Space, b.Name, token)
}

// bye gives everything back, and ends the connection.
func (s *lineSession) bye(ctx context.Context, _ string, body []byte) (any, error) {
	if err := decode(body, &struct{}{}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	locks := s.locks
	s.locks = map[string]uint64{}
	s.mu.Unlock()
	var errs []error
	for name, token := range locks {
		errs = append(errs, s.d.Locks().Unlock(ctx, s.consumer.Space, name, token))
	}
	return nil, errors.Join(errs...)
}
