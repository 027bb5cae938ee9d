package place

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/mayfly-run/mayfly"
)

const gb = 1_000_000_000

func node(name string, memory int64, has ...Load) Node {
	return Node{Name: name, Memory: memory, CPUs: 4, Has: has}
}

func inZone(n Node, zone string) Node {
	n.Labels = map[string]string{"zone": zone}
	return n
}

func load(service string, replica int, memory int64, ports ...uint16) Load {
	l := Load{Space: "default", Service: service, Replica: replica, Memory: memory}
	for _, p := range ports {
		l.Ports = append(l.Ports, mayfly.Port{Container: p, Host: p})
	}
	return l
}

func want(service string, replica int, memory int64, ports ...uint16) Request {
	return Request{Load: load(service, replica, memory, ports...)}
}

func TestEachRequestIsAnswered(t *testing.T) {
	labelled := Node{Name: "a", Labels: map[string]string{"disk": "ssd"}}
	disk := func(m mayfly.Match) Request {
		r := want("db", 1, 0)
		r.Labels = map[string]mayfly.Match{"disk": m}
		return r
	}
	pinned := want("db", 1, 0)
	pinned.Node, pinned.Why = "b", "volume data is there"
	elsewhere := load("db", 1, 0, 80)
	elsewhere.Space = "other"
	cases := []struct {
		name  string
		nodes []Node
		ask   []Request
		where []string // where each goes, or "" and then
		why   []string
	}{
		{"nowhere", nil, []Request{want("db", 1, 0)}, []string{""}, []string{"there is no node"}},
		{"the only one", []Node{node("a", gb)}, []Request{want("db", 1, 0)}, []string{"a"}, nil},
		{"memory", []Node{node("a", 2*gb, load("web", 1, 800_000_000))}, []Request{want("db", 1, 2*gb)},
			[]string{""}, []string{"node a: db needs 2 GB of memory, 1.2 GB is free"}},
		{"no memory is left", []Node{node("a", gb, load("web", 1, 2*gb))}, []Request{want("db", 1, 1)},
			[]string{""}, []string{"node a: db needs 1 B of memory, 0 B is free"}},
		{"without a limit nothing is counted", []Node{node("a", gb, load("web", 1, gb))}, []Request{want("db", 1, 0)}, []string{"a"}, nil},
		{"a node whose memory is not known", []Node{node("a", 0)}, []Request{want("db", 1, gb)}, []string{"a"}, nil},
		{"an earlier request counts", []Node{node("a", gb)}, []Request{want("db", 2, 600_000_000), want("db", 1, 600_000_000)},
			[]string{"", "a"}, []string{"node a: db needs 600 MB of memory, 400 MB is free", ""}},
		{"the larger first", []Node{node("a", gb)}, []Request{want("small", 1, 300_000_000), want("large", 1, 800_000_000)},
			[]string{"", "a"}, nil},
		{"most memory free", []Node{node("a", gb), node("b", 2*gb)}, []Request{want("db", 1, 0)}, []string{"b"}, nil},
		{"the first by name", []Node{node("b", gb), node("a", gb)}, []Request{want("db", 1, 0)}, []string{"a"}, nil},
		{"spread over nodes", []Node{node("a", gb), node("b", 9*gb)}, []Request{want("db", 1, 0), want("db", 2, 0), want("db", 3, 0)},
			[]string{"b", "a", "b"}, nil},
		{"spread over zones before nodes", []Node{inZone(node("a", gb, load("db", 1, 0)), "x"), inZone(node("b", 9*gb), "x"), inZone(node("c", gb), "y")},
			[]Request{want("db", 2, 0)}, []string{"c"}, nil},
		{"one of another space is another", []Node{node("a", 9*gb, elsewhere), node("b", gb)}, []Request{want("db", 1, 0)}, []string{"a"}, nil},
		{"host port of another", []Node{node("a", gb, load("web", 1, 0, 80))}, []Request{want("shop", 1, 0, 80)},
			[]string{""}, []string{"node a: host port 80 is wanted by shop and taken by web"}},
		{"host port of another space", []Node{node("a", gb, elsewhere)}, []Request{want("web", 1, 0, 80)},
			[]string{""}, []string{"node a: host port 80 is wanted by default/web and taken by other/db"}},
		{"host port of a replica", []Node{node("a", gb)}, []Request{want("web", 1, 0, 80), want("web", 2, 0, 80)},
			[]string{"a", ""}, []string{"", "node a: host port 80 is wanted by web replica 2 and taken by web replica 1"}},
		{"host port on another node", []Node{node("a", gb, load("web", 1, 0, 80)), node("b", gb)}, []Request{want("shop", 1, 0, 80)}, []string{"b"}, nil},
		{"label", []Node{labelled}, []Request{disk(mayfly.Match{Value: "ssd"})}, []string{"a"}, nil},
		{"label of a set", []Node{labelled}, []Request{disk(mayfly.Match{In: []string{"nvme", "ssd"}})}, []string{"a"}, nil},
		{"label of a pattern", []Node{labelled}, []Request{disk(mayfly.Match{Pattern: "s.d"})}, []string{"a"}, nil},
		{"label that is not met", []Node{labelled}, []Request{disk(mayfly.Match{In: []string{"nvme", "hdd"}})},
			[]string{""}, []string{"node a: label disk is wanted to be nvme or hdd, and it is ssd"}},
		{"a pattern is the whole value", []Node{labelled}, []Request{disk(mayfly.Match{Pattern: "s"})},
			[]string{""}, []string{"node a: label disk is wanted to be like s, and it is ssd"}},
		{"a pattern that cannot be read", []Node{labelled}, []Request{disk(mayfly.Match{Pattern: "("})},
			[]string{""}, []string{"node a: label disk is wanted to be like (, and it is ssd"}},
		{"label that is not there", []Node{node("a", gb)}, []Request{disk(mayfly.Match{Value: "ssd"})},
			[]string{""}, []string{"node a: label disk is wanted to be ssd, and it is not set"}},
		{"pinned", []Node{node("a", 9*gb), node("b", gb)}, []Request{pinned}, []string{"b"}, nil},
		{"pinned to what is gone", []Node{node("a", gb)}, []Request{pinned},
			[]string{""}, []string{"node a: only node b will do: volume data is there"}},
		{"nodes with one reason are named together", []Node{node("a", 1), node("b", 1), node("c", 1), node("d", 1), node("e", 2)}, []Request{want("db", 1, gb)},
			[]string{""}, []string{"nodes a, b, c and 1 more: db needs 1 GB of memory, 1 B is free; node e: db needs 1 GB of memory, 2 B is free"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := Place(c.nodes, c.ask)
			for i, a := range got {
				if a.Node != c.where[i] || (a.Node == "") == (a.Reason == "") {
					t.Errorf("request %d: %+v, want node %q", i, a, c.where[i])
				}
				if c.why != nil && a.Reason != c.why[i] {
					t.Errorf("request %d: %q, want %q", i, a.Reason, c.why[i])
				}
			}
		})
	}
}

