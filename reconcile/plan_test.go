package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// noon is the time of all tables.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// table is a service as a line or two say it.
type table struct {
	count, surge, fewer int
	wanted              int // release
	releases            int // there are so many; those up to wanted if 0
	rollout             mayfly.Rollout
	slots               string // "REPLICA RELEASE[gN] [stop] STATE[xFAILURES] [AGE]; ..."; a state of - is none, and @NODE another node than a
	scale               int    // wished, if not 0
	generation, retry   int
	update              mayfly.Update
	volume, port        bool // one writer; fixed on the host
	beside              bool // it is a sidecar that has the volume
	unasked             bool // there is no probe
	gone, unheard       bool
	noNode              bool
}

func (c *table) view(t *testing.T) *view {
	v := &view{now: noon, volumes: map[store.Key]mayfly.Volume{}, newest: map[string]uint64{}}
	n := 0
	v.id = func() string { n++; return fmt.Sprint("new", n) }
	if !c.noNode {
		v.nodes = []mayfly.NodeInfo{{Name: "a"}}
	}
	s := &service{Key: store.Key{Space: "default", Name: "web"}, rollout: c.rollout, releases: map[int]*mayfly.Release{}}
	if c.rollout.Release != 0 {
		s.rolloutRev = 1
		if c.rollout.Since.IsZero() {
			s.rollout.Since = noon
		}
	}
	for i := 1; i <= max(c.wanted, c.releases); i++ {
		s.releases[i] = c.release(i)
	}
	if !c.gone && !c.unheard {
		s.wanted = s.releases[c.wanted]
	}
	s.gone = c.gone
	if c.scale != 0 {
		s.wish.Scale, s.wishRev = &c.scale, 1
	}
	if c.generation != 0 {
		s.wish.Generation, s.wish.Retry, s.wishRev = c.generation, c.retry, 1
	}
	for i, text := range strings.Split(c.slots, ";") {
		if strings.TrimSpace(text) != "" {
			s.slots = append(s.slots, parseSlot(t, i, text))
		}
	}
	v.services = []*service{s}
	return v
}

func (c *table) release(number int) *mayfly.Release {
	svc := &mayfly.Service{Update: c.update, Ready: &mayfly.Probe{}}
	if c.unasked {
		svc.Ready = nil
	}
	svc.Update.Surge, svc.Update.Unavailable = c.surge, c.fewer
	w := mayfly.Workload{Space: "default", Name: "web", Scale: mayfly.Scale{Min: c.count, None: c.count == 0}, Service: svc}
	if c.volume {
		w.Volumes = []mayfly.VolumeMount{{Volume: "data", Target: "/data"}}
	}
	if c.beside {
		svc.Sidecars, w.Volumes = []mayfly.Sidecar{{Name: "side", Volumes: w.Volumes}}, nil
	}
	if c.port {
		svc.Ports = []mayfly.Port{{Container: 80, Host: 80}}
	}
	return &mayfly.Release{Workload: w, Number: number}
}

func parseSlot(t *testing.T, index int, text string) *slot {
	fields := strings.Fields(text)
	sl := &slot{Assignment: mayfly.Assignment{ID: fmt.Sprint("s", index), Space: "default", Workload: "web", Node: "a", Created: noon}}
	if _, err := fmt.Sscanf(fields[0], "%d", &sl.Replica); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(fields[1], "%dg%d", &sl.Release, &sl.Generation); err != nil && sl.Release == 0 {
		t.Fatal(err)
	}
	age := time.Duration(0)
	for _, f := range fields[2:] {
		switch d, err := time.ParseDuration(f); {
		case err == nil:
			age = d
		case f == "stop":
			sl.Stop = true
		case f[0] == '@':
			sl.Node, sl.lost = f[1:], true
		case f != "-":
			state, failures, _ := strings.Cut(f, "x")
			sl.replica = &mayfly.Replica{State: mayfly.ReplicaState(state), Since: noon}
			fmt.Sscanf(failures, "%d", &sl.replica.Failures)
		}
	}
	sl.Created = noon.Add(-age)
	if sl.replica != nil {
		sl.replica.Since = noon.Add(-age)
		if sl.healthy() {
			sl.replica.Ready = sl.replica.Since
		}
	}
	return sl
}

