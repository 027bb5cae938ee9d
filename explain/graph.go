package explain

import (
	"cmp"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// Graph puts together who requires whom: all services of a space, and of the
// other workloads those that require something. find returns every endpoint that
// meets a requirement of a workload.
func Graph(space string, services []mayfly.Supervised, workloads []mayfly.Workload, outside []string,
	find func(*mayfly.Workload, mayfly.Require) []mayfly.Endpoint) mayfly.Graph {
	b := &builder{space: space, nodes: make(map[string]mayfly.GraphNode)}
	for _, s := range services {
		b.nodes[s.Name] = mayfly.GraphNode{ID: s.Name, Kind: mayfly.GraphService, App: s.App, State: s.State, Reason: s.Reason, Ready: s.Ready, Wanted: s.Wanted}
	}
	for _, name := range outside {
		state := "missing"
		if len(find(&mayfly.Workload{Space: space}, mayfly.Require{Service: name})) > 0 {
			state = "here"
		}
		b.node(name, mayfly.GraphOutside, state)
	}
	for i := range workloads {
		w := &workloads[i]
		if w.Service == nil && len(w.Requires) == 0 {
			continue
		}
		b.node(w.Name, mayfly.GraphFunction, "here")
		for _, r := range w.Requires {
			b.require(w, r, find(w, r))
		}
		if w.Service != nil {
			b.after(w)
		}
	}
	g := mayfly.Graph{Space: space, Nodes: make([]mayfly.GraphNode, 0, len(b.nodes)), Edges: b.edges}
	for _, n := range b.nodes {
		g.Nodes = append(g.Nodes, n)
	}
	slices.SortFunc(g.Nodes, func(x, y mayfly.GraphNode) int { return cmp.Compare(x.ID, y.ID) })
	slices.SortFunc(g.Edges, func(x, y mayfly.GraphEdge) int {
		return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To), cmp.Compare(x.Name, y.Name))
	})
	if g.Edges == nil {
		g.Edges = []mayfly.GraphEdge{}
	}
	return g
}

type builder struct {
	space string
	nodes map[string]mayfly.GraphNode
	edges []mayfly.GraphEdge
}

// node adds what is not there yet.
func (b *builder) node(id, kind, state string) {
	if _, ok := b.nodes[id]; !ok {
		b.nodes[id] = mayfly.GraphNode{ID: id, Kind: kind, State: state}
	}
}

func (b *builder) id(space, name string) string {
	if space == "" || space == b.space {
		return name
	}
	return space + "/" + name
}

// require adds an edge to each service that meets a requirement, and to the one
// that is required when none does.
func (b *builder) require(w *mayfly.Workload, r mayfly.Require, met []mayfly.Endpoint) {
	edge := mayfly.GraphEdge{From: w.Name, Name: r.Name, Optional: r.Optional, Proxy: r.Proxy}
	uses := make(map[string][]string)
	for _, e := range met {
		id := b.id(e.Space, e.Service)
		switch {
		case e.Outside:
			b.nodes[id] = mayfly.GraphNode{ID: id, Kind: mayfly.GraphOutside, State: "here"}
		default:
			b.node(id, mayfly.GraphService, "here") // of another space
		}
		uses[id] = append(uses[id], hostPort(e))
	}
	for id, use := range uses {
		edge.To, edge.Met, edge.Use = id, true, use
		b.edges = append(b.edges, edge)
	}
	if len(uses) > 0 {
		return
	}
	edge.To = b.id(r.Space, r.Service)
	if r.Service == "" {
		edge.To = "role " + b.id(r.Space, r.Role)
	}
	b.node(edge.To, mayfly.GraphMissing, "missing")
	b.edges = append(b.edges, edge)
}

// after adds what a service only comes after, where it does not require it, too.
func (b *builder) after(w *mayfly.Workload) {
	for _, a := range w.Service.After {
		if slices.ContainsFunc(b.edges, func(e mayfly.GraphEdge) bool { return e.From == w.Name && e.To == a.Workload }) {
			continue
		}
		b.node(a.Workload, mayfly.GraphMissing, "missing")
		n := b.nodes[a.Workload]
		b.edges = append(b.edges, mayfly.GraphEdge{From: w.Name, To: a.Workload, Name: a.Condition, After: true, Optional: a.Optional,
			Met: n.Kind != mayfly.GraphMissing && health(n) == good})
	}
}

// how well something is, for its colour and sign.
type how int

const (
	good   how = iota // as it shall be
	coming            // on the way there
	bad               // it needs a person, or is not there
	idle              // nothing is wanted of it
)

func health(n mayfly.GraphNode) how {
	switch n.State {
	case mayfly.ServiceRunning, mayfly.ServiceCompleted, "here":
		return good
	case mayfly.ServiceStarting, mayfly.ServiceUpdating, mayfly.ServiceWaiting:
		return coming
	case mayfly.ServiceStopped, mayfly.ServiceDeleted:
		return idle
	default:
		return bad
	}
}

// outOf is the edges by where they begin.
func outOf(g mayfly.Graph) map[string][]mayfly.GraphEdge {
	out := make(map[string][]mayfly.GraphEdge)
	for _, e := range g.Edges {
		out[e.From] = append(out[e.From], e)
	}
	return out
}

// roots are the nodes that nobody requires, and one of each circle that nothing
// else leads into.
func roots(g mayfly.Graph) []string {
	out, required := outOf(g), make(map[string]bool)
	for _, e := range g.Edges {
		if e.From != e.To {
			required[e.To] = true
		}
	}
	var list []string
	reached := make(map[string]bool)
	var reach func(id string)
	reach = func(id string) {
		if reached[id] {
			return
		}
		reached[id] = true
		for _, e := range out[id] {
			reach(e.To)
		}
	}
	for _, only := range []bool{true, false} {
		for _, n := range g.Nodes {
			if !reached[n.ID] && (!only || !required[n.ID]) {
				list = append(list, n.ID)
				reach(n.ID)
			}
		}
	}
	return list
}
