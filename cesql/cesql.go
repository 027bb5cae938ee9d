// Package cesql reads and evaluates expressions of the CloudEvents Expression
// Language, CESQL 1.0, which say whether an event is wanted.
//
// It is arithmetic only. Evaluation ends at the first error, as the language
// suggests for filters, and its cost is bounded by the length of the expression
// and of the event's attributes. Characters are Unicode's, not bytes. An
// expression is safe for concurrent use.
package cesql

import (
	"errors"
	"strconv"
	"strings"
)

// What an evaluation fails with, apart from the text. Functions that do not
// exist, or not with so many arguments, are refused by Parse.
var (
	ErrMath     = errors.New("bad arithmetic")
	ErrCast     = errors.New("a value is of another type")
	ErrMissing  = errors.New("the event has no such attribute")
	ErrFunction = errors.New("a function cannot answer that")
)

// Attributes are those of an event. Values are string, int32 or bool.
type Attributes interface {
	Attribute(name string) (value any, there bool)
}

// Expression is one that was understood.
type Expression struct {
	root node
	text string
}

// String returns the expression as it was written.
func (e *Expression) String() string { return e.text }

// Evaluate returns the expression's value: a string, an int32 or a bool. With an
// error, it is what the language says to go on with.
func (e *Expression) Evaluate(of Attributes) (any, error) { return e.root.eval(of) }

// Matches reports whether the expression is true of an event. One that cannot be
// evaluated is not, and the error says why.
func (e *Expression) Matches(of Attributes) (bool, error) {
	value, err := e.root.eval(of)
	if err != nil {
		return false, err
	}
	return toBool(value)
}

// node is a part of an expression.
type node interface {
	eval(of Attributes) (any, error)
}

func toString(value any) string {
	switch v := value.(type) {
	case int32:
		return strconv.Itoa(int(v))
	case bool:
		return strconv.FormatBool(v)
	case string:
		return v
	}
	return ""
}

func toInt(value any) (int32, error) {
	switch v := value.(type) {
	case int32:
		return v, nil
	case bool:
		if v {
			return 1, nil
		}
		return 0, nil
	case string:
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil {
			return 0, ErrCast
		}
		return int32(n), nil
	}
	return 0, ErrCast
}

func toBool(value any) (bool, error) {
	switch v := value.(type) {
	case bool:
		return v, nil
	case int32:
		return v != 0, nil
	case string:
		switch strings.ToLower(v) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, ErrCast
}

// castLike makes a value of the type of another.
func castLike(value, other any) (any, error) {
	switch other.(type) {
	case int32:
		return toInt(value)
	case bool:
		return toBool(value)
	}
	return toString(value), nil
}

// evalString, evalInt and evalBool evaluate a node and cast what it gives.
func evalString(n node, of Attributes) (string, error) {
	value, err := n.eval(of)
	return toString(value), err
}

func evalInt(n node, of Attributes) (int32, error) {
	value, err := n.eval(of)
	if err != nil {
		return 0, err
	}
	return toInt(value)
}

func evalBool(n node, of Attributes) (bool, error) {
	value, err := n.eval(of)
	if err != nil {
		return false, err
	}
	return toBool(value)
}
