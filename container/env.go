package container

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// EnvName is the file of /run/mayfly that has the variables which change while
// the container runs.
const EnvName = "env"

// EnvFile is what /run/mayfly/env says of variables, by name: lines NAME=VALUE as
// a POSIX shell reads them, so that a program can have them by
// `set -a; . /run/mayfly/env`. It is the same for the same variables.
func EnvFile(vars map[string]string) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if isVariable(name) { // no shell could read another
			b.WriteString(name + "=" + quote(vars[name]) + "\n")
		}
	}
	return b.Bytes()
}

// CurrentEnv is the environment for a program that is started now: the
// container's, with what its file says over it.
func (s *Sandbox) CurrentEnv() ([]string, error) {
	data, err := s.ReadFile(EnvName)
	if errors.Is(err, fs.ErrNotExist) {
		return s.env, nil
	}
	if err != nil {
		return nil, err
	}
	return WithEnv(s.env, ParseEnv(string(data))), nil
}

// WithEnv lays variables over others.
func WithEnv(env, over []string) []string {
	env = slices.Clone(env)
	for _, v := range over {
		name, _, _ := strings.Cut(v, "=")
		is := func(e string) bool { return strings.HasPrefix(e, name+"=") }
		if i := slices.IndexFunc(env, is); i >= 0 {
			env[i] = v
		} else {
			env = append(env, v)
		}
	}
	return env
}

// ParseEnv reads what EnvFile wrote. What is not of that form is left out.
func ParseEnv(text string) (vars []string) {
	for text != "" {
		name, rest, ok := strings.Cut(text, "=")
		if !ok {
			break
		}
		value, rest := unquote(rest)
		if isVariable(name) {
			vars = append(vars, name+"="+value)
		}
		_, text, _ = strings.Cut(rest, "\n")
	}
	return vars
}

func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// quote is a value as a shell reads it: plain if nothing in it means anything.
func quote(value string) string {
	const plain = "_-+=,./:@%"
	special := func(r rune) bool {
		letter := r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune(plain, r)
	}
	if strings.IndexFunc(value, special) < 0 {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}

// unquote reads a value up to its end, which is that of the line unless it is in
// quotes.
func unquote(text string) (value, rest string) {
	for text != "" && text[0] != '\n' {
		switch {
		case text[0] == '\'':
			inside, after, _ := strings.Cut(text[1:], "'")
			value, text = value+inside, after
		case text[0] == '\\' && len(text) > 1:
			value, text = value+text[1:2], text[2:]
		default:
			value, text = value+text[:1], text[1:]
		}
	}
	return value, text
}
