package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// groupTable is the node's nftables table for the bridge. As nft prints it:
//
//	table bridge mayfly-x {
//	  set listed { type ipv4_addr }             # whoever is not only in the default group
//	  map member { type ipv4_addr : mark }      # in which combination of groups
//	  set reach  { type mark . ipv4_addr }      # to whom those of a combination may send
//	  set open   { type ipv4_addr }             # the listed that are in the default group, too
//	  set port   { type ifname }                # cables of the listed
//	  set own    { type ifname . ipv4_addr }    # which address is on which cable
//	  chain prerouting { type filter hook prerouting priority -310
//	    iifname "mf0ac8*" goto sent             # our cables, by the subnet in their names
//	  }
//	  chain sent {
//	    ether type arp iifname . arp saddr ip @own accept
//	    ether type != ip drop
//	    iifname . ip saddr != @own drop         # nobody sends as another
//	    ip daddr GATEWAY accept
//	    ip saddr @listed goto from-listed
//	    ip daddr @listed goto to-listed
//	  }
//	  chain from-listed {
//	    ether daddr & 1 == 1 drop
//	    ip daddr != SUBNET accept
//	    meta mark set ip saddr map @member      # no packet has one yet
//	    meta mark . ip daddr @reach meta mark set 0 accept
//	    ip daddr @listed drop
//	    ip saddr @open meta mark set 0 accept
//	    drop
//	  }
//	  chain to-listed {
//	    ip daddr @open accept
//	    drop
//	  }
//	  chain forward { type filter hook forward priority -310
//	    ether daddr & 1 == 1 ether type ip oifname @port drop
//	  }
//	}
//
// It looks at what containers send before any address in it is translated: what
// goes to a published port or a redirect is addressed to the node or to nobody.
type groupTable struct {
	subnet  netip.Prefix
	gateway netip.Addr

	conn  *nftables.Conn
	table *nftables.Table

	listed, member, reach, open, port *nftables.Set // of groups
	own                               *nftables.Set
}

// openGroupTable fails where the kernel has no rules for bridges.
func openGroupTable(name string, subnet netip.Prefix, gateway netip.Addr) (*groupTable, error) {
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableOf(name)}
	t := &groupTable{
		subnet: subnet, gateway: gateway, table: table,
		listed: &nftables.Set{Table: table, Name: "listed", KeyType: nftables.TypeIPAddr},
		member: &nftables.Set{Table: table, Name: "member", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeMark},
		reach: &nftables.Set{Table: table, Name: "reach", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeIPAddr)},
		open: &nftables.Set{Table: table, Name: "open", KeyType: nftables.TypeIPAddr},
		port: &nftables.Set{Table: table, Name: "port", KeyType: nftables.TypeIFName},
		own: &nftables.Set{Table: table, Name: "own", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr)},
	}
	var err error
	if t.conn, err = nftables.New(nftables.AsLasting()); err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	if err := t.install(nil); err != nil {
		t.conn.CloseLasting()
		return nil, err
	}
	return t, nil
}

// groupElements is elements of each set.
type groupElements struct{ listed, member, reach, open, port []nftables.SetElement }

// groupChange is what shall be in the sets, and what no longer.
type groupChange struct{ listed, member, reach, open, port setChange }

func (c *groupChange) add(e groupElements) {
	c.listed.add = append(c.listed.add, e.listed...)
	c.member.add = append(c.member.add, e.member...)
	c.reach.add = append(c.reach.add, e.reach...)
	c.open.add = append(c.open.add, e.open...)
	c.port.add = append(c.port.add, e.port...)
}

func (c *groupChange) drop(e groupElements) {
	c.listed.drop = append(c.listed.drop, e.listed...)
	c.member.drop = append(c.member.drop, e.member...)
	c.reach.drop = append(c.reach.drop, e.reach...)
	c.open.drop = append(c.open.drop, e.open...)
	c.port.drop = append(c.port.drop, e.port...)
}

// empty is for changes that begin and end with an address.
func (c *groupChange) empty() bool { return len(c.listed.add)+len(c.listed.drop) == 0 }

