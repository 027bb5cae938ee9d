package manifest

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/mayfly-run/mayfly"
)

// place names a value within a file: the keys that lead to it, joined by "\n",
// which no plain key holds. The place of a key differs from that of its value
// by a trailing "\n".
type place string

func (p place) child(key string) place {
	if p == "" {
		return place(key)
	}
	return p + "\n" + place(key)
}

func (p place) item(i int) place { return p.child(fmt.Sprintf("[%d]", i)) }

func (p place) key() place { return p + "\n" }

func (p place) parent() place {
	i := strings.LastIndexByte(string(p), '\n')
	if i < 0 {
		return ""
	}
	return p[:i]
}

// last is the key that it is under.
func (p place) last() string { return string(p[strings.LastIndexByte(string(p), '\n')+1:]) }

type position struct{ line, column int }

// source is one parsed file: its values as plain Go, and where each stood.
type source struct {
	name  string
	lines []string
	top   map[string]any
	where map[place]position
}

// errorf returns an Invalid error at the nearest known position of p.
func (s *source) errorf(p place, format string, args ...any) *mayfly.Error {
	return s.errorAt(s.position(p), fmt.Sprintf(format, args...))
}

// position is where p stands, or the nearest thing around it that is known.
func (s *source) position(p place) position {
	at, ok := s.where[p]
	for !ok && p != "" {
		p = p.parent()
		at, ok = s.where[p]
	}
	if !ok {
		at = position{1, 1}
	}
	return at
}

func (s *source) errorAt(at position, text string) *mayfly.Error {
	text = fmt.Sprintf("%s:%d:%d: %s", s.name, at.line, at.column, printable(text)) // names in it are the file's
	if at.line >= 1 && at.line <= len(s.lines) {
		if x := excerpt(s.lines[at.line-1]); x != "" {
			text += " (" + x + ")"
		}
	}
	return &mayfly.Error{Kind: mayfly.Invalid, Text: text}
}

// excerpt is a line of the file, fit to stand within a line of text.
func excerpt(line string) string {
	const most = 60
	line = strings.TrimSpace(printable(line))
	if runes := []rune(line); len(runes) > most {
		line = string(runes[:most]) + "..."
	}
	return line
}

// printable has spaces for what would break a line or a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}

// parse turns YAML into plain values, within the limits of this package.
func parse(name string, data []byte) (s *source, err error) {
	s = &source{name: name, where: map[place]position{}}
	if len(data) > MaxSize {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is larger than %d bytes", name, MaxSize).
			WithHint("split it with include")
	}
	text := strings.TrimPrefix(string(data), "\ufeff") // editors on Windows put it there
	s.lines = strings.Split(text, "\n")
	tokens := lexer.Tokenize(text)
	if err := s.checkDepth(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, s.syntaxError(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType || doc.Body.Type() == ast.DirectiveType {
			continue
		}
		if body != nil {
			return nil, s.errorAt(positionOf(doc.Body), "a manifest is one YAML document, and here a second one begins").
				WithHint("put it into a file of its own")
		}
		body = doc.Body
	}
	if body == nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is empty", name).WithHint("say what to run under functions:")
	}
	c := converter{source: s, anchors: map[string]ast.Node{}, open: map[string]bool{}}
	value, err := c.value("", body, 0)
	if err != nil {
		return nil, err
	}
	top, ok := value.(map[string]any)
	if !ok {
		return nil, s.errorAt(positionOf(body), "a manifest is a mapping of keys").WithHint("begin with functions:")
	}
	s.top = top
	return s, nil
}

// checkDepth refuses nesting that would make the parser recurse without bound.
// Block mappings need a column for each level; flow collections and sequences
// within one line do not, so those are counted.
func (s *source) checkDepth(tokens token.Tokens) error {
	flow, inline, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, inline = t.Position.Line, 0
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType, token.MappingValueType:
			inline++
		}
		if flow > maxDepth || inline > 4*maxDepth || t.Position.Column > 64*maxDepth && t.Type == token.MappingValueType {
			return s.errorAt(position{t.Position.Line, t.Position.Column}, fmt.Sprintf("nested deeper than %d levels", maxDepth))
		}
	}
	return nil
}

func (s *source) syntaxError(err error) error {
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) {
		return mayfly.Errorf(mayfly.Invalid, "%s: %s", s.name, excerpt(err.Error()))
	}
	at := position{1, 1}
	if t := syntax.Token; t != nil && t.Position != nil {
		at = position{t.Position.Line, t.Position.Column}
	}
	out := s.errorAt(at, excerpt(syntax.Message))
	near := s.lines[min(max(at.line-1, 0), len(s.lines)):] // the library ends lines at a carriage return, too
	for _, line := range near[:min(2, len(near))] {
		if strings.Contains(line[:len(line)-len(strings.TrimLeft(line, " \t"))], "\t") {
			return out.WithHint("indent with spaces: YAML takes no tabs")
		}
	}
	return out
}

func positionOf(n ast.Node) position {
	t := n.GetToken()
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		t = m.Values[0].Key.GetToken() // its own token is the first colon
	}
	if m, ok := n.(*ast.MappingValueNode); ok {
		t = m.Key.GetToken()
	}
	if t == nil || t.Position == nil {
		return position{1, 1}
	}
	return position{t.Position.Line, t.Position.Column}
}

