package node

import (
	"context"
	"net/netip"
	"sync"

	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/discovery"
)

// askers is who has which address of the bridge: what the DNS server knows its
// clients by.
type askers struct {
	mu   sync.RWMutex
	at   map[netip.Addr]asker
	held map[string]netip.Addr // by container
}

type asker struct {
	container string
	consumer  discovery.Consumer
}

func newAskers() *askers {
	return &askers{at: map[netip.Addr]asker{}, held: map[string]netip.Addr{}}
}

// add notes whose an address is. A sidecar has that of what it is beside.
func (a *askers) add(address string, me *self) {
	addr, err := netip.ParseAddr(address)
	if err != nil || me.Sidecar != "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[addr] = asker{me.ID, discovery.Consumer{Space: me.Space, App: me.App, Workload: me.Workload, Instance: me.ID}}
	a.held[me.ID] = addr
}

// adopt notes the address of a sandbox that an earlier daemon left.
func (a *askers) adopt(s *container.Sandbox) error {
	me, err := readSelf(s)
	if err != nil {
		return err
	}
	a.add(s.Address, me)
	return nil
}

func (a *askers) drop(containers ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range containers {
		if addr, ok := a.held[id]; ok && a.at[addr].container == id { // else it has another's already
			delete(a.at, addr)
		}
		delete(a.held, id)
	}
}

// Asker says whose container has an address of the bridge.
func (n *Node) Asker(addr netip.Addr) (discovery.Consumer, bool) {
	n.askers.mu.RLock()
	defer n.askers.mu.RUnlock()
	a, ok := n.askers.at[addr]
	return a.consumer, ok
}

// OpenDNS opens the server that containers of the bridge ask first for names.
// Where that is not possible, they ask the machine's own, and find no services by
// name: the result is nil.
func (n *Node) OpenDNS(ctx context.Context) *discovery.DNS {
	s, err := n.replicas.dir.OpenDNS(ctx, discovery.DNSOptions{
		Address: netip.AddrPortFrom(n.net.Gateway(), 53), Subnet: n.net.Subnet(), Askers: n.Asker, Log: n.opts.Log,
	})
	if err != nil {
		n.opts.Log.Warn("services have no names in DNS", "err", err)
		return nil
	}
	return s
}
