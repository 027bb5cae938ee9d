package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// Services tells people how services are, and writes down what people wish of
// them, which the loop then carries out. It is safe for concurrent use.
type Services struct {
	store *store.Store
}

// NewServices returns the services of a record.
func NewServices(s *store.Store) *Services { return &Services{store: s} }

// mostReplicas bounds what somebody may ask for by mistake.
const mostReplicas = 10_000

// ListServices returns the services of a space by name.
func (s *Services) ListServices(_ context.Context, space string) ([]mayfly.Supervised, error) {
	return s.list(space, ""), nil
}

// GetService returns one service, or a NotFound error.
func (s *Services) GetService(_ context.Context, space, name string) (mayfly.Supervised, error) {
	if list := s.list(space, name); len(list) > 0 {
		return list[0], nil
	}
	return mayfly.Supervised{}, s.missing(space, name)
}

func (s *Services) missing(space, name string) error {
	if _, err := s.store.Workload(space, name); err == nil {
		return mayfly.Errorf(mayfly.NotFound, "%s is a function, not a service", name).WithHint("its instances come and go with its calls")
	}
	return mayfly.Errorf(mayfly.NotFound, "there is no service %q", name).WithHint("`mayfly services` lists those there are")
}

// WatchServices gives each service of a space to each as it is, or only the one
// that is named, and again whenever it is another, until ctx ends or each fails. A
// service that is gone is given a last time, as deleted.
func (s *Services) WatchServices(ctx context.Context, space, name string, each func(mayfly.Supervised) error) error {
	var seen map[string]mayfly.Supervised
	for {
		snap := s.store.Snapshot()
		list := s.list(space, name)
		if seen == nil && name != "" && len(list) == 0 {
			return s.missing(space, name)
		}
		now := map[string]mayfly.Supervised{}
		for _, sv := range list {
			now[sv.Name] = sv
			if old, ok := seen[sv.Name]; ok && reflect.DeepEqual(old, sv) {
				continue
			}
			if err := each(sv); err != nil {
				return err
			}
		}
		for gone, sv := range seen {
			if _, ok := now[gone]; ok {
				continue
			}
			sv.State, sv.Reason, sv.Wanted, sv.Ready, sv.Replicas = mayfly.ServiceDeleted, "", 0, 0, []mayfly.ReplicaStatus{}
			if err := each(sv); err != nil {
				return err
			}
		}
		seen = now
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ScaleService asks for so many replicas, whatever the release says; nil for as
// many as the release says.
func (s *Services) ScaleService(ctx context.Context, space, name string, count *int) (mayfly.Supervised, error) {
	before, err := s.wanted(space, name)
	if err != nil {
		return before, err
	}
	w, err := s.store.Workload(space, name)
	if err != nil {
		return before, err
	}
	if count != nil {
		if most := cmp.Or(w.Workload.Scale.Max, mostReplicas); *count < 0 || *count > most {
			return before, mayfly.Errorf(mayfly.Invalid, "%s cannot have %d replicas", name, *count).WithHint("give a number from 0 to %d", most)
		}
	}
	if _, err = s.wish(ctx, space, name, func(w *mayfly.Wish) { w.Scale, w.By = count, "" }); err != nil {
		return before, err
	}
	return s.scaledFrom(ctx, before, "")
}

// scaledFrom returns a service after its scale was asked for, and tells people of
// it. By is what asked, if that was a program.
func (s *Services) scaledFrom(ctx context.Context, before mayfly.Supervised, by string) (mayfly.Supervised, error) {
	after, err := s.GetService(ctx, before.Space, before.Name)
	if after.Wanted != before.Wanted {
		text := fmt.Sprintf("scaled from %d to %d", before.Wanted, after.Wanted)
		if by != "" {
			text += ": " + by + " asked for that"
		}
		s.tell(after, "service.scaled", after.Release, text)
	}
	return after, err
}

// ScaleServiceBy is ScaleService for a program in a container of the workload who:
// of the service itself, or the one that its scale names. It may ask for what is
// within the release's bounds, unless people have asked for a number.
func (s *Services) ScaleServiceBy(ctx context.Context, space, name string, count *int, who mayfly.Identity) (mayfly.Supervised, error) {
	before, err := s.wanted(space, name)
	if err != nil {
		return before, err
	}
	w, err := s.store.Workload(space, name)
	if err != nil {
		return before, err
	}
	scale := w.Workload.Scale
	switch least, most := scale.Count(), max(scale.Most(), scale.Max); {
	case who.Workload == "" || who.Workload != name && (who.Workload != scale.By || who.App != w.Workload.App):
		return before, mayfly.Errorf(mayfly.Denied, "a program of %s may not scale %s", cmp.Or(who.Workload, who.Instance), name).
			WithHint("write scale: {by: %s} in the manifest of %s", cmp.Or(who.Workload, "WORKLOAD"), name)
	case count != nil && (*count < least || *count > most):
		return before, mayfly.Errorf(mayfly.Invalid, "%s cannot have %d replicas", name, *count).WithHint("its release says from %d to %d", least, most)
	}
	_, err = s.store.Wishes.Update(ctx, space, name, func(w mayfly.Wish, _ bool) (mayfly.Wish, bool, error) {
		if w.Scale != nil && w.By == "" {
			return w, false, mayfly.Errorf(mayfly.Conflict, "%s has %d replicas because somebody asked for that", name, *w.Scale).
				WithHint("mayfly scale %s=default leaves it to others", name)
		}
		same := w.Scale == nil && count == nil || w.Scale != nil && count != nil && *w.Scale == *count
		w.Scale, w.By, w.Changed = count, who.Workload, time.Now().UTC()
		if count == nil {
			w.By = ""
		}
		return w, !same, nil
	})
	if err != nil {
		return before, err
	}
	return s.scaledFrom(ctx, before, who.Workload)
}

// RestartService replaces all replicas of a service, as an update to the same
// release would.
func (s *Services) RestartService(ctx context.Context, space, name string) (mayfly.Supervised, error) {
	if sv, err := s.wanted(space, name); err != nil {
		return sv, err
	}
	if _, err := s.wish(ctx, space, name, func(w *mayfly.Wish) { w.Generation++ }); err != nil {
		return mayfly.Supervised{}, err
	}
	sv, err := s.GetService(ctx, space, name)
	s.tell(sv, "service.restarted", sv.Release, "a restart was asked for: its replicas are replaced")
	return sv, err
}

// wanted returns a service that was not deleted.
func (s *Services) wanted(space, name string) (mayfly.Supervised, error) {
	sv, err := s.GetService(context.Background(), space, name)
	if err == nil && sv.State == mayfly.ServiceDeleted {
		err = mayfly.Errorf(mayfly.Conflict, "service %s was deleted", name).WithHint("deploy it again")
	}
	return sv, err
}

func (s *Services) wish(ctx context.Context, space, name string, change func(*mayfly.Wish)) (mayfly.Wish, error) {
	return s.store.Wishes.Update(ctx, space, name, func(w mayfly.Wish, _ bool) (mayfly.Wish, bool, error) {
		change(&w)
		w.Changed = time.Now().UTC()
		return w, true, nil
	})
}

func (s *Services) tell(sv mayfly.Supervised, kind string, release int, text string) {
	s.store.RecordNews(mayfly.News{Space: sv.Space, Type: kind, Subject: sv.Name, Release: release, Text: text})
}

// list returns the services of a space, or the one with a name.
func (s *Services) list(space, name string) []mayfly.Supervised {
	snap := s.store.Snapshot()
	wanted := func(key store.Key) bool { return key.Space == space && (name == "" || key.Name == name) }
	all := map[store.Key]*mayfly.Supervised{}
	for key, w := range snap.Workloads {
		if wanted(key) && w.Workload.Service != nil {
			all[key] = s.of(key, w)
		}
	}
	assignments := s.store.Assignments.List(space)
	for i := range assignments {
		a := &assignments[i].Value
		key := store.Key{Space: a.Space, Name: a.Workload}
		if !wanted(key) {
			continue
		}
		if all[key] == nil {
			all[key] = s.of(key, nil)
		}
		all[key].Replicas = append(all[key].Replicas, s.replica(a))
	}
	list := make([]mayfly.Supervised, 0, len(all))
	for _, sv := range all {
		summarize(sv)
		list = append(list, *sv)
	}
	slices.SortFunc(list, func(a, b mayfly.Supervised) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// of begins the description of a service; w is nil when it was deleted.
func (s *Services) of(key store.Key, w *store.Workload) *mayfly.Supervised {
	sv := &mayfly.Supervised{Space: key.Space, Name: key.Name, State: mayfly.ServiceDeleted, Replicas: []mayfly.ReplicaStatus{}}
	if ro, ok := s.store.Rollouts.Find(key.Space, key.Name); ok {
		sv.Rollout, sv.Release = ro.Value, ro.Value.Release
	}
	if w == nil {
		return sv
	}
	sv.State, sv.App, sv.Image, sv.Release, sv.Created = "", w.Workload.App, w.Workload.Image, w.Number, w.Created
	wish, _ := s.store.Wishes.Find(key.Space, key.Name)
	var scaled *mayfly.Scaled
	if rec, ok := s.store.Scales.Find(key.Space, key.Name); ok {
		scaled = &rec.Value
	}
	sv.Wanted, sv.Scaled = countOf(&w.Workload, scaled, wish.Value.Scale), wish.Value.Scale != nil
	sv.Auto = w.Workload.Scale.Scaled() && !sv.Scaled
	if ro := &sv.Rollout; ro.Release != sv.Release || wish.Value.Generation > ro.Generation { // the loop has not seen it yet
		sv.Rollout = mayfly.Rollout{Release: sv.Release, Stable: ro.Stable, Before: ro.Before, Generation: ro.Generation, State: mayfly.RolloutUnderWay, Since: w.Created}
	}
	return sv
}

func (s *Services) replica(a *mayfly.Assignment) mayfly.ReplicaStatus {
	st := mayfly.ReplicaStatus{Created: a.Created, Stop: a.Stop}
	if a.Stop {
		st.Why = a.Reason
	}
	if r, ok := s.store.Replicas.Find(a.Space, a.ID); ok {
		st.Replica = r.Value
		return st
	}
	st.Replica = mayfly.Replica{
		Assignment: a.ID, Space: a.Space, Workload: a.Workload, Release: a.Release, Number: a.Replica, Node: a.Node,
		State: mayfly.ReplicaStarting, Reason: "node " + a.Node + " was told", Since: a.Created,
	}
	return st
}

// summarize says in a word and a line how a service is.
func summarize(sv *mayfly.Supervised) {
	slices.SortFunc(sv.Replicas, func(a, b mayfly.ReplicaStatus) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), a.Created.Compare(b.Created), cmp.Compare(a.Assignment, b.Assignment))
	})
	var ill *mayfly.ReplicaStatus
	waiting, completed := 0, 0
	numbers := map[int]bool{}
	for i := range sv.Replicas {
		r := &sv.Replicas[i]
		switch {
		case r.Stop:
			continue
		case r.State.Healthy():
			numbers[r.Number] = true
		case ill == nil:
			ill = r
		}
		if r.State == mayfly.ReplicaWaiting {
			waiting++
		}
		if r.State == mayfly.ReplicaCompleted {
			completed++
		}
	}
	sv.Ready = len(numbers)
	if sv.State == mayfly.ServiceDeleted {
		return
	}
	sv.State = stateOf(sv, waiting, completed)
	ro := &sv.Rollout
	switch {
	case ro.State == mayfly.RolloutRolledBack || ro.State == mayfly.RolloutFailed:
		sv.Reason = ro.Reason
	case ro.Unplaced != "":
		sv.Reason = ro.Unplaced
	case ill != nil && ill.Reason != "":
		sv.Reason = fmt.Sprintf("replica %d: %s", ill.Number, ill.Reason)
	default:
		sv.Reason = ro.Reason
	}
}

func stateOf(sv *mayfly.Supervised, waiting, completed int) string {
	ro := &sv.Rollout
	switch {
	case ro.State == mayfly.RolloutRolledBack:
		return mayfly.ServiceRolledBack
	case ro.State == mayfly.RolloutFailed:
		return mayfly.ServiceFailed
	case sv.Wanted == 0 && sv.Auto:
		return mayfly.ServiceAsleep
	case sv.Wanted == 0:
		return mayfly.ServiceStopped
	case waiting > 0 && sv.Ready == 0:
		return mayfly.ServiceWaiting
	case ro.State == mayfly.RolloutUnderWay && ro.Stable != 0:
		return mayfly.ServiceUpdating
	case ro.State == mayfly.RolloutUnderWay:
		return mayfly.ServiceStarting
	case sv.Ready < sv.Wanted:
		return mayfly.ServiceDegraded
	case completed == sv.Wanted:
		return mayfly.ServiceCompleted
	}
	return mayfly.ServiceRunning
}
