// Package network gives containers a network: a namespace of their own, wired
// to the node's bridge, with an address, NAT to the outside and published
// ports.
//
// Making and wiring a namespace costs about a millisecond, so Run keeps some
// waiting and Attach takes one of them. A namespace is held by an open file and
// by the processes in it, and by nothing else: when the daemon is killed, those
// that wait vanish, with their cables, and those of running containers stay.
// Deleting one is closing its file; the kernel then takes cable and all away, in
// batches, in its own time. A veth is never deleted by hand in normal
// operation, because that stops the whole machine's networking for some 20 ms.
// A namespace in which nothing happened at all may wait for another container
// instead: most functions never touch their network. reuse.go has the rules.
//
//	Open ── Recover ── Run
//	            Attach:  warm ──> attached ──> Detach: closed, address free again
//	                       ^────── untouched ─────┘
//
// All names derive from the one given to Open, so several nodes live side by
// side on a machine: the bridge is mf-NAME, the nftables table mayfly-NAME.
// What must outlive a kill is in the kernel (bridge, published ports) or with
// the caller, who hands it back to Recover (which container holds what).
//
// It leaves to others when a container starts and ends, and the files
// /etc/resolv.conf and /etc/hosts, for which Resolv and Hosts write the text.
// IPv4 only so far; a container has IPv6 on its loopback alone.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// DefaultWarm is how many namespaces wait when Options does not say.
const DefaultWarm = 8

// Options tune a Network. The zero value is fit for production.
type Options struct {
	Log *slog.Logger // nil discards

	// Subnet is where container addresses come from, IPv4, /8 to /28. Zero
	// keeps the bridge's, and for a new bridge takes the first of a list of
	// private ones that no address or route of the machine overlaps.
	Subnet netip.Prefix

	// Warm is how many wired namespaces Run keeps waiting: DefaultWarm if
	// zero, none if negative. SetWarm changes it later.
	Warm int
}

// Network is a node's bridge and all that hangs on it. Its methods may be
// called at the same time.
type Network struct {
	log     *slog.Logger
	bridge  string // link name
	index   int32  // of the bridge
	subnet  netip.Prefix
	gateway netip.Addr // the bridge's own address
	home    int        // the namespace in which the bridge is, a descriptor
	ipv6    bool       // the kernel knows IPv6
	rtnl    *rtnl
	nat     *nat
	refill  chan struct{} // says to Run that fewer wait than should

	legacySeen time.Time // when legacy iptables was looked at; Open's, then Run's

	// publishing is held, before mu, while attached and the port maps change
	// together.
	publishing sync.Mutex

	groups  *groups
	virtual netip.Prefix // where the addresses of redirects come from
	severer severer

	// redirecting is held, before mu, while redirects and their maps change
	// together.
	redirecting sync.Mutex
	redirects   map[string]*redirect
	virtualOf   map[netip.Addr]*redirect
	targeted    map[netip.Addr]int // redirects that lead there

	mu       sync.Mutex
	next     netip.Addr              // where the search for a free address goes on
	used     map[netip.Addr]struct{} // addresses not to be given out
	attached map[string]*holding
	ports    map[uint16][]claim // published host ports
	warm     []*namespace
	wantWarm int
	room     int // how many may wait: more than wantWarm when some were given back
	unneeded int // how many waited all the time since settleDown
	closed   bool
}

// holding is what one container has.
type holding struct {
	att   *Attachment // nil while Attach is under way
	ns    *namespace  // nil when an earlier process made it
	ports []*publication
}

var namePattern = regexp.MustCompile(`^[a-z0-9]{1,12}$`)

// Open makes the bridge, its address and its nftables table in the network
// namespace of the process, or adopts those that an earlier process left. The
// name is 1 to 12 of a-z and 0-9, one for each data directory. It needs root.
//
// Open turns on net.ipv4.ip_forward when it is off. Errors of kind Conflict
// mean that no subnet is free, or that the bridge has another one.
func Open(ctx context.Context, name string, opts Options) (*Network, error) {
	if !namePattern.MatchString(name) {
		return nil, mayfly.Errorf(mayfly.Invalid, "network name %q is not 1 to 12 of a-z and 0-9", name)
	}
	if err := checkSubnet(opts.Subnet); err != nil {
		return nil, err
	}
	n := &Network{
		log:      opts.Log,
		bridge:   bridgeOf(name),
		home:     -1,
		refill:   make(chan struct{}, 1),
		used:     make(map[netip.Addr]struct{}),
		attached: make(map[string]*holding),
		ports:    make(map[uint16][]claim),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.groups = newGroups(n.log)
	n.SetWarm(opts.Warm)
	if err := n.open(ctx, name, opts); err != nil {
		n.Close()
		return nil, fmt.Errorf("open network %s: %w", name, err)
	}
	return n, nil
}

func (n *Network) open(ctx context.Context, name string, opts Options) (err error) {
	if n.home, err = openNamespace(); err != nil {
		return err
	}
	if n.rtnl, err = dialRtnl(); err != nil {
		return err
	}
	_, err = os.Stat("/proc/sys/net/ipv6/conf/all")
	n.ipv6 = err == nil
	if err := n.openBridge(ctx, opts.Subnet); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	n.nat = newNAT(conn, name, n.bridge, n.subnet)
	if err := n.openRedirects(); err != nil {
		return err
	}
	if err := n.nat.install(); err != nil {
		return err
	}
	n.openGroups(name)
	n.admitDocker()
	n.admitLegacy(ctx)
	return nil
}

// openGroups does without where the kernel has no rules for bridges.
func (n *Network) openGroups(name string) {
	table, err := openGroupTable(name, n.subnet, n.gateway)
	if err != nil {
		n.log.Warn("containers of different spaces reach each other's addresses: the kernel cannot keep them apart", "err", err)
		return
	}
	n.groups.kernel = table
}

// Subnet is where the addresses of containers come from.
func (n *Network) Subnet() netip.Prefix { return n.subnet }

// Gateway is the address of the node on the bridge.
func (n *Network) Gateway() netip.Addr { return n.gateway }

// Close lets go of everything that the process holds: namespaces that wait or
// whose containers have ended vanish; running containers keep their network and
// their published ports. Run must have returned.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	for _, ns := range n.warm {
		ns.close()
	}
	n.warm = nil
	for _, h := range n.attached {
		h.release()
	}
	if n.nat != nil {
		n.nat.close()
	}
	if n.groups.kernel != nil {
		n.groups.kernel.conn.CloseLasting()
	}
	if n.rtnl != nil {
		n.rtnl.close()
	}
	if n.home >= 0 {
		unix.Close(n.home)
	}
	return nil
}

// release closes what the process holds open for a container.
func (h *holding) release() {
	if h.att != nil && h.att.NetNS != nil {
		h.att.NetNS.Close()
	}
	if h.ns != nil {
		h.ns.close()
	}
	for _, p := range h.ports {
		p.close()
	}
}
