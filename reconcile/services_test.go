package reconcile

import (
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestAServiceIsSummarized(t *testing.T) {
	rep := func(number int, state mayfly.ReplicaState, reason string) mayfly.ReplicaStatus {
		return mayfly.ReplicaStatus{Replica: mayfly.Replica{Number: number, State: state, Reason: reason}}
	}
	stopping := rep(1, mayfly.ReplicaReady, "")
	stopping.Stop = true
	done := mayfly.Rollout{State: mayfly.RolloutDone, Stable: 1}
	under := mayfly.Rollout{State: mayfly.RolloutUnderWay}
	update := mayfly.Rollout{State: mayfly.RolloutUnderWay, Stable: 1, Reason: "one by one"}
	cases := []struct {
		name     string
		rollout  mayfly.Rollout
		wanted   int
		replicas []mayfly.ReplicaStatus
		state    string
		ready    int
		reason   string
	}{
		{"nothing yet", under, 1, nil, mayfly.ServiceStarting, 0, ""},
		{"starting", under, 1, []mayfly.ReplicaStatus{rep(1, mayfly.ReplicaStarting, "pulling")}, mayfly.ServiceStarting, 0, "replica 1: pulling"},
		{"waiting", under, 1, []mayfly.ReplicaStatus{rep(1, mayfly.ReplicaWaiting, "for db")}, mayfly.ServiceWaiting, 0, "replica 1: for db"},
		{"one waits, one runs", done, 2, []mayfly.ReplicaStatus{rep(2, mayfly.ReplicaWaiting, "for db"), rep(1, mayfly.ReplicaReady, "")}, mayfly.ServiceDegraded, 1, "replica 2: for db"},
		{"running", done, 2, []mayfly.ReplicaStatus{rep(1, mayfly.ReplicaReady, ""), rep(2, mayfly.ReplicaStandby, "another is active")}, mayfly.ServiceRunning, 2, ""},
		{"two of one number", update, 1, []mayfly.ReplicaStatus{rep(1, mayfly.ReplicaReady, ""), rep(1, mayfly.ReplicaReady, "")}, mayfly.ServiceUpdating, 1, "one by one"},
		{"one that stops is none", update, 1, []mayfly.ReplicaStatus{stopping}, mayfly.ServiceUpdating, 0, "one by one"},
		{"completed", done, 1, []mayfly.ReplicaStatus{rep(1, mayfly.ReplicaCompleted, "")}, mayfly.ServiceCompleted, 1, ""},
		{"stopped", done, 0, nil, mayfly.ServiceStopped, 0, ""},
		{"no node", mayfly.Rollout{State: mayfly.RolloutUnderWay, Unplaced: "there is no node"}, 1, nil, mayfly.ServiceStarting, 0, "there is no node"},
		{"rolled back", mayfly.Rollout{State: mayfly.RolloutRolledBack, Stable: 1, Reason: "it crashed"}, 1,
			[]mayfly.ReplicaStatus{rep(1, mayfly.ReplicaReady, "")}, mayfly.ServiceRolledBack, 1, "it crashed"},
		{"failed", mayfly.Rollout{State: mayfly.RolloutFailed, Reason: "it crashed"}, 1,
			[]mayfly.ReplicaStatus{rep(1, mayfly.ReplicaBackoff, "again")}, mayfly.ServiceFailed, 0, "it crashed"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sv := mayfly.Supervised{Rollout: c.rollout, Wanted: c.wanted, Replicas: c.replicas}
			summarize(&sv)
			if sv.State != c.state || sv.Ready != c.ready || sv.Reason != c.reason {
				t.Errorf("%s, %d ready, %q; want %s, %d, %q", sv.State, sv.Ready, sv.Reason, c.state, c.ready, c.reason)
			}
		})
	}
}

func TestOneGoesBackToWhatWasHealthy(t *testing.T) {
	cases := []struct {
		name                   string
		release, stable, prior int
		want                   int
	}{
		{"the first", 1, 1, 0, 0},
		{"nothing was healthy yet", 1, 0, 0, 0},
		{"one under way", 3, 2, 1, 2},
		{"one that is done", 3, 3, 2, 2},
		{"one that went back already", 2, 2, 3, 3},
	}
	for _, c := range cases {
		sv := mayfly.Supervised{Release: c.release, Rollout: mayfly.Rollout{Release: c.release, Stable: c.stable, Before: c.prior}}
		if got := before(&sv); got != c.want {
			t.Errorf("%s: release %d, want %d", c.name, got, c.want)
		}
	}
}
