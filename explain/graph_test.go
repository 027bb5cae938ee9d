package explain

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// shop is a graph with everything that there is in one.
func shop() mayfly.Graph {
	service := func(name, state string, ready, wanted int) mayfly.Supervised {
		return mayfly.Supervised{Name: name, State: state, Ready: ready, Wanted: wanted}
	}
	db, cache := mayfly.Require{Name: "db", Service: "db"}, mayfly.Require{Name: "cache", Role: "cache", Optional: true}
	requiring := func(name string, after []mayfly.After, reqs ...mayfly.Require) mayfly.Workload {
		return mayfly.Workload{Space: "s", Name: name, Requires: reqs, Service: &mayfly.Service{After: after}}
	}
	orders := requiring("orders", nil, db, mayfly.Require{Name: "bank", Service: "bank", Proxy: true})
	orders.Service = nil
	down := service("web", mayfly.ServiceWaiting, 0, 2)
	down.Reason = "it requires role <search>"
	return Graph("s", []mayfly.Supervised{down, service("db", mayfly.ServiceRunning, 1, 1), service("seed", mayfly.ServiceCompleted, 1, 1)},
		[]mayfly.Workload{
			requiring("web", []mayfly.After{{Workload: "seed", Condition: mayfly.AfterCompleted}}, db, cache, mayfly.Require{Name: "search", Role: "<search>"}),
			requiring("db", nil), requiring("seed", nil, db), orders, {Name: "plain"},
		}, []string{"bank", "unused"},
		func(_ *mayfly.Workload, r mayfly.Require) []mayfly.Endpoint {
			switch {
			case r.Service == "db":
				return []mayfly.Endpoint{{Space: "s", Service: "db", Address: "10.0.0.2", Port: 3306}}
			case r.Service == "bank":
				return []mayfly.Endpoint{{Space: "s", Service: "bank", Address: "bank.example", Port: 443, Outside: true}}
			case r.Role == "cache":
				return []mayfly.Endpoint{{Space: "t", Service: "cache", Address: "10.0.0.3", Port: 6379}}
			}
			return nil
		})
}

func TestText(t *testing.T) {
	const want = `SERVICE              STATE       READY   REQUIRED AS              NOTE
● orders             function
├─ ● bank            outside             bank, by proxy
└─ ● db              running     1/1     db
✗ unused             missing
◐ web                waiting     0/2                              it requires role <search>
├─ ● db              running     1/1     db
├─ ✗ role <search>   missing             search, not there
├─ ● seed            completed   1/1     after it has completed
│  └─ ● db           running     1/1     db
└─ ● t/cache         here                cache, optional
`
	var b strings.Builder
	if err := Text(&b, shop(), true); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := Text(&b, shop(), false); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if r > 126 {
			t.Fatalf("plain text has %q:\n%s", r, b.String())
		}
	}
}

// A picture stands for itself: it is XML, has no script and asks for nothing.
func TestSVG(t *testing.T) {
	var b strings.Builder
	if err := SVG(&b, shop()); err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("MAYFLY_SVG"); dir != "" {
		os.WriteFile(dir, []byte(b.String()), 0o644)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	var words []string
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			if tok.Name.Local == "script" || tok.Name.Local == "image" || tok.Name.Local == "foreignObject" {
				t.Errorf("has <%s>", tok.Name.Local)
			}
			for _, a := range tok.Attr {
				if strings.Contains(a.Name.Local, "href") || strings.HasPrefix(a.Name.Local, "on") {
					t.Errorf("has %s=%q", a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			words = append(words, string(tok))
		}
	}
	all := strings.Join(words, "|")
	for _, want := range []string{"web", "waiting 0/2", "role <search>", "t/cache", "bank", "outside", "completed 1/1", "bank.example:443"} {
		if !strings.Contains(all, want) {
			t.Errorf("does not say %q", want)
		}
	}
}

func TestDOT(t *testing.T) {
	var b strings.Builder
	if err := DOT(&b, shop()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`digraph "s" {`, `"web" -> "db" [label="db", style=solid];`, `"web" -> "role <search>" [label="search, not there", style=dashed];`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in\n%s", want, b.String())
		}
	}
}

// Whatever requires whom, circles included: everything is drawn once, no box
// covers another, and what is required is below unless that closes a circle.
func TestLayout(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		g := mayfly.Graph{Space: "s"}
		n := 1 + rnd.IntN(25)
		for i := range n {
			g.Nodes = append(g.Nodes, mayfly.GraphNode{ID: fmt.Sprintf("n%02d", i), Kind: mayfly.GraphService, State: mayfly.ServiceRunning})
		}
		circles := seed%2 == 0
		for range rnd.IntN(3 * n) {
			from, to := rnd.IntN(n), rnd.IntN(n)
			if !circles && from >= to {
				continue
			}
			g.Edges = append(g.Edges, mayfly.GraphEdge{From: g.Nodes[from].ID, To: g.Nodes[to].ID, Name: "x", Met: true})
		}
		l := arrangeGraph(g)
		var boxes []*box
		for _, b := range l.boxes {
			boxes = append(boxes, b)
			if b.x-b.width/2 < 0 || b.x+b.width/2 > l.width || b.y+b.height/2 > l.height {
				t.Fatalf("seed %d: a box is outside of the picture", seed)
			}
		}
		if len(boxes) != n {
			t.Fatalf("seed %d: %d boxes for %d nodes", seed, len(boxes), n)
		}
		slices.SortFunc(boxes, func(a, b *box) int { return int(a.x - b.x) })
		for i, a := range boxes {
			for _, b := range boxes[i+1:] {
				if a.y == b.y && b.x-b.width/2 < a.x+a.width/2 {
					t.Fatalf("seed %d: %s covers %s", seed, a.node.ID, b.node.ID)
				}
			}
		}
		for _, e := range g.Edges {
			if !circles && l.boxes[e.From].y >= l.boxes[e.To].y {
				t.Fatalf("seed %d: %s is not above %s, which it requires", seed, e.From, e.To)
			}
		}
		if err := errors.Join(SVG(io.Discard, g), Text(io.Discard, g, true), DOT(io.Discard, g)); err != nil {
			t.Fatal(err)
		}
	}
}