func (t *groupTable) sets() []*nftables.Set {
	return []*nftables.Set{t.listed, t.member, t.reach, t.open, t.port}
}

// install makes the table, or gives an existing one today's rules, and the sets
// what is to be added, and only that, in one transaction. Nil leaves the sets as
// they are.
func (t *groupTable) install(only *groupChange) error {
	t.conn.AddTable(t.table)
	t.conn.FlushTable(t.table) // rules only, not the sets
	for _, s := range append(t.sets(), t.own) {
		if err := t.conn.AddSet(s, nil); err != nil {
			return fmt.Errorf("make set %s: %w", s.Name, err)
		}
	}
	if only != nil {
		for _, s := range t.sets() {
			t.conn.FlushSet(s)
		}
	}
	t.chains()
	if only != nil {
		if err := t.queue(only); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		return fmt.Errorf("install nftables table %s for bridges: %w", t.table.Name, err)
	}
	return nil
}

// change makes all changes or none.
func (t *groupTable) change(c *groupChange) error {
	if err := t.queue(c); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return fmt.Errorf("change groups: %w", err)
	}
	return nil
}

func (t *groupTable) queue(c *groupChange) error {
	for i, s := range []setChange{c.listed, c.member, c.reach, c.open, c.port} {
		set := t.sets()[i]
		if err := eachChunk(set, s.drop, t.conn.SetDeleteElements); err != nil {
			return err
		}
		if err := eachChunk(set, s.add, t.conn.SetAddElements); err != nil {
			return err
		}
	}
	return nil
}

// admit says which cable each address of a block is on, or takes that back.
func (t *groupTable) admit(block uint32, add bool) error {
	change := t.conn.SetAddElements
	if !add {
		change = t.conn.SetDeleteElements
	}
	var list []nftables.SetElement
	for i := range uint32(256) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], block<<8|i)
		addr := netip.AddrFrom4(b)
		if t.subnet.Contains(addr) {
			list = append(list, nftables.SetElement{Key: append(portElement(addr).Key, b[:]...)})
		}
	}
	if err := eachChunk(t.own, list, change); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return fmt.Errorf("bind addresses to cables: %w", err)
	}
	return nil
}

// flush is nat.flush for this table.
func (t *groupTable) flush() error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	t.conn.CloseLasting()
	if conn, again := nftables.New(nftables.AsLasting()); again == nil {
		t.conn = conn
	}
	return err
}

func (t *groupTable) chains() {
	priority := nftables.ChainPriorityRef(-310) // before addresses are translated
	base := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority})
	}
	from := t.conn.AddChain(&nftables.Chain{Table: t.table, Name: "from-listed"})
	to := t.conn.AddChain(&nftables.Chain{Table: t.table, Name: "to-listed"})
	sent := t.conn.AddChain(&nftables.Chain{Table: t.table, Name: "sent"})
	prerouting := base("prerouting", nftables.ChainHookPrerouting)
	for _, prefix := range cablePrefixes(t.subnet) {
		t.rule(prerouting, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(prefix)},
			&expr.Verdict{Kind: expr.VerdictGoto, Chain: sent.Name})
	}
	t.sentRules(sent, from, to)
	t.listedRules(from, to)
	forward := base("forward", nftables.ChainHookForward)
	t.rule(forward, cat(toMany(), etherType(expr.CmpOpEq, unix.ETH_P_IP),
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG32_00},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.port.Name, SetID: t.port.ID},
		}, verdict(expr.VerdictDrop))...)
}

// cablePrefixes is what the names of cables of a subnet begin with, and no
// others. (Which bridge a frame is on cannot be asked of every kernel.)
func cablePrefixes(subnet netip.Prefix) []string {
	const digit = 4 // bits
	whole := subnet.Bits() / digit
	first := vethOf(subnet.Masked().Addr())[len("mf"):]
	if subnet.Bits()%digit == 0 {
		return []string{"mf" + first[:whole]}
	}
	var list []string
	value := binary.BigEndian.Uint32(subnet.Masked().Addr().AsSlice())
	for range 1 << (digit - subnet.Bits()%digit) {
		list = append(list, "mf"+fmt.Sprintf("%08x", value)[:whole+1])
		value += 1 << (32 - digit*(whole+1))
	}
	return list
}

