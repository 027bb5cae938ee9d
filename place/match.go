package place

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// fits reports whether a label's value is one that is wanted. A pattern that
// cannot be read fits nothing.
func fits(m mayfly.Match, value string) bool {
	switch {
	case m.Pattern != "":
		re, err := regexp.Compile(`^(?:` + m.Pattern + `)$`)
		return err == nil && re.MatchString(value)
	case m.In != nil:
		return slices.Contains(m.In, value)
	}
	return m.Value == value
}

func wish(m mayfly.Match) string {
	switch {
	case m.Pattern != "":
		return "like " + m.Pattern
	case m.In != nil:
		return strings.Join(m.In, " or ")
	}
	return m.Value
}

// bytes writes a size as people do, with two digits at least.
func bytes(n int64) string {
	const kB = 1000
	size, unit := float64(n), "B"
	for _, next := range []string{"kB", "MB", "GB", "TB"} {
		if size < kB {
			break
		}
		size, unit = size/kB, next
	}
	if size < 10 && unit != "B" {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", size), ".0") + " " + unit
	}
	return fmt.Sprintf("%.0f %s", size, unit)
}
