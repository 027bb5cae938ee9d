package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/image"
	nodes "github.com/mayfly-run/mayfly/node"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/router"
	"github.com/mayfly-run/mayfly/store"
)

// mayflyInit is process 1 of every container. `make init` builds it.
//
//go:embed init/mayfly-init
var mayflyInit []byte

// workloads is what package api asks of functions: the node deploys them, the
// router runs them, and schedules make tasks of them.
type workloads struct {
	*nodes.Node
	*router.Router
	schedules *queue.Schedules
}

// Deploy returns when the routes lead to the new release, and its schedules are
// kept. Bad ones are refused before anything is made.
func (w workloads) Deploy(ctx context.Context, l mayfly.Workload, progress func(string)) (mayfly.Release, error) {
	if err := w.schedules.CheckManifest(ctx, l); err != nil {
		return mayfly.Release{}, err
	}
	defer w.Refresh()
	rel, err := w.Node.Deploy(ctx, l, progress)
	if err != nil {
		return rel, err
	}
	if err := w.schedules.Apply(ctx, rel.Workload); err != nil {
		return rel, mayfly.Errorf(mayfly.KindOf(err), "release %d is active, but its schedules are not: %w", rel.Number, err)
	}
	return rel, nil
}

// DeleteWorkload returns when no route leads to the workload, and the schedules
// of its manifest are gone.
func (w workloads) DeleteWorkload(ctx context.Context, space, name string) error {
	defer w.Refresh()
	if err := w.Node.DeleteWorkload(ctx, space, name); err != nil {
		return err
	}
	return w.schedules.Apply(ctx, mayfly.Workload{Space: space, Name: name})
}

// Run is the node's or the router's, never this pair's.
func (workloads) Run(context.Context) error { panic("run the parts") }

// openNode opens everything that a node is made of, from the bottom up, and
// puts it together. What it opens, the node's close closes again; on an error
// nothing is left open.
func openNode(ctx context.Context, f upFlags, log *slog.Logger) (_ *node, err error) {
	n := &node{name: f.node, driver: f.driver, door: &api.Door{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.name == "" {
		if n.name, err = os.Hostname(); err != nil {
			return nil, mayfly.Errorf(mayfly.Internal, "name this node: %w", err)
		}
	}
	if n.driver == "" {
		n.driver = "native"
	}
	if os.Getuid() != 0 {
		return nil, mayfly.Errorf(mayfly.Denied, "a node makes namespaces and mounts").WithHint("become root")
	}
	b, err := bus.Open(ctx, f.data, bus.Options{Log: log})
	if err != nil {
		return nil, err
	}
	n.onClose(b.Close)
	record, err := store.Open(ctx, b, store.Options{Log: log})
	if err != nil {
		return nil, err
	}
	n.onClose(func() error { record.Close(); return nil })
	images, err := image.Open(filepath.Join(f.data, "images"), image.Options{Log: log})
	if err != nil {
		return nil, err
	}
	n.onClose(images.Close)
	temp, err := emptyTemp(f.data)
	if err != nil {
		return nil, err
	}
	stacks := build.NewStacks(images, build.Options{TempDir: temp})
	machine, err := nodes.Open(ctx, f.data,
		nodes.Parts{Store: record, Images: images, Stacks: stacks, Init: mayflyInit, Inside: n.door},
		nodes.Options{Log: log, Name: n.name, Driver: n.driver, MaxWaiting: f.waiting})
	if err != nil {
		return nil, err
	}
	n.onClose(machine.Close)
	tasks, err := queue.Open(ctx, b, record, queue.Options{
		Log: log, Images: taskImages{images}, MaxPayload: f.payload, KeepAge: f.keepAge, KeepCount: f.keepTasks,
	})
	if err != nil {
		return nil, err
	}
	n.onClose(func() error { tasks.Close(); return nil })
	schedules, err := queue.OpenSchedules(ctx, tasks, queue.ScheduleOptions{Log: log})
	if err != nil {
		return nil, err
	}
	routes := router.New(record, machine, machine, router.Options{Log: log, Node: n.name, MaxMemory: machine.Memory(), Tasks: tasks})
	n.routes = routes
	runner := nodes.NewRunner(machine, tasks, routes, nodes.RunnerOptions{Log: log, Tasks: f.tasks})
	if err := runner.Adopt(ctx); err != nil {
		return nil, err
	}
	n.loops = append(n.loops, b.Run, machine.Run, routes.Run, tasks.Run, runner.Run, schedules.Run)
	n.services = api.Services{
		Instances: machine, Workloads: workloads{machine, routes, schedules}, Machine: machine, Logs: machine, Tasks: tasks, Places: runner, Schedules: schedules,
		Images: imageService{images, machine}, Stacks: stackService{stacks},
	}
	return n, nil
}

// emptyTemp makes DATA/tmp, where roots of stacks grow, and removes what a
// killed daemon left there. The caller holds the data directory's lock.
func emptyTemp(data string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(data, "tmp"))
	if err != nil {
		return "", fmt.Errorf("find the temporary directory: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("empty the temporary directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the temporary directory: %w", err)
	}
	return dir, nil
}
