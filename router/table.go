package router

import (
	"net"
	"path"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// table finds a release by host and path. It never changes.
type table struct {
	hosts map[string]map[string]*mayfly.Release // "" is any host
}

func newTable(s *store.Snapshot) *table {
	t := &table{hosts: make(map[string]map[string]*mayfly.Release)}
	for _, w := range s.Workloads {
		for _, route := range w.Workload.Routes {
			host := strings.ToLower(route.Host)
			if t.hosts[host] == nil {
				t.hosts[host] = make(map[string]*mayfly.Release)
			}
			t.hosts[host][clean(route.Path)] = &w.Release
		}
	}
	return t
}

// match returns the release whose route has the most path segments in common
// with the request, one for this very host before one for any. The cost is by
// the request's segments, not by the number of routes.
func (t *table) match(host, urlPath string) *mayfly.Release {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	p := clean(urlPath)
	for _, h := range [2]string{strings.ToLower(host), ""} {
		paths := t.hosts[h]
		if paths == nil {
			continue
		}
		for q := p; ; q = path.Dir(q) {
			if rel := paths[q]; rel != nil {
				return rel
			}
			if q == "/" {
				break
			}
		}
	}
	return nil
}

func clean(p string) string { return path.Clean("/" + p) }
