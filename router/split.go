package router

import (
	"cmp"
	"slices"
	"sync/atomic"

	"github.com/mayfly-run/mayfly/store"
)

// split gives requests to the targets of a route by their weights: in each round
// of so many requests as the weights sum up to, each target gets exactly its
// share, and the shares are spread over the round.
type split struct {
	only  *target // where there is one
	round []*target
	next  atomic.Uint64
}

// newSplit orders the targets so that all nodes have the same rounds.
func newSplit(routes []store.RouteTarget, make func(store.RouteTarget) *target) *split {
	routes = slices.Clone(routes)
	slices.SortFunc(routes, func(a, b store.RouteTarget) int {
		return cmp.Compare(store.RouteOrder(a.MappedRoute), store.RouteOrder(b.MappedRoute))
	})
	var list []*target
	for i, r := range routes {
		twice := slices.ContainsFunc(routes[:i], func(o store.RouteTarget) bool {
			return o.Space == r.Space && o.Workload == r.Workload && o.Release == r.Release // as manifest and map-route both say
		})
		if !twice {
			list = append(list, make(r))
		}
	}
	if len(list) == 1 || list[0].route.Weight == 0 { // two spaces that both won one: the first is it
		return &split{only: list[0]}
	}
	return &split{round: spread(list)}
}

// spread is smooth weighted round robin: each turn every target gains its weight,
// and the one that has most is next and pays the sum of all.
func spread(list []*target) (round []*target) {
	sum, divisor := 0, 0
	for _, t := range list {
		sum += t.route.Weight
		divisor = gcd(t.route.Weight, divisor)
	}
	has := make([]int, len(list))
	for range sum / divisor {
		most := 0
		for i, t := range list {
			if has[i] += t.route.Weight; has[i] > has[most] {
				most = i
			}
		}
		has[most] -= sum
		round = append(round, list[most])
	}
	return round
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// pick returns the target of the next request.
func (s *split) pick() *target {
	if s.only != nil {
		return s.only
	}
	return s.round[(s.next.Add(1)-1)%uint64(len(s.round))]
}

// each gives each target once.
func (s *split) each(give func(*target)) {
	if s.only != nil {
		give(s.only)
		return
	}
	seen := map[*target]bool{}
	for _, t := range s.round {
		if !seen[t] {
			seen[t] = true
			give(t)
		}
	}
}
