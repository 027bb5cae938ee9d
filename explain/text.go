package explain

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// strokes are what trees are drawn with.
type strokes struct {
	tee, last, down, none string
	sign                  map[how]string
}

func unicodeStrokes() strokes {
	return strokes{"├─ ", "└─ ", "│  ", "   ", map[how]string{good: "●", coming: "◐", bad: "✗", idle: "○"}}
}

func plainStrokes() strokes {
	return strokes{"|- ", "`- ", "|  ", "   ", map[how]string{good: "+", coming: "~", bad: "!", idle: "-"}}
}

// row is a line of the tree.
type row struct{ tree, state, ready, how, note string }

// Text draws a graph for a terminal: each service under those that require it,
// and in full where it comes first.
func Text(w io.Writer, g mayfly.Graph, unicode bool) error {
	t := &tree{nodes: make(map[string]mayfly.GraphNode), out: outOf(g), seen: make(map[string]bool), strokes: plainStrokes()}
	if unicode {
		t.strokes = unicodeStrokes()
	}
	for _, n := range g.Nodes {
		t.nodes[n.ID] = n
	}
	t.rows = append(t.rows, row{"SERVICE", "STATE", "READY", "REQUIRED AS", "NOTE"})
	for _, id := range roots(g) {
		t.add(id, "", "", mayfly.GraphEdge{})
	}
	return t.print(w)
}

type tree struct {
	strokes
	nodes map[string]mayfly.GraphNode
	out   map[string][]mayfly.GraphEdge
	seen  map[string]bool
	rows  []row
}

// add draws a node and what it requires. Lead is before its own line, below
// before those that follow.
func (t *tree) add(id, lead, below string, by mayfly.GraphEdge) {
	n := t.nodes[id]
	r := row{tree: lead + t.sign[health(n)] + " " + id, state: n.State, how: requiredAs(by), note: n.Reason}
	if n.Kind == mayfly.GraphService && n.Wanted+n.Ready > 0 {
		r.ready = fmt.Sprintf("%d/%d", n.Ready, n.Wanted)
	}
	if n.State == "here" && n.Kind != mayfly.GraphService {
		r.state = n.Kind
	}
	again := t.seen[id] && len(t.out[id]) > 0
	if again {
		r.note = "as above"
	}
	t.rows = append(t.rows, r)
	if t.seen[id] {
		return
	}
	t.seen[id] = true
	edges := t.out[id]
	for i, e := range edges {
		if i == len(edges)-1 {
			t.add(e.To, below+t.last, below+t.none, e)
		} else {
			t.add(e.To, below+t.tee, below+t.down, e)
		}
	}
}

// requiredAs says by which name something is required, and how.
func requiredAs(e mayfly.GraphEdge) string {
	if e.From == "" {
		return ""
	}
	text := e.Name
	if e.After {
		text = "after it " + map[string]string{mayfly.AfterStarted: "has started", mayfly.AfterReady: "is ready", mayfly.AfterCompleted: "has completed"}[e.Name]
	}
	if e.Proxy {
		text += ", by proxy"
	}
	if e.Optional {
		text += ", optional"
	}
	if !e.Met {
		text += ", not there"
	}
	return text
}

func (t *tree) print(w io.Writer) error {
	cells := func(r row) []string { return []string{r.tree, r.state, r.ready, r.how, r.note} }
	width := make([]int, 5)
	for _, r := range t.rows {
		for i, c := range cells(r) {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range t.rows {
		var line strings.Builder
		for i, c := range cells(r) {
			line.WriteString(c)
			line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)+3))
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// DOT writes a graph in the language of Graphviz.
func DOT(w io.Writer, g mayfly.Graph) error {
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %q {\n\trankdir=TB;\n\tnode [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n", g.Space)
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "\t%q [label=%q, fillcolor=%q];\n", n.ID, n.ID+"\n"+label(n), health(n).colour().fill)
	}
	for _, e := range g.Edges {
		style := "solid"
		switch {
		case e.After:
			style = "dotted"
		case !e.Met || e.Optional:
			style = "dashed"
		}
		fmt.Fprintf(&b, "\t%q -> %q [label=%q, style=%s];\n", e.From, e.To, requiredAs(e), style)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// label is the second line of a node's box.
func label(n mayfly.GraphNode) string {
	switch {
	case n.Kind == mayfly.GraphOutside && n.State == "here":
		return "outside"
	case n.Kind == mayfly.GraphFunction:
		return "function"
	case n.Kind == mayfly.GraphService && n.Wanted+n.Ready > 0:
		return fmt.Sprintf("%s %d/%d", n.State, n.Ready, n.Wanted)
	}
	return n.State
}
