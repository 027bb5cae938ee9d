package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Missing is a requirement of which there is nothing.
type Missing struct {
	mayfly.Require
	Provider *mayfly.Supervised // the service that is required, if it is there
	Outside  bool               // it is something that Mayfly does not run
}

// Service says why a service is as it is.
func Service(sv mayfly.Supervised, missing []Missing, now time.Time) mayfly.Explanation {
	s := &service{Supervised: sv, missing: missing, now: now}
	s.x = mayfly.Explanation{Kind: "service", Name: sv.Name, Space: sv.Space, State: sv.State}
	s.whole()
	s.rollout()
	for i := range sv.Replicas {
		s.replica(&sv.Replicas[i])
	}
	if s.waits {
		s.whatIsMissing()
	}
	for _, m := range missing {
		if m.Optional {
			s.why("%s is not there; that is optional, and it goes on without.", what(m.Require))
		}
	}
	if len(s.x.Why) == 1 && sv.State != mayfly.ServiceRunning && sv.Reason != "" {
		s.why("%s.", sentence(sv.Reason))
	}
	s.x.Help = unique(s.x.Help)
	return s.x
}

type service struct {
	mayfly.Supervised
	missing []Missing
	now     time.Time
	waits   bool // a replica waits for something
	x       mayfly.Explanation
}

func (s *service) why(format string, args ...any) {
	s.x.Why = append(s.x.Why, fmt.Sprintf(format, args...))
}
func (s *service) help(format string, args ...any) {
	s.x.Help = append(s.x.Help, fmt.Sprintf(format, args...))
}

// whole says how the service is as a whole.
func (s *service) whole() {
	ready := fmt.Sprintf("%d of %s ready", s.Ready, count(s.Wanted, "replica"))
	switch s.State {
	case mayfly.ServiceRunning:
		s.why("%s runs release %d as it shall: %s.", s.Name, s.Release, ready)
	case mayfly.ServiceStopped:
		s.why("%s is scaled to none, so nothing of it runs.", s.Name)
		if s.Scaled {
			s.help("start it again: mayfly scale %s=default, or a number", s.Name)
		} else {
			s.help("start it: mayfly scale %s=1", s.Name)
		}
	case mayfly.ServiceAsleep:
		s.why("%s sleeps: nothing of it runs until a request comes.", s.Name)
	case mayfly.ServiceCompleted:
		s.why("%s has done its work: every replica ended with 0, and it is not to run again.", s.Name)
	case mayfly.ServiceDeleted:
		s.why("%s was deleted, and what is left of it is about to end.", s.Name)
	case mayfly.ServiceRolledBack:
		s.why("%s runs release %d, not the wanted %d: %s.", s.Name, s.Rollout.Stable, s.Rollout.Release, ready)
	case mayfly.ServiceFailed:
		s.why("%s has failed: %s.", s.Name, ready)
	default:
		s.why("%s is %s: %s.", s.Name, s.State, ready)
	}
	if s.Scaled && s.Wanted > 0 {
		s.why("%s were asked for with mayfly scale; the release may say another number.", count(s.Wanted, "replica"))
	}
}

// rollout says what became of the last release.
func (s *service) rollout() {
	r, ago := s.Rollout, s.ago(s.Rollout.Since)
	switch r.State {
	case mayfly.RolloutUnderWay:
		if r.Stable != 0 && r.Stable != r.Release {
			s.why("It is on the way from release %d to %d%s.%s", r.Stable, r.Release, begun(ago), because(r.Reason))
		}
	case mayfly.RolloutRolledBack:
		s.why("Release %d was given up%s and release %d runs again.%s", r.Release, ago, r.Stable, because(r.Reason))
		s.help("see what its containers wrote: mayfly logs %s", s.Name)
		s.help("deploy again when that is mended; or try the same release once more: mayfly rollback %s %d", s.Name, r.Release)
	case mayfly.RolloutFailed:
		s.why("Release %d was given up%s, and there is no release before it to go back to.%s", r.Release, ago, because(r.Reason))
		s.help("see what its containers wrote: mayfly logs %s", s.Name)
		s.help("deploy again when that is mended")
	}
	if r.Unplaced != "" {
		s.why("A replica has no node: %s.", strings.TrimSuffix(r.Unplaced, "."))
	}
}

