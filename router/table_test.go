package router

import (
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

func TestMatch(t *testing.T) {
	snap := &store.Snapshot{Workloads: map[store.Key]*store.Workload{}}
	for name, routes := range map[string][]mayfly.Route{
		"root":    {{Path: "/"}},
		"api":     {{Path: "/api/"}},
		"deep":    {{Path: "/api/v1/users"}},
		"shop":    {{Host: "Shop.example", Path: "/"}},
		"account": {{Host: "shop.example", Path: "/account"}},
	} {
		w := &store.Workload{Release: mayfly.Release{Workload: mayfly.Workload{Name: name, Routes: routes}}}
		snap.Workloads[store.Key{Name: name}] = w
	}
	table := newTable(snap)
	for _, tt := range []struct{ host, path, want string }{
		{"x", "/", "root"},
		{"x", "", "root"},
		{"x", "/other/thing", "root"},
		{"x", "/api", "api"},
		{"x", "/api/", "api"},
		{"x", "/apix", "root"},
		{"x", "/api/v1/users/7", "deep"},
		{"x", "/api/v1/usersx", "api"},
		{"x", "/api/../api/v1//users", "deep"},
		{"x", "/../../etc", "root"},
		{"shop.example", "/api", "shop"},
		{"SHOP.example:8080", "/account/x", "account"},
		{"[::1]:80", "/api", "api"},
	} {
		got := ""
		if r := table.match(tt.host, tt.path); r != nil {
			got = r.Workload.Name
		}
		if got != tt.want {
			t.Errorf("%s%s goes to %q, not %q", tt.host, tt.path, got, tt.want)
		}
	}
	if r := newTable(&store.Snapshot{}).match("x", "/"); r != nil {
		t.Errorf("an empty table leads to %v", r)
	}
}
