package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
)

// Attachment is a container's place on the network.
type Attachment struct {
	ID string

	// NetNS is the namespace to start the container in. The owner may close
	// it when a process is in it, and otherwise Detach does.
	NetNS *os.File

	Address netip.Addr    // invalid without a network
	Gateway netip.Addr    // the node as the container sees it; invalid likewise
	Bits    int           // length of the subnet's prefix
	Ports   []mayfly.Port // as asked for, with each Host filled in
}

// Path leads to the namespace for as long as NetNS is open, for programs that
// want it by name.
func (a *Attachment) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), a.NetNS.Fd())
}

// Attach gives container id a namespace on the bridge and publishes its ports.
// It takes a namespace that waits, or makes one when none does (about 1 ms).
//
// It is in the groups, or in DefaultGroup if there are none, and shares the
// bridge with those that are in one of them.
//
// Errors of kind Conflict name the port that is taken, and by whom, or say
// that id is attached already; Busy means that no address is free.
func (n *Network) Attach(ctx context.Context, id string, ports []mayfly.Port, groups ...string) (*Attachment, error) {
	return n.attach(ctx, id, ports, func() (*namespace, error) { return n.takeForGood(keyOf(groups)) })
}

// AttachSealed is Attach for a container that can pass no open file to another,
// because it shares no directory in which others could make a socket. It must
// not have CAP_NET_ADMIN. When nothing has happened in its namespace until
// Detach, another container gets it. To look at that costs about 0.05 ms, so it
// is for those whose network is likely not to be used.
func (n *Network) AttachSealed(ctx context.Context, id string, groups ...string) (*Attachment, error) {
	return n.attach(ctx, id, nil, func() (*namespace, error) { return n.takeSealed(keyOf(groups)) })
}

// AttachNone gives container id a namespace with nothing but a loopback.
func (n *Network) AttachNone(ctx context.Context, id string) (*Attachment, error) {
	return n.attach(ctx, id, nil, n.loopbackOnly)
}

func (n *Network) attach(ctx context.Context, id string, ports []mayfly.Port, take func() (*namespace, error)) (*Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := n.begin(id); err != nil {
		return nil, err
	}
	pubs, err := n.claimPorts(id, ports)
	if err != nil {
		n.abandon(id, nil, nil)
		return nil, err
	}
	ns, err := take()
	if err != nil {
		n.abandon(id, nil, pubs)
		return nil, err
	}
	file, err := ns.file()
	if err != nil {
		n.abandon(id, ns, pubs)
		return nil, err
	}
	att := &Attachment{ID: id, NetNS: file, Address: ns.addr, Ports: slices.Clone(ports)}
	if ns.addr.IsValid() {
		att.Gateway, att.Bits = n.gateway, n.subnet.Bits()
	}
	for i, p := range pubs {
		p.addr = ns.addr
		att.Ports[i].Host = p.host
	}
	if err := n.publish(&holding{att, ns, pubs}); err != nil {
		file.Close()
		n.abandon(id, ns, pubs)
		return nil, err
	}
	n.forgetFlows(pubs)
	return att, nil
}

// publish records what a container has and leads its ports to it.
func (n *Network) publish(h *holding) error {
	if len(h.ports) > 0 {
		n.publishing.Lock()
		defer n.publishing.Unlock()
		if err := n.nat.change(elements(h.ports), nil); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attached[h.att.ID] = h
	return nil
}

// begin reserves id.
func (n *Network) begin(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return mayfly.Errorf(mayfly.Unavailable, "the network is closed")
	}
	if _, ok := n.attached[id]; ok {
		return mayfly.Errorf(mayfly.Conflict, "%s is already attached to the network", id)
	}
	n.attached[id] = &holding{}
	return nil
}

// abandon undoes an Attach that failed.
func (n *Network) abandon(id string, ns *namespace, pubs []*publication) {
	if ns != nil {
		if err := n.letGo(ns); err != nil {
			n.log.Warn("cannot forget the neighbour of a container that was not attached", "id", id, "err", err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropClaims(id, pubs)
	delete(n.attached, id)
}

func elements(pubs []*publication) []nftables.SetElement {
	var list []nftables.SetElement
	for _, p := range pubs {
		list = append(list, p.element())
	}
	return list
}

// Detach withdraws the ports of containers whose processes have ended, all of
// them, lets their namespaces go and frees their addresses. The kernel takes the
// namespaces down in its own time; those of sealed containers in which nothing
// happened are given out again. An id that is not attached is passed over.
// The work for many ids costs little more than for one.
func (n *Network) Detach(ctx context.Context, ids ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	gone, pubs, err := n.withdraw(ids)
	err = errors.Join(err, n.dropDetached(gone))
	n.forgetFlows(pubs)
	gone = slices.DeleteFunc(gone, n.keep)
	var forget []step
	var addrs []netip.Addr
	for _, h := range gone {
		if h.att.Address.IsValid() {
			addrs = append(addrs, h.att.Address)
			forget = append(forget, dropNeighbour(n.index, h.att.Address))
		}
	}
	err = errors.Join(err, n.rtnl.run(forget...), n.groups.clear(addrs...))
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range gone {
		h.release()
		n.dropClaims(h.att.ID, h.ports)
		delete(n.used, h.att.Address)
	}
	return err
}

// forgetFlows does without where the kernel cannot: flows then end by
// themselves half a minute after their last packet.
func (n *Network) forgetFlows(pubs []*publication) {
	if err := forgetFlows(pubs...); err != nil {
		n.log.Warn("packets of known senders may go on to where a published UDP port led before", "err", err)
	}
}

// withdraw takes the ids that are attached off the list and their ports off
// the port maps.
func (n *Network) withdraw(ids []string) (gone []*holding, pubs []*publication, err error) {
	n.publishing.Lock()
	defer n.publishing.Unlock()
	n.mu.Lock()
	for _, id := range ids {
		if h := n.attached[id]; h != nil && h.att != nil {
			gone = append(gone, h)
			pubs = append(pubs, h.ports...)
			delete(n.attached, id)
		}
	}
	n.mu.Unlock()
	return gone, pubs, n.nat.drop(elements(pubs))
}
