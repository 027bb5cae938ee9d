package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
)

// DefaultGroup is the group of containers that are put in none.
const DefaultGroup = mayfly.DefaultSpace

// groups is who may talk to whom on the bridge: containers that share a group,
// and nobody else. Published ports, redirects and the node are open to all, as
// they are no container's address. groupsmap.go has the rules.
//
// Containers of the default group alone are on no list and cost nothing. For
// each of the others there are a few elements, and one for each combination of
// groups that it meets.
//
// A container of another group neither sends nor gets multicast and broadcast.
type groups struct {
	log    *slog.Logger
	kernel *groupTable // nil: the kernel cannot do it

	mu          sync.Mutex
	memberships map[string]*membership // by key
	of          map[netip.Addr]*membership
	lastID      uint32
	admitted    []uint32 // blocks of addresses that may be sent from, the oldest first
}

// membership is a combination of groups that some containers are in.
type membership struct {
	id      uint32
	key     string
	groups  []string
	members map[netip.Addr]struct{}
}

func newGroups(log *slog.Logger) *groups {
	return &groups{log: log, memberships: make(map[string]*membership), of: make(map[netip.Addr]*membership)}
}

// keyOf is a combination of groups as a text, whatever their order: empty for
// the default group alone.
func keyOf(list []string) string {
	list = slices.Clone(list)
	slices.Sort(list)
	list = slices.DeleteFunc(slices.Compact(list), func(g string) bool { return g == "" })
	if len(list) == 1 && list[0] == DefaultGroup {
		return ""
	}
	return strings.Join(list, "\n")
}

func newMembership(id uint32, key string) *membership {
	return &membership{id: id, key: key, groups: strings.Split(key, "\n"), members: make(map[netip.Addr]struct{})}
}

// open is for whoever is in the default group, too.
func (m *membership) open() bool { return slices.Contains(m.groups, DefaultGroup) }

func (m *membership) meets(o *membership) bool {
	return slices.ContainsFunc(m.groups, func(g string) bool { return slices.Contains(o.groups, g) })
}

// SetGroups puts container id in groups, the default one if there are none, and
// out of all others. What is connected to containers that it shares no group
// with any more hangs.
func (n *Network) SetGroups(ctx context.Context, id string, list ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.attached[id]
	if h == nil || h.att == nil {
		return mayfly.Errorf(mayfly.NotFound, "%s is not attached to the network", id)
	}
	if !h.att.Address.IsValid() {
		return nil
	}
	if err := n.groups.assign(keyOf(list), h.att.Address); err != nil {
		return fmt.Errorf("set groups of %s: %w", id, err)
	}
	if h.ns != nil {
		h.ns.member = keyOf(list)
	}
	return nil
}

// assign puts addresses in the groups of a key.
func (g *groups) assign(key string, addrs ...netip.Addr) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var c groupChange
	for _, a := range addrs {
		g.move(&c, a, key)
	}
	if c.empty() || g.kernel == nil {
		return nil
	}
	if err := g.kernel.change(&c); err != nil {
		g.log.Warn("restoring the groups of containers", "err", err) // someone changed them
		return g.restore()
	}
	return nil
}

// clear puts addresses that nobody has any more off the list.
func (g *groups) clear(addrs ...netip.Addr) error { return g.assign("", addrs...) }

// move does for one address what assign does, and notes what the kernel must
// be told. The caller holds g.mu.
func (g *groups) move(c *groupChange, a netip.Addr, key string) {
	old := g.of[a]
	if old == nil && key == "" || old != nil && old.key == key {
		return
	}
	if old != nil {
		delete(g.of, a)
		delete(old.members, a)
		c.drop(g.elements(a, old))
		if len(old.members) == 0 {
			delete(g.memberships, old.key)
			c.reach.drop = append(c.reach.drop, g.reaches(old)...)
		}
	}
	if key == "" {
		return
	}
	m := g.memberships[key]
	if m == nil {
		g.lastID++
		m = newMembership(g.lastID, key)
		c.reach.add = append(c.reach.add, g.reaches(m)...)
		g.memberships[key] = m
	}
	c.add(g.elements(a, m))
	m.members[a] = struct{}{}
	g.of[a] = m
}

// elements is what the kernel's lists have of an address for its being in m.
func (g *groups) elements(a netip.Addr, m *membership) groupElements {
	e := groupElements{
		member: []nftables.SetElement{memberElement(a, m)},
		listed: []nftables.SetElement{{Key: a.AsSlice()}},
		port:   []nftables.SetElement{portElement(a)},
	}
	if m.open() {
		e.open = []nftables.SetElement{{Key: a.AsSlice()}}
	}
	for _, o := range g.memberships {
		if m.meets(o) {
			e.reach = append(e.reach, reachElement(o, a))
		}
	}
	return e
}

// reaches is whom m reaches among all others.
func (g *groups) reaches(m *membership) (list []nftables.SetElement) {
	for _, o := range g.memberships {
		if o == m || !m.meets(o) {
			continue
		}
		for a := range o.members {
			list = append(list, reachElement(m, a))
		}
	}
	return list
}

// adopt notes the groups of a container that outlived the daemon. restore tells
// the kernel.
func (g *groups) adopt(a netip.Addr, list []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var c groupChange
	g.move(&c, a, keyOf(list))
}

// restore makes the kernel's lists what they should be, in one transaction. The
// caller holds g.mu.
func (g *groups) restore() error {
	if g.kernel == nil {
		return nil
	}
	var c groupChange
	for a, m := range g.of {
		c.add(g.elements(a, m))
	}
	if err := g.kernel.install(&c); err != nil {
		return err
	}
	for _, b := range g.admitted {
		if err := g.kernel.admit(b, true); err != nil {
			return err
		}
	}
	return nil
}

// replace is restore for those who do not hold g.mu.
func (g *groups) replace() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.restore()
}

// blocksKept is how many blocks of 256 addresses may be sent from at once.
const blocksKept = 256

// admit lets packets from addr come in by the cable of addr, and by no other.
// The cables' names derive from the addresses, so that this is said once for
// 256 of them and stays true when others have them.
func (g *groups) admit(addr netip.Addr, used func(block uint32) bool) error {
	if g.kernel == nil {
		return nil
	}
	block := blockOf(addr)
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Contains(g.admitted, block) {
		return nil
	}
	if err := g.kernel.admit(block, true); err != nil {
		return err
	}
	g.admitted = append(g.admitted, block)
	if oldest := g.admitted[0]; len(g.admitted) > blocksKept && !used(oldest) {
		g.admitted = g.admitted[1:]
		return g.kernel.admit(oldest, false)
	}
	return nil
}

// usedBlock reports whether an address of a block is in use.
func (n *Network) usedBlock(block uint32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for a := range n.used {
		if blockOf(a) == block {
			return true
		}
	}
	return false
}
