package explain

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func replica(number int, state mayfly.ReplicaState, change func(*mayfly.ReplicaStatus)) mayfly.ReplicaStatus {
	r := mayfly.ReplicaStatus{Replica: mayfly.Replica{Number: number, State: state, Since: ago(3 * time.Minute)}}
	if change != nil {
		change(&r)
	}
	return r
}

func TestService(t *testing.T) {
	db := mayfly.Require{Name: "db", Service: "db"}
	waiting := func(r *mayfly.ReplicaStatus) { r.Reason = "it requires service db, which is not deployed" }
	tests := []struct {
		name    string
		service mayfly.Supervised
		missing []Missing
		why     []string
		help    []string
	}{
		{
			"all is well",
			mayfly.Supervised{State: mayfly.ServiceRunning, Release: 3, Wanted: 2, Ready: 2, Replicas: []mayfly.ReplicaStatus{
				replica(1, mayfly.ReplicaReady, nil),
				replica(2, mayfly.ReplicaReady, func(r *mayfly.ReplicaStatus) {
					r.Restarts = 2
					r.Exit = &mayfly.Exit{Code: 137, Signal: 9, Reason: mayfly.OutOfMemory}
				}),
			}},
			nil,
			[]string{
				"web runs release 3 as it shall: 2 of 2 replicas ready.",
				"Replica 2 was restarted twice: its last container was killed because it wanted more memory than it may have.",
			},
			nil,
		}, {
			"what it requires is not deployed",
			mayfly.Supervised{State: mayfly.ServiceWaiting, Wanted: 1, Replicas: []mayfly.ReplicaStatus{replica(1, mayfly.ReplicaWaiting, waiting)}},
			[]Missing{{Require: db}, {Require: mayfly.Require{Name: "mail", Service: "mail", Optional: true}}},
			[]string{
				"web is waiting: 0 of 1 replica ready.",
				"Replica 1 has waited for 3 min: it requires service db, which is not deployed.",
				"Service mail is not there; that is optional, and it goes on without.",
			},
			[]string{"deploy a service db; if something outside is meant: mayfly endpoint add; if web can do without: optional: true"},
		}, {
			"what it requires is not ready",
			mayfly.Supervised{State: mayfly.ServiceWaiting, Wanted: 1, Replicas: []mayfly.ReplicaStatus{replica(1, mayfly.ReplicaWaiting, waiting)}},
			[]Missing{{Require: db, Provider: &mayfly.Supervised{Name: "db", State: mayfly.ServiceFailed}}},
			[]string{"web is waiting: 0 of 1 replica ready.", "Replica 1 has waited for 3 min: it requires service db, which is not deployed."},
			[]string{"db is failed: mayfly why db"},
		}, {
			"what is ready does not match",
			mayfly.Supervised{State: mayfly.ServiceWaiting, Wanted: 1, Replicas: []mayfly.ReplicaStatus{replica(1, mayfly.ReplicaWaiting, nil)}},
			[]Missing{{Require: db, Provider: &mayfly.Supervised{Name: "db", Ready: 1}}, {Require: mayfly.Require{Name: "q", Role: "queue"}}},
			[]string{"web is waiting: 0 of 1 replica ready.", "Replica 1 has waited for 3 min: for what it requires."},
			[]string{
				"db is ready, but provides nothing that matches: compare port and tags of the requirement db with its provides",
				"give a service the role queue in its provides, or add an endpoint that has it: mayfly endpoint add",
			},
		}, {
			"it crashes",
			mayfly.Supervised{State: mayfly.ServiceDegraded, Wanted: 1, Replicas: []mayfly.ReplicaStatus{
				replica(1, mayfly.ReplicaBackoff, func(r *mayfly.ReplicaStatus) {
					r.Failures, r.Next, r.Exit = 4, now.Add(25*time.Second), &mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero}
				}),
			}},
			nil,
			[]string{
				"web is degraded: 0 of 1 replica ready.",
				"Replica 1 failed 4 times in a row, the last time 3 min ago: its last container failed with exit code 1; it is started again in 25 s.",
			},
			[]string{"see what it wrote: mayfly logs web/1", "do not wait for it: mayfly restart web"},
		}, {
			"it was rolled back",
			mayfly.Supervised{State: mayfly.ServiceRolledBack, Wanted: 1, Ready: 1,
				Rollout:  mayfly.Rollout{State: mayfly.RolloutRolledBack, Release: 5, Stable: 4, Reason: "replica 1 was not ready within 5 min", Since: ago(3 * time.Hour)},
				Replicas: []mayfly.ReplicaStatus{replica(1, mayfly.ReplicaReady, nil)}},
			nil,
			[]string{
				"web runs release 4, not the wanted 5: 1 of 1 replica ready.",
				"Release 5 was given up 3 h ago and release 4 runs again. The reason: replica 1 was not ready within 5 min.",
			},
			[]string{"see what its containers wrote: mayfly logs web", "deploy again when that is mended; or try the same release once more: mayfly rollback web 5"},
		}, {
			"the first release failed",
			mayfly.Supervised{State: mayfly.ServiceFailed, Wanted: 1,
				Rollout:  mayfly.Rollout{State: mayfly.RolloutFailed, Release: 1, Reason: "it crashed", Since: ago(50 * time.Hour)},
				Replicas: []mayfly.ReplicaStatus{replica(1, mayfly.ReplicaFailed, nil)}},
			nil,
			[]string{
				"web has failed: 0 of 1 replica ready.",
				"Release 1 was given up 2 days ago, and there is no release before it to go back to. The reason: it crashed.",
				"Replica 1 was given up 3 min ago: it failed too often.",
			},
			[]string{"see what its containers wrote: mayfly logs web", "deploy again when that is mended", "see what it wrote: mayfly logs web/1", "try again when that is mended: mayfly restart web"},
		}, {
			"an update is under way",
			mayfly.Supervised{State: mayfly.ServiceUpdating, Wanted: 2, Ready: 1, Scaled: true,
				Rollout: mayfly.Rollout{State: mayfly.RolloutUnderWay, Release: 2, Stable: 1, Since: ago(time.Minute), Unplaced: "no node has 8 GB of memory"},
				Replicas: []mayfly.ReplicaStatus{
					replica(1, mayfly.ReplicaDraining, func(r *mayfly.ReplicaStatus) { r.Why = "release 2 follows" }),
					replica(1, mayfly.ReplicaStarting, nil),
					replica(2, mayfly.ReplicaUnready, func(r *mayfly.ReplicaStatus) { r.Reason = "GET /: 500" }),
					replica(2, "", func(r *mayfly.ReplicaStatus) { r.Created = ago(2 * time.Second) }),
				}},
			nil,
			[]string{
				"web is updating: 1 of 2 replicas ready.",
				"2 replicas were asked for with mayfly scale; the release may say another number.",
				"It is on the way from release 1 to 2, begun 60 s ago.",
				"A replica has no node: no node has 8 GB of memory.",
				"Replica 1 has been withdrawn for 3 min, and waits for its consumers to turn away: release 2 follows.",
				"Replica 1 has been starting for 3 min.",
				"Replica 2 runs, but has not been ready for 3 min: GET /: 500.",
				"Replica 2 was placed 2 s ago, and its node has not said anything yet.",
			},
			[]string{"see what it wrote: mayfly logs web/2"},
		}, {
			"none is wanted",
			mayfly.Supervised{State: mayfly.ServiceStopped, Scaled: true},
			nil,
			[]string{"web is scaled to none, so nothing of it runs."},
			[]string{"start it again: mayfly scale web=default, or a number"},
		}, {
			"its release wants none",
			mayfly.Supervised{State: mayfly.ServiceStopped},
			nil,
			[]string{"web is scaled to none, so nothing of it runs."},
			[]string{"start it: mayfly scale web=1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.service.Name = "web"
			x := Service(tt.service, tt.missing, now)
			same(t, "why", x.Why, tt.why)
			same(t, "help", x.Help, tt.help)
			if x.State != tt.service.State || x.Kind != "service" {
				t.Errorf("%+v", x)
			}
		})
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestEnds(t *testing.T) {
	for want, e := range map[string]mayfly.Exit{
		"ended with 0":                                              {Reason: mayfly.Succeeded},
		"failed with exit code 3 (no disk)":                         {Code: 3, Reason: mayfly.ExitedNonZero, Detail: "no disk."},
		"was ended by signal 15":                                    {Code: 143, Signal: 15, Reason: mayfly.ExitedNonZero},
		"has no such program (exit code 127)":                       {Code: 127, Reason: mayfly.ExitedNonZero},
		"was killed when its time was over":                         {Code: 137, Signal: 9, Reason: mayfly.DeadlinePassed},
		"was killed because it wanted more memory than it may have": {Code: 137, Signal: 9, Reason: mayfly.OutOfMemory},
		"was cancelled":                                             {Reason: mayfly.Cancelled},
		"was turned away, and never ran":                            {Reason: mayfly.Rejected},
		"was lost: the machine stopped, or nothing was left of it when the daemon came back": {Reason: mayfly.Lost},
	} {
		if got := ended(e); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}

func TestContainersRunsAndTasks(t *testing.T) {
	exit := &mayfly.Exit{Code: 1, Reason: mayfly.ExitedNonZero, Time: ago(time.Minute)}
	later := now.Add(30 * time.Second)
	for name, tt := range map[string]struct {
		x    mayfly.Explanation
		why  []string
		help []string
	}{
		"container that ended": {
			Container(mayfly.Instance{ID: "c", Name: "job", State: mayfly.Exited, Started: ago(time.Hour), Exit: exit}, now),
			[]string{"It failed with exit code 1, 60 s ago, having run for 59 min."}, []string{"see what it wrote: mayfly logs job"},
		},
		"container of a service": {
			Container(mayfly.Instance{ID: "c", State: mayfly.Running, Started: ago(time.Hour), Workload: "web", Replica: 2, Release: 7}, now),
			[]string{"It has been running for 60 min.", "It is replica 2 of service web, release 7."}, []string{"how the service is: mayfly why web"},
		},
		"run": {
			Run(mayfly.Run{ID: "r", Workload: "f", Release: 2, Trigger: "call", Started: ago(time.Minute), Queue: time.Millisecond, Handler: 2 * time.Second, Status: 500, Exit: exit}, now),
			[]string{
				"It failed with exit code 1, and answered with status 500.", "It is a run of f, release 2, begun 60 s ago by a call.",
				"It waited 1 ms for room and 0 ms for a container, and ran for 2 s.",
			}, []string{"see what it wrote: mayfly logs r"},
		},
		"run that goes on": {
			Run(mayfly.Run{ID: "r", Workload: "f", Release: 2, Trigger: "route", Started: ago(time.Second)}, now),
			[]string{"It has not ended.", "It is a run of f, release 2, begun 1 s ago by a route."}, nil,
		},
		"task that waits for its time": {
			Task(mayfly.Task{ID: "t", State: mayfly.TaskQueued, NotBefore: later}, mayfly.TaskWait{}, now), []string{"Its time has not come: it begins in 30 s."}, nil,
		},
		"task that waits for others": {
			Task(mayfly.Task{ID: "t", State: mayfly.TaskQueued, After: []string{"a", "b"}}, mayfly.TaskWait{}, now), []string{"It waits for 2 tasks to succeed: a, b."}, nil,
		},
		"task that is retried": {
			Task(mayfly.Task{ID: "t", State: mayfly.TaskQueued, NotBefore: later, Attempt: 2,
				Attempts: []mayfly.Attempt{{Number: 1, Node: "n", Exit: &mayfly.Exit{Code: 137, Reason: mayfly.OutOfMemory}}}}, mayfly.TaskWait{}, now),
			[]string{"Attempt 1 failed; the next one begins in 30 s.", "Attempt 1 on n was killed because it wanted more memory than it may have."},
			[]string{"give it more memory: memory in the manifest, --memory with mayfly run"},
		},
		"task that was buried": {
			Task(mayfly.Task{ID: "t", State: mayfly.TaskBuried, Attempt: 1, Ended: ago(time.Hour), Detail: "the callback was refused",
				Attempts: []mayfly.Attempt{{Number: 1, Node: "n", Exit: exit}}}, mayfly.TaskWait{}, now),
			[]string{"It was buried 60 min ago after 1 attempt: no retry is left, so it waits for a person.", "The callback was refused.", "Attempt 1 on n failed with exit code 1."},
			[]string{"when that is mended: mayfly task retry t", "see what it wrote: mayfly task logs t"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			same(t, "why", tt.x.Why, tt.why)
			same(t, "help", tt.x.Help, tt.help)
		})
	}
}

func TestVolume(t *testing.T) {
	told := mayfly.VolumeEvents{Type: "photo.uploaded"}
	bad := mayfly.News{Type: "volume.unwatched", Text: "volume photos has more than 8192 directories"}
	for _, c := range []struct {
		volume mayfly.Volume
		news   []mayfly.News
		state  string
		why    string
	}{
		{mayfly.Volume{}, nil, "defined", "It is made when a container needs it."},
		{mayfly.Volume{Node: "a", Writer: "w", WriterName: "db/1"}, nil, "there", "It lies on node a, by provider local. db/1 writes to it, and no other may."},
		{mayfly.Volume{Node: "a", Provider: "tmpfs", Shared: true, Leaving: true}, nil, "leaving", "It is being removed. Several containers may write to it at once."},
		{mayfly.Volume{Events: told}, nil, "defined", "It is made when a container needs it. Files that come into it are told of by events of type photo.uploaded."},
		{
			mayfly.Volume{Events: told}, []mayfly.News{bad, {Type: "volume.snapshot"}}, "defined",
			"Not all files that come into it are told of: volume photos has more than 8192 directories. It is made when a container needs it. Files that come into it are told of by events of type photo.uploaded.",
		},
		{mayfly.Volume{Events: told}, []mayfly.News{bad, {Type: "volume.watched"}}, "defined", "It is made when a container needs it. Files that come into it are told of by events of type photo.uploaded."},
	} {
		x := Volume(c.volume, c.news)
		if got := strings.Join(x.Why, " "); got != c.why || x.State != c.state {
			t.Errorf("%+v is %s: %s", c.volume, x.State, got)
		}
	}
}
