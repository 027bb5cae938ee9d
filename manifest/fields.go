package manifest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/mattn/go-shellwords"
)

// decoder takes values out of one mapping. It keeps the first error, so that
// its callers read as a list of fields and look at err once.
type decoder struct {
	*source
	at   place  // of the mapping
	what string // what the mapping describes, for errors
	err  error
}

// fail sets the error to what is wrong with the value of key; an empty key
// stands for the whole mapping.
func (d *decoder) fail(key, hint, format string, args ...any) {
	if d.err == nil {
		at := d.at.key()
		if key != "" {
			at = d.at.child(key)
		}
		err := d.errorf(at, "%s: %s", d.what, fmt.Sprintf(format, args...))
		err.Hint = hint
		d.err = err
	}
}

// keys refuses what is neither known nor later; later ones get an error of
// their own.
func (d *decoder) keys(m map[string]any, known, later []string) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch {
		case slices.Contains(known, key), strings.HasPrefix(key, "x-"):
		case slices.Contains(later, key):
			return d.errorf(d.at.child(key).key(), "%s: %q is not supported yet", d.what, key).WithHint("remove it")
		default:
			return d.unknownKey(d.at.child(key), d.what, key, known, later)
		}
	}
	return nil
}

// text returns a scalar as text; "" when the key is absent or null.
func (d *decoder) text(m map[string]any, key string) string {
	s, ok := scalarText(m[key])
	if !ok {
		d.fail(key, "", "%s must be a single value", key)
	}
	return s
}

func scalarText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case bool, int, int64, uint64:
		return fmt.Sprint(v), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	}
	return "", false
}

func (d *decoder) oneOf(m map[string]any, key string, allowed ...string) string {
	s := d.text(m, key)
	if s != "" && !slices.Contains(allowed, s) {
		d.fail(key, "use "+join(allowed), "%s cannot be %q", key, s)
	}
	return s
}

func (d *decoder) integer(m map[string]any, key string, least, most int64) int64 {
	if m[key] == nil {
		return 0
	}
	n, err := strconv.ParseInt(d.text(m, key), 10, 64)
	if err != nil || n < least || n > most {
		d.fail(key, "", "%s must be a whole number from %d to %d", key, least, most)
	}
	return n
}

func (d *decoder) number(m map[string]any, key string, least, most float64) float64 {
	if m[key] == nil {
		return 0
	}
	n, err := strconv.ParseFloat(d.text(m, key), 64)
	if err != nil || math.IsNaN(n) || n < least || n > most {
		d.fail(key, "", "%s must be a number from %g to %g", key, least, most)
	}
	return n
}

func (d *decoder) boolean(m map[string]any, key string) bool {
	switch s := d.text(m, key); s {
	case "true":
		return true
	case "", "false":
	default:
		d.fail(key, "use true or false", "%s cannot be %q", key, s)
	}
	return false
}

// size reads bytes as Compose does: 256m, 256MB and 256MiB are all 2^28.
func (d *decoder) size(m map[string]any, key string, least, most int64) int64 {
	if m[key] == nil {
		return 0
	}
	s := d.text(m, key)
	n, err := units.RAMInBytes(s)
	switch {
	case d.err != nil:
	case err != nil:
		d.fail(key, "write it like 256MB or 1GB", "%s %q is not a size", key, s)
	case n > most || n < 0: // below 0 it has overflowed, as a sign is no size
		d.fail(key, "", "%s must be at most %s", key, SizeText(most))
	case n < least:
		d.fail(key, "", "%s must be at least %s", key, SizeText(least))
	}
	return n
}

// SizeText is a number of bytes as a manifest says it, in the largest unit that is
// exact.
func SizeText(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"TB", 1 << 40}, {"GB", 1 << 30}, {"MB", 1 << 20}, {"kB", 1 << 10}} {
		if n >= unit.size && n%unit.size == 0 {
			return fmt.Sprintf("%d%s", n/unit.size, unit.name)
		}
	}
	return fmt.Sprintf("%dB", n)
}

func (d *decoder) duration(m map[string]any, key string, most time.Duration) time.Duration {
	if m[key] == nil {
		return 0
	}
	s := d.text(m, key)
	n, err := time.ParseDuration(s)
	switch {
	case d.err != nil:
	case err != nil:
		hint := "write it like 30s or 5m"
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			hint = fmt.Sprintf("add a unit, as in %ss", s)
		}
		d.fail(key, hint, "%s %q is not a duration", key, s)
	case n <= 0:
		d.fail(key, "", "%s must be more than 0", key)
	case n > most:
		d.fail(key, "", "%s must be at most %s", key, DurationText(most))
	}
	return n
}

// DurationText is a duration as a manifest says it, without zero minutes and
// seconds.
func DurationText(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// words reads a command as Compose does: a list as it is, a text split as a
// shell splits it. Nil means that the key is absent.
func (d *decoder) words(m map[string]any, key string) []string {
	switch v := m[key].(type) {
	case nil:
		return nil
	case []any:
		words := make([]string, 0, len(v))
		for i, item := range v {
			s, ok := scalarText(item)
			if !ok || strings.ContainsRune(s, 0) {
				d.fail(key, "", "%s: item %d must be a text", key, i+1)
			}
			words = append(words, s)
		}
		return words
	case string:
		if strings.ContainsRune(v, 0) {
			d.fail(key, "", "%s holds a NUL byte", key)
		}
		words, err := shellwords.Parse(v)
		if err != nil {
			d.fail(key, "close its quotes, or write a list", "%s cannot be split into words", key)
		}
		if words == nil {
			words = []string{}
		}
		return words
	}
	d.fail(key, "", "%s must be a text or a list", key)
	return nil
}

// environment reads a mapping or a list of NAME=VALUE. A name without a value
// takes its value from env, or is left out.
func (d *decoder) environment(m map[string]any, key string, env map[string]string) map[string]string {
	out := map[string]string{}
	set := func(sub, name string, value any) {
		text, ok := scalarText(value)
		if !ok {
			d.fail(key, "", "%s: %s must be a single value", key, name)
			return
		}
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(text, 0) {
			d.fail(key, "", "%s: %q is not a variable's name", key, name)
			return
		}
		if value == nil {
			if text, ok = env[name]; !ok {
				return
			}
		}
		out[name] = text
	}
	switch v := m[key].(type) {
	case nil:
		return nil
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			set(name, name, v[name])
		}
	case []any:
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				d.fail(key, "write NAME=VALUE", "%s: item %d must be a text", key, i+1)
				return nil
			}
			name, value, has := strings.Cut(text, "=")
			if has {
				set("", name, value)
			} else {
				set("", name, nil)
			}
		}
	default:
		d.fail(key, "", "%s must be a mapping or a list", key)
	}
	return out
}

func quote(s string) string { return strconv.Quote(s) }

// join lists words as in "a, b or c".
func join(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
