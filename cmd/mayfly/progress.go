package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

// redrawTime bounds how often a terminal is drawn to.
const redrawTime = 50 * time.Millisecond

// progressView shows the progress of one work: on a terminal a line for each
// part, drawn over and over, elsewhere a line for each change.
type progressView struct {
	w     io.Writer
	live  bool
	width int

	mu    sync.Mutex
	parts []client.Progress // in the order in which they came
	drawn int               // lines on the screen that are ours
	last  time.Time
}

func (c *cli) progress() *progressView {
	v := &progressView{w: c.stderr, live: isTerminal(c.stderr), width: 80}
	if f, ok := c.stderr.(*os.File); ok && v.live {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 20 {
			v.width = width
		}
	}
	return v
}

// report takes one piece of progress.
func (v *progressView) report(p client.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed := v.keep(p)
	if !v.live {
		if changed {
			fmt.Fprintln(v.w, plainLine(p))
		}
		return
	}
	if p.ID == "" { // text of the whole scrolls away above the parts
		v.clear()
		fmt.Fprintln(v.w, shorten(plain(p.Text), v.width))
		v.draw()
		return
	}
	if now := time.Now(); changed || now.Sub(v.last) >= redrawTime {
		v.last = now
		v.clear()
		v.draw()
	}
}

// keep remembers the state of a part and says whether it does something else
// than before. What has no ID is always news.
func (v *progressView) keep(p client.Progress) bool {
	if p.ID == "" {
		return true
	}
	for i, old := range v.parts {
		if old.ID == p.ID {
			v.parts[i] = p
			return old.Text != p.Text
		}
	}
	v.parts = append(v.parts, p)
	return true
}

// tell has write print lines of another kind, above the parts on a terminal. The
// part with that ID is not drawn any more: what is printed says how it ended.
func (v *progressView) tell(id string, write func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	write()
	v.parts = slices.DeleteFunc(v.parts, func(p client.Progress) bool { return p.ID == id })
	if v.live {
		v.draw()
	}
}

// done leaves the last state on the screen.
func (v *progressView) done() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.live && v.drawn > 0 {
		v.clear()
		v.draw()
	}
	v.parts, v.drawn = nil, 0
}

func (v *progressView) clear() {
	if v.drawn > 0 {
		fmt.Fprintf(v.w, "\r\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

func (v *progressView) draw() {
	var b strings.Builder
	for _, p := range v.parts {
		b.WriteString(v.liveLine(p))
		b.WriteByte('\n')
	}
	io.WriteString(v.w, b.String())
	v.drawn = len(v.parts)
}

func (v *progressView) liveLine(p client.Progress) string {
	line := fmt.Sprintf("%-12s  %-10s", partName(p.ID), plain(p.Text))
	if p.Total <= 0 {
		return shorten(strings.TrimRight(line, " "), v.width-1)
	}
	figures := fmt.Sprintf("  %s of %s", humanSize(p.Done), humanSize(p.Total))
	room := min(v.width-1-len(line)-len(figures)-3, 40)
	if room >= 10 {
		full := int(int64(room) * min(p.Done, p.Total) / p.Total)
		line += " [" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "]"
	}
	return shorten(line+figures, v.width-1)
}

// partName is an ID as people know it: a digest is cut, a name is not.
func partName(id string) string {
	if id = plain(id); strings.HasPrefix(id, "sha256:") || strings.Trim(id, "0123456789abcdef") == "" {
		return shortDigest(id)
	}
	return id
}

func plainLine(p client.Progress) string {
	line := plain(p.Text)
	if p.ID != "" {
		line = partName(p.ID) + ": " + line
	}
	if p.Total > 0 {
		line += " (" + humanSize(p.Total) + ")"
	}
	return line
}
