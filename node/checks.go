package node

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/probe"
)

// checks is what the probes of a container have found.
type checks struct {
	changed chan struct{} // something is in when one of them has changed

	mu      sync.Mutex
	started bool              // the startup probe was well, or there is none
	bad     map[string]string // why what is not well is not, by check
}

// The names of the checks that are not of a port.
const (
	checkStartup = "startup"
	checkReady   = "ready"
)

func portCheck(name string) string { return "port " + name }

func (c *checks) set(name, bad string) {
	c.mu.Lock()
	if bad == "" {
		delete(c.bad, name)
	} else {
		c.bad[name] = bad
	}
	c.mu.Unlock()
	c.poke()
}

func (c *checks) start() {
	c.mu.Lock()
	c.started = true
	c.mu.Unlock()
	c.poke()
}

func (c *checks) poke() { wake(c.changed) }

// read returns what has been found so far.
func (c *checks) read() (started bool, bad map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started, maps.Clone(c.bad)
}

// lookAfter starts what a container needs while it lives: its probes, and who
// tells it of what it requires. All end with ctx.
func (l *life) lookAfter(ctx context.Context) {
	svc := l.k.rel.Workload.Service
	l.makeEndpoints()
	l.checks = &checks{changed: make(chan struct{}, 1), bad: make(map[string]string)}
	was := l.wasReady()
	if svc.Ready != nil && !was {
		l.checks.bad[checkReady] = "it has not been asked yet"
	}
	for _, p := range l.k.rel.Workload.Provides {
		if readyProbe(p) != nil && !was {
			l.checks.bad[portCheck(p.Name)] = fmt.Sprintf("port %d has not been asked yet", l.portOf(p.Name))
		}
	}
	l.tasks.Go(func() { l.follow(ctx) })
	l.tasks.Go(func() { l.thinEnded(ctx) })
	if l.turn = l.newTurn(ctx); l.turn != nil {
		l.tasks.Go(func() { l.takeTurns(ctx) })
	}
	l.tasks.Go(func() { l.followMaterial(ctx) })
	if len(svc.Processes) > 0 {
		l.tasks.Go(func() { l.watchProcesses(ctx) })
	}
	for _, in := range l.side {
		l.tasks.Go(func() { l.watchSidecar(ctx, in) })
	}
	if svc.Startup == nil || was {
		l.checks.started = true
		l.probeAll(ctx, was)
		return
	}
	l.checks.bad[checkStartup] = "it is starting up"
	l.tasks.Go(func() { l.awaitStartup(ctx, *svc.Startup) })
}

// wasReady reports whether the container was ready when an earlier daemon left
// it: then it is, until a probe says otherwise.
func (l *life) wasReady() bool {
	s := &l.k.status
	return l.adopted() && (s.State == mayfly.ReplicaReady || s.State == mayfly.ReplicaStandby) && s.Instance == l.in.ID
}

func (l *life) adopted() bool { return l.in.start.Argv == nil }

// awaitStartup asks until the program is up, and then begins with the others.
func (l *life) awaitStartup(ctx context.Context, p mayfly.Probe) {
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	tried := func(err error) {
		if err != nil {
			err = fmt.Errorf("it is starting up: %w", err)
		}
		l.explain(checkStartup, err)
	}
	probe.Watch(up, l.target(0), p, probe.Options{Began: l.in.Started, Tried: tried}, func(well bool, reason error) {
		if !well {
			l.ask(ending{reason: "its startup probe failed: " + reason.Error(), failure: true})
			return
		}
		cancel()
	})
	if ctx.Err() != nil {
		return
	}
	l.checks.set(checkStartup, "")
	l.checks.start()
	l.probeAll(ctx, false)
}

// probeAll starts all probes but the one at startup.
func (l *life) probeAll(ctx context.Context, was bool) {
	w := &l.k.rel.Workload
	if p := w.Service.Ready; p != nil {
		l.watchCheck(ctx, checkReady, l.target(0), *p, was)
	}
	for _, p := range w.Provides {
		if q := readyProbe(p); q != nil {
			l.watchCheck(ctx, portCheck(p.Name), l.target(l.portOf(p.Name)), *q, was)
		}
	}
	if p := w.Service.Live; p != nil {
		l.tasks.Go(func() {
			probe.Watch(ctx, l.target(0), *p, probe.Options{Well: was, Began: l.in.Started}, func(well bool, reason error) {
				if !well {
					l.ask(ending{reason: "its liveness probe failed: " + reason.Error(), failure: true})
				}
			})
		})
	}
}

