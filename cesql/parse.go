package cesql

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// Bounds of an expression.
const (
	MaxLength = 4096 // bytes
	maxDepth  = 100
)

// Parse reads an expression. Its error is Invalid and says at which character,
// counted from 1, something else was expected.
func Parse(text string) (e *Expression, err error) {
	if len(text) > MaxLength {
		return nil, mayfly.Errorf(mayfly.Invalid, "the filter has %d bytes, and the limit is %d", len(text), MaxLength)
	}
	if !utf8.ValidString(text) {
		return nil, mayfly.Errorf(mayfly.Invalid, "the filter is not valid UTF-8")
	}
	p := &parser{text: text}
	p.next()
	root := p.expression(0)
	if p.err == nil && p.token.kind != end {
		p.fail(p.token.at, "%s cannot follow here", p.token)
	}
	if p.err != nil {
		return nil, p.err
	}
	return &Expression{root: root, text: text}, nil
}

// What a token is.
type kind int

const (
	end kind = iota
	name
	number
	text
	symbol
)

type token struct {
	kind kind
	text string // upper case of a name; what a text says
	raw  string
	at   int // byte
}

func (t token) String() string {
	if t.kind == end {
		return "the end"
	}
	return strconv.Quote(t.raw)
}

// is reports whether a token is a symbol or a keyword.
func (t token) is(texts ...string) bool {
	for _, s := range texts {
		if (t.kind == symbol || t.kind == name) && t.text == s {
			return true
		}
	}
	return false
}

// parser reads an expression, one token ahead. After an error it sees the end.
type parser struct {
	text  string
	at    int
	token token
	depth int
	err   error
}

// fail sets the first error, at a byte of the text.
func (p *parser) fail(at int, format string, args ...any) {
	if p.err == nil {
		p.err = mayfly.Errorf(mayfly.Invalid, "the filter is wrong at character %d: %s", utf8.RuneCountInString(p.text[:at])+1, fmt.Sprintf(format, args...)).
			WithHint("it is an expression of CloudEvents SQL, such as  subject LIKE '%%.jpg' AND EXISTS bucket")
	}
	p.token, p.at = token{at: len(p.text)}, len(p.text)
}

// next reads the next token.
func (p *parser) next() {
	for p.at < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.at]) >= 0 {
		p.at++
	}
	start := p.at
	if start == len(p.text) {
		p.token = token{at: start}
		return
	}
	switch c := p.text[start]; {
	case c == '\'' || c == '"':
		p.quoted(c)
		return
	case wordByte(c):
		for p.at < len(p.text) && wordByte(p.text[p.at]) {
			p.at++
		}
		word := p.text[start:p.at]
		kind := number
		if strings.Trim(word, "0123456789") != "" {
			kind = name
		}
		p.token = token{kind: kind, text: strings.ToUpper(word), raw: word, at: start}
		return
	}
	for _, s := range []string{"!=", "<>", ">=", "<=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ","} {
		if strings.HasPrefix(p.text[start:], s) {
			p.at += len(s)
			p.token = token{kind: symbol, text: s, raw: s, at: start}
			return
		}
	}
	r, _ := utf8.DecodeRuneInString(p.text[start:])
	p.fail(start, "%q has no meaning", r)
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// quoted reads a text. A backslash takes a quote, or itself, into it; before
// anything else it stays, as LIKE has a use for it.
func (p *parser) quoted(quote byte) {
	start := p.at
	var b strings.Builder
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '\\' && p.at+1 < len(p.text) && (p.text[p.at+1] == '\'' || p.text[p.at+1] == '"'):
			p.at++
			b.WriteByte(p.text[p.at])
		case c == quote:
			p.at++
			p.token = token{kind: text, text: b.String(), raw: p.text[start:p.at], at: start}
			return
		default:
			b.WriteByte(c)
		}
	}
	p.fail(start, "the text that begins here has no end")
}

// expect takes a symbol.
func (p *parser) expect(s string) {
	if !p.token.is(s) {
		p.fail(p.token.at, "%q is expected, not %s", s, p.token)
		return
	}
	p.next()
}

// The binding of binary operators, the loosest first.
const (
	bindLogic = iota + 1
	bindCompare
	bindAdd
	bindMultiply
	bindTest // LIKE and IN
)

func binding(t token) int {
	switch {
	case t.is("AND", "OR", "XOR"):
		return bindLogic
	case t.is("=", "!=", "<>", "<", "<=", ">", ">="):
		return bindCompare
	case t.is("+", "-"):
		return bindAdd
	case t.is("*", "/", "%"):
		return bindMultiply
	case t.is("LIKE", "IN", "NOT"):
		return bindTest
	}
	return 0
}

