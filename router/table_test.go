package router

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

func toTarget(r store.RouteTarget) *target { return &target{route: r.MappedRoute, active: r.Active} }

// tableOf is a table of routes, each "WORKLOAD METHOD HOST/PATH".
func tableOf(lines ...string) *table {
	return newTable().with(changes(lines...), toTarget, func(*target) {})
}

func changes(lines ...string) store.RouteChanges {
	c := store.RouteChanges{Keys: map[store.RouteKey][]store.RouteTarget{}}
	for _, line := range lines {
		f := strings.Fields(line)
		host, path, _ := strings.Cut(f[len(f)-1], "/")
		r := mayfly.Route{Host: host, Path: "/" + path}
		if len(f) == 3 {
			r.Method = f[1]
		}
		key := store.RouteKey{Host: r.Host, Path: r.Path, Method: r.Method}
		c.Keys[key] = append(c.Keys[key], store.RouteTarget{MappedRoute: mayfly.MappedRoute{Route: r, Workload: f[0]}})
	}
	return c
}

func (t *table) to(method, host, path string) string {
	s, at := t.match(host, path)
	if s == nil {
		return ""
	}
	if split := s.find(method); split != nil {
		return split.pick().route.Workload + " " + at
	}
	return "405 " + s.allow
}

func TestMatch(t *testing.T) {
	table := tableOf("root /", "api /api", "deep /api/v1/users", "shop shop.example/", "account shop.example/account",
		"wild *.example/", "wilder *.shop.example/", "wildpath *.example/p", "read GET /doc", "write POST /doc", "del DELETE /api/v1", "here here.example/only")
	for _, tt := range []struct{ host, path, want string }{
		{"x", "/", "root /"},
		{"x", "", "root /"},
		{"x", "/other/thing", "root /"},
		{"x", "/api", "api /api"},
		{"x", "/api/", "api /api"},
		{"x", "/apix", "root /"},
		{"x", "/api/v1/users/7", "deep /api/v1/users"},
		{"x", "/api/v1/users/7/8/9/10", "deep /api/v1/users"},
		{"x", "/api/v1/usersx", "405 DELETE"},
		{"x", "/api/../api/v1//users", "deep /api/v1/users"},
		{"x", "/../../etc", "root /"},
		{"x", "/.well-known/x", "root /"},
		{"x", "/api/.", "api /api"},
		{"x", "/doc", "read /doc"},
		{"shop.example", "/api", "shop /"},
		{"SHOP.example:8080", "/account/x", "account /account"},
		{"shop.example.", "/", "shop /"},
		{"[::1]:80", "/api", "api /api"},
		{"[::1]", "/api", "api /api"},
		{"a.example", "/", "wild /"},
		{"a.example", "/p/q", "wildpath /p"},
		{"a.b.example", "/", "wild /"},
		{"a.shop.example", "/", "wilder /"},
		{"a.b.shop.example", "/p", "wilder /"},
		{"example", "/", "root /"},
		{"*.example", "/", "wild /"}, // who asks for that gets what its names get
		{"here.example", "/", "wild /"},
		{"here.example", "/only/x", "here /only"},
		{"", "/", "root /"},
		{".", "/", "root /"},
		{"..example", "/", "wild /"},
	} {
		if got := table.to("GET", tt.host, tt.path); got != tt.want {
			t.Errorf("%s%s goes to %q, not %q", tt.host, tt.path, got, tt.want)
		}
	}
	for method, want := range map[string]string{"GET": "read /doc", "HEAD": "read /doc", "POST": "write /doc", "PUT": "405 GET, HEAD, POST"} {
		if got := table.to(method, "x", "/doc"); got != want {
			t.Errorf("%s goes to %q, not %q", method, got, want)
		}
	}
	if got := newTable().to("GET", "x", "/"); got != "" {
		t.Errorf("an empty table leads to %v", got)
	}
}

