package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
)

// Ports that are picked for those who name none, in a network of their own.
const (
	firstPicked = 20000
	lastPicked  = 29999
)

// pickPorts chooses the ports that the workload left open. They are in the
// environment: PORT_NAME, and PORT where there is but one.
func pickPorts(w *mayfly.Workload) (env map[string]string, err error) {
	env = make(map[string]string)
	taken := make(map[int]bool)
	for _, p := range w.Provides {
		taken[int(p.Port)] = true
	}
	for _, p := range w.Provides {
		if p.Unprobed {
			continue // it may be all that there is to say, and a program need not know
		}
		port := int(p.Port)
		if port == 0 {
			if port, err = pickPort(w.Network, taken); err != nil {
				return nil, err
			}
		}
		env[portVariable(p.Name)] = strconv.Itoa(port)
		if len(w.Provides) == 1 {
			env["PORT"] = strconv.Itoa(port)
		}
	}
	return env, nil
}

func portVariable(name string) string { return "PORT_" + variable(name) }

func pickPort(network string, taken map[int]bool) (int, error) {
	if network == "host" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port, nil
	}
	for {
		if port := firstPicked + rand.IntN(lastPicked-firstPicked+1); !taken[port] {
			taken[port] = true
			return port, nil
		}
	}
}

// portOf is the port of what the container provides under a name.
func (l *life) portOf(name string) uint16 {
	prefix := portVariable(name) + "="
	for _, e := range l.in.sandbox.Env() {
		if text, ok := strings.CutPrefix(e, prefix); ok {
			port, _ := strconv.ParseUint(text, 10, 16)
			return uint16(port)
		}
	}
	for _, p := range l.k.rel.Workload.Provides {
		if p.Name == name {
			return p.Port
		}
	}
	return 0
}

// makeEndpoints lists what the container may provide.
func (l *life) makeEndpoints() {
	w := &l.k.rel.Workload
	address := l.in.Address
	if address == "" && w.Network == "host" {
		address = l.k.node.external
	}
	if address == "" {
		return // it has no network
	}
	var among []string
	for _, p := range w.Provides {
		among = append(among, p.Name)
	}
	for _, p := range w.Provides {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		l.endpoints = append(l.endpoints, mayfly.Endpoint{
			ID: l.in.ID + "." + p.Name, Space: w.Space, Service: w.Name, Name: p.Name, Among: among, App: w.App, Role: p.Role,
			Protocol: protocol, Address: address, Port: l.portOf(p.Name), Tags: p.Tags,
			Node: l.k.node.opts.Name, Zone: l.k.node.opts.Labels["zone"], Instance: l.in.ID, Replica: l.k.a.Replica, Release: l.k.a.Release,
		})
	}
}

// show makes known those endpoints that want says, and withdraws the others.
func (l *life) show(want func(*mayfly.Endpoint) bool) {
	var up []mayfly.Endpoint
	var down []string
	for i := range l.endpoints {
		e := &l.endpoints[i]
		switch want := want(e); {
		case want && !l.published[e.ID]:
			e.Since = time.Now().UTC()
			if l.wasReady() {
				e.Since = l.k.status.Ready
			}
			up = append(up, *e)
		case !want && l.published[e.ID]:
			down = append(down, e.ID)
		}
	}
	if len(up) > 0 {
		if err := l.k.r.dir.Publish(up...); err != nil {
			l.k.node.opts.Log.Error("publish endpoints", "instance", l.in.Name, "err", err)
			return // the next check's change tries again
		}
	}
	for _, e := range up {
		l.published[e.ID] = true
	}
	if len(down) > 0 {
		l.k.r.dir.Withdraw(down...)
	}
	for _, id := range down {
		delete(l.published, id)
	}
}

// withdraw takes every endpoint back at once.
func (l *life) withdraw() {
	l.show(func(*mayfly.Endpoint) bool { return false })
}

// drainWait is how long consumers are waited for where nobody says.
const drainWait = 30 * time.Second

// drainAgain is how long they have at least when a daemon goes on where another was
// killed: nobody told them meanwhile.
const drainAgain = 5 * time.Second

// isRoute reports whether a consumer is the router: what it has not turned away
// from has requests in flight.
func isRoute(c discovery.Consumer) bool {
	return c.Workload == "routes" && strings.HasPrefix(c.Instance, "of ") // no instance's id
}

// patient reports whether requests that are under way are to be waited for, still.
func (k *keeper) patient() bool {
	a, ok := k.node.store.Assignments.Find(k.a.Space, k.a.ID)
	return ok && a.Value.Patient && !isClosed(k.r.down)
}

// drain takes the endpoints back and waits until every consumer has turned away
// or the wait runs out, which is recorded. What an earlier daemon began to drain
// is not published again, and is waited for as long as it was to be: consumers that
// had it are known when all have been taken over.
func (l *life) drain(ctx context.Context, why string) {
	svc := l.k.rel.Workload.Service
	wait := svc.DrainWait
	if wait == 0 {
		wait = drainWait
	}
	begun := l.k.status.Drain // by an earlier daemon
	ids := l.drained(begun)
	if len(ids) == 0 || l.k.status.State == mayfly.ReplicaStopping { // an earlier daemon had come further
		return
	}
	l.k.status.Drain = &mayfly.Drain{Endpoints: ids, Wait: wait, Grace: svc.StopGrace}
	l.k.set(ctx, mayfly.ReplicaDraining, why)
	if begun != nil {
		wait = max(time.Until(l.k.status.Since.Add(wait)), min(wait, drainAgain))
	}
	if l.late {
		select {
		case <-l.k.r.settled:
		case <-l.k.r.down:
			return
		case <-ctx.Done():
			return
		}
	}
	report := l.k.r.dir.Drain(ctx, ids, wait)
	for ctx.Err() == nil && slices.ContainsFunc(report.Pending, isRoute) && l.k.patient() {
		report = l.k.r.dir.Drain(ctx, ids, wait)
	}
	for _, id := range ids {
		delete(l.published, id)
	}
	if len(report.Pending) == 0 {
		l.k.news("service.drained", fmt.Sprintf("its consumers have turned away within %s", report.Waited.Round(time.Millisecond)))
		return
	}
	var late []string
	for _, c := range report.Pending {
		late = append(late, c.Workload+" ("+c.Instance+")")
	}
	slices.Sort(late)
	l.k.news("service.drained", fmt.Sprintf("it stops although %d consumers have not turned away within %s: %s", len(late), wait, strings.Join(late, ", ")))
}

// drained are the endpoints of which consumers are to be told that they go. Those of
// a drain that an earlier daemon began are known from that.
func (l *life) drained(begun *mayfly.Drain) (ids []string) {
	if begun != nil {
		return begun.Endpoints
	}
	for _, e := range l.endpoints {
		if l.published[e.ID] || l.late {
			ids = append(ids, e.ID)
		}
	}
	return ids
}
