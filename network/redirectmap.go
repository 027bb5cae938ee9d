package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What of redirects is in the node's table:
//
//	set virtual           { type ipv4_addr . inet_service }                 # comment: the key
//	map redirects         { type ipv4_addr . inet_service : ipv4_addr . inet_service }
//	map redirects-spread  { type ipv4_addr . inet_service . mark : ipv4_addr . inet_service }
//	chain redirect {                                                        # jumped to from prerouting
//	  meta l4proto icmp return
//	  meta l4proto tcp tcp flags & syn == 0 return                          # of a connection that was cut
//	  dnat ip to ip daddr . th dport . numgen random mod 16 map @redirects-spread
//	  dnat ip to ip daddr . th dport map @redirects
//	}
//	chain refuse { type filter hook prerouting priority filter
//	  iifname "mf-x" ip daddr VIRTUAL meta l4proto tcp reject with tcp reset
//	  iifname "mf-x" ip daddr VIRTUAL reject
//	}
//
// A change costs one element, or one for each slot where there are several
// targets, whether there are ten redirects or ten thousand.
const (
	virtualSet = iota
	redirectMap
	spreadMap
	redirectSets // how many
)

func (t *nat) newRedirectSets() {
	target := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	at := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	inSlot := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeMark)
	t.redirects = [redirectSets]*nftables.Set{
		virtualSet:  {Table: t.table, Name: "virtual", Concatenation: true, KeyType: at},
		redirectMap: {Table: t.table, Name: "redirects", IsMap: true, Concatenation: true, KeyType: at, DataType: target},
		spreadMap:   {Table: t.table, Name: "redirects-spread", IsMap: true, Concatenation: true, KeyType: inSlot, DataType: target},
	}
}

func (t *nat) redirectChains() {
	const syn = 1 << 1
	tcp := l4proto(unix.IPPROTO_TCP)
	leave := []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	c := t.chain("redirect", "", nil, 0)
	t.rule(c, cat(l4proto(unix.IPPROTO_ICMP), leave)...)
	t.rule(c, cat(tcp, []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
	}, leave)...)
	key := cat(daddr(unix.NFT_REG32_00), []expr.Any{
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: unix.NFT_REG32_01},
	})
	slot := []expr.Any{&expr.Numgen{Register: unix.NFT_REG32_02, Modulus: slots, Type: unix.NFT_NG_RANDOM}}
	t.rule(c, cat(key, slot, translate(t.redirects[spreadMap]))...)
	t.rule(c, cat(key, translate(t.redirects[redirectMap]))...)

	refuse := t.chain("refuse", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityFilter)
	t.rule(refuse, cat(t.toVirtual(), tcp, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})...)
	const portUnreachable = 3
	t.rule(refuse, cat(t.toVirtual(), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}})...)
}

// toVirtual matches what containers send to addresses of redirects.
func (t *nat) toVirtual() []expr.Any {
	return cat(link(expr.MetaKeyIIFNAME, expr.CmpOpEq, t.bridge), within(offsetDaddr, t.virtual))
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
	}
}

// elements is a redirect as the sets have it. Nil has none.
func (r *redirect) elements() (all [redirectSets][]nftables.SetElement) {
	if r == nil {
		return all
	}
	at := addrPort(r.at)
	all[virtualSet] = []nftables.SetElement{{Key: at, Comment: r.label}}
	switch len(r.to) {
	case 0:
	case 1:
		all[redirectMap] = []nftables.SetElement{{Key: at, Val: addrPort(r.to[0])}}
	default:
		for i := range slots {
			key := binary.NativeEndian.AppendUint32(slices.Clone(at), uint32(i))
			all[spreadMap] = append(all[spreadMap], nftables.SetElement{Key: key, Val: addrPort(r.to[i%len(r.to)])})
		}
	}
	return all
}

// addrPort is an address and a port in the kernel's form, and toAddrPort the
// way back.
func addrPort(a netip.AddrPort) []byte {
	return append(a.Addr().AsSlice(), byte(a.Port()>>8), byte(a.Port()), 0, 0)
}