func TestOneServiceIsPlanned(t *testing.T) {
	done := func(release int) mayfly.Rollout {
		return mayfly.Rollout{Release: release, Stable: release, State: mayfly.RolloutDone}
	}
	under := func(release, stable int) mayfly.Rollout {
		return mayfly.Rollout{Release: release, Stable: stable, State: mayfly.RolloutUnderWay}
	}
	back := mayfly.Rollout{Release: 2, Stable: 1, State: mayfly.RolloutRolledBack}
	failed := mayfly.Rollout{Release: 1, State: mayfly.RolloutFailed}
	cases := []struct {
		name string
		table
		want string // changes, separated by "; "
		wake time.Duration
	}{
		{"all at first", table{count: 3, wanted: 1}, "rollout web r1 under-way stable 0; run web/1 r1 g0 on a; run web/2 r1 g0 on a; run web/3 r1 g0 on a", 0},
		{"none at all", table{count: 0, wanted: 1}, "rollout web r1 done stable 1", 0},
		{"no node answers yet", table{count: 1, wanted: 1, rollout: under(1, 0), slots: "1 1 -"}, "", 5 * time.Minute},
		{"it is ready", table{count: 1, wanted: 1, rollout: under(1, 0), slots: "1 1 ready"}, "rollout web r1 done stable 1", 0},
		{"nothing asks whether it is well", table{count: 1, wanted: 1, unasked: true, rollout: under(1, 0), slots: "1 1 ready"}, "", time.Second},
		{"it lasts", table{count: 1, wanted: 1, unasked: true, rollout: under(1, 0), slots: "1 1 ready 1s"}, "rollout web r1 done stable 1", 0},
		{"it stands by", table{count: 1, wanted: 1, rollout: under(1, 0), slots: "1 1 standby"}, "rollout web r1 done stable 1", 0},
		{"it is completed", table{count: 1, wanted: 1, rollout: under(1, 0), slots: "1 1 completed"}, "rollout web r1 done stable 1", 0},
		{"one is not ready", table{count: 2, wanted: 1, rollout: under(1, 0), slots: "1 1 ready; 2 1 starting"}, "", 5 * time.Minute},
		{"nothing is to be done", table{count: 2, wanted: 1, rollout: done(1), slots: "1 1 ready; 2 1 backoffx9"}, "", 0},

		{"update: a new one first", table{count: 2, surge: 1, wanted: 2, rollout: done(1), slots: "1 1 ready; 2 1 ready"}, "rollout web r2 under-way stable 1; run web/1 r2 g0 on a", 0},
		{"update: the default is a surge of one", table{count: 2, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 2 1 ready"}, "run web/1 r2 g0 on a", 0},
		{"update: wait for it", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 2 1 ready; 1 2 starting"}, "", 5 * time.Minute},
		{"update: its old one goes", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "2 1 ready; 1 1 ready; 1 2 ready"}, "stop web/1 r1 g0 on a", 0},
		{"update: until it is gone nothing new", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 stop draining; 2 1 ready; 1 2 ready"}, "", 0},
		{"update: then the next", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 stop stopped; 2 1 ready; 1 2 ready"}, "forget web/1 r1; run web/2 r2 g0 on a", 0},
		{"update: the last", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 2 ready; 2 2 ready; 2 1 stop stopped"}, "rollout web r2 done stable 2; forget web/2 r1", 0},
		{"update: many at once", table{count: 4, surge: 2, fewer: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 2 1 ready; 3 1 ready; 4 1 ready"},
			"stop web/1 r1 g0 on a; run web/1 r2 g0 on a; run web/2 r2 g0 on a", 0},
		{"update: fewer only", table{count: 2, fewer: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 2 1 ready"}, "stop web/1 r1 g0 on a", 0},
		{"update: one that is ill is replaced first", table{count: 2, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 2 1 backoffx5"},
			"stop web/2 r1 g0 on a; run web/1 r2 g0 on a", 0},
		{"update: ready for long enough", table{count: 1, surge: 1, wanted: 2, update: mayfly.Update{Healthy: time.Minute}, rollout: under(2, 1), slots: "1 1 ready; 1 2 ready 59s"}, "", time.Second},
		{"update: ready for as long as asked", table{count: 1, surge: 1, wanted: 2, update: mayfly.Update{Healthy: time.Minute}, rollout: under(2, 1), slots: "1 1 ready; 1 2 ready 1m"}, "stop web/1 r1 g0 on a", 0},
		{"update: another update meanwhile", table{count: 2, surge: 1, wanted: 3, rollout: under(2, 1), slots: "1 2 starting; 1 1 ready; 2 1 ready"}, "rollout web r3 under-way stable 1; stop web/1 r2 g0 on a", 0},
		{"update: back to what was", table{count: 2, surge: 1, wanted: 1, releases: 2, rollout: under(2, 1), slots: "1 2 starting; 1 1 ready; 2 1 ready"}, "rollout web r1 under-way stable 1; stop web/1 r2 g0 on a", 0},

		{"one writer: stopped first", table{count: 1, surge: 1, wanted: 2, volume: true, rollout: done(1), slots: "1 1 ready"}, "rollout web r2 under-way stable 1; stop web/1 r1 g0 on a", 0},
		{"one writer, a sidecar", table{count: 1, surge: 1, wanted: 2, volume: true, beside: true, rollout: done(1), slots: "1 1 ready"}, "rollout web r2 under-way stable 1; stop web/1 r1 g0 on a", 0},
		{"one writer: until it is gone nothing new", table{count: 1, surge: 1, wanted: 2, volume: true, rollout: under(2, 1), slots: "1 1 stop stopping"}, "", 0},
		{"one writer: then the new one", table{count: 1, surge: 1, wanted: 2, volume: true, rollout: under(2, 1), slots: "1 1 stop stopped"}, "forget web/1 r1; run web/1 r2 g0 on a", 0},
		{"one writer: one by one", table{count: 2, surge: 2, wanted: 2, volume: true, rollout: under(2, 1), slots: "1 1 ready; 2 1 ready"}, "stop web/1 r1 g0 on a", 0},
		{"host port: stopped first", table{count: 1, wanted: 2, port: true, rollout: under(2, 1), slots: "1 1 ready"}, "stop web/1 r1 g0 on a", 0},
		{"host port: two on one node", table{count: 2, wanted: 1, port: true, rollout: done(1), slots: "1 1 ready"}, "rollout web r1 done stable 1", 0},

		{"it crashes", table{count: 1, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 1 2 backoffx3"}, "rollout web r2 rolled-back stable 1; stop web/1 r2 g0 on a", 0},
		{"it crashed twice", table{count: 1, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 1 2 backoffx2"}, "", 5 * time.Minute},
		{"it is given up", table{count: 1, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 1 2 failed"}, "rollout web r2 rolled-back stable 1; stop web/1 r2 g0 on a", 0},
		{"it is late", table{count: 1, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 1 ready; 1 2 waiting 5m"}, "rollout web r2 rolled-back stable 1; stop web/1 r2 g0 on a", 0},
		{"it is nearly late", table{count: 1, surge: 1, wanted: 2, update: mayfly.Update{Timeout: time.Minute}, rollout: under(2, 1), slots: "1 1 ready; 1 2 waiting 50s"}, "", 10 * time.Second},
		{"it shall stay", table{count: 1, surge: 1, wanted: 2, update: mayfly.Update{NoRollback: true}, rollout: under(2, 1), slots: "1 1 ready; 1 2 backoffx3"}, "rollout web r2 failed stable 1", 0},
		{"nothing was before", table{count: 1, wanted: 1, rollout: under(1, 0), slots: "1 1 backoffx3"}, "rollout web r1 failed stable 0", 0},
		{"it is ready after all", table{count: 1, wanted: 1, rollout: failed, slots: "1 1 ready"}, "rollout web r1 done stable 1", 0},
		{"what was before is gone", table{count: 1, wanted: 5, rollout: mayfly.Rollout{Release: 5, Stable: 7, State: mayfly.RolloutUnderWay}, slots: "1 5 backoffx3"}, "rollout web r5 failed stable 7", 0},
		{"rolled back: half way", table{count: 3, surge: 1, wanted: 2, rollout: under(2, 1), slots: "1 2 ready; 2 2 backoffx3; 2 1 ready; 3 1 ready"},
			"rollout web r2 rolled-back stable 1; stop web/2 r2 g0 on a", 0},
		{"rolled back: what was healthy stays until then", table{count: 2, surge: 1, wanted: 2, rollout: back, slots: "1 2 ready; 2 1 ready; 1 1 starting"}, "", 0},
		{"rolled back: and then goes", table{count: 2, surge: 1, wanted: 2, rollout: back, slots: "1 2 ready; 2 1 ready; 1 1 ready"}, "stop web/1 r2 g0 on a", 0},
		{"rolled back: nothing is tried again", table{count: 1, wanted: 2, rollout: back, slots: "1 1 ready"}, "", 0},
		{"rolled back: the next is tried", table{count: 1, wanted: 3, rollout: back, slots: "1 1 ready"}, "rollout web r3 under-way stable 1; run web/1 r3 g0 on a", 0},
		{"rolled back: the old one is wanted", table{count: 1, wanted: 1, releases: 2, rollout: back, slots: "1 1 ready"}, "rollout web r1 done stable 1", 0},

		{"restart", table{count: 2, wanted: 1, generation: 1, rollout: done(1), slots: "1 1 ready; 2 1 ready"}, "rollout web r1 under-way stable 1; run web/1 r1 g1 on a", 0},
		{"restart: one after the other", table{count: 2, wanted: 1, generation: 1, rollout: mayfly.Rollout{Release: 1, Stable: 1, Generation: 1, Floor: 1, State: mayfly.RolloutUnderWay},
			slots: "1 1 ready; 2 1 ready; 1 1g1 ready"}, "stop web/1 r1 g0 on a", 0},
		{"restart: that fails", table{count: 2, wanted: 1, generation: 1, rollout: mayfly.Rollout{Release: 1, Stable: 1, Generation: 1, Floor: 1, State: mayfly.RolloutUnderWay},
			slots: "1 1 ready; 2 1 ready; 1 1g1 backoffx3"}, "rollout web r1 failed stable 1", 0},
		{"restart of what came back", table{count: 1, wanted: 2, generation: 1, rollout: back, slots: "1 1 ready"}, "rollout web r2 rolled-back stable 1; run web/1 r1 g1 on a", 0},
		{"what was given up is tried again", table{count: 1, surge: 1, wanted: 2, generation: 1, retry: 2, rollout: back, slots: "1 1 ready"}, "rollout web r2 under-way stable 1; run web/1 r2 g1 on a", 0},
		{"and fails again", table{count: 1, surge: 1, wanted: 2, generation: 1, retry: 2, rollout: mayfly.Rollout{Release: 2, Stable: 1, Generation: 1, State: mayfly.RolloutUnderWay},
			slots: "1 1 ready; 1 2g1 failed"}, "rollout web r2 rolled-back stable 1; stop web/1 r2 g1 on a", 0},

		{"scale up", table{count: 1, scale: 3, wanted: 1, rollout: done(1), slots: "2 1 ready"}, "run web/1 r1 g0 on a; run web/3 r1 g0 on a", 0},
		{"scale down", table{count: 3, scale: 1, wanted: 1, rollout: done(1), slots: "1 1 ready; 2 1 ready; 3 1 ready"}, "stop web/2 r1 g0 on a; stop web/3 r1 g0 on a", 0},
		{"scale down of what is ill", table{count: 2, scale: 1, wanted: 1, rollout: done(1), slots: "1 1 backoffx4; 2 1 ready"}, "stop web/2 r1 g0 on a", 0},
		{"two of one number", table{count: 1, wanted: 1, rollout: done(1), slots: "1 1 starting; 1 1 ready"}, "stop web/1 r1 g0 on a", 0},

		{"it was stopped by its node", table{count: 1, wanted: 1, rollout: done(1), slots: "1 1 stopped"}, "forget web/1 r1; run web/1 r1 g0 on a", 0},
		{"its node is gone", table{count: 1, wanted: 1, rollout: done(1), slots: "1 1 @z ready"}, "forget what z says of web/1; forget web/1 r1; run web/1 r1 g0 on a", 0},
		{"its node is gone and never answered", table{count: 1, wanted: 1, rollout: done(1), slots: "1 1 @z -"}, "forget web/1 r1; run web/1 r1 g0 on a", 0},
		{"there is no node", table{count: 1, wanted: 1, noNode: true}, "rollout web r1 under-way stable 0", 0},
		{"there is still no node", table{count: 1, wanted: 1, noNode: true, rollout: mayfly.Rollout{Release: 1, State: mayfly.RolloutUnderWay, Unplaced: "replica 1: there is no node"}}, "", 5 * time.Minute},
		{"there was no node for too long", table{count: 1, wanted: 1, noNode: true, rollout: mayfly.Rollout{Release: 1, State: mayfly.RolloutUnderWay, Since: noon.Add(-5 * time.Minute), Unplaced: "replica 1: there is no node"}},
			"rollout web r1 failed stable 0", 0},
		{"a node comes", table{count: 1, wanted: 1, rollout: mayfly.Rollout{Release: 1, State: mayfly.RolloutUnderWay, Unplaced: "replica 1: there is no node"}}, "rollout web r1 under-way stable 0; run web/1 r1 g0 on a", 5 * time.Minute},

		{"deleted", table{gone: true, releases: 1, rollout: done(1), scale: 2, slots: "1 1 ready; 2 1 stop draining; 3 1 stop stopped"}, "stop web/1 r1 g0 on a; forget web/3 r1", 0},
		{"deleted and stopped", table{gone: true, releases: 1, rollout: done(1), scale: 2}, "forget rollout web; forget wish web", 0},
		{"never heard of", table{unheard: true, releases: 1, rollout: done(1), scale: 2, slots: "1 1 ready; 2 1 stop stopped"}, "", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			changes, wake := plan(c.view(t))
			var got []string
			for _, change := range changes {
				got = append(got, change.String())
			}
			if strings.Join(got, "; ") != c.want {
				t.Errorf("planned\n  %s\nwant\n  %s", strings.Join(got, "; "), c.want)
			}
			if c.wake == 0 && !wake.IsZero() && len(changes) == 0 || c.wake != 0 && !wake.Equal(noon.Add(c.wake)) {
				t.Errorf("wakes at %s, want in %s", wake, c.wake)
			}
		})
	}
}

func TestPeopleAreToldWhy(t *testing.T) {
	crash := table{count: 1, surge: 1, wanted: 2, rollout: mayfly.Rollout{Release: 2, Stable: 1, State: mayfly.RolloutUnderWay}, slots: "1 1 ready; 1 2 backoffx3"}
	alone := table{count: 1, wanted: 2, volume: true, rollout: mayfly.Rollout{Release: 1, Stable: 1, State: mayfly.RolloutDone}, slots: "1 1 ready"}
	taken := table{count: 2, wanted: 1, port: true, rollout: mayfly.Rollout{Release: 1, Stable: 1, State: mayfly.RolloutDone}, slots: "1 1 ready"}
	first := table{count: 1, wanted: 1}
	first.noNode = true
	cases := []struct {
		name  string
		table *table
		want  []string
	}{
		{"a crash", &crash, []string{"rollout.rolled-back: release 1 is back: release 2 failed: replica 1 failed 3 times in a row: it is backoff"}},
		{"one writer", &alone, []string{"rollout.began: release 2 follows release 1"}},
		{"a host port", &taken, []string{"replica.unplaced: replica 2: node a: host port 80 is wanted by web replica 2 and taken by web replica 1"}},
		{"no node", &first, []string{"rollout.began: release 1 begins", "replica.unplaced: replica 1: there is no node"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			changes, _ := plan(c.table.view(t))
			var got []string
			for _, change := range changes {
				for _, n := range change.news {
					got = append(got, n.Type+": "+n.Text)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("told %q, want %q", got, c.want)
			}
		})
	}
	changes, _ := plan(alone.view(t))
	if got := changes[0].rollout.Reason; got != "each instance is stopped before the next one starts: volume data has one writer" {
		t.Errorf("the reason is %q", got)
	}
}
