package reconcile

import (
	"context"
	"fmt"

	"github.com/mayfly-run/mayfly"
)

// ServiceReleases returns the releases of a service that still exist, newest
// first.
func (s *Services) ServiceReleases(ctx context.Context, space, name string) ([]mayfly.ServiceRelease, error) {
	sv, err := s.GetService(ctx, space, name)
	if err != nil {
		return nil, err
	}
	all, err := s.store.Releases(ctx, space, name)
	if err != nil {
		return nil, err
	}
	running := map[int]int{}
	for _, r := range sv.Replicas {
		running[r.Release]++
	}
	list := make([]mayfly.ServiceRelease, len(all))
	for i, rel := range all {
		list[i] = mayfly.ServiceRelease{
			Release: rel, Wanted: rel.Number == sv.Release, Stable: rel.Number == sv.Rollout.Stable, Running: running[rel.Number],
			GivenUp: rel.Number == sv.Rollout.Release && givenUp(&sv.Rollout),
		}
	}
	return list, nil
}

func givenUp(ro *mayfly.Rollout) bool {
	return ro.State == mayfly.RolloutRolledBack || ro.State == mayfly.RolloutFailed
}

// RollbackService wants another release of a service: the one with that number,
// or, for 0, the last one that was healthy before the wanted one. A release that
// was given up is tried again.
func (s *Services) RollbackService(ctx context.Context, space, name string, number int) (mayfly.Supervised, error) {
	sv, err := s.wanted(space, name)
	if err != nil {
		return sv, err
	}
	w, err := s.store.Workload(space, name)
	if err != nil {
		return sv, err
	}
	if number == 0 {
		if number = before(&sv); number == 0 {
			return sv, mayfly.Errorf(mayfly.Conflict, "there is no release of %s to go back to", name).
				WithHint("`mayfly releases %s` lists those there are; name one", name)
		}
	}
	rel, err := s.store.Release(ctx, space, name, number)
	if err != nil {
		return sv, err
	}
	switch {
	case rel.Workload.Service == nil:
		return sv, mayfly.Errorf(mayfly.Conflict, "release %d of %s is a function's", number, name)
	case number != w.Number:
		_, err = s.store.SetWorkload(ctx, space, name, number, w.Revision)
	case givenUp(&sv.Rollout):
		err = s.tryAgain(ctx, space, name, number)
	default:
		return sv, nil
	}
	if err != nil {
		return sv, err
	}
	s.tell(sv, "service.rolled-back", number, fmt.Sprintf("release %d is wanted again, after release %d", number, w.Number))
	return s.GetService(ctx, space, name)
}

// RetryService tries a release of a service again, if that is the wanted one and
// was given up, and reports whether it was so.
func (s *Services) RetryService(ctx context.Context, space, name string, number int) (bool, error) {
	sv, err := s.GetService(ctx, space, name)
	if err != nil || sv.Release != number || sv.Rollout.Release != number || !givenUp(&sv.Rollout) {
		return false, err
	}
	if err := s.tryAgain(ctx, space, name, number); err != nil {
		return false, err
	}
	s.tell(sv, "service.retried", number, fmt.Sprintf("release %d was deployed again: it is tried again", number))
	return true, nil
}

func (s *Services) tryAgain(ctx context.Context, space, name string, number int) error {
	_, err := s.wish(ctx, space, name, func(w *mayfly.Wish) { w.Generation, w.Retry = w.Generation+1, number })
	return err
}

// before is the release that a service goes back to; 0: none.
func before(sv *mayfly.Supervised) int {
	if stable := sv.Rollout.Stable; stable != sv.Release {
		return stable
	}
	if sv.Rollout.Before != sv.Release {
		return sv.Rollout.Before
	}
	return 0
}