// converter walks the syntax tree once, counting what it makes.
type converter struct {
	*source
	nodes   int
	anchors map[string]ast.Node
	open    map[string]bool // anchors being expanded, to find one within itself
}

func (c *converter) value(p place, n ast.Node, depth int) (any, error) {
	at := positionOf(n)
	if c.nodes++; c.nodes > maxNodes {
		return nil, c.errorAt(at, fmt.Sprintf("more than %d values, counting each use of an alias", maxNodes))
	}
	if depth > maxDepth {
		return nil, c.errorAt(at, fmt.Sprintf("nested deeper than %d levels", maxDepth))
	}
	c.where[p] = at
	switch n := n.(type) {
	case *ast.MappingNode:
		return c.mapping(p, n.Values, depth)
	case *ast.MappingValueNode:
		return c.mapping(p, []*ast.MappingValueNode{n}, depth)
	case *ast.SequenceNode:
		list := make([]any, 0, len(n.Values))
		for i, item := range n.Values {
			v, err := c.value(p.item(i), item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case *ast.AnchorNode:
		c.anchors[n.Name.GetToken().Value] = n.Value
		return c.value(p, n.Value, depth+1)
	case *ast.AliasNode:
		return c.alias(p, n, depth)
	case *ast.TagNode:
		return c.tagged(p, n, depth)
	default:
		return c.scalar(at, n)
	}
}

func (c *converter) alias(p place, n *ast.AliasNode, depth int) (any, error) {
	name := n.Value.GetToken().Value
	target, ok := c.anchors[name]
	if !ok {
		return nil, c.errorAt(positionOf(n), fmt.Sprintf("no anchor &%s stands before its alias", name))
	}
	if c.open[name] {
		return nil, c.errorAt(positionOf(n), fmt.Sprintf("the alias *%s is within its own anchor", name))
	}
	c.open[name] = true
	defer delete(c.open, name)
	return c.value(p, target, depth+1)
}

func (c *converter) tagged(p place, n *ast.TagNode, depth int) (any, error) {
	tag := n.Start.Value
	switch tag {
	case "!!str":
		if s, ok := n.Value.(ast.ScalarNode); ok {
			return s.GetToken().Value, nil
		}
	case "!!map", "!!seq", "!!int", "!!float", "!!bool", "!!null":
		return c.value(p, n.Value, depth+1)
	case "!reset", "!override":
		return nil, c.errorAt(positionOf(n), "the tag "+tag+" is not supported yet").WithHint("remove it")
	}
	return nil, c.errorAt(positionOf(n), "unknown tag "+tag).WithHint("remove it")
}

func (c *converter) scalar(at position, n ast.Node) (any, error) {
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.BoolNode:
		return n.Value, nil
	case *ast.FloatNode:
		return n.Value, nil
	case *ast.IntegerNode:
		switch v := n.Value.(type) {
		case int64:
			return v, nil
		case uint64:
			if v <= math.MaxInt64 {
				return int64(v), nil
			}
		}
		return n.GetToken().Value, nil
	}
	return nil, c.errorAt(at, "this value cannot stand here")
}

func (c *converter) mapping(p place, entries []*ast.MappingValueNode, depth int) (any, error) {
	m := make(map[string]any, len(entries))
	var merged []map[string]any
	for _, e := range entries {
		if e.Key.IsMergeKey() {
			parts, err := c.merge(p, e, depth)
			if err != nil {
				return nil, err
			}
			merged = append(merged, parts...)
			continue
		}
		key, err := c.keyText(e.Key)
		if err != nil {
			return nil, err
		}
		if _, ok := m[key]; ok {
			return nil, c.errorAt(positionOf(e), fmt.Sprintf("the key %q is here twice", key))
		}
		at := p.child(key)
		if m[key], err = c.value(at, e.Value, depth+1); err != nil {
			return nil, err
		}
		c.where[at.key()] = positionOf(e)
	}
	for _, part := range merged { // the first of several wins, as YAML has it
		for k, v := range part {
			if _, ok := m[k]; !ok {
				m[k] = v
			}
		}
	}
	return m, nil
}

// merge returns the mappings that a "<<" key brings in.
func (c *converter) merge(p place, e *ast.MappingValueNode, depth int) ([]map[string]any, error) {
	v, err := c.value(p.child("<<"), e.Value, depth+1)
	if err != nil {
		return nil, err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var parts []map[string]any
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return nil, c.errorAt(positionOf(e), "<< takes an alias of a mapping, or a list of them")
		}
		parts = append(parts, m)
	}
	return parts, nil
}

func (c *converter) keyText(k ast.MapKeyNode) (string, error) {
	var text string
	switch k := k.(type) {
	case *ast.StringNode:
		text = k.Value
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
		text = k.GetToken().Value
	default:
		return "", c.errorAt(positionOf(k), "a key must be a plain word")
	}
	if strings.ContainsRune(text, '\n') || len(text) > 256 {
		return "", c.errorAt(positionOf(k), "a key must be one line of at most 256 bytes")
	}
	return text, nil
}
