package bus

import (
	"cmp"
	"slices"
)

// ranges is a set of numbers, cheap where they come in runs.
type ranges []span

type span struct{ first, last uint64 }

// add adds the numbers from first to last.
func (r *ranges) add(first, last uint64) {
	list := *r
	// All from i to k touch it.
	i, _ := slices.BinarySearchFunc(list, first, func(s span, n uint64) int { return cmp.Compare(s.last+1, n) })
	k := i
	for k < len(list) && list[k].first <= last+1 {
		k++
	}
	if i < k {
		first, last = min(first, list[i].first), max(last, list[k-1].last)
	}
	*r = slices.Replace(list, i, k, span{first, last})
}

// after is the first number from n on that is not in the set.
func (r ranges) after(n uint64) uint64 {
	i, _ := slices.BinarySearchFunc(r, n, func(s span, n uint64) int { return cmp.Compare(s.last, n) })
	if i < len(r) && r[i].first <= n {
		return r[i].last + 1
	}
	return n
}

// drop removes all that are less than n.
func (r *ranges) drop(n uint64) {
	i, _ := slices.BinarySearchFunc(*r, n, func(s span, n uint64) int { return cmp.Compare(s.last, n) })
	*r = slices.Delete(*r, 0, i)
	if len(*r) > 0 && (*r)[0].first < n {
		(*r)[0].first = n
	}
}
