package discovery

import (
	"context"

	"github.com/mayfly-run/mayfly/store"
)

// A service's name is that of its workload, and what else registers may not pass
// for it: neither under the name of a workload that is there, nor by having been
// there before the workload.

// deployed reports whether a workload has the name.
func (d *Discovery) deployed(space, service string) bool {
	_, ok := d.store.Snapshot().Workloads[store.Key{Space: space, Name: service}]
	return ok
}

// foreign reports whether a service is of a workload, and an instance not of that.
func foreign(snap *store.Snapshot, space, service, instance string) bool {
	if _, ok := snap.Workloads[store.Key{Space: space, Name: service}]; !ok {
		return false
	}
	in := snap.Instances[instance]
	return in == nil || in.Workload != service
}

// unseat withdraws what guests registered under the name of a workload that was
// deployed later, until ctx ends.
func (d *Discovery) unseat(ctx context.Context) {
	var seen uint64
	for snap := d.store.Snapshot(); ; snap = d.store.Snapshot() {
		if snap.Deployed != seen {
			seen = snap.Deployed
			d.nodes.mu.Lock()
			for id, e := range d.nodes.each[d.opts.Node].has {
				if isGuests(id) && foreign(snap, e.Space, e.Service, e.Instance) {
					d.withdraw(id)
				}
			}
			d.nodes.mu.Unlock()
		}
		select {
		case <-snap.Changed():
		case <-ctx.Done():
			return
		}
	}
}
