package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// SetWarm changes how many wired namespaces Run keeps waiting: DefaultWarm if
// zero, none if negative.
func (n *Network) SetWarm(count int) {
	if count == 0 {
		count = DefaultWarm
	}
	n.mu.Lock()
	n.wantWarm = max(count, 0)
	n.room = n.wantWarm
	n.mu.Unlock()
	n.wake()
}

// Run keeps namespaces waiting for Attach and the firewall open for containers,
// whatever Docker or an administrator does to it, until ctx ends; it then
// returns nil. When a namespace cannot be made, it says so in the log and tries
// again after the next Attach.
func (n *Network) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.watchFirewall(ctx) })
	group.Go(func() error { return n.keepWarm(ctx) })
	return group.Wait()
}

func (n *Network) keepWarm(ctx context.Context) error {
	const calm = 5 * time.Second
	tick := time.NewTicker(calm)
	defer tick.Stop()
	for {
		if err := n.fill(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("cannot make a network namespace ahead of need", "bridge", n.bridge, "err", err)
		}
		n.admitLegacy(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-n.refill:
		case <-tick.C:
			if err := n.settleDown(); err != nil {
				n.log.Warn("cannot forget the neighbours of network namespaces that are not needed", "bridge", n.bridge, "err", err)
			}
		}
	}
}

// fill makes or drops namespaces until as many wait as should.
func (n *Network) fill(ctx context.Context) error {
	for ctx.Err() == nil {
		if missing, err := n.trim(); missing <= 0 || err != nil {
			return err
		}
		ns, err := n.wired()
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.warm = append(n.warm, ns)
		n.mu.Unlock()
	}
	return nil
}

// trim drops namespaces that are too many and returns how many are missing.
func (n *Network) trim() (missing int, err error) {
	n.mu.Lock()
	var drop []*namespace
	if len(n.warm) > n.room {
		drop = slices.Clone(n.warm[n.room:])
		n.warm = n.warm[:n.room]
	}
	missing = n.wantWarm - len(n.warm)
	n.mu.Unlock()
	for _, ns := range drop {
		err = errors.Join(err, n.letGo(ns))
	}
	return missing, err
}

// letGo has the kernel take a namespace down that no container is in.
func (n *Network) letGo(ns *namespace) error {
	ns.close()
	return n.freeAddress(ns.addr)
}

func (n *Network) wake() {
	select {
	case n.refill <- struct{}{}:
	default:
	}
}

// takeNamespace returns a namespace that waited, or else a new one, in the
// groups of a key.
func (n *Network) takeNamespace(member string) (*namespace, error) {
	ns, err := n.takeAny(member)
	if err != nil || ns.member == member {
		return ns, err
	}
	if err := n.groups.assign(member, ns.addr); err != nil {
		return nil, errors.Join(err, n.letGo(ns))
	}
	ns.member = member
	return ns, nil
}

// takeAny prefers a namespace that was in the same groups before.
func (n *Network) takeAny(member string) (*namespace, error) {
	for {
		n.mu.Lock()
		var ns *namespace
		if len(n.warm) > 0 {
			i := max(0, slices.IndexFunc(n.warm, func(w *namespace) bool { return w.member == member }))
			ns = n.warm[i]
			n.warm = slices.Delete(n.warm, i, i+1)
			n.unneeded = min(n.unneeded, len(n.warm))
		}
		n.mu.Unlock()
		n.wake()
		if ns == nil {
			return n.wired()
		}
		if ns.trace == nil || ns.trace.quiet() {
			return ns, nil
		}
		if err := n.letGo(ns); err != nil {
			n.log.Warn("cannot forget the neighbour of a network namespace", "address", ns.addr, "err", err)
		}
	}
}

// takeSealed returns a namespace that another container may get afterwards.
func (n *Network) takeSealed(member string) (*namespace, error) {
	ns, err := n.takeNamespace(member)
	if err != nil || ns.trace != nil {
		return ns, err
	}
	err = n.away(func() (err error) {
		if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		ns.trace, err = openTrace()
		return err
	})
	if err != nil {
		return nil, errors.Join(err, n.letGo(ns))
	}
	return ns, nil
}

// takeForGood returns a namespace that no other container gets afterwards.
func (n *Network) takeForGood(member string) (*namespace, error) {
	ns, err := n.takeNamespace(member)
	if err == nil {
		ns.trace.close()
		ns.trace = nil
	}
	return ns, err
}
