package node

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// What a container is told of what it requires: by variables, numbered where all
// are asked for, and by files.
func TestWiring(t *testing.T) {
	at := func(host string, port uint16) mayfly.Endpoint {
		return mayfly.Endpoint{ID: host, Service: "db", Name: "db", Protocol: "mysql", Address: host, Port: port}
	}
	for _, c := range []struct {
		name string
		req  mayfly.Require
		set  []mayfly.Endpoint
		want map[string]string
	}{
		{"none", mayfly.Require{Name: "db"}, nil, map[string]string{"DB_ENDPOINTS": ""}},
		{"one", mayfly.Require{Name: "main-db"}, []mayfly.Endpoint{at("10.0.0.2", 3306)}, map[string]string{
			"MAIN_DB_HOST": "10.0.0.2", "MAIN_DB_PORT": "3306", "MAIN_DB_URL": "mysql://10.0.0.2:3306", "MAIN_DB_ENDPOINTS": "10.0.0.2:3306",
		}},
		{"all", mayfly.Require{Name: "db", All: true}, []mayfly.Endpoint{at("10.0.0.2", 1), at("::1", 2)}, map[string]string{
			"DB_HOST": "10.0.0.2", "DB_PORT": "1", "DB_URL": "mysql://10.0.0.2:1", "DB_ENDPOINTS": "10.0.0.2:1,[::1]:2",
			"DB_1_HOST": "10.0.0.2", "DB_1_PORT": "1", "DB_1_URL": "mysql://10.0.0.2:1",
			"DB_2_HOST": "::1", "DB_2_PORT": "2", "DB_2_URL": "mysql://[::1]:2",
		}},
	} {
		w := newWiring()
		w.add(&c.req, c.set)
		if !maps.Equal(w.env, c.want) {
			t.Errorf("%s: told %v, want %v", c.name, w.env, c.want)
		}
		endpoints := w.endpoints()
		sets := wiredBefore(string(endpoints))
		if !slices.EqualFunc(sets[c.req.Name], w.sets[c.req.Name], sameWired) || len(sets) != 1 {
			t.Errorf("%s: the file says %s", c.name, endpoints)
		}
	}
}

// Three at once, then 30 s, doubling to 16 min; then what the policy says.
func TestRestartsAreSpacedOut(t *testing.T) {
	want := []time.Duration{0, 0, 0, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 16 * time.Minute}
	for i, w := range want {
		if got := backoff(i + 1); got != w {
			t.Errorf("failure %d is followed after %s, want %s", i+1, got, w)
		}
	}
	if got := backoff(1 << 40); got != longestWait {
		t.Errorf("very many failures are followed after %s", got)
	}
	well, ill := mayfly.Exit{Reason: mayfly.Succeeded}, mayfly.Exit{Reason: mayfly.OutOfMemory, Code: 137}
	for _, c := range []struct {
		policy   string
		max      int
		exit     mayfly.Exit
		failures int
		want     next
	}{
		{"", 0, well, 1, again}, {"", 0, ill, 1000, again}, {mayfly.RestartAlways, 2, ill, 2, again}, {mayfly.RestartAlways, 2, ill, 3, givenUp},
		{mayfly.RestartOnFailure, 0, well, 1, completed}, {mayfly.RestartOnFailure, 0, ill, 9, again}, {mayfly.RestartOnFailure, 3, ill, 4, givenUp},
		{mayfly.RestartNever, 0, well, 1, completed}, {mayfly.RestartNever, 0, ill, 1, givenUp},
	} {
		if got := after(mayfly.Restart{Policy: c.policy, Max: c.max}, c.exit, c.failures); got != c.want {
			t.Errorf("policy %q, at most %d, failure %d, %s: %v, want %v", c.policy, c.max, c.failures, c.exit.Reason, got, c.want)
		}
	}
}
