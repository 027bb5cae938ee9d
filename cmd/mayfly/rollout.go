package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

var (
	errAllSettled = errors.New("all have settled")
	errInVain     = errors.New("what is left waits in vain")
)

// inVain is how long a deploy still watches services that wait for what nobody
// deploys, or for what has failed, after all others have settled: somebody may be
// about to.
const inVain = 10 * time.Second

// rollouts waits until each service runs the release that was deployed, and
// shows each on its way. A release that was given up is an error, as is a service
// that waits in vain.
func (d *deployment) rollouts(ctx context.Context, left map[string]int) error {
	if len(left) == 0 {
		return nil
	}
	watched, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := rolloutWatch{deployment: d, left: left, freed: map[string]bool{}, shown: map[string]bool{}, begun: time.Now(), view: d.progress()}
	var giveUp *time.Timer // while only those are left that wait in vain
	err := d.cl.WatchServices(watched, func(s mayfly.Supervised) error {
		w.take(s)
		switch stuck := w.allStuck(); {
		case len(left) == 0:
			return errAllSettled
		case stuck && giveUp == nil:
			giveUp = time.AfterFunc(inVain, func() { stop(errInVain) })
		case !stuck && giveUp != nil:
			giveUp.Stop()
			giveUp = nil
		}
		return nil
	})
	if giveUp != nil {
		giveUp.Stop()
	}
	w.view.done()
	switch {
	case context.Cause(watched) == errInVain:
		return errors.Join(append(w.failed, d.waiting(left)...)...)
	case err != nil && !errors.Is(err, errAllSettled):
		return d.interrupted(ctx, fmt.Errorf("wait for %s: %w", strings.Join(slices.Sorted(maps.Keys(left)), ", "), err))
	}
	return errors.Join(w.failed...)
}

// rolloutWatch follows services on their way.
type rolloutWatch struct {
	*deployment
	left   map[string]int  // releases, by service
	freed  map[string]bool // services that have started, whatever they lacked
	shown  map[string]bool // services that were not there yet when they were looked at
	begun  time.Time
	view   *progressView
	failed []error
}

func (w *rolloutWatch) take(s mayfly.Supervised) {
	release, ok := w.left[s.Name]
	if !ok {
		return
	}
	if hasContainer(s, release) {
		w.freed[s.Name] = true
	}
	over, err := settled(s, release)
	if !over {
		w.shown[s.Name] = true
		w.view.report(client.Progress{ID: s.Name, Text: rolloutText(s)})
		return
	}
	delete(w.left, s.Name)
	switch {
	case err != nil:
		w.failed = append(w.failed, err)
		w.view.report(client.Progress{ID: s.Name, Text: s.State})
		if s.Rollout.State == mayfly.RolloutFailed {
			w.without(s.Name, "which has failed")
		}
	case w.planned[s.Name].Change != mayfly.PlanNone, w.shown[s.Name]:
		w.view.tell(s.Name, func() {
			fmt.Fprintf(w.stdout, "%s release %d %s after %s\n", s.Name, release, s.State, humanDuration(time.Since(w.begun)))
		})
	}
}

// without notes who waits in vain for a service that has failed, and for those in
// turn.
func (w *rolloutWatch) without(service, why string) {
	for i := range w.chosen {
		user := &w.chosen[i].Workload
		plan := w.planned[user.Name]
		if _, left := w.left[user.Name]; !left || w.freed[user.Name] || len(plan.Lacks) > 0 || !needs(user, service) {
			continue
		}
		plan.Lacks = []string{"service " + service + ", " + why}
		w.planned[user.Name] = plan
		w.without(user.Name, "which waits itself")
	}
}

// needs reports whether a service waits for another one of its space.
func needs(w *mayfly.Workload, service string) bool {
	return slices.ContainsFunc(w.Requires, func(r mayfly.Require) bool {
		return !r.Optional && r.Service == service && (r.Space == "" || r.Space == w.Space)
	}) || slices.ContainsFunc(w.Service.After, func(a mayfly.After) bool { return !a.Optional && a.Workload == service })
}

func (w *rolloutWatch) allStuck() bool {
	for name := range w.left {
		if len(w.planned[name].Lacks) == 0 || w.freed[name] {
			return false
		}
	}
	return true
}

// hasContainer says whether a release of a service has come so far that a
// container of it was made.
func hasContainer(s mayfly.Supervised, release int) bool {
	return slices.ContainsFunc(s.Replicas, func(r mayfly.ReplicaStatus) bool { return r.Release == release && r.Instance != "" })
}

// waiting says of services that they wait in vain.
func (d *deployment) waiting(left map[string]int) (all []error) {
	for _, name := range slices.Sorted(maps.Keys(left)) {
		all = append(all, mayfly.Errorf(mayfly.Failed, "release %d of %s waits for %s", left[name], name, strings.Join(d.planned[name].Lacks, ", and ")).
			WithHint("it starts by itself once that is there; see mayfly why %s", name))
	}
	return all
}

// interrupted says what a deploy that was interrupted leaves, if err is because of
// that.
func (d *deployment) interrupted(ctx context.Context, err error) error {
	if context.Cause(ctx) != errInterrupted {
		return err
	}
	var rest []string
	for _, w := range d.chosen {
		if !slices.Contains(d.done, w.Name) {
			rest = append(rest, w.Name)
		}
	}
	if len(rest) > 0 {
		fmt.Fprintf(d.stderr, "mayfly: interrupted: %s not deployed; what was is left as it is\n", areOr(rest))
	} else {
		fmt.Fprintf(d.stderr, "mayfly: interrupted: the deploy goes on, only nobody waits for it; see mayfly services\n")
	}
	return err
}

// areOr is "a, b and c are", or "a is".
func areOr(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " are"
}

// settled says whether a release of a service has come to its end, and with what
// error.
func settled(s mayfly.Supervised, release int) (over bool, err error) {
	ro := &s.Rollout
	switch {
	case s.State == mayfly.ServiceDeleted:
		return true, mayfly.Errorf(mayfly.Conflict, "service %s was deleted meanwhile", s.Name)
	case s.Release < release:
		return false, nil // of before the deploy
	case s.Release > release:
		return true, mayfly.Errorf(mayfly.Conflict, "release %d of %s follows meanwhile", s.Release, s.Name)
	case ro.State == mayfly.RolloutRolledBack:
		return true, mayfly.Errorf(mayfly.Failed, "release %d of %s was given up, and release %d is back: %s", release, s.Name, ro.Stable, ro.Reason).
			WithHint("see mayfly why %s and mayfly logs %s", s.Name, s.Name)
	case ro.State == mayfly.RolloutFailed:
		return true, mayfly.Errorf(mayfly.Failed, "release %d of %s failed: %s", release, s.Name, ro.Reason).
			WithHint("see mayfly why %s and mayfly logs %s; mayfly restart %s tries it again", s.Name, s.Name, s.Name)
	case ro.State == mayfly.RolloutDone:
		return true, nil
	}
	return false, nil
}

// rolloutText is one line on how a service is.
func rolloutText(s mayfly.Supervised) string {
	text := fmt.Sprintf("%s, %d of %d ready", s.State, s.Ready, s.Wanted)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}
