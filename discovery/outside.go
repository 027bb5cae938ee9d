package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/probe"
	"github.com/mayfly-run/mayfly/store"
)

// OutsideOptions tune an Outside. The zero value is fit for production.
type OutsideOptions struct {
	// Exec runs the command of a check on this machine, with more variables in
	// its environment; programs of the machine if nil.
	Exec func(ctx context.Context, argv, env []string) (code int, tail string, err error)
	Log  *slog.Logger // nil: nothing is logged
}

// Outside watches over what was added by hand, or by a program in a container:
// endpoints that no workload provides. Each is published while all its checks are
// well and it was heard of in time, and else withdrawn. The record keeps what was
// added.
type Outside struct {
	d    *Discovery
	log  *slog.Logger
	exec func(ctx context.Context, argv, env []string) (int, string, error)

	checked chan struct{} // closed when all that were there at first were asked once

	mu      sync.Mutex
	keepers map[store.Key]*outsider
	first   int // keepers that were there at first, and have not asked yet
}

// OpenOutside returns an Outside; Run watches.
func (d *Discovery) OpenOutside(o OutsideOptions) *Outside {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Exec == nil {
		o.Exec = runHere
	}
	return &Outside{d: d, log: o.Log, exec: o.Exec, checked: make(chan struct{}), keepers: map[store.Key]*outsider{}}
}

// Checked is closed when everything that had been added before Run was asked
// once: consumers that were told of it before a restart need not be told twice.
func (o *Outside) Checked() <-chan struct{} { return o.checked }

