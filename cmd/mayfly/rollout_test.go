package main

import (
	"bytes"
	"regexp"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TestADeploySaysWhatRuns: of what is as it was, only where it was not there yet.
func TestADeploySaysWhatRuns(t *testing.T) {
	starting := mayfly.Supervised{Name: "web", Release: 3, State: mayfly.ServiceStarting, Wanted: 1, Rollout: mayfly.Rollout{Release: 3, State: mayfly.RolloutUnderWay}}
	running := mayfly.Supervised{Name: "web", Release: 3, State: mayfly.ServiceRunning, Wanted: 1, Ready: 1, Rollout: mayfly.Rollout{Release: 3, State: mayfly.RolloutDone}}
	for _, c := range []struct {
		change string
		seen   []mayfly.Supervised
		want   string // stdout
	}{
		{mayfly.PlanCreate, []mayfly.Supervised{starting, running}, `^web release 3 running after .+\n$`},
		{mayfly.PlanCreate, []mayfly.Supervised{running}, `^web release 3 running after .+\n$`},
		{mayfly.PlanNone, []mayfly.Supervised{starting, running}, `^web release 3 running after .+\n$`},
		{mayfly.PlanNone, []mayfly.Supervised{running}, `^$`},
	} {
		var stdout, stderr bytes.Buffer
		d := &deployment{cli: &cli{stdout: &stdout, stderr: &stderr}, planned: map[string]mayfly.Planned{"web": {Name: "web", Change: c.change}}}
		w := rolloutWatch{deployment: d, left: map[string]int{"web": 3}, freed: map[string]bool{}, shown: map[string]bool{}, begun: time.Now(), view: d.progress()}
		for _, s := range c.seen {
			w.take(s)
		}
		if len(w.left) > 0 || w.failed != nil || !regexp.MustCompile(c.want).MatchString(stdout.String()) {
			t.Errorf("%s, seen %d times: %q, %v", c.change, len(c.seen), stdout.String(), w.failed)
		}
	}
}
