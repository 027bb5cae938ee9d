package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/discovery"
	"github.com/mayfly-run/mayfly/store"
)

// ViewRow is what a change of an endpoint costs, with so many others.
type ViewRow struct {
	Endpoints int     `json:"endpoints"`
	Watchers  int     `json:"watchers"`
	Concerned int     `json:"concerned"` // watchers of each endpoint
	Moving    int     `json:"moving"`    // endpoints that change, in turns
	Stray     int     `json:"stray"`     // watchers that were told of what does not concern them
	Written   float64 `json:"written"`   // messages to the engine, per change
	CPU       float64 `json:"cpuUs"`     // of a change, all told
	P50       float64 `json:"p50us"`     // from the change until the last one concerned is told
	P99       float64 `json:"p99us"`
}

// fewMoving is how many endpoints change where the others only are there.
const fewMoving = 10

// view measures a change where few watch few, and where many watch many others,
// on its whole way: from the node of the endpoint over the engine to the node of
// the watcher. Each is waited for, so that none overtakes another, and only the
// others, who are not concerned, make a difference.
func (b *bench) view(ctx context.Context) error {
	many := pick(b, 10_000, 100)
	if err := b.viewOf(ctx, fewMoving, fewMoving); err != nil {
		return err
	}
	return b.viewOf(ctx, many, fewMoving, many)
}

// viewOf adds a row for each number of endpoints that change.
func (b *bench) viewOf(ctx context.Context, size int, moving ...int) (err error) {
	engine, err := bus.Open(ctx, filepath.Join(b.dir, fmt.Sprintf("view%d", size)), bus.Options{})
	if err != nil {
		return err
	}
	defer engine.Close()
	record, err := store.Open(ctx, engine, store.Options{})
	if err != nil {
		return err
	}
	defer record.Close()
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() { stop(); running.Wait() }()
	var nodes [2]*discovery.Discovery // one that changes, and one that watches
	for i, name := range []string{"a", "b"} {
		if nodes[i], err = discovery.Open(ctx, engine, record, discovery.Options{Node: name}); err != nil {
			return err
		}
		running.Go(func() { nodes[i].Run(ctx) })
	}
	subs, err := fill(nodes[0], nodes[1], size)
	if err != nil {
		return err
	}
	if err := wait(ctx, pick(b, 3*time.Second, 300*time.Millisecond)); err != nil { // until all is written
		return err
	}
	v := &viewBench{b: b, engine: engine, d: nodes[0], subs: subs}
	for _, n := range moving {
		row, err := v.row(ctx, n)
		if err != nil {
			return err
		}
		b.results.View = append(b.results.View, row)
	}
	return nil
}

func endpointOf(i int, port uint16) mayfly.Endpoint {
	service := fmt.Sprintf("s%d", i)
	return mayfly.Endpoint{
		ID: fmt.Sprintf("i%d.http", i), Space: "default", Service: service, Name: "http", Among: []string{"http"}, Protocol: "http",
		Address: fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255), Port: port,
	}
}

// fill publishes so many endpoints, each of a service of its own, on one node and
// watches each on another.
func fill(d, other *discovery.Discovery, size int) ([]*discovery.Subscription, error) {
	var subs []*discovery.Subscription
	for i := range size {
		if err := d.Publish(endpointOf(i, 80)); err != nil {
			return nil, err
		}
		s, err := other.Watch(discovery.Consumer{Space: "default", Workload: fmt.Sprintf("c%d", i)},
			mayfly.Require{Name: "x", Service: fmt.Sprintf("s%d", i)})
		if err != nil {
			return nil, err
		}
		subs = append(subs, s)
	}
	return subs, nil
}

// viewBench is a discovery in which endpoints change.
type viewBench struct {
	b       *bench
	engine  *bus.Bus
	d       *discovery.Discovery // where they do
	subs    []*discovery.Subscription
	changes int // all that there were
}

// row has so many of the endpoints change; the median of five rounds counts.
func (v *viewBench) row(ctx context.Context, moving int) (ViewRow, error) {
	row := ViewRow{Endpoints: len(v.subs), Watchers: len(v.subs), Concerned: 1, Moving: moving}
	changes := pick(v.b, 4_000, 100)
	v.told()
	var took, cpu sample
	before, err := v.messages(ctx)
	if err != nil {
		return row, err
	}
	const rounds = 5
	for range rounds {
		used, each, err := v.round(ctx, changes, moving)
		if err != nil {
			return row, err
		}
		took, cpu = append(took, each...), append(cpu, used)
		row.Stray += v.told()
	}
	after, err := v.messages(ctx)
	if err != nil {
		return row, err
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	row.Written = round3(float64(after-before) / float64(rounds*changes))
	row.CPU, row.P50, row.P99 = round3(us(cpu.quantile(.5))/float64(changes)), us(took.quantile(.5)), us(took.quantile(.99))
	return row, nil
}

// round moves one endpoint after the other, and waits for the watcher of each.
func (v *viewBench) round(ctx context.Context, changes, moving int) (used time.Duration, took sample, err error) {
	before, err := ownCPU()
	if err != nil {
		return 0, nil, err
	}
	for range changes {
		v.changes++
		i := v.changes * 7919 % moving
		begin := time.Now()
		if err := v.d.Publish(endpointOf(i, uint16(1000+v.changes%60000))); err != nil {
			return 0, nil, err
		}
		<-v.subs[i].C()
		took = append(took, time.Since(begin))
	}
	after, err := ownCPU()
	return after - before, took, err
}

// told counts the watchers that have been told of something, and forgets it.
func (v *viewBench) told() (n int) {
	for _, s := range v.subs {
		select {
		case <-s.C():
			n++
		default:
		}
	}
	return n
}

// messages is how many the engine has taken.
func (v *viewBench) messages(ctx context.Context) (uint64, error) {
	stream, err := v.engine.Endpoints(ctx)
	if err != nil {
		return 0, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}
