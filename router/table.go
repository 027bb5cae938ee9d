package router

import (
	"hash/maphash"
	"maps"
	"net"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// shardCount is in how many parts a table is, of which a change copies only those
// that it is in.
const shardCount = 512

// table finds where a request goes. It never changes: another one, which shares
// what is the same, takes its place.
type table struct {
	version uint64
	seed    maphash.Seed
	shards  [shardCount]map[place]*spot
	hosts   [shardCount / 8]map[string]hostDepth
}

// place is a host and a path of routes. A wildcard's host is "*.example.org".
type place struct{ host, path string }

// hostDepth is how many places a host has with each number of segments.
type hostDepth map[int]int

func (d hostDepth) deepest() (most int) {
	for depth := range d {
		most = max(most, depth)
	}
	return most
}

// spot is what is at a place: the targets of each method.
type spot struct {
	methods []method // "" for any is the last
	allow   string   // of the header, where no method matches
}

type method struct {
	name  string
	split *split
}

func newTable() *table { return &table{seed: maphash.MakeSeed()} }

// with returns the table after changes, and gives dropped each target that is not
// in it any more.
func (t *table) with(c store.RouteChanges, target func(store.RouteTarget) *target, dropped func(*target)) *table {
	next := *t
	if c.All {
		next = table{seed: t.seed}
		for _, shard := range t.shards {
			for _, s := range shard {
				for _, m := range s.methods {
					m.split.each(dropped)
				}
			}
		}
	}
	next.version = c.Version
	owned := map[int]bool{}
	for key, targets := range c.Keys {
		p := place{key.Host, key.Path}
		shard := next.shard(p)
		if !owned[shard] {
			owned[shard] = true
			if next.shards[shard] = maps.Clone(next.shards[shard]); next.shards[shard] == nil {
				next.shards[shard] = map[place]*spot{}
			}
		}
		old := next.shards[shard][p]
		if old != nil {
			for _, m := range old.methods {
				if m.name == key.Method {
					m.split.each(dropped)
				}
			}
		}
		spot := old.with(key.Method, targets, target)
		if spot == nil {
			delete(next.shards[shard], p)
		} else {
			next.shards[shard][p] = spot
		}
		next.count(p, (old == nil) != (spot == nil), spot != nil)
	}
	return &next
}

// count notes that a place is there now, or not any more.
func (t *table) count(p place, changed, there bool) {
	if !changed {
		return
	}
	i := t.hostShard(p.host)
	t.hosts[i] = maps.Clone(t.hosts[i])
	if t.hosts[i] == nil {
		t.hosts[i] = map[string]hostDepth{}
	}
	depths := maps.Clone(t.hosts[i][p.host])
	if depths == nil {
		depths = hostDepth{}
	}
	depth := depthOf(p.path)
	if there {
		depths[depth]++
	} else if depths[depth]--; depths[depth] == 0 {
		delete(depths, depth)
	}
	if len(depths) == 0 {
		delete(t.hosts[i], p.host)
	} else {
		t.hosts[i][p.host] = depths
	}
}

func depthOf(path string) int {
	if path == "/" {
		return 0
	}
	return strings.Count(path, "/")
}

func (t *table) shard(p place) int {
	return int(maphash.Comparable(t.seed, p) % shardCount)
}

func (t *table) hostShard(host string) int {
	return int(maphash.String(t.seed, host) % uint64(len(t.hosts)))
}

// with returns the spot after the targets of a method have become others; nil if
// nothing is left of it.
func (s *spot) with(name string, targets []store.RouteTarget, target func(store.RouteTarget) *target) *spot {
	next := &spot{}
	if s != nil {
		next.methods = slices.DeleteFunc(slices.Clone(s.methods), func(m method) bool { return m.name == name })
	}
	if len(targets) > 0 {
		next.methods = append(next.methods, method{name, newSplit(targets, target)})
		slices.SortFunc(next.methods, func(a, b method) int { return strings.Compare(b.name, a.name) }) // "" last
	}
	if len(next.methods) == 0 {
		return nil
	}
	var allow []string
	for _, m := range slices.Backward(next.methods) {
		if allow = append(allow, m.name); m.name == "GET" {
			allow = append(allow, "HEAD")
		}
	}
	next.allow = strings.Join(slices.Compact(allow), ", ")
	return next
}

// find returns the targets of a method; nil if it has none.
func (s *spot) find(name string) *split {
	for _, m := range s.methods {
		if m.name == name || m.name == "" {
			return m.split
		}
	}
	if name == "HEAD" {
		return s.find("GET")
	}
	return nil
}

// match returns the spot of a request, nil if there is none, and where it is. The
// cost is by the request and the depth of its host's routes, not by the number of
// routes.
func (t *table) match(host, urlPath string) (*spot, string) {
	host = plainHost(host)
	p := clean(urlPath)
	for h := host; h != ""; {
		if s, at := t.at(h, p); s != nil {
			return s, at
		}
		_, beneath, ok := strings.Cut(strings.TrimPrefix(h, "*."), ".")
		if !ok {
			break
		}
		h = "*." + beneath
	}
	return t.at("", p)
}

// at returns the spot of the longest path that a host has and that p begins with.
func (t *table) at(host, p string) (*spot, string) {
	depths := t.hosts[t.hostShard(host)][host]
	if depths == nil {
		return nil, ""
	}
	p = cutTo(p, depths.deepest())
	for {
		at := place{host, p}
		if s := t.shards[t.shard(at)][at]; s != nil {
			return s, p
		}
		if p == "/" {
			return nil, ""
		}
		if p = p[:strings.LastIndexByte(p, '/')]; p == "" {
			p = "/"
		}
	}
}

// cutTo leaves so many segments of a clean path.
func cutTo(p string, segments int) string {
	if segments == 0 {
		return "/"
	}
	for i := 1; i < len(p); i++ {
		if p[i] == '/' {
			if segments--; segments == 0 {
				return p[:i]
			}
		}
	}
	return p
}

// plainHost is a request's host without port and final dot, in lower case.
func plainHost(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// clean is the path in the form that routes have. Most paths have it.
func clean(p string) string {
	if p != "" && p[0] == '/' && !strings.Contains(p, "//") && !strings.Contains(p, "/.") && (p == "/" || p[len(p)-1] != '/') {
		return p
	}
	return path.Clean("/" + p)
}

// target is where requests are sent.
type target struct {
	route  mayfly.MappedRoute
	active *mayfly.Release // of the workload; nil: it is not there
	pinned atomic.Pointer[mayfly.Release]

	backend *backend // of a service
	port    string   // of it, by name
	err     error    // why it leads nowhere
}
