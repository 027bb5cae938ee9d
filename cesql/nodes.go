package cesql

import (
	"fmt"
	"strings"
)

type literal struct{ value any }

func (n literal) eval(Attributes) (any, error) { return n.value, nil }

type attribute struct{ name string }

func (n attribute) eval(of Attributes) (any, error) {
	value, there := of.Attribute(n.name)
	if !there {
		return false, fmt.Errorf("%w: %s", ErrMissing, n.name)
	}
	return value, nil
}

type exists struct{ name string }

func (n exists) eval(of Attributes) (any, error) {
	_, there := of.Attribute(n.name)
	return there, nil
}

type not struct{ of node }

func (n not) eval(of Attributes) (any, error) {
	value, err := evalBool(n.of, of)
	return !value && err == nil, err
}

type negate struct{ of node }

func (n negate) eval(of Attributes) (any, error) {
	value, err := evalInt(n.of, of)
	return -value, err
}

// logic is AND, OR or XOR. What the left side decides by itself, the right side
// is not asked for.
type logic struct {
	verb        string
	left, right node
}

func (n logic) eval(of Attributes) (any, error) {
	left, err := evalBool(n.left, of)
	if err != nil {
		return false, err
	}
	if n.verb == "AND" && !left || n.verb == "OR" && left {
		return left, nil
	}
	right, err := evalBool(n.right, of)
	if err != nil {
		return false, err
	}
	if n.verb == "XOR" {
		return left != right, nil
	}
	return right, nil
}

// equals casts the left side to the type of the right one.
type equals struct {
	left, right node
	unequal     bool
}

func (n equals) eval(of Attributes) (any, error) {
	left, err := n.left.eval(of)
	if err != nil {
		return false, err
	}
	right, err := n.right.eval(of)
	if err != nil {
		return false, err
	}
	left, err = castLike(left, right)
	if err != nil {
		return false, err
	}
	return (left == right) != n.unequal, nil
}

type compare struct {
	verb        string
	left, right node
}

func (n compare) eval(of Attributes) (any, error) {
	left, err := evalInt(n.left, of)
	if err != nil {
		return false, err
	}
	right, err := evalInt(n.right, of)
	if err != nil {
		return false, err
	}
	switch n.verb {
	case "<":
		return left < right, nil
	case "<=":
		return left <= right, nil
	case ">":
		return left > right, nil
	}
	return left >= right, nil
}

type arithmetic struct {
	verb        byte
	left, right node
}

func (n arithmetic) eval(of Attributes) (any, error) {
	x, err := n.left.eval(of)
	if err != nil {
		return int32(0), err
	}
	y, err := n.right.eval(of)
	if err != nil {
		return int32(0), err
	}
	left, err := toInt(x)
	if err != nil {
		return int32(0), err
	}
	right, err := toInt(y)
	if err != nil {
		return int32(0), err
	}
	switch n.verb {
	case '+':
		return left + right, nil
	case '-':
		return left - right, nil
	case '*':
		return left * right, nil
	}
	if right == 0 {
		return int32(0), fmt.Errorf("%w: division by zero", ErrMath)
	}
	if n.verb == '/' {
		return left / right, nil
	}
	return left % right, nil
}

type in struct {
	of  node
	set []node
	not bool
}

func (n in) eval(of Attributes) (any, error) {
	left, err := n.of.eval(of)
	if err != nil {
		return false, err
	}
	for _, member := range n.set {
		value, err := member.eval(of)
		if err != nil {
			return false, err
		}
		if value, err = castLike(value, left); err != nil {
			return false, err
		}
		if value == left {
			return !n.not, nil
		}
	}
	return n.not, nil
}

// like is a pattern, in runes: % stands for many characters, _ for one, and a
// backslash takes that away.
type like struct {
	of      node
	pattern []rune
	not     bool
}

// What stands for characters in a pattern that was read; no text has them.
const (
	anyRunes rune = -1
	anyRune  rune = -2
)

func newLike(of node, text string, negated bool) like {
	l := like{of: of, not: negated}
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; {
		case c == '\\' && i+1 < len(runes) && (runes[i+1] == '%' || runes[i+1] == '_'):
			i++
			l.pattern = append(l.pattern, runes[i])
		case c == '%':
			if n := len(l.pattern); n == 0 || l.pattern[n-1] != anyRunes {
				l.pattern = append(l.pattern, anyRunes)
			}
		case c == '_':
			l.pattern = append(l.pattern, anyRune)
		default:
			l.pattern = append(l.pattern, c)
		}
	}
	return l
}

func (n like) eval(of Attributes) (any, error) {
	text, err := evalString(n.of, of)
	if err != nil {
		return false, err
	}
	return matchLike([]rune(text), n.pattern) != n.not, nil
}

// matchLike goes back to the last % only, so its time is bounded by the product
// of the lengths.
func matchLike(text, pattern []rune) bool {
	star, from := -1, 0 // the last %, and what it has taken up to
	t, p := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == anyRunes:
			star, from = p, t
			p++
		case p < len(pattern) && (pattern[p] == anyRune || pattern[p] == text[t]):
			t++
			p++
		case star >= 0:
			from++
			t, p = from, star+1
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == anyRunes {
		p++
	}
	return p == len(pattern)
}

