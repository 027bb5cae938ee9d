package explain

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// colour is a box's: dark text on its fill can be read.
type colour struct{ fill, edge, word string }

func (h how) colour() colour {
	switch h {
	case good:
		return colour{"#d9f2df", "#2f855a", "as it shall be"}
	case coming:
		return colour{"#fdf1c7", "#b7791f", "on the way"}
	case bad:
		return colour{"#fbdada", "#c53030", "needs a look"}
	default:
		return colour{"#e8ebef", "#718096", "not wanted"}
	}
}

// SVG draws a graph as a picture that needs nothing else: no script, no font, no
// other file. What a box or a line means is said in words, too.
func SVG(w io.Writer, g mayfly.Graph) error {
	l := arrangeGraph(g)
	const legend, legendWidth = 40.0, 620.0
	width, height := max(l.width, legendWidth), l.height+legend
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="system-ui, sans-serif" font-size="13" role="img">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&b, "<title>Who requires whom in space %s</title>\n", text(g.Space))
	b.WriteString(`<defs><marker id="to" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#4a5568"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", width, height)
	for _, line := range l.lines {
		drawLine(&b, line)
	}
	for i := range g.Nodes {
		drawBox(&b, l.boxes[g.Nodes[i].ID])
	}
	x := margin
	for _, h := range []how{good, coming, bad, idle} {
		c := h.colour()
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="14" height="14" rx="3" fill="%s" stroke="%s"/><text x="%.1f" y="%.1f" fill="#4a5568">%s</text>`+"\n",
			x, height-legend+4, c.fill, c.edge, x+20, height-legend+16, c.word)
		x += 34 + float64(len(c.word))*letter
	}
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" fill="#4a5568">dashed: not there, or optional</text>`+"\n", x, height-legend+16)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func drawBox(b *strings.Builder, x *box) {
	n := *x.node
	c := health(n).colour()
	left, top := x.x-x.width/2, x.y-x.height/2
	dash := ""
	if n.Kind != mayfly.GraphService {
		dash = ` stroke-dasharray="5 4"`
	}
	tip := n.ID + ": " + label(n)
	if n.Reason != "" {
		tip += "\n" + n.Reason
	}
	fmt.Fprintf(b, `<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="8" fill="%s" stroke="%s" stroke-width="1.5"%s/>`,
		text(tip), left, top, x.width, x.height, c.fill, c.edge, dash)
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-weight="600" fill="#1a202c">%s</text>`, x.x, x.y-4, text(n.ID))
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="12" fill="#2d3748">%s</text></g>`+"\n", x.x, x.y+14, text(label(n)))
}

// drawLine draws an edge as a curve from the bottom of one box to the top of the
// other, or the other way round where it closes a circle.
func drawLine(b *strings.Builder, l line) {
	from, to := l.through[0], l.through[len(l.through)-1]
	half := boxTall / 2
	if to.layer < from.layer {
		half = -half
	}
	ax, ay := from.x, from.y+half
	path := fmt.Sprintf("M%.1f %.1f", ax, ay)
	for i, x := range l.through[1:] {
		bx, by := x.x, x.y
		if i == len(l.through)-2 {
			by -= half
		}
		middle := (ay + by) / 2
		path += fmt.Sprintf("C%.1f %.1f %.1f %.1f %.1f %.1f", ax, middle, bx, middle, bx, by)
		ax, ay = bx, by
	}
	stroke, dash := "#4a5568", ""
	switch {
	case !l.edge.Met && !l.edge.Optional:
		stroke, dash = bad.colour().edge, ` stroke-dasharray="6 4"`
	case l.edge.After:
		dash = ` stroke-dasharray="2 4"`
	case !l.edge.Met || l.edge.Optional:
		dash = ` stroke-dasharray="6 4"`
	}
	tip := l.edge.From + " requires " + l.edge.To + " as " + requiredAs(l.edge)
	if l.edge.After {
		tip = l.edge.From + " starts " + requiredAs(l.edge) + ": " + l.edge.To
	}
	if len(l.edge.Use) > 0 {
		tip += "\n" + strings.Join(l.edge.Use, ", ")
	}
	fmt.Fprintf(b, `<g><title>%s</title><path d="%s" fill="none" stroke="%s" stroke-width="1.5"%s marker-end="url(#to)"/>`, text(tip), path, stroke, dash)
	if !l.edge.After && l.edge.Name != l.edge.To {
		end := l.through[1]
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" font-size="11" text-anchor="middle" fill="%s" stroke="#ffffff" stroke-width="3" paint-order="stroke">%s</text>`,
			(from.x+end.x)/2, (from.y+end.y)/2+4, stroke, text(l.edge.Name))
	}
	b.WriteString("</g>\n")
}

// text is a text as XML has it.
func text(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err) // a Builder takes everything
	}
	return b.String()
}
