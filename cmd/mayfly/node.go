package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/claim"
	"github.com/mayfly-run/mayfly/discovery"
	"github.com/mayfly-run/mayfly/event"
	"github.com/mayfly-run/mayfly/explain"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/material"
	nodes "github.com/mayfly-run/mayfly/node"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/reconcile"
	"github.com/mayfly-run/mayfly/router"
	"github.com/mayfly-run/mayfly/store"
)

// mayflyInit is process 1 of every container. `make init` builds it.
//
//go:embed init/mayfly-init
var mayflyInit []byte

// emitter is what the node has events accepted by.
func emitter(events *event.Events) claim.Emit {
	return func(ctx context.Context, space string, list []mayfly.Event) error {
		_, err := events.Emit(ctx, space, list)
		return err
	}
}

// parts is what a node is made of, filled from the bottom up.
type parts struct {
	*node
	flags upFlags
	log   *slog.Logger

	bus       *bus.Bus
	record    *store.Store
	images    *image.Store
	stacks    *build.Stacks
	endpoints *discovery.Discovery
	outside   *discovery.Outside
	volumes   *claim.Volumes
	material  *material.Store
	machine   *nodes.Node
	tasks     *queue.Queue
	events    *event.Events
	schedules *queue.Schedules
	scaler    *reconcile.Scaler
	routes    *router.Router
	runner    *nodes.Runner
}

