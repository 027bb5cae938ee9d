package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	nodes "github.com/mayfly-run/mayfly/node"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/reconcile"
	"github.com/mayfly-run/mayfly/router"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// loads is what package api asks of loads: each part of the node knows of its own.
type loads struct {
	record   *store.Store
	node     *nodes.Node
	router   *router.Router
	queue    *queue.Queue
	services *reconcile.Services
}

func (l loads) Load(ctx context.Context, space, name string) (mayfly.Load, error) {
	w, err := l.record.Workload(space, name)
	if err != nil {
		return mayfly.Load{}, err
	}
	if w.Workload.Service != nil {
		return l.service(ctx, &w.Workload)
	}
	load := l.node.FunctionLoad(space, name)
	held, oldest := l.router.Held(space, name)
	load.Waiting, load.Oldest = load.Waiting+held, max(load.Oldest, oldest)
	load.Queued, _, load.QueueAge = l.queue.Load(space, name)
	load.Wanted, load.Max = max(w.Workload.Scale.Min, load.Wanted), w.Workload.Scale.Max
	return load, nil
}

func (l loads) service(ctx context.Context, w *mayfly.Workload) (mayfly.Load, error) {
	load := l.router.Load(w.Space, w.Name)
	sv, err := l.services.GetService(ctx, w.Space, w.Name)
	if err != nil {
		return load, err
	}
	load.Instances, load.Wanted, load.Max = sv.Ready, sv.Wanted, w.Scale.Most()
	for _, r := range sv.Replicas {
		if !r.Stop && !r.State.Healthy() {
			load.Starting++
		}
	}
	load.Capacity = load.Instances * w.PerInstance()
	return load, nil
}

// namedLoad is a load with the workload that it is of.
type namedLoad struct {
	Workload string `json:"workload"`
	mayfly.Load
}

func (c *cli) load() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "load [WORKLOAD...]",
		Short: "Show what workloads have to do just now",
		Long: `Show what workloads have to do just now: what is in flight, what waits for an
instance and how long, how many instances there are and may be, and the tasks
that wait for their turn.`,
		Example: `  mayfly load
  mayfly load web -o json`,
		ValidArgsFunction: c.completeWorkloads(),
	}
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		list, err := loadsOf(ctx, cl, args)
		if err != nil {
			return err
		}
		header := headings("WORKLOAD", "IN FLIGHT", "WAITING", "OLDEST", "INSTANCES", "WANTED", "CAPACITY", "QUEUED", "AGE").sparing("CAPACITY", "OLDEST", "AGE")
		return print(c.stdout, output, list, header, loadRow)
	})
	return cmd
}

func loadsOf(ctx context.Context, cl *client.Client, names []string) ([]namedLoad, error) {
	if len(names) == 0 {
		all, err := cl.ListWorkloads(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			names = append(names, r.Workload.Name)
		}
	}
	list := []namedLoad{}
	for _, name := range names {
		l, err := cl.Load(ctx, name)
		if err != nil {
			return nil, err
		}
		list = append(list, namedLoad{name, l})
	}
	return list, nil
}

// waited is how long the first of so many has waited.
func waited(n int, d time.Duration) string {
	if n == 0 {
		return ""
	}
	return humanDuration(d)
}

func loadRow(l namedLoad) []string {
	instances, most, capacity := fmt.Sprint(l.Instances), "", ""
	if l.Starting > 0 {
		instances += fmt.Sprintf(" (+%d)", l.Starting)
	}
	if l.Max > 0 {
		most = fmt.Sprintf("/%d", l.Max)
	}
	if l.Capacity > 0 {
		capacity = fmt.Sprint(l.Capacity)
	}
	return []string{l.Workload, fmt.Sprint(l.InFlight), fmt.Sprint(l.Waiting), waited(l.Waiting, l.Oldest), instances,
		fmt.Sprint(l.Wanted) + most, capacity, fmt.Sprint(l.Queued), waited(l.Queued, l.QueueAge)}
}
