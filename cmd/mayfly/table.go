package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"golang.org/x/term"
)

// heading is the first line of a table.
type heading struct {
	names []string
	spare []string // those that a narrow terminal goes without, the first of them first
}

func headings(names ...string) heading { return heading{names: names} }

// sparing says which columns matter least, the least first.
func (h heading) sparing(names ...string) heading {
	h.spare = names
	return h
}

// printTable prints a table. On a terminal it is no wider than that, unless f
// says wide; elsewhere, where a program reads it, it is always whole.
func printTable(w io.Writer, f format, h heading, n int, row func(int) []string) error {
	t := table{rows: [][]string{slices.Clone(h.names)}, gap: 3}
	for i := range n {
		cells := row(i)
		for j, cell := range cells {
			cells[j] = plain(cell)
		}
		t.rows = append(t.rows, cells)
	}
	if width := terminalWidth(w); width > 0 && f != "wide" {
		t.fit(width, h.spare)
	}
	return t.write(w)
}

// terminalWidth is how many characters a line has; 0 where w is no terminal, or
// one that does not know.
func terminalWidth(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// A table is a line of headings and the rows below it, each with as many cells.
type table struct {
	rows [][]string
	gap  int // spaces between columns
}

func (t *table) write(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, t.gap, ' ', 0)
	for _, cells := range t.rows {
		fmt.Fprintln(out, strings.Join(cells, "\t"))
	}
	return out.Flush()
}

const (
	leastText = 20 // what the last column is given before others go for it
	leastCell = 12 // what is left of a column that is shortened
	leastName = 30 // the same of the first one
	mostLines = 4  // how many lines a text is folded into
)

// fit makes a table no wider than a terminal: with less between the columns,
// without those that say nothing and those that can be spared, with the text of
// the last one beneath itself, and only then with shorter cells. Those of the first
// column are the last to go, for they are what people give to other verbs.
func (t *table) fit(width int, spare []string) {
	if t.excess(width) <= 0 {
		return
	}
	t.gap = 2
	for j := len(t.rows[0]) - 1; j > 0 && t.excess(width) > 0; j-- {
		if t.isEmpty(j) {
			t.remove(j)
		}
	}
	for _, name := range spare {
		if j := slices.Index(t.rows[0], name); j > 0 && t.excess(width) > t.foldable() {
			t.remove(j)
		}
	}
	t.shorten(t.excess(width) - t.foldable())
	if excess := t.excess(width); excess > 0 {
		last := len(t.rows[0]) - 1
		t.fold(max(t.width(last)-excess, leastCell))
	}
}

// width is that of a column.
func (t *table) width(j int) (widest int) {
	for _, cells := range t.rows {
		widest = max(widest, utf8.RuneCountInString(cells[j]))
	}
	return widest
}

// excess is how much wider than a terminal the table is.
func (t *table) excess(width int) int {
	sum := -t.gap
	for j := range t.rows[0] {
		sum += t.width(j) + t.gap
	}
	return sum - width
}

// foldable is how much narrower the last column can be.
func (t *table) foldable() int { return max(t.width(len(t.rows[0])-1)-leastText, 0) }

// isEmpty says whether no row has anything in a column.
func (t *table) isEmpty(j int) bool {
	return !slices.ContainsFunc(t.rows[1:], func(cells []string) bool { return cells[j] != "" })
}

func (t *table) remove(j int) {
	for i, cells := range t.rows {
		t.rows[i] = slices.Delete(cells, j, j+1)
	}
}

// shorten makes the table so much narrower, by the widest columns but the last.
func (t *table) shorten(excess int) {
	widths := make([]int, len(t.rows[0])-1)
	for j := range widths {
		widths[j] = t.width(j)
	}
	for ; excess > 0; excess-- {
		widest, least := 0, leastCell
		for j := 1; j < len(widths); j++ {
			if widths[j] > least {
				widest, least = j, widths[j]
			}
		}
		if widest == 0 && widths[0] <= leastName {
			break
		}
		widths[widest]--
	}
	for _, cells := range t.rows {
		for j, width := range widths {
			cells[j] = shortenMiddle(cells[j], width)
		}
	}
}

// shortenMiddle cuts a text to n characters, and keeps a third of them from its end:
// that is where long names differ.
func shortenMiddle(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	tail := n / 3
	return string(runes[:n-1-tail]) + "…" + string(runes[len(runes)-tail:])
}

// fold continues what is longer in the last column beneath itself.
func (t *table) fold(width int) {
	last := len(t.rows[0]) - 1
	var rows [][]string
	for _, cells := range t.rows {
		lines := foldText(cells[last], width)
		for i, line := range lines {
			if i > 0 {
				cells = make([]string, len(cells))
			}
			cells[last] = line
			rows = append(rows, cells)
		}
	}
	t.rows = rows
}

// foldText cuts a text into lines of at most so many characters, between words
// where it can, and what is too much for mostLines off.
func foldText(text string, width int) (lines []string) {
	rest := []rune(text)
	for len(rest) > width {
		if len(lines) == mostLines-1 {
			return append(lines, shorten(string(rest), width))
		}
		end := width
		for end > 0 && rest[end] != ' ' {
			end--
		}
		next := end + 1 // behind the space
		if end == 0 {
			end, next = width, width
		}
		lines = append(lines, string(rest[:end]))
		rest = rest[next:]
	}
	return append(lines, string(rest))
}
