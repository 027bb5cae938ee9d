package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// Attachment is a container's place on the network.
type Attachment struct {
	ID string

	// NetNS is the namespace to start the container in. Nothing else holds
	// it until a process is in it; from then on the owner may close it, and
	// otherwise Detach does.
	NetNS *os.File

	Address netip.Addr    // invalid without a network
	Gateway netip.Addr    // the node as the container sees it; invalid likewise
	Bits    int           // length of the subnet's prefix
	Ports   []mayfly.Port // as asked for, with each Host filled in
}

// Attach gives container id a namespace on the bridge and publishes its ports.
// It takes a namespace that waits, or makes one when none does (about 1 ms).
//
// Errors of kind Conflict name the port that is taken, and by whom, or say
// that id is attached already; Busy means that no address is free.
func (n *Network) Attach(ctx context.Context, id string, ports []mayfly.Port) (*Attachment, error) {
	return n.attach(ctx, id, ports, n.takeNamespace)
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
	att := &Attachment{ID: id, NetNS: ns.file, Address: ns.addr, Ports: slices.Clone(ports)}
	if ns.addr.IsValid() {
		att.Gateway, att.Bits = n.gateway, n.subnet.Bits()
	}
	for i, p := range pubs {
		p.addr = ns.addr
		att.Ports[i].Host = p.host
	}
	if err := n.nat.change(elements(pubs), nil); err != nil {
		n.abandon(id, ns, pubs)
		return nil, err
	}
	n.forgetFlows(pubs)
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.attached[id]
	h.att, h.ports = att, pubs
	return att, nil
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
		ns.file.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropClaims(id, pubs)
	delete(n.attached, id)
	if ns != nil {
		delete(n.used, ns.addr)
	}
}

func elements(pubs []*publication) []nftables.SetElement {
	var list []nftables.SetElement
	for _, p := range pubs {
		list = append(list, p.element())
	}
	return list
}

// Detach withdraws the ports of containers whose processes have ended, lets
// their namespaces go and frees their addresses. The kernel takes the
// namespaces down in its own time. An id that is not attached is passed over.
// The work for many ids costs little more than for one.
func (n *Network) Detach(ctx context.Context, ids ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	gone := n.end(ids)
	var pubs []*publication
	var forget []step
	for _, h := range gone {
		pubs = append(pubs, h.ports...)
		if h.att.Address.IsValid() {
			forget = append(forget, dropNeighbour(n.index, h.att.Address))
		}
	}
	err := n.withdraw(elements(pubs))
	n.forgetFlows(pubs)
	if e := n.rtnl.run(forget...); e != nil && !errors.Is(e, unix.ENOENT) {
		err = errors.Join(err, e)
	}
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

// end takes the ids that are attached off the list.
func (n *Network) end(ids []string) []*holding {
	n.mu.Lock()
	defer n.mu.Unlock()
	var gone []*holding
	for _, id := range ids {
		if h := n.attached[id]; h != nil && h.att != nil {
			gone = append(gone, h)
			delete(n.attached, id)
		}
	}
	return gone
}

// withdraw removes port map elements. Should someone else have removed one,
// the kernel refuses the whole batch, and the rest goes one by one.
func (n *Network) withdraw(drop []nftables.SetElement) error {
	err := n.nat.change(nil, drop)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	err = nil
	for _, e := range drop {
		if e := n.nat.change(nil, []nftables.SetElement{e}); e != nil && !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, e)
		}
	}
	return err
}
