package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// await blocks until a container of the replica can be started, and says in its
// record what it waits for. It reports false when it is to stop instead, or when
// ctx ends.
func (k *keeper) await(ctx context.Context) bool {
	if !k.pause(ctx) {
		return false
	}
	w, err := k.watchRequired(true, nil)
	if err != nil {
		k.set(ctx, mayfly.ReplicaFailed, err.Error())
		return false
	}
	defer w.close()
	for {
		replicas, rollouts, enough := k.othersChanged()
		outside := k.node.store.Outside.Changed()
		secrets, configs := k.node.store.Secrets.Changed(), k.node.store.Configs.Changed()
		missing := k.missing(w)
		if missing == "" {
			enough()
			return !k.stopping() && ctx.Err() == nil
		}
		k.waitFor(ctx, missing)
		select {
		case <-replicas:
		case <-rollouts:
		case <-outside:
		case <-secrets:
		case <-configs:
		case <-w.changed:
		case <-k.stop:
		case <-k.r.down:
		case <-ctx.Done():
		}
		enough()
		if k.stopping() || ctx.Err() != nil {
			return false
		}
	}
}

// othersChanged tells when something changes about the services that the replica
// waits for: their replicas, or their being deployed at all. Others, of which there
// may be hundreds that start at the same time, are no concern of its.
func (k *keeper) othersChanged() (replicas, rollouts <-chan struct{}, enough func()) {
	names := make(map[string]bool)
	for _, a := range k.rel.Workload.Service.After {
		names[a.Workload] = true
	}
	for _, r := range k.rel.Workload.Requires {
		names[r.Service] = true
	}
	replicas, first := k.node.store.Replicas.ChangedOf(k.a.Space, func(r store.Record[mayfly.Replica]) bool { return names[r.Value.Workload] })
	rollouts, second := k.node.store.Rollouts.ChangedOf(k.a.Space, func(r store.Record[mayfly.Rollout]) bool { return names[r.Name] })
	return replicas, rollouts, func() { first(); second() }
}

// awaitTurn waits for a moment at which what another has, a volume or a port of
// the machine, may be free. Nobody tells of ports that other programs had.
func (k *keeper) awaitTurn(ctx context.Context, taken error) {
	const again = 5 * time.Second
	k.waitFor(ctx, taken.Error())
	volumes, others := k.node.store.Volumes.Changed(), k.node.store.Replicas.Changed() // not by that
	calm := min(10*time.Millisecond<<min(k.turns, 10), time.Second)
	k.turns++
	if !k.rest(ctx, calm) { // several that wait must not keep each other awake
		return
	}
	t := time.NewTimer(again)
	defer t.Stop()
	select {
	case <-volumes:
	case <-others:
	case <-t.C:
	case <-k.stop:
	case <-k.r.down:
	case <-ctx.Done():
	}
}

// waitFor says what is waited for.
func (k *keeper) waitFor(ctx context.Context, missing string) {
	k.set(ctx, mayfly.ReplicaWaiting, missing)
	if what := awaited(missing); what != k.told {
		k.told = what
		k.news("service.waiting", missing)
	}
}

// awaited is what is waited for, without how that is at the moment, which changes
// often and is on record.
func awaited(missing string) string {
	what, _, _ := strings.Cut(missing, " (")
	return what
}

// pause waits until a restart is due.
func (k *keeper) pause(ctx context.Context) bool {
	wait := time.Until(k.status.Next)
	if k.status.Next.IsZero() || wait <= 0 {
		return true
	}
	return k.rest(ctx, wait)
}

// rest reports false when it is cut short.
func (k *keeper) rest(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-k.stop:
	case <-k.r.down:
	case <-ctx.Done():
	}
	return false
}

// missing says what must be there before a container is started, "" if nothing
// is missing.
func (k *keeper) missing(w *required) string {
	for _, a := range k.rel.Workload.Service.After {
		if text := k.missingBefore(a); text != "" {
			return text
		}
	}
	sets, _ := w.now()
	if req := w.lacks(sets); req != nil {
		return "it requires " + k.wanted(*req)
	}
	return k.node.material.Missing(&k.rel.Workload)
}

// missingBefore says what is missing of a workload that must come before.
func (k *keeper) missingBefore(a mayfly.After) string {
	if _, err := k.node.store.Workload(k.a.Space, a.Workload); err != nil {
		if a.Optional {
			return ""
		}
		return fmt.Sprintf("it comes after service %s, which is not deployed", a.Workload)
	}
	var states []string
	for _, rec := range k.node.replicasOf(k.a.Space, a.Workload) {
		if reached(rec.Value, a.Condition) {
			return ""
		}
		states = append(states, describe(rec.Value))
	}
	what := map[string]string{mayfly.AfterReady: "to be ready", mayfly.AfterCompleted: "to complete"}[a.Condition]
	if what == "" {
		what = "to start"
	}
	return fmt.Sprintf("it comes after service %s, which has yet %s%s", a.Workload, what, inBrackets(states))
}

func reached(r mayfly.Replica, condition string) bool {
	switch condition {
	case mayfly.AfterReady:
		return r.State == mayfly.ReplicaReady || r.State == mayfly.ReplicaStandby
	case mayfly.AfterCompleted:
		return r.State == mayfly.ReplicaCompleted
	default:
		switch r.State {
		case mayfly.ReplicaWaiting, mayfly.ReplicaFailed, mayfly.ReplicaStopped, mayfly.ReplicaBackoff:
			return false
		}
		return r.Instance != ""
	}
}

func describe(r mayfly.Replica) string {
	if r.Reason == "" || r.State == mayfly.ReplicaWaiting { // what it waits for says so itself
		return string(r.State)
	}
	return string(r.State) + ": " + r.Reason
}

func inBrackets(states []string) string {
	if len(states) == 0 {
		return ""
	}
	return " (" + states[0] + ")"
}

// wanted says what a requirement is for, and what there is instead.
func (k *keeper) wanted(req mayfly.Require) string {
	space := k.a.Space
	if req.Space != "" {
		space = req.Space
	}
	var what strings.Builder
	switch {
	case req.Service != "":
		fmt.Fprintf(&what, "service %s", req.Service)
	default:
		fmt.Fprintf(&what, "role %s", req.Role)
	}
	if req.Port != "" {
		fmt.Fprintf(&what, " (port %s)", req.Port)
	}
	if space != k.a.Space {
		fmt.Fprintf(&what, " of space %s", space)
		return what.String() + ", of which nothing is ready"
	}
	if req.Service == "" {
		return what.String() + ", which nothing that is ready has"
	}
	if _, err := k.node.store.Workload(space, req.Service); err != nil {
		for _, rec := range k.node.store.Outside.List(space) {
			if rec.Value.Service == req.Service {
				return what.String() + ", which Mayfly does not run and of which nothing is there that is well and matches; see `mayfly endpoint ls`"
			}
		}
		return what.String() + ", which is not deployed"
	}
	there := k.node.replicasOf(space, req.Service)
	switch {
	case len(there) == 0:
		return what.String() + ", which has no instance"
	case there[0].Value.State == mayfly.ReplicaReady:
		return what.String() + ", which is ready but provides nothing that matches"
	}
	return what.String() + ", which is not ready" + inBrackets([]string{describe(there[0].Value)})
}

// replicasOf lists what is on record of the replicas of a service.
func (n *Node) replicasOf(space, workload string) []store.Record[mayfly.Replica] {
	return n.store.Replicas.Some(space, func(r mayfly.Replica) bool { return r.Workload == workload })
}