// expression reads operators that bind at least so tightly.
func (p *parser) expression(least int) node {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.token.at, "it is nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	left := p.unary()
	for p.err == nil {
		op := p.token
		bind := binding(op)
		if bind == 0 || bind < least {
			break
		}
		p.next()
		switch bind {
		case bindTest:
			left = p.test(left, op)
		case bindLogic: // groups from the right
			left = logic{op.text, left, p.expression(bindLogic)}
		case bindCompare:
			left = comparison(op.text, left, p.expression(bindCompare+1))
		default:
			left = arithmetic{op.text[0], left, p.expression(bind + 1)}
		}
	}
	return left
}

func comparison(verb string, left, right node) node {
	switch verb {
	case "=":
		return equals{left: left, right: right}
	case "!=", "<>":
		return equals{left: left, right: right, unequal: true}
	}
	return compare{verb, left, right}
}

// test reads what follows LIKE, IN, or NOT before them.
func (p *parser) test(left node, op token) node {
	negated := op.text == "NOT"
	if negated {
		op = p.token
		if !op.is("LIKE", "IN") {
			p.fail(op.at, "LIKE or IN is expected after NOT, not %s", op)
			return left
		}
		p.next()
	}
	if op.text == "LIKE" {
		pattern := p.token
		if pattern.kind != text {
			p.fail(pattern.at, "LIKE is followed by a text in quotes, not %s", pattern)
			return left
		}
		p.next()
		return newLike(left, pattern.text, negated)
	}
	p.expect("(")
	set := []node{p.expression(0)}
	for p.token.is(",") {
		p.next()
		set = append(set, p.expression(0))
	}
	p.expect(")")
	return in{left, set, negated}
}

func (p *parser) unary() node {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.token.at, "it is nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	t := p.token
	switch {
	case t.is("NOT"):
		p.next()
		return not{p.unary()}
	case t.is("+", "-"):
		p.next()
		if p.token.kind == number {
			return p.integer(t.text)
		}
		if t.is("+") {
			p.fail(p.token.at, "a number is expected after +, not %s", p.token)
		}
		return negate{p.unary()}
	case t.is("EXISTS"):
		p.next()
		return exists{p.attributeName()}
	case t.is("("):
		p.next()
		inner := p.expression(0)
		p.expect(")")
		return inner
	case t.kind == text:
		p.next()
		return literal{t.text}
	case t.kind == number:
		return p.integer("")
	case t.is("TRUE", "FALSE"):
		p.next()
		return literal{t.text == "TRUE"}
	case t.kind == name:
		return p.named()
	}
	p.fail(t.at, "an attribute, a text, a number or a function is expected, not %s", t)
	return literal{false}
}

func (p *parser) integer(sign string) node {
	n, err := strconv.ParseInt(sign+p.token.raw, 10, 32)
	if err != nil {
		p.fail(p.token.at, "%s%s is no whole number of 32 bits", sign, p.token.raw)
	}
	p.next()
	return literal{int32(n)}
}

// attributeName takes the name of an attribute.
func (p *parser) attributeName() string {
	t := p.token
	if t.kind != name && t.kind != number || strings.Contains(t.raw, "_") || keyword(t) {
		p.fail(t.at, "an attribute's name is expected, not %s", t)
		return ""
	}
	p.next()
	return strings.ToLower(t.raw)
}

func keyword(t token) bool {
	return t.is("AND", "OR", "XOR", "NOT", "LIKE", "IN", "EXISTS", "TRUE", "FALSE")
}

// named reads an attribute, or the call of a function.
func (p *parser) named() node {
	t := p.token
	if keyword(t) {
		p.fail(t.at, "%s cannot stand here", t)
		return literal{false}
	}
	p.next()
	if !p.token.is("(") {
		if strings.Contains(t.raw, "_") {
			p.fail(t.at, "%s cannot name an attribute", t)
		}
		return attribute{strings.ToLower(t.raw)}
	}
	p.next()
	var args []node
	for p.err == nil && !p.token.is(")") {
		if len(args) > 0 {
			p.expect(",")
		}
		args = append(args, p.expression(0))
	}
	p.expect(")")
	fn, known := lookUp(t.text, len(args))
	switch {
	case p.err != nil:
	case !known:
		p.fail(t.at, "there is no function %s", t.raw)
	case fn == nil:
		p.fail(t.at, "%s does not take %d arguments", t.text, len(args))
	}
	return call{fn, args}
}
