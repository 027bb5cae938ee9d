package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
)

// A redirect is an address that stays while what is behind it changes, for
// programs that read an address once. The kernel alone leads connections from
// it to the targets, so it costs what a published port costs and works while no
// daemon runs. That is also where it is remembered, with its key, between two
// daemons: the set "virtual".
//
// The address is the one that the key's hash says, or the next free one. So it
// is, nearly always, the same even after the machine was started anew.
type redirect struct {
	label   string // of the key
	at      netip.AddrPort
	to      []netip.AddrPort // in the order of the slots
	leaving []netip.AddrPort // connections to these go on
}

// slots is over how many elements several targets of a redirect are spread; so
// many of them are used at most.
const slots = 16

// virtualCandidates are the ranges tried for redirects: first what is set aside
// for benchmarks of networks (RFC 2544), which no machine has routes to.
func virtualCandidates() []netip.Prefix {
	var list []netip.Prefix
	for _, b := range [][2]byte{{198, 18}, {198, 19}, {10, 199}, {10, 198}, {10, 197}, {172, 16}} {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{b[0], b[1]}), virtualBits))
	}
	return list
}

const virtualBits = 16

// openRedirects takes over the redirects that an earlier process left, or
// chooses where their addresses come from.
func (n *Network) openRedirects() error {
	n.redirects, n.targeted = make(map[string]*redirect), make(map[netip.Addr]int)
	n.virtualOf = make(map[netip.Addr]*redirect)
	left, err := redirectsLeft(n.nat)
	if err != nil {
		return err
	}
	for _, r := range left {
		n.virtual = netip.PrefixFrom(r.at.Addr(), virtualBits).Masked()
		n.remember(r)
	}
	if len(left) == 0 {
		if n.virtual, err = n.freeVirtual(); err != nil {
			return err
		}
	}
	n.nat.virtual = n.virtual
	return nil
}

func (n *Network) freeVirtual() (netip.Prefix, error) {
	taken, err := takenPrefixes(0)
	if err != nil {
		return netip.Prefix{}, err
	}
	return firstFree(virtualCandidates(), append(taken, n.subnet))
}

// Virtual is where the addresses of redirects come from.
func (n *Network) Virtual() netip.Prefix { return n.virtual }

// Redirect leads what containers send to an address and port to others, and
// returns the address. It is the same each time for the same key, also for a
// later daemon; the port is the one that is asked for. TCP and UDP are led.
//
// Each new connection goes to one of the targets, which it is by chance. With
// none it is refused at once (senders of datagrams are told once a second). Targets may be containers, the node itself and
// what is elsewhere; they see the node as the sender. Connections to targets
// that are no longer among them are reset, on both ends where they are on the
// bridge, unless the target is among leaving: of a provider that drains. A
// target that is a container's is dropped by Detach, too.
//
// It costs the same however many redirects there are, and nothing when nothing
// changes. Errors of kind Invalid are about the arguments; Busy means that every
// address is taken.
func (n *Network) Redirect(ctx context.Context, key string, port uint16, to []netip.AddrPort, leaving ...netip.AddrPort) (netip.AddrPort, error) {
	if err := ctx.Err(); err != nil {
		return netip.AddrPort{}, err
	}
	if err := n.checkRedirect(key, port, to); err != nil {
		return netip.AddrPort{}, err
	}
	n.redirecting.Lock()
	r := redirect{label: labelOf(key), to: arrange(key, to), leaving: slices.Clone(leaving)}
	old := n.redirects[r.label]
	addr, err := n.virtualFor(r.label, old)
	r.at = netip.AddrPortFrom(addr, port)
	if err == nil {
		err = n.replace(old, &r)
	}
	n.redirecting.Unlock()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("redirect %s: %w", key, err)
	}
	n.sever(cutsBetween(old, &r))
	return r.at, nil
}

