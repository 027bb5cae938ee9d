package reconcile

import (
	"fmt"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// trim stops what is too much: replicas above the count, and of two with one
// number the worse.
func (st *step) trim(p *planner) {
	s := st.service
	high := func(why string) func(*slot) bool {
		return func(sl *slot) bool {
			if sl.Replica <= st.count {
				return false
			}
			sl.Patient = st.auto && !sl.Stop
			p.stop(s, sl, why)
			if !sl.Patient {
				st.ending = append(st.ending, sl)
			}
			return true
		}
	}
	why := fmt.Sprintf("scaled to %d", st.count)
	st.current = slices.DeleteFunc(st.current, high(why))
	st.old = slices.DeleteFunc(st.old, high(why))
	best := map[int]*slot{}
	for _, sl := range st.current {
		if b := best[sl.Replica]; b == nil || !b.healthy() && sl.healthy() {
			best[sl.Replica] = sl
		}
	}
	st.current = slices.DeleteFunc(st.current, func(sl *slot) bool {
		if best[sl.Replica] == sl {
			return false
		}
		p.stop(s, sl, "there is another of its number")
		st.ending = append(st.ending, sl)
		return true
	})
}

// replace stops old instances as far as enough others are healthy: first those
// that are not healthy themselves, then those whose successor is, then the rest.
func (st *step) replace(p *planner) {
	healthy := 0
	succeeded := map[int]bool{}
	for _, sl := range st.current {
		if st.available(p, sl) {
			healthy++
			succeeded[sl.Replica] = true
		}
	}
	rank := func(sl *slot) int {
		switch {
		case !sl.healthy():
			return 0
		case succeeded[sl.Replica]:
			return 1
		}
		return 2
	}
	for _, sl := range st.old {
		if sl.healthy() {
			healthy++
		}
	}
	slices.SortStableFunc(st.old, func(a, b *slot) int { return rank(a) - rank(b) })
	why := fmt.Sprintf("release %d follows", st.target.Number)
	switch {
	case st.next.State == mayfly.RolloutRolledBack:
		why = fmt.Sprintf("release %d is back", st.target.Number)
	case st.next.Stable == st.target.Number:
		why = "the service is restarted"
	}
	st.old = slices.DeleteFunc(st.old, func(sl *slot) bool {
		if sl.healthy() {
			if healthy-1 < st.count-st.fewer {
				return false
			}
			healthy--
		}
		p.stop(st.service, sl, why)
		st.ending = append(st.ending, sl)
		return true
	})
}

// fill asks for replicas that are missing, the lowest first, as far as there may
// be more instances. Those that are about to end still count.
func (st *step) fill(p *planner) {
	has := func(list []*slot, number int) bool {
		return slices.ContainsFunc(list, func(sl *slot) bool { return sl.Replica == number })
	}
	var missing []int
	for n := 1; n <= st.count; n++ {
		if !has(st.current, n) {
			missing = append(missing, n)
		}
	}
	slices.SortStableFunc(missing, func(a, b int) int {
		return taken(has(st.old, a) || has(st.ending, a)) - taken(has(st.old, b) || has(st.ending, b))
	})
	st.next.Unplaced = ""
	room := st.count + st.surge - len(st.current) - len(st.old) - len(st.ending)
	for _, n := range missing {
		if room <= 0 || st.single != "" && (has(st.old, n) || has(st.ending, n)) {
			return
		}
		room--
		p.wants = append(p.wants, want{s: st.service, step: st, number: n})
	}
}

func taken(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// unplaced notes why a replica has no node; of several the lowest is told.
func (st *step) unplaced(number int, why string) {
	if st.next.Unplaced == "" {
		st.next.Unplaced = fmt.Sprintf("replica %d: %s", number, why)
	}
}
