package build

import (
	"bytes"
	"path"
	"strings"
)

// pattern is a line of a .gitignore, relative to the folder that it is in.
type pattern struct {
	text    string // without what the other fields say
	literal int    // bytes at its beginning that stand for themselves
	negated bool   // it brings back what an earlier line leaves out
	folders bool   // it is for folders alone
	base    bool   // it is about the last part of a name
}

// parseGitignore reads a .gitignore as git does: where that is odd, so is this.
func parseGitignore(text []byte) (patterns []pattern) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		line, _ = bytes.CutSuffix(line, []byte("\r"))
		p := pattern{text: withoutSpaces(string(line))}
		p.text, p.negated = strings.CutPrefix(p.text, "!")
		p.text, p.folders = strings.CutSuffix(p.text, "/")
		p.base = !strings.Contains(p.text, "/")
		if !p.base {
			p.text = strings.TrimPrefix(p.text, "/")
		}
		if p.literal = strings.IndexAny(p.text, `*?[\`); p.literal < 0 {
			p.literal = len(p.text)
		}
		patterns = append(patterns, p)
	}
	return patterns
}

// withoutSpaces takes the spaces from a line's end that no backslash is before.
func withoutSpaces(line string) string {
	end := 0
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
		} else if line[i] == ' ' {
			continue
		}
		end = min(i+1, len(line))
	}
	return line[:end]
}

// matches tells whether a line is about a name beneath its folder. It says nothing
// of what is beneath that name.
func (p *pattern) matches(name string, isDir bool) bool {
	if p.folders && !isDir {
		return false
	}
	if p.base {
		g := glob{pattern: p.text, text: path.Base(name)}
		return g.match(0, 0)
	}
	if !strings.HasPrefix(name, p.text[:p.literal]) {
		return false
	}
	g := glob{pattern: p.text[p.literal:], text: name[p.literal:], path: true}
	return g.match(0, 0)
}

// glob is a match of a text. It knows from which pairs of places there is none, so
// that it takes no longer than the product of both lengths.
type glob struct {
	pattern, text string
	path          bool // a star stops at a slash, two in place of a part do not
	failed        map[[2]int]bool
}

// match tells whether the pattern from p on is the text from t on.
func (g *glob) match(p, t int) bool {
	for ; p < len(g.pattern); p, t = p+1, t+1 {
		if g.pattern[p] == '*' {
			return g.star(p, t)
		}
		if t == len(g.text) {
			return false
		}
		c := g.text[t]
		switch g.pattern[p] {
		case '?':
			if g.path && c == '/' {
				return false
			}
		case '[':
			end, in := class(g.pattern, p, c)
			if !in || g.path && c == '/' {
				return false
			}
			p = end
		case '\\':
			if p++; p == len(g.pattern) || g.pattern[p] != c {
				return false
			}
		default:
			if g.pattern[p] != c {
				return false
			}
		}
	}
	return t == len(g.text)
}

// star is match where the pattern has a star.
func (g *glob) star(p, t int) bool {
	from := [2]int{p, t}
	if g.failed[from] {
		return false
	}
	first := p
	for p < len(g.pattern) && g.pattern[p] == '*' {
		p++
	}
	slashes, rest := !g.path, g.pattern[p:]
	if g.path && p-first > 1 && (first == 0 || g.pattern[first-1] == '/') && (rest == "" || rest[0] == '/' || strings.HasPrefix(rest, `\/`)) {
		slashes = true
		if rest != "" && rest[0] == '/' && g.match(p+1, t) { // it may stand for no part at all
			return true
		}
	}
	for ; ; t++ {
		if g.match(p, t) {
			return true
		}
		if t == len(g.text) || !slashes && g.text[t] == '/' {
			break
		}
	}
	if g.failed == nil {
		g.failed = map[[2]int]bool{}
	}
	g.failed[from] = true
	return false
}

// class reads the set of characters that begins at p, and returns where it ends and
// whether c is in it. A set without an end has nothing in it.
func class(pattern string, p int, c byte) (end int, in bool) {
	at := func(i int) byte {
		if i < len(pattern) {
			return pattern[i]
		}
		return 0
	}
	p++
	not := at(p) == '!' || at(p) == '^'
	if not {
		p++
	}
	for first, last := true, byte(0); first || at(p) != ']'; first, p = false, p+1 {
		one := at(p)
		switch {
		case one == 0:
			return p, false
		case one == '\\':
			p++
			if one = at(p); one == 0 {
				return p, false
			}
			in, last = in || c == one, one
		case one == '-' && last != 0 && at(p+1) != 0 && at(p+1) != ']':
			p++
			if at(p) == '\\' {
				p++
			}
			if at(p) == 0 {
				return p, false
			}
			in, last = in || last <= c && c <= at(p), 0
		case one == '[' && at(p+1) == ':':
			close := strings.IndexByte(pattern[p+2:], ']')
			if close < 0 {
				return p, false
			}
			name, ok := strings.CutSuffix(pattern[p+2:p+2+close], ":")
			if !ok || close == 0 { // an ordinary set with [ in it
				in, last = in || c == '[', '['
				continue
			}
			has, known := named(name, c)
			if !known {
				return p, false
			}
			in, last = in || has, 0
			p += 2 + close
		default:
			in, last = in || c == one, one
		}
	}
	return p, in != not
}

// named tells whether a character is of a named class, as POSIX has them for ASCII.
func named(class string, c byte) (in, known bool) {
	lower, upper, digit := 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9'
	graph := '!' <= c && c <= '~'
	switch class {
	case "alnum":
		return lower || upper || digit, true
	case "alpha":
		return lower || upper, true
	case "blank":
		return c == ' ' || c == '\t', true
	case "cntrl":
		return c < ' ' || c == 127, true
	case "digit":
		return digit, true
	case "graph":
		return graph, true
	case "lower":
		return lower, true
	case "print":
		return graph || c == ' ', true
	case "punct":
		return graph && !lower && !upper && !digit, true
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r', true
	case "upper":
		return upper, true
	case "xdigit":
		return digit || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F', true
	}
	return false, false
}