// Run watches until ctx ends. What is published then stays.
func (o *Outside) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	table := o.d.store.Outside
	for start := true; ; start = false {
		changed := table.Changed()
		snap := o.d.store.Snapshot()
		list := table.List("")
		own := false
		for _, rec := range list {
			own = own || rec.Value.Instance != ""
		}
		o.follow(ctx, &running, list, snap, start)
		ended := snap.Changed()
		if !own {
			ended = nil
		}
		select {
		case <-changed:
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow starts a keeper for each record that is new, and ends those whose record
// or container is gone.
func (o *Outside) follow(ctx context.Context, running *sync.WaitGroup, list []store.Record[mayfly.OutsideEndpoint], snap *store.Snapshot, start bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	have := map[store.Key]bool{}
	for _, rec := range list {
		have[rec.Key] = true
		k := o.keepers[rec.Key]
		if why := over(snap, &rec.Value); why != "" {
			if k == nil || !k.dropping {
				running.Go(func() { o.drop(ctx, rec) })
			}
			if k != nil {
				k.dropping = true
				k.end(why)
			}
			continue
		}
		if k != nil && k.is(&rec.Value) {
			continue
		}
		if k != nil {
			k.end("") // its successor says what is to be said
		}
		k = newOutsider(o, rec, k)
		o.keepers[rec.Key] = k
		k.old = start
		if k.first = start; start {
			o.first++
		}
		running.Go(func() { k.run(ctx) })
	}
	for key, k := range o.keepers {
		if !have[key] {
			k.end("it was removed")
			delete(o.keepers, key)
		}
	}
	if start && o.first == 0 {
		close(o.checked)
	}
}

// over says why a container's endpoint is to go; empty: it stays.
func over(snap *store.Snapshot, e *mayfly.OutsideEndpoint) string {
	switch {
	case e.Instance == "":
		return ""
	case !lives(snap, e.Instance):
		return "its container has ended"
	case foreign(snap, e.Space, e.Service, e.Instance):
		return "its name is another workload's now"
	}
	return ""
}

func lives(snap *store.Snapshot, instance string) bool {
	in := snap.Instances[instance]
	return in != nil && in.State != mayfly.Exited
}

// drop forgets what a container added that has ended.
func (o *Outside) drop(ctx context.Context, rec store.Record[mayfly.OutsideEndpoint]) {
	if err := o.d.store.Outside.Delete(ctx, rec.Space, rec.Name, rec.Revision); err != nil && ctx.Err() == nil && mayfly.KindOf(err) != mayfly.Conflict {
		o.log.Error("forget an endpoint", "name", rec.Name, "error", err)
	}
}

// asked notes that a keeper has asked all that it asks.
func (o *Outside) asked(k *outsider) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !k.first {
		return
	}
	k.first = false
	if o.first--; o.first == 0 {
		close(o.checked)
	}
}

// outsider keeps one endpoint published, or not.
type outsider struct {
	o        *Outside
	key      store.Key
	rec      mayfly.OutsideEndpoint
	before   *outsider // whose place it takes
	ended    chan struct{}
	over     chan struct{} // closed when it is to end
	wake     chan struct{}
	old      bool // of before this daemon, until it is shown; guarded by mu
	first    bool // guarded by o.mu, as dropping
	dropping bool

	mu     sync.Mutex
	why    string         // it ends; empty: another takes its place
	isOver bool           // over is closed
	bad    map[int]string // why checks are not well
	judged map[int]bool   // checks that have come to an answer
	heard  time.Time
	missed bool
	ready  bool
	reason string
	since  time.Time
}

func newOutsider(o *Outside, rec store.Record[mayfly.OutsideEndpoint], before *outsider) *outsider {
	k := &outsider{
		o: o, key: rec.Key, rec: rec.Value, before: before, ended: make(chan struct{}), over: make(chan struct{}), wake: make(chan struct{}, 1),
		bad: map[int]string{}, judged: map[int]bool{}, heard: time.Now(), missed: rec.Value.Missed, reason: "it has not been asked yet",
	}
	for i := range k.rec.Checks {
		k.bad[i] = k.reason
	}
	return k
}

// is reports whether a record says what this keeper keeps.
func (k *outsider) is(rec *mayfly.OutsideEndpoint) bool {
	a, b := k.rec, *rec
	a.Missed, b.Missed = false, false
	return reflect.DeepEqual(a, b)
}

func (k *outsider) end(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.isOver {
		k.isOver, k.why = true, why
		close(k.over)
	}
}

// run asks and judges until the endpoint is gone or ctx ends.
func (k *outsider) run(ctx context.Context) {
	defer close(k.ended)
	defer k.o.asked(k)
	if k.before != nil {
		<-k.before.ended
		k.take()
	}
	var checks sync.WaitGroup
	defer checks.Wait()
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, p := range k.rec.Checks {
		checks.Go(func() { k.watch(asking, i, p) })
	}
	deadline := time.NewTimer(time.Hour)
	defer deadline.Stop()
	for {
		if left := k.judge(ctx); left > 0 {
			deadline.Reset(left)
		} else {
			deadline.Stop()
		}
		select {
		case <-k.wake:
		case <-deadline.C:
		case <-k.over:
			if k.why != "" {
				k.show(false, k.why)
			}
			return
		case <-ctx.Done():
			return
		}
	}
}

// take goes on from what the keeper before has published.
func (k *outsider) take() {
	b := k.before
	k.before = nil
	b.mu.Lock()
	ready, since, id := b.ready, b.since, b.rec.ID
	b.mu.Unlock()
	k.mu.Lock()
	k.ready, k.since = ready, since
	k.mu.Unlock()
	if ready && id != k.rec.ID {
		k.o.d.Withdraw(id)
	}
}

func (k *outsider) watch(ctx context.Context, i int, p mayfly.Probe) {
	probe.Watch(ctx, k.target(), p, probe.Options{Tried: func(err error) {
		if err == nil { // whether that is enough is said below
			return
		}
		k.mu.Lock()
		k.judged[i] = true
		_, bad := k.bad[i]
		if bad {
			k.bad[i] = err.Error()
		}
		k.mu.Unlock()
		if bad {
			wakeUp(k.wake)
		}
	}}, func(well bool, reason error) {
		k.mu.Lock()
		k.judged[i] = true
		if delete(k.bad, i); !well {
			k.bad[i] = reason.Error()
		}
		k.mu.Unlock()
		wakeUp(k.wake)
	})
}

// judge publishes or withdraws, and returns when to look again at the latest.
func (k *outsider) judge(ctx context.Context) time.Duration {
	k.mu.Lock()
	var left time.Duration
	late := false
	if k.rec.TTL > 0 {
		left = time.Until(k.heard.Add(k.rec.TTL))
		late = left <= 0 && !k.missed
		k.missed = k.missed || late
		if k.missed {
			left = 0
		}
	}
	ready, reason := len(k.bad) == 0 && !k.missed, ""
	asked := len(k.judged) == len(k.rec.Checks)
	for _, i := range slices.Sorted(maps.Keys(k.bad)) {
		reason = k.bad[i]
		break
	}
	if k.missed {
		reason = fmt.Sprintf("it was not heard of within %s", k.rec.TTL)
	}
	k.mu.Unlock()
	if asked || ready {
		k.show(ready, reason)
		k.o.asked(k)
	}
	if late {
		k.note(ctx, true)
	}
	return left
}

// note writes down whether it is heard of, so that one that is not does not come
// back with a restart.
func (k *outsider) note(ctx context.Context, missed bool) {
	_, err := k.o.d.store.Outside.Update(ctx, k.key.Space, k.key.Name, func(old mayfly.OutsideEndpoint, found bool) (mayfly.OutsideEndpoint, bool, error) {
		if !found || old.Missed == missed {
			return old, false, nil
		}
		old.Missed = missed
		return old, true, nil
	})
	if err != nil && ctx.Err() == nil {
		k.o.log.Error("note that an endpoint was not heard of", "name", k.key.Name, "error", err)
	}
}

// show publishes or withdraws the endpoint and says so.
func (k *outsider) show(ready bool, reason string) {
	k.mu.Lock()
	was, old := k.ready, k.old
	k.ready, k.reason, k.old = ready, reason, false
	if ready && !was {
		k.since = time.Now().UTC()
	}
	e := k.rec.Endpoint
	e.Since = k.since
	k.mu.Unlock()
	text := "it is well"
	switch {
	case ready:
		if err := k.o.d.Publish(e); err != nil {
			k.o.log.Error("publish an endpoint", "name", k.key.Name, "error", err)
		}
	case was:
		k.o.d.Withdraw(e.ID)
		text = reason
	case old: // Settle withdraws what an earlier daemon published
		_, was = k.o.d.Get(e.ID)
		text = reason
	}
	if ready != was && !(ready && old) { // what was there before this daemon, and is there, is no change
		kind := "endpoint.added"
		if !ready {
			kind = "endpoint.withdrawn"
		}
		k.o.d.store.RecordNews(mayfly.News{Space: e.Space, Type: kind, Subject: e.Service, Instance: e.Instance, Node: k.o.d.opts.Node, Text: text})
	}
}

func (k *outsider) status() mayfly.EndpointStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := mayfly.EndpointStatus{Endpoint: k.rec.Endpoint, Registered: k.key.Name, Ready: k.ready, Reason: k.reason, Checks: k.rec.Checks, TTL: k.rec.TTL}
	s.Since = k.since
	return s
}