// call calls a function.
type call struct {
	fn   *function
	args []node
}

func (n call) eval(of Attributes) (any, error) {
	values := make([]any, len(n.args))
	for i, arg := range n.args {
		value, err := arg.eval(of)
		if err == nil {
			values[i], err = n.fn.cast(i, value)
		}
		if err != nil {
			return n.fn.zero, err
		}
	}
	return n.fn.run(values)
}

// function is one that the language has.
type function struct {
	types    string // of the arguments: s, i, or b
	variadic bool   // more texts may follow
	zero     any    // of what it returns
	run      func(args []any) (any, error)
}

func (f *function) cast(i int, value any) (any, error) {
	kind := byte('s')
	if i < len(f.types) {
		kind = f.types[i]
	}
	switch kind {
	case 'i':
		return toInt(value)
	case 'b':
		return toBool(value)
	case 'a':
		return value, nil
	}
	return toString(value), nil
}

// lookUp returns the function of a name that takes so many arguments.
func lookUp(name string, args int) (fn *function, known bool) {
	for _, f := range functions(name) {
		known = true
		if args == len(f.types) || f.variadic && args > len(f.types) {
			return f, true
		}
	}
	return nil, known
}

func functions(name string) []*function {
	texts := func(run func(string) any, zero any) []*function {
		return []*function{{types: "s", zero: zero, run: func(a []any) (any, error) { return run(a[0].(string)), nil }}}
	}
	switch name {
	case "ABS":
		return []*function{{types: "i", zero: int32(0), run: abs}}
	case "LENGTH":
		return texts(func(s string) any { return int32(len([]rune(s))) }, int32(0))
	case "LOWER":
		return texts(func(s string) any { return strings.ToLower(s) }, "")
	case "UPPER":
		return texts(func(s string) any { return strings.ToUpper(s) }, "")
	case "TRIM":
		return texts(func(s string) any { return strings.TrimSpace(s) }, "")
	case "CONCAT":
		return []*function{{variadic: true, zero: "", run: func(a []any) (any, error) { return join(a, ""), nil }}}
	case "CONCAT_WS":
		return []*function{{types: "s", variadic: true, zero: "", run: func(a []any) (any, error) { return join(a[1:], a[0].(string)), nil }}}
	case "LEFT":
		return []*function{{types: "si", zero: "", run: func(a []any) (any, error) {
			return part(a, func(s []rune, n int) []rune { return s[:n] })
		}}}
	case "RIGHT":
		return []*function{{types: "si", zero: "", run: func(a []any) (any, error) {
			return part(a, func(s []rune, n int) []rune { return s[len(s)-n:] })
		}}}
	case "SUBSTRING":
		return []*function{{types: "si", zero: "", run: substring}, {types: "sii", zero: "", run: substring}}
	case "INT":
		return []*function{{types: "a", zero: int32(0), run: func(a []any) (any, error) { return toInt(a[0]) }}}
	case "BOOL":
		return []*function{{types: "a", zero: false, run: func(a []any) (any, error) { return toBool(a[0]) }}}
	case "STRING":
		return []*function{{types: "a", zero: "", run: func(a []any) (any, error) { return toString(a[0]), nil }}}
	case "IS_INT":
		return []*function{{types: "a", zero: false, run: func(a []any) (any, error) { _, err := toInt(a[0]); return err == nil, nil }}}
	case "IS_BOOL":
		return []*function{{types: "a", zero: false, run: func(a []any) (any, error) { _, err := toBool(a[0]); return err == nil, nil }}}
	}
	return nil
}

func abs(a []any) (any, error) {
	switch n := a[0].(int32); {
	case n == -1<<31:
		return int32(1<<31 - 1), fmt.Errorf("%w: %d has no absolute value", ErrMath, n)
	case n < 0:
		return -n, nil
	default:
		return n, nil
	}
}

func join(values []any, between string) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.(string)
	}
	return strings.Join(texts, between)
}

func part(a []any, cut func(s []rune, n int) []rune) (any, error) {
	text, n := []rune(a[0].(string)), int(a[1].(int32))
	if n < 0 {
		return string(text), fmt.Errorf("%w: %d characters", ErrFunction, n)
	}
	return string(cut(text, min(n, len(text)))), nil
}

func substring(a []any) (any, error) {
	text, at := []rune(a[0].(string)), int(a[1].(int32))
	most := len(text)
	if len(a) > 2 {
		most = int(a[2].(int32))
	}
	switch {
	case at > len(text) || at < -len(text) || most < 0:
		return "", fmt.Errorf("%w: SUBSTRING beyond the text", ErrFunction)
	case at == 0:
		return "", nil
	case at > 0:
		text = text[at-1:]
	default:
		text = text[len(text)+at:]
	}
	return string(text[:min(most, len(text))]), nil
}
