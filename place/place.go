// Package place decides which node runs what.
//
// It is arithmetic only: the same nodes and the same requests always give the
// same answer. It reads no clock and opens no connection.
//
// The largest request is placed first, so that small ones fill what is left. Of
// the nodes that can take it, the one is chosen whose zone has the fewest
// instances of the same service, then the one that has the fewest itself, then
// the one with most memory free, then the first by name.
//
// Memory is never promised twice, but only instances that have a limit are
// counted: what has none is not known beforehand. CPUs are promised as often as
// anybody asks: a limit on them is shared out by the kernel, slows and never
// kills, so a manifest for a large machine runs on a small one, too. They only
// decide between nodes that have as much memory free.
package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// Node is a machine that takes instances.
type Node struct {
	Name   string
	Labels map[string]string
	Memory int64   // bytes; 0: not known, so not counted
	CPUs   float64 // cores
	Has    []Load  // what was given to it and has not ended
}

// Load is one instance, as far as it takes from others.
type Load struct {
	Space, Service string
	Replica        int
	Memory         int64         // bytes, its limit; 0: none
	CPUs           float64       // cores, its limit; 0: none
	Ports          []mayfly.Port // on the node; those whose Host is 0 find a free one
}

// Request asks for a node for one instance.
type Request struct {
	Load
	Labels map[string]mayfly.Match // that the node must have
	Node   string                  // the only one that will do, because of Why; any if empty
	Why    string                  // such as "volume data is there"
}

// Answer says where a request goes.
type Answer struct {
	Node   string // empty: nowhere
	Reason string // why no node takes it; one line for a person
}

// Place answers each request, in the order of the requests. What an earlier one
// takes is not there for a later one.
func Place(nodes []Node, requests []Request) []Answer {
	b := newBoard(nodes)
	order := make([]int, len(requests))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return before(&requests[i], &requests[j]) })
	answers := make([]Answer, len(requests))
	for _, i := range order {
		answers[i] = b.place(&requests[i])
	}
	return answers
}

// before sorts requests: the larger first, then the lower replica.
func before(a, b *Request) int {
	return cmp.Or(cmp.Compare(b.Memory, a.Memory), cmp.Compare(b.CPUs, a.CPUs), cmp.Compare(a.Replica, b.Replica),
		cmp.Compare(a.Space, b.Space), cmp.Compare(a.Service, b.Service))
}

type service struct{ space, name string }

// seat is a node and what is left of it.
type seat struct {
	*Node
	zone   string
	memory int64 // bytes promised
	cpus   float64
	has    map[service]int
	ports  map[uint16][]taken
}

// taken is a port of a node, and who has it.
type taken struct {
	port mayfly.Port
	by   Load
}

// board is all nodes while requests are placed on them.
type board struct {
	seats []*seat // by name
	zones map[string]map[service]int
}

func newBoard(nodes []Node) *board {
	b := &board{zones: map[string]map[service]int{}}
	for i := range nodes {
		n := &nodes[i]
		s := &seat{Node: n, zone: n.Labels["zone"], has: map[service]int{}, ports: map[uint16][]taken{}}
		b.seats = append(b.seats, s)
		if b.zones[s.zone] == nil {
			b.zones[s.zone] = map[service]int{}
		}
		for _, l := range n.Has {
			b.take(s, l)
		}
	}
	slices.SortFunc(b.seats, func(x, y *seat) int { return cmp.Compare(x.Name, y.Name) })
	return b
}

func (b *board) take(s *seat, l Load) {
	key := service{l.Space, l.Service}
	s.memory += l.Memory
	s.cpus += l.CPUs
	s.has[key]++
	b.zones[s.zone][key]++
	for _, p := range l.Ports {
		if p.Host != 0 {
			s.ports[p.Host] = append(s.ports[p.Host], taken{p, l})
		}
	}
}

