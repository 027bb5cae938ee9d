package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nat is the node's nftables table. As nft prints it, for bridge mf-x:
//
//	table ip mayfly-x {
//	  map ports   { type inet_proto . inet_service : ipv4_addr . inet_service }
//	  map ports-on { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//	  chain publish {
//	    dnat ip to ip daddr . meta l4proto . th dport map @ports-on
//	    dnat ip to meta l4proto . th dport map @ports
//	  }
//	  chain guard { type filter hook prerouting priority raw
//	    iifname "mf-x" ip daddr 127.0.0.0/8 drop             # route_localnet is for us, not for containers
//	  }
//	  chain prerouting { type nat hook prerouting priority dstnat
//	    iifname "mf-x" ip daddr VIRTUAL jump redirect        # redirectmap.go
//	    ip daddr != 127.0.0.0/8 fib daddr type local jump publish
//	  }
//	  chain output { type nat hook output priority dstnat
//	    fib daddr type local jump publish                    # the machine itself, 127.0.0.1 too
//	  }
//	  chain postrouting { type nat hook postrouting priority srcnat
//	    oifname "mf-x" ip saddr 127.0.0.0/8 masquerade       # so that the answer comes back
//	    oifname "mf-x" ip saddr SUBNET ct status dnat masquerade # likewise between containers
//	    oifname != "mf-x" ip saddr SUBNET masquerade
//	  }
//	  chain forward { type filter hook forward priority filter
//	    iifname "mf-x" oifname "mf-x" accept
//	    oifname "mf-x" ct state established,related accept
//	    oifname "mf-x" ct status dnat accept
//	    oifname "mf-x" drop                                  # ports that are not published
//	  }
//	}
//
// A port is one element of a map, so publishing one costs the same whether ten
// or ten thousand are.
type nat struct {
	bridge  string
	subnet  netip.Prefix
	virtual netip.Prefix // of redirects

	mu        sync.Mutex // one transaction at a time
	conn      *nftables.Conn
	table     *nftables.Table
	ports     *nftables.Set // on every address
	portsOn   *nftables.Set // on one address
	redirects [redirectSets]*nftables.Set
}

func newNAT(conn *nftables.Conn, name, bridge string, subnet netip.Prefix) *nat {
	t := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableOf(name)}
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	portMap := func(name string, key ...nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, IsMap: true, Concatenation: true,
			KeyType: nftables.MustConcatSetType(key...), DataType: target}
	}
	made := &nat{
		bridge: bridge, subnet: subnet, conn: conn, table: t,
		ports:   portMap("ports", nftables.TypeInetProto, nftables.TypeInetService),
		portsOn: portMap("ports-on", nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	made.newRedirectSets()
	return made
}

func (t *nat) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn.CloseLasting()
}

// install makes the table, or gives an existing one today's rules in one
// transaction; published ports stay published throughout.
func (t *nat) install() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn.AddTable(t.table)
	t.conn.FlushTable(t.table) // rules only, not the maps
	for _, m := range append([]*nftables.Set{t.ports, t.portsOn}, t.redirects[:]...) {
		if err := t.conn.AddSet(m, nil); err != nil {
			return fmt.Errorf("make map %s: %w", m.Name, err)
		}
	}
	t.redirectChains()
	publish := t.chain("publish", "", nil, 0)
	t.rule(publish, t.lookup(t.portsOn, daddr(unix.NFT_REG32_00), unix.NFT_REG32_01)...)
	t.rule(publish, t.lookup(t.ports, nil, unix.NFT_REG32_00)...)
	t.natChains()
	t.filterChains()
	if err := t.flush(); err != nil {
		return fmt.Errorf("install nftables table %s: %w", t.table.Name, err)
	}
	return nil
}

// flush sends the transaction. After a failure there may be answers left in
// the socket that belong to nothing, so the next one gets a new socket. The
// caller holds t.mu.
func (t *nat) flush() error {
	err := t.conn.Flush()
	if err == nil {
		return nil
	}
	t.conn.CloseLasting() // which leaves a socket for each transaction
	if conn, again := nftables.New(nftables.AsLasting()); again == nil {
		t.conn = conn
	}
	return err
}

func (t *nat) natChains() {
	toPublish := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "publish"}}
	pre := t.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	t.rule(pre, cat(t.toVirtual(), []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "redirect"}})...)
	t.rule(pre, cat(loopback(offsetDaddr, expr.CmpOpNeq), toLocal(), toPublish)...)
	out := t.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	t.rule(out, cat(toLocal(), toPublish)...)

	masquerade := []expr.Any{&expr.Masq{}}
	post := t.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	onto := link(expr.MetaKeyOIFNAME, expr.CmpOpEq, t.bridge)
	t.rule(post, cat(onto, loopback(offsetSaddr, expr.CmpOpEq), masquerade)...)
	t.rule(post, cat(onto, within(offsetSaddr, t.subnet), translated(), masquerade)...)
	t.rule(post, cat(link(expr.MetaKeyOIFNAME, expr.CmpOpNeq, t.bridge), within(offsetSaddr, t.subnet), masquerade)...)
}

func (t *nat) filterChains() {
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	off := link(expr.MetaKeyIIFNAME, expr.CmpOpEq, t.bridge)
	onto := link(expr.MetaKeyOIFNAME, expr.CmpOpEq, t.bridge)

	guard := t.chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	t.rule(guard, cat(off, loopback(offsetDaddr, expr.CmpOpEq), drop)...)

	forward := t.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	t.rule(forward, cat(off, onto, accept)...)
	t.rule(forward, cat(onto, bits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)...)
	t.rule(forward, cat(onto, translated(), accept)...)
	t.rule(forward, cat(onto, drop)...)
}

func (t *nat) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	c := &nftables.Chain{Table: t.table, Name: name, Type: kind}
	if hook != nil {
		c.Hooknum, c.Priority = hook, &priority
	}
	return t.conn.AddChain(c)
}

func (t *nat) rule(c *nftables.Chain, exprs ...expr.Any) {
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: c, Exprs: exprs})
}

// lookup sends a packet to what m says about key, protocol and port. Protocol
// and port go to registers reg and reg+1, behind the key.
func (t *nat) lookup(m *nftables.Set, key []expr.Any, reg uint32) []expr.Any {
	return cat(key, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: reg + 1},
	}, translate(m))
}

// translate sends a packet to what m says about the key in the first registers.
func translate(m *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG32_00, IsDestRegSet: true,
			SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4,
			RegAddrMin: unix.NFT_REG32_00, RegProtoMin: unix.NFT_REG32_01},
	}
}

// Offsets in an IPv4 header.
const (
	offsetSaddr = 12
	offsetDaddr = 16
)

func cat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func daddr(reg uint32) []expr.Any {
	return []expr.Any{&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offsetDaddr, Len: 4, DestRegister: reg}}
}

// loopback compares an address with 127.0.0.0/8.
func loopback(offset uint32, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1, DestRegister: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte{127}},
	}
}

// within matches packets with an address of p.
func within(offset uint32, p netip.Prefix) []expr.Any {
	mask := make([]byte, 4)
	binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-p.Bits()))
	return []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

// link compares the name of the interface that a packet comes in or leaves by.
func link(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: padded},
	}
}

// toLocal matches packets to an address of this machine.
func toLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
	}
}

// translated matches packets of connections to a published port.
func translated() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT
	return bits(expr.CtKeySTATUS, dnat)
}

func bits(key expr.CtKey, mask uint32) []expr.Any {
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, mask), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}
