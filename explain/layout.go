package explain

import (
	"cmp"
	"slices"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// A layout is a graph on layers: whoever requires is above what it requires.
// Edges over several layers bend in each, at a point that has a place of its own
// there, so that they pass between the boxes.
type layout struct {
	boxes         map[string]*box
	lines         []line
	width, height float64
}

// box is where a node is: its centre and size.
type box struct {
	node          *mayfly.GraphNode // nil: a point where an edge bends
	x, y          float64
	width, height float64
	layer         int
	up, down      []*box
}

type line struct {
	edge    mayfly.GraphEdge
	through []*box // from the one that requires to what it requires
}

// Sizes in the units of an SVG, at a text height of 13.
const (
	letter   = 7.4
	boxTall  = 46.0
	boxLeast = 110.0
	gapX     = 36.0
	gapY     = 74.0
	margin   = 24.0
	bend     = 14.0 // width that an edge has in a layer
)

func arrangeGraph(g mayfly.Graph) *layout {
	l := &layout{boxes: make(map[string]*box)}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		chars := max(utf8.RuneCountInString(n.ID), utf8.RuneCountInString(label(*n)))
		l.boxes[n.ID] = &box{node: n, width: max(boxLeast, float64(chars)*letter+34), height: boxTall}
	}
	layers := l.layers(g)
	order(layers)
	l.place(layers)
	return l
}

// layers puts each node below all that require it, as far as circles allow, and
// bends in between.
func (l *layout) layers(g mayfly.Graph) [][]*box {
	out := outOf(g)
	state := make(map[string]int) // 1: on the way here, 2: done
	back := make(map[[2]string]bool)
	var done []string // what is required before who requires it
	var visit func(id string)
	visit = func(id string) {
		state[id] = 1
		for _, e := range out[id] {
			switch state[e.To] {
			case 0:
				visit(e.To)
			case 1:
				back[[2]string{e.From, e.To}] = true
			}
		}
		state[id] = 2
		done = append(done, id)
	}
	for _, id := range roots(g) {
		visit(id)
	}
	deepest := 0
	for _, id := range slices.Backward(done) {
		for _, e := range out[id] {
			if !back[[2]string{e.From, e.To}] {
				l.boxes[e.To].layer = max(l.boxes[e.To].layer, l.boxes[id].layer+1)
				deepest = max(deepest, l.boxes[e.To].layer)
			}
		}
	}
	layers := make([][]*box, deepest+1)
	for i := range g.Nodes {
		b := l.boxes[g.Nodes[i].ID]
		layers[b.layer] = append(layers[b.layer], b)
	}
	for _, e := range g.Edges {
		if e.From != e.To {
			l.lines = append(l.lines, line{e, l.bends(layers, l.boxes[e.From], l.boxes[e.To])})
		}
	}
	return layers
}

// bends returns what an edge passes, ends included, and adds what is between.
func (l *layout) bends(layers [][]*box, from, to *box) []*box {
	through := []*box{from}
	step := cmp.Compare(to.layer, from.layer)
	for at := from.layer + step; step != 0 && at != to.layer; at += step {
		b := &box{width: bend, layer: at}
		layers[at] = append(layers[at], b)
		through = append(through, b)
	}
	through = append(through, to)
	for i := range len(through) - 1 {
		a, b := through[i], through[i+1]
		if step < 0 {
			a, b = b, a
		}
		a.down, b.up = append(a.down, b), append(b.up, a)
	}
	return through
}

// order sorts each layer so that few lines cross: by the middle of what they are
// connected to, down and up a few times.
func order(layers [][]*box) {
	place := make(map[*box]float64)
	number := func(layer []*box) {
		for i, b := range layer {
			place[b] = (float64(i) + 0.5) / float64(len(layer))
		}
	}
	for _, layer := range layers {
		number(layer)
	}
	sweep := func(layer []*box, others func(*box) []*box) {
		middle := make(map[*box]float64)
		for _, b := range layer {
			middle[b] = place[b]
			if list := others(b); len(list) > 0 {
				sum := 0.0
				for _, o := range list {
					sum += place[o]
				}
				middle[b] = sum / float64(len(list))
			}
		}
		slices.SortStableFunc(layer, func(a, b *box) int { return cmp.Compare(middle[a], middle[b]) })
		number(layer)
	}
	for range 6 {
		for _, layer := range layers {
			sweep(layer, func(b *box) []*box { return b.up })
		}
		for _, layer := range slices.Backward(layers) {
			sweep(layer, func(b *box) []*box { return b.down })
		}
	}
}

// place gives each box its coordinates: the layers one below the other, each in
// the middle.
func (l *layout) place(layers [][]*box) {
	widths := make([]float64, len(layers))
	for i, layer := range layers {
		for j, b := range layer {
			if j > 0 {
				widths[i] += gapX
			}
			widths[i] += b.width
		}
		l.width = max(l.width, widths[i])
	}
	for i, layer := range layers {
		x := margin + (l.width-widths[i])/2
		for _, b := range layer {
			b.x = x + b.width/2
			b.y = margin + boxTall/2 + float64(i)*(boxTall+gapY)
			x += b.width + gapX
		}
	}
	l.width += 2 * margin
	l.height = 2*margin + float64(len(layers))*boxTall + float64(len(layers)-1)*gapY
}