// openNode opens everything that a node is made of, from the bottom up, and
// puts it together. What it opens, the node's close closes again; on an error
// nothing is left open.
func openNode(ctx context.Context, f upFlags, log *slog.Logger) (_ *node, err error) {
	if os.Getuid() != 0 {
		return nil, mayfly.Errorf(mayfly.Denied, "a node makes namespaces and mounts").WithHint("become root")
	}
	p := parts{node: &node{driver: cmp.Or(f.driver, "native"), door: &api.Door{}}, flags: f, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for _, open := range []func(context.Context) error{p.openRecord, p.openMachine, p.openWork, p.openRoutes} {
		if err := open(ctx); err != nil {
			return nil, err
		}
	}
	p.serve()
	return p.node, nil
}

// openRecord opens what is written down, and finds out who the node is.
func (p *parts) openRecord(ctx context.Context) (err error) {
	if p.bus, err = bus.Open(ctx, p.flags.data, bus.Options{Log: p.log}); err != nil {
		return err
	}
	p.onClose(p.bus.Close)
	if p.record, err = store.Open(ctx, p.bus, store.Options{Log: p.log}); err != nil {
		return err
	}
	p.onClose(func() error { p.record.Close(); return nil })
	p.name, err = nodeName(p.record, p.flags.node)
	return err
}

// openMachine opens what makes containers, and what they are made of.
func (p *parts) openMachine(ctx context.Context) (err error) {
	f := &p.flags
	if p.images, err = image.Open(filepath.Join(f.data, "images"), image.Options{Log: p.log}); err != nil {
		return err
	}
	p.onClose(p.images.Close)
	temp, clear, err := newTemp(f.data, p.log)
	if err != nil {
		return err
	}
	p.stacks = build.NewStacks(p.images, build.Options{TempDir: temp})
	p.endpoints, err = discovery.Open(ctx, p.bus, p.record, discovery.Options{Node: p.name, Zone: f.labels["zone"], Log: p.log})
	if err != nil {
		return err
	}
	p.outside = p.endpoints.OpenOutside(discovery.OutsideOptions{Log: p.log})
	p.node.endpoints = p.endpoints
	buildMemory, _ := parseSize(f.buildMemory) // was checked; 0 where it is empty
	p.volumes, err = claim.Open(f.data, p.record, claim.Options{Node: p.name, AllowBind: f.allowBind, Log: p.log})
	if err != nil {
		return err
	}
	if p.material, err = material.Open(f.data, p.record, p.name); err != nil {
		return err
	}
	p.onClose(p.material.Close)
	p.machine, err = nodes.Open(ctx, f.data,
		nodes.Parts{Store: p.record, Images: p.images, Stacks: p.stacks, Init: mayflyInit, Inside: p.door, Volumes: p.volumes, Material: p.material, Discovery: p.endpoints, Outside: p.outside},
		nodes.Options{Log: p.log, Name: p.name, Driver: p.driver, MaxWaiting: f.waiting, Labels: f.labels, Subnet: f.subnet, BuildMemory: buildMemory, BuildTime: f.buildTime})
	if err != nil {
		return err
	}
	p.onClose(p.machine.Close)
	if names := p.machine.OpenDNS(ctx); names != nil {
		p.onClose(names.Close)
		p.loops = append(p.loops, names.Run)
	}
	p.loops = append(p.loops, clear, p.bus.Run, p.endpoints.Run, p.outside.Run, p.machine.Run)
	return nil
}

// openWork opens what makes work of what is asked for and of what happens.
func (p *parts) openWork(ctx context.Context) (err error) {
	f := &p.flags
	p.tasks, err = queue.Open(ctx, p.bus, p.record, queue.Options{
		Log: p.log, Images: taskImages{p.images}, MaxPayload: f.payload, KeepAge: f.keepAge, KeepCount: f.keepTasks,
	})
	if err != nil {
		return err
	}
	p.onClose(func() error { p.tasks.Close(); return nil })
	if p.events, err = event.Open(ctx, p.bus, p.record, p.tasks, event.Options{Log: p.log}); err != nil {
		return err
	}
	p.onClose(func() error { p.events.Close(); return nil })
	p.schedules, err = queue.OpenSchedules(ctx, p.tasks, queue.ScheduleOptions{Log: p.log, Emit: emitOne(p.events)})
	if err != nil {
		return err
	}
	p.loops = append(p.loops, p.tasks.Run, p.schedules.Run, p.events.Run,
		func(ctx context.Context) error { return p.volumes.TellArrivals(ctx, emitter(p.events)) })
	return nil
}

// openRoutes opens what leads work to containers, and adopts what ran before.
func (p *parts) openRoutes(ctx context.Context) error {
	access, err := openAccessLog(p.flags.accessLog, p.node, p.log)
	if err != nil {
		return err
	}
	p.scaler = reconcile.NewScaler(p.record, reconcile.Options{Log: p.log})
	p.routes = router.New(p.record, p.machine, p.machine, router.Options{
		Log: p.log, Node: p.name, MaxMemory: p.machine.Memory(), Tasks: p.tasks,
		Demand: p.scaler, Endpoints: p.endpoints, TrustProxies: p.flags.proxies, Access: access,
	})
	p.node.routes = p.routes
	p.runner = nodes.NewRunner(p.machine, p.tasks, p.routes, nodes.RunnerOptions{Log: p.log, Tasks: p.flags.tasks, Emit: p.events})
	if err := p.runner.Adopt(ctx); err != nil {
		return err
	}
	services := reconcile.Open(p.record, reconcile.Options{Log: p.log})
	p.loops = append(p.loops, p.routes.Run, p.runner.Run, services.Run,
		func(ctx context.Context) error { return p.scaler.Run(ctx, p.routes) })
	return nil
}

// serve gives the API what it serves.
func (p *parts) serve() {
	supervised := reconcile.NewServices(p.record)
	p.services = api.Services{
		Explainer: &explain.Explainer{Record: p.record, Services: supervised, Endpoints: p.endpoints, Runs: p.routes, Tasks: p.tasks, Events: p.events},
		Instances: p.machine, Workloads: workloads{p.machine, p.routes, p.schedules, supervised, p.events}, Machine: p.machine, Logs: p.machine,
		Tasks: p.tasks, Places: p.runner, Schedules: p.schedules, Events: p.events, Routes: p.routes,
		Supervised: supervised, Loads: loads{p.record, p.machine, p.routes, p.tasks, supervised}, News: p.record, Endpoints: p.outside,
		Images: imageService{p.images, p.machine}, Volumes: p.volumes, Secrets: p.material, Configs: p.material, Stacks: stackService{p.stacks, p.record},
	}
}

// openAccessLog opens the log of web requests; nil where none is wanted.
func openAccessLog(path string, n *node, log *slog.Logger) (*router.AccessLog, error) {
	if path == "" {
		return nil, nil
	}
	access, err := router.OpenAccessLog(path)
	if err != nil {
		return nil, err
	}
	n.onClose(access.Close)
	n.loops = append(n.loops, func(ctx context.Context) error {
		again := make(chan os.Signal, 1)
		signal.Notify(again, syscall.SIGHUP)
		defer signal.Stop(again)
		return access.Run(ctx, again, func(err error) { log.Error("write the access log", "err", err) })
	})
	return access, nil
}

// emitOne emits what a schedule's tick emits.
func emitOne(events *event.Events) func(context.Context, string, mayfly.Event) (bool, error) {
	return func(ctx context.Context, space string, ev mayfly.Event) (bool, error) {
		done, err := events.Emit(ctx, space, []mayfly.Event{ev})
		return done.New > 0, err
	}
}

// nodeName is what the node is called: as it was at first, for what it keeps and
// runs is recorded under that name, even when the host has another by now.
func nodeName(record *store.Store, asked string) (string, error) {
	if known := record.Nodes.List(""); len(known) == 1 {
		name := known[0].Value.Name
		if asked != "" && asked != name {
			return "", mayfly.Errorf(mayfly.Conflict, "the data directory is that of node %q, not of %q", name, asked).
				WithHint("use --node %s, or another --data", name)
		}
		return name, nil
	}
	if asked != "" {
		return asked, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", mayfly.Errorf(mayfly.Internal, "name this node: %w", err).WithHint("use --node NAME")
	}
	return host, nil
}