func toAddrPort(b []byte) netip.AddrPort {
	if len(b) < 6 {
		return netip.AddrPort{}
	}
	addr, _ := netip.AddrFromSlice(b[:4])
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[4:]))
}

// setChange is what shall be in a set, and what no longer.
type setChange struct{ add, drop []nftables.SetElement }

// difference says what makes has into want.
func difference(want, has []nftables.SetElement) (add, drop []nftables.SetElement) {
	text := func(e nftables.SetElement) string { return string(e.Val) + "\x00" + e.Comment }
	present := make(map[string]string, len(has))
	for _, e := range has {
		present[string(e.Key)] = text(e)
	}
	wanted := make(map[string]string, len(want))
	for _, e := range want {
		wanted[string(e.Key)] = text(e)
		if is, ok := present[string(e.Key)]; !ok || is != text(e) {
			add = append(add, e)
		}
	}
	for _, e := range has {
		if is, ok := wanted[string(e.Key)]; !ok || is != text(e) {
			drop = append(drop, e)
		}
	}
	return add, drop
}

// changeRedirects makes all changes, at once unless there are more than fit a
// message.
func (t *nat) changeRedirects(changes [redirectSets]setChange) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	const each, most = 128, 512 // elements; a key may take 200 bytes
	waiting := 0
	for i, c := range changes {
		send := func(all []nftables.SetElement, change func(*nftables.Set, []nftables.SetElement) error) error {
			for chunk := range slices.Chunk(all, each) {
				if err := change(t.redirects[i], chunk); err != nil {
					return err
				}
				if waiting += len(chunk); waiting > most-each {
					waiting = 0
					if err := t.flush(); err != nil {
						return err
					}
				}
			}
			return nil
		}
		if err := errors.Join(send(c.drop, t.conn.SetDeleteElements), send(c.add, t.conn.SetAddElements)); err != nil {
			return err
		}
	}
	if waiting == 0 {
		return nil
	}
	return t.flush()
}

// redirectElements lists what the sets hold.
func (t *nat) redirectElements() (all [redirectSets][]nftables.SetElement, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, set := range t.redirects {
		if all[i], err = t.conn.GetSetElements(set); err != nil {
			return all, fmt.Errorf("list redirects: %w", err)
		}
	}
	return all, nil
}

// hasRedirects reports whether the table is there, and with sets for redirects.
func (t *nat) hasRedirects() (bool, error) {
	tables, err := t.conn.ListTablesOfFamily(t.table.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(have *nftables.Table) bool { return have.Name == t.table.Name }) {
		return false, nil
	}
	sets, err := t.conn.GetSets(t.table)
	if err != nil {
		return false, fmt.Errorf("list nftables sets: %w", err)
	}
	var names []string
	for _, s := range sets {
		names = append(names, s.Name)
	}
	for _, want := range t.redirects {
		if !slices.Contains(names, want.Name) {
			return false, nil
		}
	}
	return true, nil
}

// redirectsLeft reads the redirects that an earlier process made. It is for
// before the table is installed, which may not be there at all, or without them.
func redirectsLeft(t *nat) ([]*redirect, error) {
	if there, err := t.hasRedirects(); !there || err != nil {
		return nil, err
	}
	all, err := t.redirectElements()
	if err != nil {
		return nil, err
	}
	var list []*redirect
	byAddress := make(map[netip.AddrPort]*redirect)
	for _, e := range all[virtualSet] {
		r := &redirect{label: e.Comment, at: toAddrPort(e.Key)}
		byAddress[r.at] = r
		list = append(list, r)
	}
	for _, e := range slices.Concat(all[redirectMap], all[spreadMap]) {
		if r := byAddress[toAddrPort(e.Key)]; r != nil {
			r.to = append(r.to, toAddrPort(e.Val))
		}
	}
	for _, r := range list {
		r.to = arrange(r.label, r.to)
	}
	return list, nil
}
