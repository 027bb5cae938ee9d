// Package explain says why things are as they are, in plain sentences and
// pictures, from what was decided and written down: the records of services,
// their replicas and rollouts, news, the ends of runs, tasks and containers, and
// the deliveries of events.
//
// It decides nothing and writes nothing. The sentences and pictures are
// arithmetic over records, so the same records always give the same text;
// Explainer reads the records.
package explain

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
	"github.com/mayfly-run/mayfly/store"
)

// Services tells how services are. The reconcile package gives it.
type Services interface {
	ListServices(ctx context.Context, space string) ([]mayfly.Supervised, error)
	GetService(ctx context.Context, space, name string) (mayfly.Supervised, error)
}

// Runs tells what became of calls, Tasks of tasks. NotFound errors say that
// there is no such thing.
type Runs interface {
	GetRun(ctx context.Context, space, ref string) (mayfly.Run, error)
}

// Tasks is what Runs says.
type Tasks interface {
	Get(ctx context.Context, space, id string) (mayfly.Task, error)

	// Waits tells what a queued task may wait for.
	Waits(task mayfly.Task) mayfly.TaskWait
}

// Events tells what became of events. The event package gives it.
type Events interface {
	Story(ctx context.Context, space, id string) (mayfly.EventStory, error)
}

// Endpoints tells what there is of a requirement. The discovery package gives it.
type Endpoints interface {
	Find(c discovery.Consumer, r mayfly.Require) ([]mayfly.Endpoint, error)
}

// Explainer reads what was written down. It is safe for concurrent use.
type Explainer struct {
	Record    *store.Store
	Services  Services
	Endpoints Endpoints
	Runs      Runs
	Tasks     Tasks
	Events    Events
}

// Graph returns who requires whom in a space.
func (e *Explainer) Graph(ctx context.Context, space string) (mayfly.Graph, error) {
	services, err := e.Services.ListServices(ctx, space)
	if err != nil {
		return mayfly.Graph{}, err
	}
	var workloads []mayfly.Workload
	for _, w := range e.Record.Workloads(space) {
		workloads = append(workloads, w.Workload)
	}
	var outside []string
	for _, rec := range e.Record.Outside.List(space) {
		outside = append(outside, cmp.Or(rec.Value.Service, rec.Name))
	}
	return Graph(space, services, workloads, outside, e.find), nil
}

// find returns every endpoint that meets a requirement.
func (e *Explainer) find(w *mayfly.Workload, r mayfly.Require) []mayfly.Endpoint {
	r.All = true
	list, err := e.Endpoints.Find(discovery.Consumer{Space: w.Space, Workload: w.Name, App: w.App}, r)
	if err != nil {
		return nil // the requirement is refused by a deploy
	}
	return list
}

// newsTold is how much of what happened an explanation has.
const newsTold = 10

// Why explains a service, a function, a container, a volume, a run, a task or an event, whichever ref
// names first, in this order.
func (e *Explainer) Why(ctx context.Context, space, ref string) (mayfly.Explanation, error) {
	now := time.Now()
	sv, err := e.Services.GetService(ctx, space, ref)
	if err == nil {
		return e.service(ctx, sv, now)
	}
	if w, err := e.Record.Workload(space, ref); err == nil && w.Workload.Service == nil {
		return Function(w.Release), nil
	}
	if in, err := e.Record.InstanceOf(space, ref); err == nil {
		x := Container(in.Instance, now)
		x.News, _ = e.Record.News(store.NewsFilter{Space: space, Subject: in.Workload}, 0)
		x.News = slices.DeleteFunc(x.News, func(n mayfly.News) bool { return n.Instance != in.ID })
		x.News = x.News[max(0, len(x.News)-newsTold):]
		return x, nil
	}
	if rec, found := e.Record.Volumes.Find(space, ref); found {
		news, _ := e.Record.News(store.NewsFilter{Space: space, Subject: ref, Type: "volume"}, newsTold)
		return Volume(rec.Value, news), nil
	}
	if run, err := e.Runs.GetRun(ctx, space, ref); err == nil {
		return Run(run, now), nil
	}
	task, err := e.Tasks.Get(ctx, space, ref)
	if err == nil {
		return Task(task, e.Tasks.Waits(task), now), nil
	}
	if kind := mayfly.KindOf(err); kind != mayfly.NotFound && kind != mayfly.Invalid {
		return mayfly.Explanation{}, err
	}
	story, err := e.Events.Story(ctx, space, ref)
	if err == nil {
		return Event(story, now), nil
	}
	if kind := mayfly.KindOf(err); kind != mayfly.NotFound && kind != mayfly.Invalid {
		return mayfly.Explanation{}, err
	}
	return mayfly.Explanation{}, mayfly.Errorf(mayfly.NotFound, "no service, container, volume, run, task or event is called %q", ref).
		WithHint("see `mayfly services`, `mayfly ps -a`, `mayfly volume ls`, `mayfly runs`, `mayfly task ls` and `mayfly event ls`")
}

func (e *Explainer) service(ctx context.Context, sv mayfly.Supervised, now time.Time) (mayfly.Explanation, error) {
	var missing []Missing
	if w, err := e.Record.Workload(sv.Space, sv.Name); err == nil {
		for _, r := range w.Workload.Requires {
			if len(e.find(&w.Workload, r)) > 0 {
				continue
			}
			m := Missing{Require: r, Outside: slices.ContainsFunc(e.Record.Outside.List(cmp.Or(r.Space, sv.Space)), func(o store.Record[mayfly.OutsideEndpoint]) bool {
				return r.Service != "" && o.Value.Service == r.Service
			})}
			if other, err := e.Services.GetService(ctx, cmp.Or(r.Space, sv.Space), r.Service); err == nil && r.Service != "" {
				m.Provider = &other
			}
			missing = append(missing, m)
		}
	}
	x := Service(sv, missing, now)
	x.News, _ = e.Record.News(store.NewsFilter{Space: sv.Space, Subject: sv.Name}, newsTold)
	return x, nil
}

func hostPort(e mayfly.Endpoint) string {
	return net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
}

// since says how long ago something was, as people do.
func since(t, now time.Time) string { return span(now.Sub(t)) }

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(d, 0).Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