func (b *board) place(r *Request) Answer {
	var best *seat
	refusals := refusals{of: map[string][]string{}}
	for _, s := range b.seats {
		if why := s.refuses(r); why != "" {
			refusals.add(s.Name, why)
		} else if best == nil || b.better(s, best, service{r.Space, r.Service}) {
			best = s
		}
	}
	if best == nil {
		return Answer{Reason: refusals.String()}
	}
	b.take(best, r.Load)
	return Answer{Node: best.Name}
}

// better reports whether x, which comes later by name, is chosen before y.
func (b *board) better(x, y *seat, key service) bool {
	return cmp.Or(
		cmp.Compare(b.zones[x.zone][key], b.zones[y.zone][key]),
		cmp.Compare(x.has[key], y.has[key]),
		cmp.Compare(y.free(), x.free()),
		cmp.Compare(y.CPUs-y.cpus, x.CPUs-x.cpus),
	) < 0
}

func (s *seat) free() int64 { return s.Memory - s.memory }

// refuses says why the node does not take the request; empty: it can.
func (s *seat) refuses(r *Request) string {
	if r.Node != "" && r.Node != s.Name {
		return "only node " + r.Node + " will do: " + r.Why
	}
	for _, label := range slices.Sorted(maps.Keys(r.Labels)) {
		if why := s.lacks(label, r.Labels[label]); why != "" {
			return why
		}
	}
	for _, p := range r.Ports {
		if why := s.clash(r, p); why != "" {
			return why
		}
	}
	if r.Memory > 0 && s.Memory > 0 && r.Memory > s.free() {
		return fmt.Sprintf("%s needs %s of memory, %s is free", r.Service, bytes(r.Memory), bytes(max(s.free(), 0)))
	}
	return ""
}

func (s *seat) lacks(label string, want mayfly.Match) string {
	has, ok := s.Labels[label]
	switch {
	case !ok:
		return fmt.Sprintf("label %s is wanted to be %s, and it is not set", label, wish(want))
	case !fits(want, has):
		return fmt.Sprintf("label %s is wanted to be %s, and it is %s", label, wish(want), has)
	}
	return ""
}

func (s *seat) clash(r *Request, p mayfly.Port) string {
	for _, t := range s.ports[p.Host] {
		if Clash(t.port, p) {
			return fmt.Sprintf("host port %d is wanted by %s and taken by %s", p.Host, nameOf(r.Load, t.by), nameOf(t.by, r.Load))
		}
	}
	return ""
}

// nameOf names l so that it is another than the other.
func nameOf(l, other Load) string {
	switch {
	case l.Space != other.Space:
		return l.Space + "/" + l.Service
	case l.Service == other.Service:
		return fmt.Sprintf("%s replica %d", l.Service, l.Replica)
	}
	return l.Service
}

// Clash reports whether two ports cannot be published on one node. Those without
// a number never do.
func Clash(a, b mayfly.Port) bool {
	return a.Host != 0 && a.Host == b.Host && cmp.Or(a.Protocol, "tcp") == cmp.Or(b.Protocol, "tcp") &&
		(anywhere(a.HostIP) || anywhere(b.HostIP) || a.HostIP == b.HostIP)
}

func anywhere(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

// refusals gathers the nodes that have one reason, and keeps the order.
type refusals struct {
	order []string
	of    map[string][]string
}

// named is how many nodes a reason names.
const named = 3

func (r *refusals) add(node, why string) {
	if r.of[why] == nil {
		r.order = append(r.order, why)
	}
	r.of[why] = append(r.of[why], node)
}

func (r *refusals) String() string {
	if len(r.order) == 0 {
		return "there is no node"
	}
	var parts []string
	for _, why := range r.order {
		nodes := r.of[why]
		text := "node " + nodes[0]
		if len(nodes) > 1 {
			text = "nodes " + strings.Join(nodes[:min(len(nodes), named)], ", ")
		}
		if more := len(nodes) - named; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, text+": "+why)
	}
	return strings.Join(parts, "; ")
}
