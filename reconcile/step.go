package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// readyTime is how long an instance of a release may take to be ready, where the
// service says nothing.
const readyTime = 5 * time.Minute

// crashes is after how many failures in a row a new instance is a crash loop.
const crashes = 3

// step is what is decided for one service at one moment.
type step struct {
	service *service
	next    mayfly.Rollout  // as it shall be written down
	target  *mayfly.Release // whose instances there shall be
	count   int             // of them
	auto    bool            // count is as the scaler says
	surge   int             // instances above count
	fewer   int             // healthy instances below count
	single  string          // why an old instance must be gone before a new one; empty: it need not
	why     string          // the target is what it is

	current []*slot // of the target
	old     []*slot // of others
	ending  []*slot // were told to stop
	news    []mayfly.News
}

// step decides for one service all that does not depend on other services.
func (p *planner) step(s *service) *step {
	st := &step{service: s, next: s.rollout}
	st.begin(p)
	st.sort(p)
	if st.next.State == mayfly.RolloutUnderWay {
		st.judge(p)
	}
	st.finish(p)
	st.trim(p)
	st.replace(p)
	st.fill(p)
	return st
}

// begin starts a rollout when another release or a restart is wanted, and sets
// what is aimed at.
func (st *step) begin(p *planner) {
	s, ro := st.service, &st.next
	number := s.wanted.Number
	again := s.wish.Generation > ro.Generation
	ro.Generation = max(ro.Generation, s.wish.Generation)
	switch {
	case ro.Release != number:
		*ro = mayfly.Rollout{Release: number, Stable: ro.Stable, Before: ro.Before, Generation: ro.Generation, Floor: ro.Floor, State: mayfly.RolloutUnderWay, Since: p.now}
		text := fmt.Sprintf("release %d begins", number)
		if ro.Stable != 0 && ro.Stable != number {
			text = fmt.Sprintf("release %d follows release %d", number, ro.Stable)
		}
		st.news = append(st.news, s.news("rollout.began", text, number, 0, ""))
	case again && s.wish.Retry == number && givenUp(ro):
		if ro.State == mayfly.RolloutFailed { // its replicas are there, with all their failures
			ro.Floor = ro.Generation
		}
		ro.State, ro.Since, ro.Reason, ro.Unplaced = mayfly.RolloutUnderWay, p.now, "", ""
		st.news = append(st.news, s.news("rollout.began", fmt.Sprintf("release %d is tried again", number), number, 0, ""))
	case again && ro.State == mayfly.RolloutRolledBack:
		ro.Floor = ro.Generation
	case again:
		ro.State, ro.Since, ro.Reason, ro.Unplaced, ro.Floor = mayfly.RolloutUnderWay, p.now, "", "", ro.Generation
		st.news = append(st.news, s.news("rollout.began", fmt.Sprintf("release %d is restarted", number), number, 0, ""))
	}
	st.aim(p)
	if len(st.news) > 0 && ro.Stable != 0 && st.single != "" {
		ro.Reason = "each instance is stopped before the next one starts: " + st.single
	}
}

// aim sets the target and the limits by the state of the rollout.
func (st *step) aim(p *planner) {
	s := st.service
	st.target = s.wanted
	if st.next.State == mayfly.RolloutRolledBack {
		if stable := s.releases[st.next.Stable]; stable != nil && stable.Workload.Service != nil {
			st.target = stable
		}
	}
	svc := st.target.Workload.Service
	st.count = countOf(&st.target.Workload, s.scaled, s.wish.Scale)
	st.auto = st.target.Workload.Scale.Scaled() && s.wish.Scale == nil
	if st.next.State == mayfly.RolloutUnderWay && st.auto {
		st.count = max(st.count, 1) // a release is tried though it sleeps
	}
	st.surge, st.fewer = svc.Update.Surge, svc.Update.Unavailable
	if st.surge == 0 && st.fewer == 0 {
		st.surge = 1
	}
	if st.single = p.single(s, st.target); st.single != "" {
		st.surge, st.fewer = 0, max(st.fewer, 1)
		if st.auto {
			st.count = min(st.count, 1)
		}
	}
	st.why = fmt.Sprintf("release %d is wanted", st.target.Number)
	if st.next.State == mayfly.RolloutRolledBack {
		st.why = fmt.Sprintf("release %d was given up", st.next.Release)
	}
}

// single says why two instances of a release cannot be at once in the place of
// one; empty: they can.
func (p *planner) single(s *service, rel *mayfly.Release) string {
	for _, m := range volumesOf(&rel.Workload) {
		if v := p.volumes[store.Key{Space: s.Space, Name: m.Volume}]; !m.ReadOnly && !v.Shared {
			return fmt.Sprintf("volume %s has one writer", m.Volume)
		}
	}
	for _, port := range rel.Workload.Service.Ports {
		if port.Host != 0 && len(p.nodes) < 2 {
			return fmt.Sprintf("host port %d is there once", port.Host)
		}
	}
	return ""
}

// sort tells the slots apart, and removes those that are over.
func (st *step) sort(p *planner) {
	st.current, st.old, st.ending = nil, nil, nil
	for _, sl := range st.service.slots {
		switch {
		case p.over(st.service, sl):
		case sl.Stop && sl.Patient: // it may take long, and takes nobody's place
		case sl.Stop:
			st.ending = append(st.ending, sl)
		case sl.Release == st.target.Number && sl.Generation >= st.next.Floor:
			st.current = append(st.current, sl)
		default:
			st.old = append(st.old, sl)
		}
	}
	byNumber(st.current)
	byNumber(st.old)
}

