package queue

import (
	"context"
	"fmt"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/schedule"
)

// maxOfWorkload bounds the schedules of one manifest's workload.
const maxOfWorkload = 100

// CheckManifest refuses a workload whose schedules Apply would refuse. Nothing
// is changed.
func (s *Schedules) CheckManifest(ctx context.Context, w mayfly.Workload) error {
	list, err := ofWorkload(w)
	if err != nil {
		return err
	}
	added := 0
	for _, want := range list {
		if err := s.check(ctx, want); err != nil {
			return err
		}
		var old *definition
		def, _, err := s.read(ctx, schedule.Name{Space: want.Space, Name: want.Name})
		switch {
		case err == nil && def.Manifest != w.Name:
			return ofManifest(def.Schedule)
		case err == nil:
			old = &def
		case mayfly.KindOf(err) != mayfly.NotFound:
			return err
		default:
			added++
		}
		if _, err := s.define(want, old); err != nil {
			return err
		}
	}
	return s.room(added)
}

// Apply makes the schedules of a workload's manifest what the workload says:
// it adds, changes and then removes. One that was paused stays so. When one is
// refused nothing has been changed; when the engine fails in between, applying
// the same again does the rest, as the next start does.
func (s *Schedules) Apply(ctx context.Context, w mayfly.Workload) error {
	if err := s.CheckManifest(ctx, w); err != nil {
		return err
	}
	list, err := ofWorkload(w)
	if err != nil {
		return err
	}
	wanted := map[schedule.Name]bool{}
	for _, want := range list {
		name := schedule.Name{Space: want.Space, Name: want.Name}
		wanted[name] = true
		_, err := s.change(ctx, name, func(old *definition) (mayfly.Schedule, error) {
			if old != nil && old.Manifest != w.Name {
				return want, ofManifest(old.Schedule)
			}
			want.Paused = old != nil && old.Paused
			return want, nil
		})
		if err != nil {
			return err
		}
	}
	for _, name := range s.namesOf(w.Space, w.Name) {
		if wanted[name] {
			continue
		}
		if err := s.remove(ctx, name, w.Name); err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			return err
		}
	}
	return nil
}

// reconcile makes the schedules of manifests, which are given, what the active
// releases say, where a crash has left them otherwise.
func (s *Schedules) reconcile(ctx context.Context, kept map[schedule.Name]definition) error {
	for _, w := range s.record.Workloads("") {
		spec := w.Release.Workload
		list, err := ofWorkload(spec)
		changed := err != nil
		for _, want := range list {
			name := schedule.Name{Space: want.Space, Name: want.Name}
			old, there := kept[name]
			delete(kept, name)
			want.Paused = old.Paused
			next, err := s.define(want, &old)
			changed = changed || !there || err != nil || !next.same(old)
		}
		if !changed {
			continue
		}
		if err := s.Apply(ctx, spec); mayfly.KindOf(err) == mayfly.Unavailable {
			return err
		} else if err != nil {
			s.log.Error("the schedules of a manifest are not what it says", "space", spec.Space, "workload", spec.Name, "error", err)
		}
	}
	for name, def := range kept {
		if err := s.remove(ctx, name, def.Manifest); err != nil && mayfly.KindOf(err) != mayfly.NotFound {
			return err
		}
	}
	return nil
}

// ofWorkload returns the schedules of a workload in full. The first without a
// name has the workload's, others a number behind it.
func ofWorkload(w mayfly.Workload) ([]mayfly.Schedule, error) {
	if len(w.Schedules) > maxOfWorkload {
		return nil, mayfly.Errorf(mayfly.Invalid, "workload %s has %d schedules, and the limit is %d", w.Name, len(w.Schedules), maxOfWorkload)
	}
	list := make([]mayfly.Schedule, 0, len(w.Schedules))
	taken := map[string]bool{}
	for i, want := range w.Schedules {
		switch {
		case want.Name == "" && i == 0:
			want.Name = w.Name
		case want.Name == "":
			want.Name = fmt.Sprintf("%s-%d", w.Name, i+1)
		}
		if taken[want.Name] {
			return nil, mayfly.Errorf(mayfly.Invalid, "workload %s has two schedules %q", w.Name, want.Name).WithHint("give one another name")
		}
		taken[want.Name] = true
		if want.Task.Image != "" || want.Task.Workload != "" && want.Task.Workload != w.Name {
			return nil, mayfly.Errorf(mayfly.Invalid, "schedule %s of workload %s starts something else", want.Name, w.Name).
				WithHint("add it by itself")
		}
		want.Space, want.Task.Workload, want.Manifest = w.Space, w.Name, w.Name
		if want.Emit != nil {
			want.Task.Workload = ""
		}
		list = append(list, want)
	}
	return list, nil
}

// namesOf returns the schedules of a workload's manifest.
func (s *Schedules) namesOf(space, workload string) []schedule.Name {
	var names []schedule.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, e := range s.all {
		if name.Space == space && e.manifest == workload {
			names = append(names, name)
		}
	}
	return names
}