func (n *Network) checkRedirect(key string, port uint16, to []netip.AddrPort) error {
	if key == "" || port == 0 {
		return mayfly.Errorf(mayfly.Invalid, "a redirect needs a key and a port, not %q and %d", key, port)
	}
	for _, t := range to {
		if !t.Addr().Is4() || t.Port() == 0 || n.virtual.Contains(t.Addr()) || t.Addr().IsUnspecified() {
			return mayfly.Errorf(mayfly.Invalid, "%s cannot lead to %s", key, t).
				WithHint("it must be an IPv4 address outside %s, and a port", n.virtual)
		}
	}
	return nil
}

// Unredirect gives the addresses of keys back and resets what is connected
// through them. Keys that are not redirected are passed over.
func (n *Network) Unredirect(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.redirecting.Lock()
	var changes []replacement
	var cuts []cut
	for _, label := range labels(keys) {
		if old := n.redirects[label]; old != nil {
			changes = append(changes, replacement{old, nil})
			cuts = append(cuts, cutsBetween(old, nil)...)
		}
	}
	err := n.replaceAll(changes)
	n.redirecting.Unlock()
	if err != nil {
		return fmt.Errorf("remove redirects: %w", err)
	}
	n.sever(cuts)
	return nil
}

// Redirects lists the keys that are redirected, sorted: after Open, those that
// an earlier daemon left. Long keys are hashed; Unredirect takes them as they
// are listed.
func (n *Network) Redirects() []string {
	n.redirecting.Lock()
	defer n.redirecting.Unlock()
	keys := make([]string, 0, len(n.redirects))
	for label := range n.redirects {
		keys = append(keys, label)
	}
	slices.Sort(keys)
	return keys
}

// Redirected returns the address of a key and what it leads to, with those that
// are leaving, and false if it is not redirected.
func (n *Network) Redirected(key string) (at netip.AddrPort, to []netip.AddrPort, ok bool) {
	n.redirecting.Lock()
	defer n.redirecting.Unlock()
	r := n.redirects[labelOf(key)]
	if r == nil {
		return netip.AddrPort{}, nil, false
	}
	return r.at, slices.Concat(r.to, r.leaving), true
}

// labelOf is what the kernel keeps of a key: it has room for 250 bytes.
func labelOf(key string) string {
	if len(key) <= 200 {
		return key
	}
	return mayfly.IDOf(key)
}

// labels are those of keys, each once.
func labels(keys []string) []string {
	list := make([]string, len(keys))
	for i, key := range keys {
		list[i] = labelOf(key)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// arrange puts targets in the order in which a key uses them: not the same for
// all, so that of very many each is used by someone.
func arrange(key string, to []netip.AddrPort) []netip.AddrPort {
	weight := func(t netip.AddrPort) uint64 {
		h := fnv.New64a()
		fmt.Fprint(h, key, t)
		return h.Sum64()
	}
	to = slices.Clone(to)
	slices.SortFunc(to, netip.AddrPort.Compare)
	to = slices.Compact(to)
	if len(to) > slots {
		slices.SortFunc(to, func(a, b netip.AddrPort) int {
			if weight(a) < weight(b) {
				return -1
			}
			return 1
		})
		to = to[:slots]
	}
	return to
}

// virtualFor returns the address of a label: the one that it has, else the
// first free one from where its hash points. The caller holds n.redirecting.
func (n *Network) virtualFor(label string, old *redirect) (netip.Addr, error) {
	if old != nil {
		return old.at.Addr(), nil
	}
	h := fnv.New64a()
	h.Write([]byte(label))
	base := binary.BigEndian.Uint32(n.virtual.Addr().AsSlice())
	const usable = 1<<(32-virtualBits) - 2 // not the first and the last
	for i := range uint64(usable) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], base+1+uint32((h.Sum64()+i)%usable))
		if addr := netip.AddrFrom4(b); n.virtualOf[addr] == nil {
			return addr, nil
		}
	}
	return netip.Addr{}, mayfly.Errorf(mayfly.Busy, "no address is free in %s", n.virtual)
}

// replacement is a redirect before and after; nil: there is none.
type replacement struct{ old, now *redirect }

func (n *Network) replace(old, now *redirect) error {
	return n.replaceSome([]replacement{{old, now}})
}

