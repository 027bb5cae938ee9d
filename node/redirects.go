package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// groupsOf is who a container meets on the bridge: everyone of its space, or of
// an app only those that share one of its networks. The app's default network is
// the space.
func groupsOf(space, app string, networks []string) []string {
	var groups []string
	for _, name := range networks {
		if name == "default" {
			groups = append(groups, space)
		} else {
			groups = append(groups, space+"/"+app+"/"+name)
		}
	}
	if len(groups) == 0 {
		return []string{space}
	}
	return groups
}

// wiring is what a container is told of the sets.
func (l *life) wiring(ctx context.Context, sets [][]mayfly.Endpoint) (*wiring, error) {
	w := newWiring()
	for i := range l.req.reqs {
		req, endpoints := &l.req.reqs[i], sets[i]
		if l.redirects(ctx, req, endpoints) {
			var err error
			if endpoints, err = l.redirected(ctx, req, endpoints); err != nil {
				return nil, err
			}
		}
		w.add(req, endpoints)
	}
	return w, nil
}

// redirects reports whether a requirement is met by way of an address that
// stays: if it is asked for, and if the containers cannot reach each other.
func (l *life) redirects(ctx context.Context, req *mayfly.Require, endpoints []mayfly.Endpoint) bool {
	w := &l.k.rel.Workload
	if w.Network != "" && w.Network != "bridge" {
		return false // there are redirects for containers on the bridge
	}
	return req.Proxy || slices.ContainsFunc(endpoints, func(e mayfly.Endpoint) bool { return l.apart(ctx, e) })
}

// apart reports whether an endpoint is of a container that shares no network
// with this one.
func (l *life) apart(ctx context.Context, e mayfly.Endpoint) bool {
	if e.Outside {
		return false
	}
	own := &l.k.rel.Workload
	ours := groupsOf(own.Space, own.App, own.Service.Networks)
	theirs := []string{e.Space}
	if rel, err := l.k.node.store.Release(ctx, e.Space, e.Service, e.Release); err == nil && rel.Workload.Service != nil {
		theirs = groupsOf(e.Space, rel.Workload.App, rel.Workload.Service.Networks)
	}
	return !slices.ContainsFunc(ours, func(g string) bool { return slices.Contains(theirs, g) })
}

// redirectKeys begin with this, and the assignment whose container uses them.
const redirectKeys = "service/"

func redirectKey(assignment, requirement string) string {
	return redirectKeys + assignment + "/" + requirement
}

// redirected leads an address to the endpoints and returns it in their place.
// The address, and the port that the first of them had, stay for as long as the
// assignment is there. When there is no endpoint, connections to it are refused.
func (l *life) redirected(ctx context.Context, req *mayfly.Require, endpoints []mayfly.Endpoint) ([]mayfly.Endpoint, error) {
	n := l.k.node
	key := redirectKey(l.k.a.ID, req.Name)
	at, old, known := n.net.Redirected(key)
	port := at.Port()
	if !known {
		if len(endpoints) == 0 {
			return nil, nil // not even the port is known
		}
		port = endpoints[0].Port
	}
	var to []netip.AddrPort
	for _, e := range endpoints {
		t, err := targetOf(ctx, e)
		if err != nil {
			return nil, fmt.Errorf("lead to %s: %w", e.ID, err)
		}
		to = append(to, t)
	}
	at, err := n.net.Redirect(ctx, key, port, to, n.draining(old)...)
	if err != nil {
		return nil, err
	}
	e := mayfly.Endpoint{Space: l.k.a.Space, Service: req.Service, Name: req.Name, Protocol: "tcp"}
	if len(endpoints) > 0 {
		e = endpoints[0]
	} else if before := wiredBefore(l.wired)[req.Name]; len(before) > 0 {
		e.Service, e.Name, e.Protocol, e.Tags = before[0].Service, before[0].Name, before[0].Protocol, before[0].Tags
	}
	e.ID, e.Zone = key, "" // the same whoever is behind it
	e.Address, e.Port = at.Addr().String(), at.Port()
	return []mayfly.Endpoint{e}, nil
}

// targetOf is where an endpoint is. Something outside may have a name.
func targetOf(ctx context.Context, e mayfly.Endpoint) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(e.Address)
	if err != nil {
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", e.Address)
		if err != nil {
			return netip.AddrPort{}, err
		}
		addr = slices.MinFunc(found, netip.Addr.Compare)
	}
	return netip.AddrPortFrom(addr.Unmap(), e.Port), nil
}

// draining is those of the targets whose containers have been withdrawn but go
// on until they are stopped: connections to them stay until they are closed.
func (n *Node) draining(targets []netip.AddrPort) (list []netip.AddrPort) {
	if len(targets) == 0 {
		return nil
	}
	leaving := make(map[string]bool)
	for _, rec := range n.store.Replicas.List("") {
		if s := rec.Value.State; s == mayfly.ReplicaDraining || s == mayfly.ReplicaStopping {
			leaving[rec.Value.Address] = true
		}
	}
	for _, t := range targets {
		if leaving[t.Addr().String()] {
			list = append(list, t)
		}
	}
	return list
}

// dropRedirects gives back the addresses of assignments that are no more.
func (n *Node) dropRedirects(have map[string]bool) {
	var gone []string
	for _, key := range n.net.Redirects() {
		rest, ours := strings.CutPrefix(key, redirectKeys)
		id, _, _ := strings.Cut(rest, "/")
		if ours && !have[id] {
			gone = append(gone, key)
		}
	}
	if err := n.net.Unredirect(context.Background(), gone...); err != nil {
		n.opts.Log.Error("give back the addresses of redirects", "err", err)
	}
}