func (t *groupTable) sentRules(c, from, to *nftables.Chain) {
	sender := func(offset uint32, invert bool) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG32_00},
			&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4, DestRegister: unix.NFT_REG32_04},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.own.Name, SetID: t.own.ID, Invert: invert},
		}
	}
	const offsetARPSender = 14
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	t.rule(c, cat(etherType(expr.CmpOpEq, unix.ETH_P_ARP), sender(offsetARPSender, false), accept)...)
	t.rule(c, cat(etherType(expr.CmpOpNeq, unix.ETH_P_IP), drop)...)
	t.rule(c, cat(sender(offsetSaddr, true), drop)...)
	t.rule(c, cat(daddr(unix.NFT_REG32_00), []expr.Any{
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG32_00, Data: t.gateway.AsSlice()},
	}, accept)...)
	t.rule(c, cat(among(offsetSaddr, t.listed), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: from.Name}})...)
	t.rule(c, cat(among(offsetDaddr, t.listed), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: to.Name}})...)
}

func (t *groupTable) listedRules(from, to *nftables.Chain) {
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	setMark := &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: unix.NFT_REG32_00}
	unmark := []expr.Any{&expr.Immediate{Register: unix.NFT_REG32_00, Data: make([]byte, 4)}, setMark}

	t.rule(from, cat(toMany(), drop)...)
	outside := within(offsetDaddr, t.subnet)
	outside[len(outside)-1].(*expr.Cmp).Op = expr.CmpOpNeq
	t.rule(from, cat(outside, accept)...)
	t.rule(from, address(offsetSaddr, unix.NFT_REG32_00), &expr.Lookup{SourceRegister: unix.NFT_REG32_00,
		DestRegister: unix.NFT_REG32_00, IsDestRegSet: true, SetName: t.member.Name, SetID: t.member.ID}, setMark)
	t.rule(from, cat([]expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: unix.NFT_REG32_00},
		address(offsetDaddr, unix.NFT_REG32_01),
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.reach.Name, SetID: t.reach.ID},
	}, unmark, accept)...)
	t.rule(from, cat(among(offsetDaddr, t.listed), drop)...)
	t.rule(from, cat(among(offsetSaddr, t.open), unmark, accept)...)
	t.rule(from, drop...)
	t.rule(to, cat(among(offsetDaddr, t.open), accept)...)
	t.rule(to, drop...)
}

func (t *groupTable) rule(c *nftables.Chain, exprs ...expr.Any) {
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: exprs})
}

// address loads an address of a packet.
func address(offset, reg uint32) expr.Any {
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4, DestRegister: reg}
}

// among matches packets with an address in a set.
func among(offset uint32, set *nftables.Set) []expr.Any {
	return []expr.Any{
		address(offset, unix.NFT_REG32_00),
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// etherType compares what is in a frame.
func etherType(op expr.CmpOp, kind uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2, DestRegister: 1},
		&expr.Cmp{Op: op, Register: 1, Data: binary.BigEndian.AppendUint16(nil, kind)},
	}
}

// toMany matches frames to several: multicast and broadcast.
func toMany() []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 1, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}},
	}
}

func memberElement(a netip.Addr, m *membership) nftables.SetElement {
	return nftables.SetElement{Key: a.AsSlice(), Val: binary.NativeEndian.AppendUint32(nil, m.id)}
}

func reachElement(m *membership, a netip.Addr) nftables.SetElement {
	return nftables.SetElement{Key: append(binary.NativeEndian.AppendUint32(nil, m.id), a.AsSlice()...)}
}

// portElement is the name of an address's cable.
func portElement(a netip.Addr) nftables.SetElement {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, vethOf(a))
	return nftables.SetElement{Key: slices.Clip(name)}
}

func blockOf(a netip.Addr) uint32 { return binary.BigEndian.Uint32(a.AsSlice()) >> 8 }