func (l *life) watchCheck(ctx context.Context, name string, t probe.Target, p mayfly.Probe, was bool) {
	l.tasks.Go(func() {
		probe.Watch(ctx, t, p, probe.Options{Well: was, Began: l.in.Started, Tried: func(err error) { l.explain(name, err) }},
			func(well bool, reason error) {
				if well {
					l.checks.set(name, "")
				} else {
					l.checks.set(name, reason.Error())
				}
			})
	})
}

// explain notes why a check that was never well is not.
func (l *life) explain(name string, err error) {
	if err == nil {
		return
	}
	l.checks.mu.Lock()
	old, bad := l.checks.bad[name]
	if bad {
		l.checks.bad[name] = err.Error()
	}
	l.checks.mu.Unlock()
	if bad && old != err.Error() {
		l.checks.poke()
	}
}

// readyProbe is how a provided port is asked whether it is ready; nil for one
// that is as soon as the program runs.
func readyProbe(p mayfly.Provide) *mayfly.Probe {
	switch {
	case p.Ready != nil:
		return p.Ready
	case p.Protocol == "udp", p.Unprobed:
		return nil
	}
	return &mayfly.Probe{TCP: &mayfly.TCPProbe{}}
}

// target reaches the program of the container, at port where a probe names none.
func (l *life) target(port uint16) probe.Target {
	if ps := l.k.rel.Workload.Provides; port == 0 && len(ps) > 0 {
		port = l.portOf(ps[0].Name)
	}
	return probe.Target{Port: port, Dial: l.dial, Exec: func(ctx context.Context, argv []string) (int, string, error) {
		return l.exec(ctx, argv, nil)
	}}
}

// dial connects to a port of the container.
func (l *life) dial(ctx context.Context, port uint16) (net.Conn, error) {
	var d net.Dialer
	switch {
	case l.in.Address != "":
		return d.DialContext(ctx, "tcp", net.JoinHostPort(l.in.Address, strconv.Itoa(int(port))))
	case l.k.rel.Workload.Network == "host":
		return d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	}
	return l.in.sandbox.Dial(ctx, port, 0)
}

// judge makes known what is ready, withdraws what is not, and records the state.
func (l *life) judge(ctx context.Context) {
	started, bad := l.checks.read()
	turn := l.standing(ctx, started && len(bad) == 0)
	l.show(func(e *mayfly.Endpoint) bool {
		_, self := bad[checkReady]
		_, port := bad[portCheck(e.Name)]
		return started && !self && !port && turn
	})
	l.k.r.spoke(l.k)
	state, reason := l.k.status.State, ""
	switch {
	case started && len(bad) == 0 && turn:
		state, reason = mayfly.ReplicaReady, l.lacking()
	case started && len(bad) == 0:
		state, reason = mayfly.ReplicaStandby, "another replica is the active one"
	default:
		if state == mayfly.ReplicaReady || state == mayfly.ReplicaStandby {
			state = mayfly.ReplicaUnready
		}
		if state != mayfly.ReplicaUnready {
			state = mayfly.ReplicaStarting
		}
		names := slices.Sorted(maps.Keys(bad))
		if !started { // nothing else has been asked
			names = []string{checkStartup}
		}
		if len(names) > 0 {
			reason = bad[names[0]]
		}
	}
	l.enter(ctx, state, reason)
}

// lacking says what a container requires that has gone since it was started; "" if
// nothing has.
func (l *life) lacking() string {
	if l.req == nil {
		return ""
	}
	sets, _ := l.req.now()
	if req := l.req.lacks(sets); req != nil {
		return "it runs without what it requires: " + l.k.wanted(*req)
	}
	return ""
}

// enter records a state and what it means for the health of the container.
func (l *life) enter(ctx context.Context, state mayfly.ReplicaState, reason string) {
	before := l.k.status.State
	up := state == mayfly.ReplicaReady || state == mayfly.ReplicaStandby
	switch {
	case up && l.ready.IsZero():
		l.ready = time.Now()
	case !up && !l.ready.IsZero():
		l.healthy += time.Since(l.ready)
		l.ready = time.Time{}
	}
	l.k.set(ctx, state, reason)
	if state == before {
		return
	}
	switch state {
	case mayfly.ReplicaReady:
		l.k.news("service.ready", "it is ready"+at(l.published, l.endpoints))
	case mayfly.ReplicaStandby:
		l.k.news("service.standby", reason)
	case mayfly.ReplicaUnready:
		l.k.news("service.unready", reason)
	}
}

func at(published map[string]bool, all []mayfly.Endpoint) string {
	text := ""
	for _, e := range all {
		if published[e.ID] {
			text += " " + urlOf(e)
		}
	}
	if text == "" {
		return ""
	}
	return " at" + text
}
