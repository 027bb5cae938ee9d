package manifest

import (
	"slices"
	"strings"
)

// synonyms are words that other tools use for a key of ours.
var synonyms = map[string]string{
	"environment": "env", "working_dir": "workdir", "workingDir": "workdir", "working_directory": "workdir",
	"read_only": "readOnly", "readonly": "readOnly", "mem_limit": "memory", "mem": "memory", "pids_limit": "pids",
	"cpu": "cpus", "cmd": "command", "args": "command", "network_mode": "network", "runtime": "stack",
	"build": "code", "source": "code", "max_body": "maxBody", "max_concurrency": "concurrency", "http": "routes",
	"functon": "functions", "function": "functions",
}

// unknownKey says that a key means nothing here and which one may be meant, or
// which ones there are. Those in later are understood but not supported yet.
func (s *source) unknownKey(at place, what, key string, known, later []string) error {
	text := "unknown key " + quote(key)
	if what != "" {
		text = what + ": " + text
	}
	err := s.errorf(at.key(), "%s", text)
	if near := nearest(key, slices.Concat(known, later)); near != "" {
		return err.WithHint("did you mean %q?", near)
	}
	return err.WithHint("known here: %s", strings.Join(slices.Sorted(slices.Values(known)), ", "))
}

// nearest returns the known key closest to key, or "" when none is close.
func nearest(key string, known []string) string {
	if s, ok := synonyms[key]; ok && slices.Contains(known, s) {
		return s
	}
	best, least := "", len(key)/3+2
	for _, k := range slices.Sorted(slices.Values(known)) {
		if d := distance(key, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to add, drop, replace or swap with a neighbour
// between a and b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