// replica says why one is not as it shall be, or that it was restarted.
func (s *service) replica(r *mayfly.ReplicaStatus) {
	name := fmt.Sprintf("Replica %d", r.Number)
	logs := fmt.Sprintf("see what it wrote: mayfly logs %s/%d", s.Name, r.Number)
	ago := s.lasting(r.Since)
	switch r.State {
	case mayfly.ReplicaWaiting:
		s.waits = true
		s.why("%s has waited%s: %s.", name, ago, cmp.Or(r.Reason, "for what it requires"))
	case mayfly.ReplicaStarting:
		s.why("%s has been starting%s%s.", name, ago, reason(r.Reason))
	case mayfly.ReplicaReady, mayfly.ReplicaStandby, mayfly.ReplicaCompleted:
		s.good(r, name)
	case mayfly.ReplicaUnready:
		s.why("%s runs, but has not been ready%s%s.", name, ago, reason(r.Reason))
		s.help("%s", logs)
	case mayfly.ReplicaBackoff:
		s.why("%s failed %s in a row, the last time%s%s; it is started again%s.", name, times(r.Failures), s.ago(r.Since), lastEnd(r), s.when(r.Next))
		s.help("%s", logs)
		s.help("do not wait for it: mayfly restart %s", s.Name)
	case mayfly.ReplicaFailed:
		s.why("%s was given up%s%s.", name, s.ago(r.Since), reason(cmp.Or(r.Reason, "it failed too often")))
		s.help("%s", logs)
		s.help("try again when that is mended: mayfly restart %s", s.Name)
	case mayfly.ReplicaDraining:
		s.why("%s has been withdrawn%s, and waits for its consumers to turn away%s.", name, ago, reason(cmp.Or(r.Why, r.Reason)))
	case mayfly.ReplicaStopping, mayfly.ReplicaStopped:
		s.why("%s is %s%s.", name, r.State, reason(cmp.Or(r.Why, r.Reason)))
	default:
		s.why("%s was placed%s, and its node has not said anything yet.", name, s.ago(r.Created))
	}
}

// good says of a replica that is well what was not before.
func (s *service) good(r *mayfly.ReplicaStatus, name string) {
	if r.State == mayfly.ReplicaReady && r.Reason != "" {
		s.why("%s is ready, but %s.", name, strings.TrimSuffix(r.Reason, "."))
	}
	if r.State == mayfly.ReplicaStandby {
		s.why("%s stands by%s%s.", name, s.lasting(r.Since), reason(r.Reason))
	}
	if r.Restarts > 0 {
		s.why("%s was restarted %s%s.", name, times(r.Restarts), lastEnd(r))
	}
}

// whatIsMissing says what would help those that wait.
func (s *service) whatIsMissing() {
	for _, m := range s.missing {
		switch {
		case m.Optional:
		case m.Service == "":
			s.help("give a service the role %s in its provides, or add an endpoint that has it: mayfly endpoint add", m.Role)
		case m.Provider == nil && m.Outside:
			s.help("see why %s is away, and what it has: mayfly endpoint ls", m.Service)
		case m.Provider == nil:
			s.help("deploy a service %s%s; if something outside is meant: mayfly endpoint add; if %s can do without: optional: true", m.Service, ofSpace(m.Space), s.Name)
		case m.Provider.Ready == 0:
			s.help("%s is %s: mayfly why %s", m.Service, m.Provider.State, m.Service)
		default:
			s.help("%s is ready, but provides nothing that matches: compare port and tags of the requirement %s with its provides", m.Service, m.Name)
		}
	}
}

// what names what is required.
func what(r mayfly.Require) string {
	if r.Service == "" {
		return "Something of role " + r.Role + ofSpace(r.Space)
	}
	return "Service " + r.Service + ofSpace(r.Space)
}

func ofSpace(space string) string {
	if space == "" {
		return ""
	}
	return " of space " + space
}

func (s *service) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " " + since(t, s.now) + " ago"
}

func (s *service) lasting(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " for " + since(t, s.now)
}

func (s *service) when(t time.Time) string {
	if !t.After(s.now) {
		return " now"
	}
	return " in " + span(t.Sub(s.now))
}

func begun(ago string) string {
	if ago == "" {
		return ""
	}
	return ", begun" + ago
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " The reason: " + strings.TrimSuffix(why, ".") + "."
}

func reason(why string) string {
	if why == "" {
		return ""
	}
	return ": " + strings.TrimSuffix(why, ".")
}

func lastEnd(r *mayfly.ReplicaStatus) string {
	if r.Exit == nil {
		return reason(r.Reason)
	}
	return ": its last container " + ended(*r.Exit)
}

func sentence(s string) string {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func times(n int) string {
	switch n {
	case 0, 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