// A table that came to be by changes is like one that was made at once, and the
// one before is as it was.
func TestTableChanges(t *testing.T) {
	var lines []string
	for i := range 2000 {
		lines = append(lines, fmt.Sprintf("w%d h%d.test/a/b%d", i, i%50, i))
	}
	before := tableOf(lines...)
	after := before
	for i := range 2000 {
		c := changes(lines[i])
		for key := range c.Keys {
			if i%2 == 0 {
				c.Keys[key] = nil
			}
		}
		after = after.with(c, toTarget, func(*target) {})
	}
	for i := range 2000 {
		host, path := fmt.Sprintf("h%d.test", i%50), fmt.Sprintf("/a/b%d/c", i)
		want := fmt.Sprintf("w%d /a/b%d", i, i)
		if got := before.to("GET", host, path); got != want {
			t.Fatalf("before: %s%s goes to %q, not %q", host, path, got, want)
		}
		if i%2 == 0 {
			want = ""
		}
		if got := after.to("GET", host, path); got != want {
			t.Fatalf("after: %s%s goes to %q, not %q", host, path, got, want)
		}
	}
	all := changes(lines...)
	for key := range all.Keys {
		all.Keys[key] = nil
	}
	for i, hosts := range after.with(all, toTarget, func(*target) {}).hosts {
		if len(hosts) > 0 {
			t.Errorf("in part %d are left %v", i, hosts)
		}
	}
	replaced := after.with(store.RouteChanges{All: true, Keys: changes("one /").Keys}, toTarget, func(*target) {})
	if got := replaced.to("GET", "h1.test", "/a/b1"); got != "one /" {
		t.Errorf("all is new, and still it goes to %q", got)
	}
}

// Weights are exact in each 100 requests, and evenly spread.
func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		weights []int
		want    map[string]int
	}{
		{[]int{90, 10}, map[string]int{"a": 90, "b": 10}},
		{[]int{1, 1}, map[string]int{"a": 50, "b": 50}},
		{[]int{99, 1}, map[string]int{"a": 99, "b": 1}},
		{[]int{500, 300, 200}, map[string]int{"a": 50, "b": 30, "c": 20}},
		{[]int{7}, map[string]int{"a": 100}},
	} {
		var routes []store.RouteTarget
		for i, weight := range tt.weights {
			r := mayfly.Route{Path: "/", Weight: weight}
			routes = append(routes, store.RouteTarget{MappedRoute: mayfly.MappedRoute{Route: r, Workload: string(rune('a' + i))}})
		}
		s := newSplit(routes, toTarget)
		last := map[string]int{}
		for round := range 3 {
			got := map[string]int{}
			for i := range 100 {
				w := s.pick().route.Workload
				got[w]++
				if gap := round*100 + i - last[w]; last[w] > 0 && gap > 2*100/max(tt.want[w], 1) {
					t.Errorf("%v: %s is not asked for %d requests", tt.weights, w, gap)
				}
				last[w] = round*100 + i
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("%v gives %v", tt.weights, got)
			}
		}
	}
}

func benchmarkMatch(b *testing.B, routes int) {
	var lines []string
	for i := range routes {
		lines = append(lines, fmt.Sprintf("w%d h%d.example.org/api/v%d", i, i%(1+routes/2), i))
	}
	table := tableOf(lines...)
	for i := 0; b.Loop(); i++ {
		n := i % routes
		if s, _ := table.match(fmt.Sprintf("h%d.example.org", n%(1+routes/2)), fmt.Sprintf("/api/v%d/x", n)); s == nil {
			b.Fatal("not found")
		}
	}
}

func BenchmarkMatch10(b *testing.B)    { benchmarkMatch(b, 10) }
func BenchmarkMatch10000(b *testing.B) { benchmarkMatch(b, 10_000) }

func BenchmarkChangeAmong10000(b *testing.B) {
	var lines []string
	for i := range 10_000 {
		lines = append(lines, fmt.Sprintf("w%d h%d.example.org/api/v%d", i, i%5000, i))
	}
	table := tableOf(lines...)
	one := changes("new new.example.org/")
	for b.Loop() {
		table.with(one, toTarget, func(*target) {})
	}
}