// replaceAll changes redirects in the kernel, some at a time, and then here.
// The caller holds n.redirecting.
func (n *Network) replaceAll(list []replacement) error {
	const atOnce = 384 / (2*slots + 2)
	for some := range slices.Chunk(list, atOnce) {
		if err := n.replaceSome(some); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) replaceSome(list []replacement) error {
	var changes [redirectSets]setChange
	for _, c := range list {
		has, want := c.old.elements(), c.now.elements()
		for i := range changes {
			add, drop := difference(want[i], has[i])
			changes[i].add = append(changes[i].add, add...)
			changes[i].drop = append(changes[i].drop, drop...)
		}
	}
	if err := n.nat.changeRedirects(changes); err != nil {
		return err
	}
	for _, c := range list {
		if c.old != nil {
			n.forgetRedirect(c.old)
		}
		if c.now != nil {
			n.remember(c.now)
		}
	}
	return nil
}

func (n *Network) remember(r *redirect) {
	n.redirects[r.label], n.virtualOf[r.at.Addr()] = r, r
	for _, t := range slices.Concat(r.to, r.leaving) {
		n.targeted[t.Addr()]++
	}
}

func (n *Network) forgetRedirect(r *redirect) {
	delete(n.redirects, r.label)
	delete(n.virtualOf, r.at.Addr())
	for _, t := range slices.Concat(r.to, r.leaving) {
		if n.targeted[t.Addr()]--; n.targeted[t.Addr()] == 0 {
			delete(n.targeted, t.Addr())
		}
	}
}

// dropTargets makes no redirect lead to addresses that nobody has any more:
// somebody else will have them.
func (n *Network) dropTargets(gone func(netip.Addr) bool) error {
	n.redirecting.Lock()
	var changes []replacement
	var cuts []cut
	for _, old := range n.redirects {
		stays := func(all []netip.AddrPort) []netip.AddrPort {
			return slices.DeleteFunc(slices.Clone(all), func(t netip.AddrPort) bool { return gone(t.Addr()) })
		}
		now := &redirect{old.label, old.at, stays(old.to), stays(old.leaving)}
		if len(now.to)+len(now.leaving) < len(old.to)+len(old.leaving) {
			changes = append(changes, replacement{old, now})
			cuts = append(cuts, cutsBetween(old, now)...)
		}
	}
	err := n.replaceAll(changes)
	n.redirecting.Unlock()
	if err != nil {
		return fmt.Errorf("drop targets of redirects: %w", err)
	}
	n.sever(cuts)
	return nil
}

// dropDetached is dropTargets for containers that ended. Most were no target.
func (n *Network) dropDetached(gone []*holding) error {
	addrs := make(map[netip.Addr]struct{})
	n.redirecting.Lock()
	for _, h := range gone {
		if n.targeted[h.att.Address] > 0 {
			addrs[h.att.Address] = struct{}{}
		}
	}
	n.redirecting.Unlock()
	if len(addrs) == 0 {
		return nil
	}
	return n.dropTargets(func(a netip.Addr) bool {
		_, ok := addrs[a]
		return ok
	})
}

// dropStrangers is dropTargets for the containers that ended while no daemon
// ran.
func (n *Network) dropStrangers() error {
	return n.dropTargets(func(a netip.Addr) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		_, used := n.used[a]
		return n.subnet.Contains(a) && a != n.gateway && !used
	})
}

// restoreRedirects puts back what someone took away with the table.
func (n *Network) restoreRedirects() error {
	n.redirecting.Lock()
	defer n.redirecting.Unlock()
	has, err := n.nat.redirectElements()
	if err != nil {
		return err
	}
	var want [redirectSets][]nftables.SetElement
	for _, r := range n.redirects {
		for i, elements := range r.elements() {
			want[i] = append(want[i], elements...)
		}
	}
	var changes [redirectSets]setChange
	for i := range changes {
		changes[i].add, changes[i].drop = difference(want[i], has[i])
	}
	return n.nat.changeRedirects(changes)
}