// judge gives a release up that fails.
func (st *step) judge(p *planner) {
	why := st.failure(p)
	if why == "" {
		return
	}
	s, ro := st.service, &st.next
	stable := s.releases[ro.Stable]
	ro.Since, ro.Reason, ro.Unplaced = p.now, why, ""
	if ro.Stable == ro.Release || stable == nil || stable.Workload.Service == nil || st.target.Workload.Service.Update.NoRollback {
		ro.State = mayfly.RolloutFailed
		st.news = append(st.news, s.news("rollout.failed", fmt.Sprintf("release %d failed: %s", ro.Release, why), ro.Release, 0, ""))
		return
	}
	ro.State = mayfly.RolloutRolledBack
	st.news = append(st.news, s.news("rollout.rolled-back", fmt.Sprintf("release %d is back: release %d failed: %s", ro.Stable, ro.Release, why), ro.Release, 0, ""))
	st.aim(p)
	st.resort()
}

// resort tells the slots apart again for another target.
func (st *step) resort() {
	all := slices.Concat(st.current, st.old)
	st.current, st.old = nil, nil
	for _, sl := range all {
		if sl.Release == st.target.Number && sl.Generation >= st.next.Floor {
			st.current = append(st.current, sl)
		} else {
			st.old = append(st.old, sl)
		}
	}
	byNumber(st.current)
	byNumber(st.old)
}

// failure says why the target has failed; empty: it has not yet.
func (st *step) failure(p *planner) string {
	limit := cmp.Or(st.target.Workload.Service.Update.Timeout, readyTime)
	last := st.next.Since // when it last came further
	for _, sl := range st.current {
		if sl.Replica > st.count {
			continue
		}
		last = later(last, sl.Created)
		r := sl.replica
		if r != nil {
			last = later(last, r.Ready)
		}
		if sl.healthy() {
			continue
		}
		due := sl.Created.Add(limit)
		if r != nil {
			due = later(sl.Created, r.Since).Add(limit)
		}
		switch {
		case r != nil && r.Failures >= crashes:
			return fmt.Sprintf("replica %d failed %d times in a row%s", sl.Replica, r.Failures, quote(r))
		case r != nil && r.State == mayfly.ReplicaFailed:
			return fmt.Sprintf("replica %d was given up%s", sl.Replica, quote(r))
		case !p.now.Before(due):
			return fmt.Sprintf("replica %d was not ready within %s%s", sl.Replica, limit, quote(r))
		}
		p.by(due)
	}
	if st.next.Unplaced != "" {
		if due := last.Add(limit); p.now.Before(due) {
			p.by(due)
		} else {
			return fmt.Sprintf("no node was found within %s: %s", limit, st.next.Unplaced)
		}
	}
	return ""
}

// quote is what a replica says of itself, as the end of a sentence: of one that
// failed, how it ended last.
func quote(r *mayfly.Replica) string {
	switch {
	case r == nil:
		return ": its node did not answer"
	case r.Failures > 0 && r.Exit != nil:
		return ": it " + ended(r.Exit)
	case r.Reason != "":
		return ": " + r.Reason
	}
	return ": it is " + string(r.State)
}

func ended(e *mayfly.Exit) string {
	text := fmt.Sprintf("ended with exit code %d", e.Code)
	switch e.Reason {
	case mayfly.Succeeded, mayfly.ExitedNonZero:
	case mayfly.Rejected:
		text = "could not be started"
	default:
		text = "ended: " + string(e.Reason)
	}
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// finish notes that the target is what runs.
func (st *step) finish(p *planner) {
	ro := &st.next
	if ro.State != mayfly.RolloutUnderWay && ro.State != mayfly.RolloutFailed || len(st.old) > 0 {
		return
	}
	for n := 1; n <= st.count; n++ {
		if !slices.ContainsFunc(st.current, func(sl *slot) bool { return sl.Replica == n && st.available(p, sl) }) {
			return
		}
	}
	before := ro.Before
	if ro.Stable != ro.Release {
		before = ro.Stable
	}
	*ro = mayfly.Rollout{Release: ro.Release, Stable: ro.Release, Before: before, Generation: ro.Generation, Floor: ro.Floor, State: mayfly.RolloutDone, Since: p.now}
	text := fmt.Sprintf("release %d runs", ro.Release)
	st.news = append(st.news, st.service.news("rollout.done", text, ro.Release, 0, ""))
}

// healthy reports whether the node says that the replica does its work.
func (sl *slot) healthy() bool { return sl.replica != nil && sl.replica.State.Healthy() }

// unasked is how long an instance must last of which nothing asks whether it is
// well: otherwise a program that ends at once would take the place of a good one.
const unasked = time.Second

// trial is how long an instance of the target must be ready.
func (st *step) trial() time.Duration {
	w := &st.target.Workload
	asked := len(w.Provides) > 0 || w.Service.Ready != nil || w.Service.Startup != nil
	if wait := w.Service.Update.Healthy; wait > 0 || asked {
		return wait
	}
	return unasked
}

// available reports whether a replica counts: it is healthy, and one of the
// target has been for as long as the service asks.
func (st *step) available(p *planner, sl *slot) bool {
	if !sl.healthy() {
		return false
	}
	wait := st.trial()
	if sl.replica.State == mayfly.ReplicaCompleted || wait == 0 || sl.Release != st.target.Number || st.next.State == mayfly.RolloutDone {
		return true
	}
	due := later(sl.replica.Ready, sl.replica.Since).Add(wait)
	if p.now.Before(due) {
		p.by(due)
		return false
	}
	return true
}
