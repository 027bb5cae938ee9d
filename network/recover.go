package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Held is what a container that outlived the daemon has, as Attach gave it.
type Held struct {
	ID      string
	Address netip.Addr
	Ports   []mayfly.Port
	Groups  []string
}

// Recover takes over what surviving containers hold and removes all else that
// an earlier process left on the bridge: cables, neighbour entries, published
// ports. Call it once after Open, before Run and Attach. Published ports of
// survivors work throughout, and so do redirects, which stay until Unredirect;
// they no longer lead to containers that ended.
//
// A survivor's host port that another program took while no daemon held it
// goes on leading to the container; that is logged.
func (n *Network) Recover(ctx context.Context, held []Held) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, h := range held {
		if err := n.adopt(h); err != nil {
			return fmt.Errorf("recover network of %s: %w", h.ID, err)
		}
	}
	return errors.Join(n.recoverPorts(), n.recoverGroups(), n.dropStrangers(), n.removeStrangers())
}

func (n *Network) adopt(h Held) error {
	pubs := make([]*publication, 0, len(h.Ports))
	for _, port := range h.Ports {
		p, err := parsePort(port)
		if err != nil {
			return err
		}
		p.addr = h.Address
		pubs = append(pubs, p)
	}
	if h.Address.IsValid() && !n.subnet.Contains(h.Address) {
		return mayfly.Errorf(mayfly.Conflict, "its address %s is not in the subnet %s", h.Address, n.subnet)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.attached[h.ID]; ok {
		return mayfly.Errorf(mayfly.Conflict, "%s is already attached to the network", h.ID)
	}
	for _, p := range pubs {
		if err := p.bind(); err != nil {
			n.log.Warn("cannot reserve the published port of a running container again", "id", h.ID, "port", p.String(), "err", err)
		}
		n.ports[p.host] = append(n.ports[p.host], claim{h.ID, p.proto, p.on})
	}
	att := &Attachment{ID: h.ID, Address: h.Address, Ports: slices.Clone(h.Ports)}
	if h.Address.IsValid() {
		att.Gateway, att.Bits = n.gateway, n.subnet.Bits()
		n.used[h.Address] = struct{}{}
		if n.next.Less(h.Address) { // those below may have been given out since
			n.next = h.Address
		}
		n.groups.adopt(h.Address, h.Groups)
	}
	n.attached[h.ID] = &holding{att: att, ports: pubs}
	return nil
}

// recoverGroups makes the kernel know the groups of survivors, and only those.
func (n *Network) recoverGroups() error {
	n.mu.Lock()
	var used []netip.Addr
	for a := range n.used {
		used = append(used, a)
	}
	n.mu.Unlock()
	for _, a := range used {
		if err := n.groups.admit(a, n.usedBlock); err != nil {
			return err
		}
	}
	return n.groups.replace()
}

// recoverPorts makes the port maps hold what is attached, and only that.
func (n *Network) recoverPorts() error {
	n.publishing.Lock()
	defer n.publishing.Unlock()
	has, err := n.nat.published()
	if err != nil {
		return err
	}
	var want []nftables.SetElement
	n.mu.Lock()
	for _, h := range n.attached {
		want = append(want, elements(h.ports)...)
	}
	n.mu.Unlock()
	add, drop := difference(want, has)
	return n.nat.change(add, drop)
}

// removeStrangers deletes the cables and neighbour entries of addresses that
// nobody here holds.
func (n *Network) removeStrangers() error {
	strangers, err := n.strangers()
	if err != nil {
		return err
	}
	err = n.deleteCables(strangers)
	neighbours, e := complete(func() ([]netlink.Neigh, error) {
		return netlink.NeighList(int(n.index), netlink.FAMILY_V4)
	})
	if e != nil {
		return errors.Join(err, fmt.Errorf("list neighbours of %s: %w", n.bridge, e))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var drop []step
	for _, nb := range neighbours {
		addr, _ := netip.AddrFromSlice(nb.IP)
		if _, ours := n.used[addr.Unmap()]; !ours && nb.State == netlink.NUD_PERMANENT {
			drop = append(drop, dropNeighbour(n.index, addr.Unmap()))
		}
	}
	return errors.Join(err, n.rtnl.run(drop...))
}

// strangers lists the links on the bridge that belong to no used address.
func (n *Network) strangers() ([]int32, error) {
	links, err := complete(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ours := make(map[string]struct{}, len(n.used))
	for addr := range n.used {
		ours[vethOf(addr)] = struct{}{}
	}
	var list []int32
	for _, l := range links {
		if _, known := ours[l.Attrs().Name]; !known && l.Attrs().MasterIndex == int(n.index) {
			list = append(list, int32(l.Attrs().Index))
		}
	}
	return list, nil
}

// deleteCables deletes links all at once: the kernel stops its networking for
// some 20 ms for each deletion, however many links it is of. For that they
// are first put into a group of their own. Links of dying namespaces may
// vanish meanwhile.
func (n *Network) deleteCables(links []int32) error {
	if len(links) == 0 {
		return nil
	}
	group := 0x6d660000 | uint32(n.index)&0xffff
	var steps []step
	for _, l := range links {
		steps = append(steps, newStep("mark stale veth", unix.RTM_SETLINK, 0,
			linkMsg(unix.AF_UNSPEC, l, false), attrUint32(unix.IFLA_GROUP, group)).unless(unix.ENODEV))
	}
	return n.rtnl.run(append(steps, newStep("delete stale veths", unix.RTM_DELLINK, 0,
		linkMsg(unix.AF_UNSPEC, 0, false), attrUint32(unix.IFLA_GROUP, group)).unless(unix.ENODEV))...)
}

// Destroy removes the bridge, with all cables on it, and the nftables table of
// a name. It succeeds when they are not there. Containers should have ended;
// those that have not lose their network.
func Destroy(name string) error {
	if !namePattern.MatchString(name) {
		return mayfly.Errorf(mayfly.Invalid, "network name %q is not 1 to 12 of a-z and 0-9", name)
	}
	// The bridge goes last: while it is there, nobody else gets its subnet, for
	// which the tables are.
	err := errors.Join(destroyTables(tableOf(name)), dismiss(bridgeOf(name)), dismissLegacy(context.Background(), bridgeOf(name)))
	if err == nil {
		err = destroyBridge(bridgeOf(name))
	}
	if err != nil {
		return fmt.Errorf("destroy network %s: %w", name, err)
	}
	return nil
}

// sweepTables removes the tables of networks that have no bridge any more. They
// would refuse what containers send that have the same subnet now: cables are
// named after addresses, and a kernel may not know the bridge of a packet.
func sweepTables() error {
	var errs []error
	for _, family := range tableFamilies {
		tables, err := listTables(family)
		if err != nil {
			return err
		}
		for _, t := range tables {
			name, ours := strings.CutPrefix(t.Name, tableOf(""))
			if !ours || !namePattern.MatchString(name) {
				continue
			}
			if _, err := netlink.LinkByName(bridgeOf(name)); errors.As(err, &netlink.LinkNotFoundError{}) {
				errs = append(errs, destroyTable(family, t.Name))
			}
		}
	}
	return errors.Join(errs...)
}

func destroyBridge(bridge string) error {
	link, err := netlink.LinkByName(bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", bridge, err)
	}
	r, err := dialRtnl()
	if err != nil {
		return err
	}
	defer r.close()
	n := &Network{bridge: bridge, index: int32(link.Attrs().Index), rtnl: r}
	cables, err := n.strangers()
	if err != nil {
		return err
	}
	if err := n.deleteCables(cables); err != nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete bridge %s: %w", bridge, err)
	}
	return nil
}

// tableFamilies are those in which a network has a table.
var tableFamilies = []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyBridge}

// listTables returns none where the kernel has none of the family.
func listTables(family nftables.TableFamily) ([]*nftables.Table, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	for tries := 1; ; tries++ {
		tables, err := conn.ListTablesOfFamily(family)
		switch {
		case err == nil:
			return tables, nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOENT):
			return nil, nil
		case tries == 10: // before, it was changed while it was read
			return nil, fmt.Errorf("list the tables of nftables: %w", err)
		}
	}
}

func destroyTables(name string) error {
	var errs []error
	for _, family := range tableFamilies {
		tables, err := listTables(family)
		if err == nil && slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }) {
			err = destroyTable(family, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func destroyTable(family nftables.TableFamily, name string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: family, Name: name}
	conn.AddTable(table) // so that deleting it cannot fail for want of it
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}