func TestPortsClash(t *testing.T) {
	cases := []struct {
		a, b mayfly.Port
		want bool
	}{
		{mayfly.Port{Host: 80}, mayfly.Port{Host: 80}, true},
		{mayfly.Port{Host: 80}, mayfly.Port{Host: 81}, false},
		{mayfly.Port{}, mayfly.Port{}, false},
		{mayfly.Port{Host: 53}, mayfly.Port{Host: 53, Protocol: "udp"}, false},
		{mayfly.Port{Host: 53, Protocol: "tcp"}, mayfly.Port{Host: 53}, true},
		{mayfly.Port{Host: 80, HostIP: "127.0.0.1"}, mayfly.Port{Host: 80}, true},
		{mayfly.Port{Host: 80, HostIP: "127.0.0.1"}, mayfly.Port{Host: 80, HostIP: "0.0.0.0"}, true},
		{mayfly.Port{Host: 80, HostIP: "127.0.0.1"}, mayfly.Port{Host: 80, HostIP: "127.0.0.2"}, false},
		{mayfly.Port{Host: 80, HostIP: "127.0.0.1"}, mayfly.Port{Host: 80, HostIP: "127.0.0.1"}, true},
	}
	for _, c := range cases {
		if Clash(c.a, c.b) != c.want || Clash(c.b, c.a) != c.want {
			t.Errorf("%+v and %+v: want %v", c.a, c.b, c.want)
		}
	}
}

// TestNothingIsPromisedTwice places anything on any nodes.
func TestNothingIsPromisedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []Node
		for i := range rapid.IntRange(0, 4).Draw(t, "nodes") {
			nodes = append(nodes, inZone(node(fmt.Sprint(i), rapid.Int64Range(1, 20).Draw(t, "memory")), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "zone")))
		}
		var ask []Request
		for i := range rapid.IntRange(0, 12).Draw(t, "requests") {
			ask = append(ask, want(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "service"), i, rapid.Int64Range(0, 9).Draw(t, "needs"),
				uint16(rapid.IntRange(0, 3).Draw(t, "port"))))
		}
		answers := Place(nodes, ask)
		reversed := slices.Clone(nodes)
		slices.Reverse(reversed)
		if again := Place(reversed, ask); !slices.Equal(answers, again) {
			t.Fatalf("%v, and then %v", answers, again)
		}
		for i := range nodes {
			for j, a := range answers {
				if a.Node == nodes[i].Name {
					nodes[i].Has = append(nodes[i].Has, ask[j].Load)
				}
			}
			checkNode(t, &nodes[i])
		}
		for j, a := range answers {
			if again := Place(nodes, ask[j:j+1])[0]; a.Node == "" && again.Node != "" {
				t.Fatalf("%+v was refused (%s), and %s has room", ask[j], a.Reason, again.Node)
			}
		}
	})
}

func checkNode(t *rapid.T, n *Node) {
	var sum int64
	for i, l := range n.Has {
		sum += l.Memory
		for _, other := range n.Has[:i] {
			if Clash(l.Ports[0], other.Ports[0]) {
				t.Fatalf("%+v and %+v are on one node", l, other)
			}
		}
	}
	if sum > n.Memory {
		t.Fatalf("%d bytes are promised on a node with %d", sum, n.Memory)
	}
}

func BenchmarkPlace(b *testing.B) {
	var nodes []Node
	for i := range 10 {
		nodes = append(nodes, node(fmt.Sprint(i), 100*gb))
	}
	var ask []Request
	for i := range 1000 {
		ask = append(ask, want(fmt.Sprint("s", i), 1, gb/4, uint16(i+1)))
	}
	for b.Loop() {
		Place(nodes, ask)
	}
}
