package main

import (
	"context"
	"fmt"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
	nodes "github.com/mayfly-run/mayfly/node"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/reconcile"
	"github.com/mayfly-run/mayfly/router"
)

// workloads is what package api asks of functions: the node deploys them, the
// router runs them, and schedules make tasks of them.
type workloads struct {
	*nodes.Node
	*router.Router
	schedules *queue.Schedules
	services  *reconcile.Services
	events    *event.Events
}

// Deploy returns when the routes lead to the new release, and its schedules are
// kept. Bad ones are refused before anything is made. A release of a service that
// was given up is tried again.
func (w workloads) Deploy(ctx context.Context, l mayfly.Workload, progress func(string)) (mayfly.Release, error) {
	if err := w.schedules.CheckManifest(ctx, l); err != nil {
		return mayfly.Release{}, err
	}
	if err := w.events.CheckWorkload(l); err != nil {
		return mayfly.Release{}, err
	}
	defer w.Refresh()
	rel, err := w.Node.Deploy(ctx, l, progress)
	if err != nil {
		return rel, err
	}
	if rel.Workload.Service != nil {
		again, err := w.services.RetryService(ctx, l.Space, l.Name, rel.Number)
		if err != nil {
			return rel, err
		}
		if again {
			progress(fmt.Sprintf("%s: release %d is tried again", l.Name, rel.Number))
		}
	}
	for _, line := range w.events.TellOwnFiles(rel.Workload) {
		progress(line)
	}
	return rel, w.keepSchedules(ctx, rel)
}

// keepSchedules has those of a release that became active take the place of those
// before.
func (w workloads) keepSchedules(ctx context.Context, rel mayfly.Release) error {
	if err := w.schedules.Apply(ctx, rel.Workload); err != nil {
		return mayfly.Errorf(mayfly.KindOf(err), "release %d is active, but its schedules are not: %w", rel.Number, err)
	}
	return nil
}

// WorkloadReleases lists the releases of a function or a service.
func (w workloads) WorkloadReleases(ctx context.Context, space, name string) ([]mayfly.ServiceRelease, error) {
	active, err := w.GetWorkload(ctx, space, name)
	if err != nil {
		return nil, err
	}
	if active.Workload.Service != nil {
		return w.services.ServiceReleases(ctx, space, name)
	}
	return w.FunctionReleases(ctx, space, name)
}

// RollbackWorkload returns when the routes lead to the release, and its schedules
// are kept. Of a service it returns when that is wanted.
func (w workloads) RollbackWorkload(ctx context.Context, space, name string, number int, progress func(string)) (mayfly.Release, error) {
	active, err := w.GetWorkload(ctx, space, name)
	if err != nil {
		return active, err
	}
	if active.Workload.Service != nil {
		if _, err := w.services.RollbackService(ctx, space, name, number); err != nil {
			return mayfly.Release{}, err
		}
		return w.GetWorkload(ctx, space, name)
	}
	if err := w.events.CheckRelease(ctx, space, name, number); err != nil {
		return mayfly.Release{}, err
	}
	defer w.Refresh()
	rel, err := w.RollbackFunction(ctx, space, name, number, progress)
	if err != nil {
		return rel, err
	}
	return rel, w.keepSchedules(ctx, rel)
}

// DeleteWorkload returns when no route leads to the workload, and the schedules
// of its manifest are gone.
func (w workloads) DeleteWorkload(ctx context.Context, space, name string) error {
	defer w.Refresh()
	if err := w.Node.DeleteWorkload(ctx, space, name); err != nil {
		return err
	}
	if err := w.events.Forget(ctx, space, name); err != nil {
		return err
	}
	return w.schedules.Apply(ctx, mayfly.Workload{Space: space, Name: name})
}

// Run is the node's or the router's, never this pair's.
func (workloads) Run(context.Context) error { panic("run the parts") }
