package discovery

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// Bounds of what is added.
const (
	maxChecks   = 16
	maxTags     = 64
	maxTag      = 256         // bytes of a key, and of a value
	maxOwn      = 100         // endpoints that one container may add
	maxOwnCheck = 4           // checks of each
	leastOwn    = time.Second // between two times that one is asked
	leastTTL    = time.Second
	mostTTL     = 24 * time.Hour
	leastEvery  = 100 * time.Millisecond
	mostTimeout = time.Minute
)

// Bounds of tokens that are in names and variables.
var (
	addressPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?$`)
	protoPattern   = regexp.MustCompile(`^[a-z][a-z0-9+.-]{0,31}$`)
	portPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)
)

// Add keeps an endpoint of something outside, under a name that is unique in its
// space. Its Service is the name, and its Protocol "tcp", if they are empty. What
// is under the name already is a Conflict, unless it is to be replaced.
func (o *Outside) Add(ctx context.Context, name string, e mayfly.OutsideEndpoint, replace bool) (mayfly.EndpointStatus, error) {
	e.ID, e.Outside = "outside."+e.Space+"."+name, true
	e.App, e.Instance, e.Replica, e.Release = "", "", 0, 0
	return o.add(ctx, name, e, replace)
}

// AddOwn keeps a further endpoint of a container, which is at the container's own
// address and withdrawn with its end. Without checks and a TTL, its port must take
// connections. One of its name is replaced.
func (o *Outside) AddOwn(ctx context.Context, who mayfly.Identity, name string, e mayfly.OutsideEndpoint) (mayfly.EndpointStatus, error) {
	var none mayfly.EndpointStatus
	in, err := o.d.store.Instance(who.Space, who.Instance)
	if err != nil {
		return none, mayfly.Errorf(mayfly.Denied, "only a service, and a container of mayfly run, may add endpoints of its own")
	}
	if in.Address == "" {
		return none, mayfly.Errorf(mayfly.Invalid, "this container has no address of its own").WithHint("give it a network of its own")
	}
	if rel, err := o.d.store.Workload(who.Space, who.Workload); err == nil {
		if slices.ContainsFunc(rel.Workload.Provides, func(p mayfly.Provide) bool { return p.Name == name }) {
			return none, mayfly.Errorf(mayfly.Conflict, "the workload %s provides %s already", who.Workload, name)
		}
	}
	if err := checkOwn(e.Checks); err != nil {
		return none, err
	}
	if len(o.ownOf(who)) >= maxOwn {
		return none, mayfly.Errorf(mayfly.Busy, "this container has added %d endpoints already", maxOwn)
	}
	e.Space, e.ID, e.Instance, e.Address, e.Outside = who.Space, who.Instance+"."+name, who.Instance, in.Address, false
	e.App, e.Replica, e.Release, e.Missed = in.App, in.Replica, in.Release, false
	e.Name = name
	e.Service = cmp.Or(e.Service, who.Workload, in.Name)
	if len(e.Checks) == 0 && e.TTL == 0 && e.Protocol != "udp" {
		e.Checks = []mayfly.Probe{{TCP: &mayfly.TCPProbe{}}}
	}
	if e.Service != who.Workload && o.taken(who.Space, e.Service) {
		return none, mayfly.Errorf(mayfly.Denied, "the service %s is another workload's", e.Service).WithHint("take a name that no workload has")
	}
	if o.byHand(who.Space, e.Service) {
		return none, mayfly.Errorf(mayfly.Denied, "the service %s was added by hand", e.Service).WithHint("take another name")
	}
	return o.add(ctx, ownKey(who, name), e, true)
}

// checkOwn refuses checks that a container may not have the node do.
func checkOwn(checks []mayfly.Probe) error {
	if len(checks) > maxOwnCheck {
		return mayfly.Errorf(mayfly.Invalid, "%d checks are more than %d", len(checks), maxOwnCheck)
	}
	for _, p := range checks {
		if len(p.Exec) > 0 {
			return mayfly.Errorf(mayfly.Denied, "a container may not have commands run on the node").WithHint("use tcp, http or grpc")
		}
		if p.Every != 0 && p.Every < leastOwn {
			return mayfly.Errorf(mayfly.Invalid, "a check every %s is more often than every %s", p.Every, leastOwn)
		}
	}
	return nil
}

func ownKey(who mayfly.Identity, name string) string { return who.Instance + "-" + name }

// ownOf lists what a container has added.
func (o *Outside) ownOf(who mayfly.Identity) (names []string) {
	for _, rec := range o.d.store.Outside.List(who.Space) {
		if rec.Value.Instance == who.Instance {
			names = append(names, rec.Name)
		}
	}
	return names
}

// taken reports whether a workload has the name.
func (o *Outside) taken(space, name string) bool { return o.d.deployed(space, name) }

// byHand reports whether a service is of something outside.
func (o *Outside) byHand(space, service string) bool {
	return slices.ContainsFunc(o.d.store.Outside.List(space), func(rec store.Record[mayfly.OutsideEndpoint]) bool {
		return rec.Value.Outside && rec.Value.Service == service
	})
}

// RemoveOwn takes an endpoint away that the container has added.
func (o *Outside) RemoveOwn(ctx context.Context, who mayfly.Identity, name string) error {
	return o.Remove(ctx, who.Space, ownKey(who, name))
}

// HeartbeatOwn is Heartbeat of what the container has added.
func (o *Outside) HeartbeatOwn(ctx context.Context, who mayfly.Identity, name string) error {
	return o.Heartbeat(ctx, who.Space, ownKey(who, name))
}

func (o *Outside) add(ctx context.Context, name string, e mayfly.OutsideEndpoint, replace bool) (mayfly.EndpointStatus, error) {
	var none mayfly.EndpointStatus
	if err := checkOutside(name, &e); err != nil {
		return none, err
	}
	if e.Outside && o.taken(e.Space, e.Service) {
		return none, mayfly.Errorf(mayfly.Conflict, "there is a workload %q", e.Service).WithHint("choose another name")
	}
	_, err := o.d.store.Outside.Update(ctx, e.Space, name, func(old mayfly.OutsideEndpoint, found bool) (mayfly.OutsideEndpoint, bool, error) {
		if found && (!replace || old.ID != e.ID) {
			return old, false, mayfly.Errorf(mayfly.Conflict, "there is an endpoint %q already", name).WithHint("remove it, or replace it")
		}
		return e, true, nil
	})
	if err != nil {
		return none, err
	}
	_ = o.Heartbeat(ctx, e.Space, name) // whoever adds it has been heard of
	return o.Get(e.Space, name)
}

// Remove takes an endpoint away.
func (o *Outside) Remove(ctx context.Context, space, name string) error {
	rec, err := o.d.store.Outside.Get(space, name)
	if err != nil {
		return err
	}
	return o.d.store.Outside.Delete(ctx, space, name, rec.Revision)
}

// Heartbeat says that what was added with a TTL is there.
func (o *Outside) Heartbeat(ctx context.Context, space, name string) error {
	rec, err := o.d.store.Outside.Get(space, name)
	if err != nil {
		return err
	}
	if rec.Value.TTL == 0 {
		return mayfly.Errorf(mayfly.Conflict, "endpoint %q has no TTL, so nobody waits to hear of it", name).WithHint("add it with one")
	}
	o.mu.Lock()
	k := o.keepers[rec.Key]
	o.mu.Unlock()
	if k == nil {
		return nil // it begins just now
	}
	k.mu.Lock()
	missed := k.missed
	k.heard, k.missed = time.Now(), false
	k.mu.Unlock()
	wakeUp(k.wake)
	if missed {
		k.note(ctx, false)
	}
	return nil
}

// Get returns what was added under a name.
func (o *Outside) Get(space, name string) (mayfly.EndpointStatus, error) {
	rec, err := o.d.store.Outside.Get(space, name)
	if err != nil {
		return mayfly.EndpointStatus{}, err
	}
	o.mu.Lock()
	k := o.keepers[rec.Key]
	o.mu.Unlock()
	if k != nil && k.is(&rec.Value) {
		return k.status(), nil
	}
	return mayfly.EndpointStatus{
		Endpoint: rec.Value.Endpoint, Registered: name, Checks: rec.Value.Checks, TTL: rec.Value.TTL, Reason: "it has not been asked yet",
	}, nil
}

// Endpoints lists all endpoints of a space, and what was added and is not well.
func (o *Outside) Endpoints(space string) []mayfly.EndpointStatus {
	list := []mayfly.EndpointStatus{}
	added := map[string]bool{}
	for _, rec := range o.d.store.Outside.List(space) {
		if s, err := o.Get(space, rec.Name); err == nil {
			list = append(list, s)
			added[s.ID] = true
		}
	}
	o.d.nodes.mu.Lock()
	for id, e := range o.d.nodes.entries {
		if e.Space == space && !added[id] {
			list = append(list, mayfly.EndpointStatus{Endpoint: e.Endpoint, Ready: true})
		}
	}
	o.d.nodes.mu.Unlock()
	slices.SortFunc(list, func(a, b mayfly.EndpointStatus) int { return order(&a.Endpoint, &b.Endpoint) })
	return list
}

// Watch subscribes to what a requirement matches in a space, every endpoint of it
// and every port unless it names one. No drain waits for it.
func (o *Outside) Watch(space string, r mayfly.Require) (*Subscription, error) {
	r.All = true
	r.Port = cmp.Or(r.Port, AnyPort)
	return o.d.Watch(Consumer{Space: space, Zone: o.d.opts.Zone, NoAck: true}, r)
}

// Dial connects to an endpoint that a requirement matches: another one when one
// cannot be connected to.
func (o *Outside) Dial(ctx context.Context, space string, r mayfly.Require) (net.Conn, mayfly.Endpoint, error) {
	r.All = true
	list, err := o.d.Find(Consumer{Space: space, Zone: o.d.opts.Zone}, r)
	if err != nil {
		return nil, mayfly.Endpoint{}, err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(e mayfly.Endpoint) bool { return e.Port == 0 || e.Protocol == "udp" })
	if len(list) == 0 {
		return nil, mayfly.Endpoint{}, mayfly.Errorf(mayfly.Unavailable, "%s has no endpoint just now", cmp.Or(r.Service, r.Role))
	}
	turn := int(uint64(time.Now().UnixNano()) % uint64(len(list)))
	var last error
	for i := range list {
		e := list[(turn+i)%len(list)]
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))))
		if err == nil {
			return conn, e, nil
		}
		last = err
	}
	return nil, mayfly.Endpoint{}, mayfly.Errorf(mayfly.Unavailable, "%s cannot be connected to: %w", cmp.Or(r.Service, r.Role), last)
}

// checkOutside refuses what cannot be right.
func checkOutside(name string, e *mayfly.OutsideEndpoint) error {
	if err := mayfly.CheckName("endpoint", name); err != nil {
		return err
	}
	e.Service, e.Protocol = cmp.Or(e.Service, name), cmp.Or(e.Protocol, "tcp")
	e.Name = cmp.Or(e.Name, e.Protocol)
	if err := mayfly.CheckName("service", e.Service); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(e.Address)
	switch {
	case err != nil && !addressPattern.MatchString(e.Address):
		return mayfly.Errorf(mayfly.Invalid, "address %q is neither an IP address nor a host name", e.Address)
	case err == nil && (addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != ""):
		return mayfly.Errorf(mayfly.Invalid, "address %s is not one that can be connected to", e.Address)
	case e.Port == 0:
		return mayfly.Errorf(mayfly.Invalid, "endpoint %q has no port", name)
	case !protoPattern.MatchString(e.Protocol):
		return mayfly.Errorf(mayfly.Invalid, "protocol %q is not the beginning of a URL", e.Protocol).WithHint("use one such as http, mysql, tcp or udp")
	case !portPattern.MatchString(e.Name):
		return mayfly.Errorf(mayfly.Invalid, "port name %q is not a valid name", e.Name)
	case e.TTL != 0 && (e.TTL < leastTTL || e.TTL > mostTTL):
		return mayfly.Errorf(mayfly.Invalid, "a TTL of %s is not between %s and %s", e.TTL, leastTTL, mostTTL)
	case len(e.Checks) > maxChecks:
		return mayfly.Errorf(mayfly.Invalid, "%d checks are more than %d", len(e.Checks), maxChecks)
	case len(e.Tags) > maxTags:
		return mayfly.Errorf(mayfly.Invalid, "%d tags are more than %d", len(e.Tags), maxTags)
	}
	if e.Role != "" {
		if err := mayfly.CheckName("role", e.Role); err != nil {
			return err
		}
	}
	for key, value := range e.Tags {
		if key == "" || len(key) > maxTag || len(value) > maxTag {
			return mayfly.Errorf(mayfly.Invalid, "tag %.40q is empty or longer than %d bytes", key, maxTag)
		}
	}
	for i := range e.Checks {
		if err := checkProbe(&e.Checks[i]); err != nil {
			return mayfly.Errorf(mayfly.Invalid, "check %d %w", i+1, err)
		}
	}
	return nil
}
