package api_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/reconcile"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// serveServices serves the services of a real record. Nothing carries out what is
// wished of them.
func serveServices(t *testing.T) (*server, *store.Store) {
	t.Helper()
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return serveAll(t, api.Services{Supervised: reconcile.NewServices(s), News: s}, api.Options{}), s
}

func want(t *testing.T, s *store.Store, svc *mayfly.Service, scale mayfly.Scale) {
	t.Helper()
	rel, err := s.PutRelease(t.Context(), mayfly.Workload{Space: "default", Name: "web", Image: "app", Scale: scale, Service: svc}, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	var seen uint64
	if old, err := s.Workload("default", "web"); err == nil {
		seen = old.Revision
	}
	if _, err := s.SetWorkload(t.Context(), "default", "web", rel.Number, seen); err != nil {
		t.Fatal(err)
	}
}

func TestServicesAreScaledRestartedAndRolledBack(t *testing.T) {
	up, s := serveServices(t)
	c, ctx := up.client, t.Context()
	if _, err := c.GetService(ctx, "web"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what is not there: %v", err)
	}
	want(t, s, &mayfly.Service{}, mayfly.Scale{Min: 2, Max: 4})
	three, five := 3, 5
	sv, err := c.ScaleService(ctx, "web", &three)
	if err != nil || sv.Wanted != 3 || !sv.Scaled {
		t.Errorf("scaled: %+v, %v", sv, err)
	}
	_, err = c.ScaleService(ctx, "web", &five)
	if got := err.Error(); got != "web cannot have 5 replicas; give a number from 0 to 4" {
		t.Errorf("scaled beyond its limit: %s", got)
	}
	if sv, err = c.ScaleService(ctx, "web", nil); err != nil || sv.Wanted != 2 || sv.Scaled {
		t.Errorf("back to what the release says: %+v, %v", sv, err)
	}
	if _, err = c.RestartService(ctx, "web"); err != nil {
		t.Error(err)
	}
	if wish, _ := s.Wishes.Find("default", "web"); wish.Value.Generation != 1 || wish.Value.Scale != nil {
		t.Errorf("wished %+v", wish.Value)
	}
	if _, err = c.RollbackService(ctx, "web", 0); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("went back to nothing: %v", err)
	}
	want(t, s, &mayfly.Service{}, mayfly.Scale{})
	if sv, err = c.RollbackService(ctx, "web", 1); err != nil || sv.Release != 1 || sv.Wanted != 2 {
		t.Errorf("went back: %+v, %v", sv, err)
	}
	if _, err = c.RollbackService(ctx, "web", 7); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("went to what never was: %v", err)
	}
	list, err := c.ServiceReleases(ctx, "web")
	if err != nil || len(list) != 2 || list[0].Number != 2 || list[0].Wanted || !list[1].Wanted {
		t.Errorf("releases: %+v, %v", list, err)
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	news, err := c.ListNews(ctx, client.NewsFilter{Subject: "web", Type: "service"})
	var types []string
	for _, n := range news {
		types = append(types, n.Type+" "+n.Text)
	}
	told := "service.scaled scaled from 2 to 3; service.scaled scaled from 3 to 2; service.restarted a restart was asked for: its replicas are replaced; " +
		"service.rolled-back release 1 is wanted again, after release 2"
	if err != nil || strings.Join(types, "; ") != told {
		t.Errorf("told %q, %v", types, err)
	}
}

func TestAFunctionIsNoService(t *testing.T) {
	up, s := serveServices(t)
	want(t, s, nil, mayfly.Scale{})
	_, err := up.client.RestartService(t.Context(), "web")
	if mayfly.KindOf(err) != mayfly.NotFound || !strings.Contains(err.Error(), "web is a function, not a service") {
		t.Error(err)
	}
	if list, err := up.client.ListServices(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

var errEnough = errors.New("enough")

func TestAServiceIsWatchedUntilItIsGone(t *testing.T) {
	up, s := serveServices(t)
	want(t, s, &mayfly.Service{}, mayfly.Scale{})
	var seen []string
	err := up.client.WatchService(t.Context(), "web", func(sv mayfly.Supervised) error {
		switch seen = append(seen, sv.State); len(seen) {
		case 1:
			a := mayfly.Assignment{ID: "x", Space: "default", Workload: "web", Release: 1, Replica: 1, Node: "a"}
			if _, err := s.Assignments.Put(t.Context(), "default", "x", a, 0); err != nil {
				t.Error(err)
			}
		case 2:
			r := mayfly.Replica{Assignment: "x", Space: "default", Workload: "web", Release: 1, Number: 1, Node: "a", State: mayfly.ReplicaWaiting, Reason: "for db"}
			if _, err := s.Replicas.Put(t.Context(), "default", "x", r, 0); err != nil {
				t.Error(err)
			}
		case 3:
			if sv.Reason != "replica 1: for db" || sv.Replicas[0].State != mayfly.ReplicaWaiting {
				t.Errorf("waits: %+v", sv)
			}
			w, err := s.Workload("default", "web")
			if err == nil {
				err = s.DeleteWorkload(t.Context(), "default", "web", w.Revision)
			}
			a, _ := s.Assignments.Find("default", "x")
			if err = errors.Join(err, s.Assignments.Delete(t.Context(), "default", "x", a.Revision)); err != nil {
				t.Error(err)
			}
		default:
			if sv.State == mayfly.ServiceDeleted && len(sv.Replicas) == 0 {
				return errEnough
			}
		}
		return nil
	})
	if !errors.Is(err, errEnough) || strings.Join(seen[:3], " ") != "starting starting waiting" {
		t.Errorf("watched %v, %v", seen, err)
	}
	if err := up.client.WatchService(t.Context(), "web", nil); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("what is gone is watched: %v", err)
	}
}

func TestStreamsAreServerSentEventsOnRequest(t *testing.T) {
	up, s := serveServices(t)
	want(t, s, &mayfly.Service{}, mayfly.Scale{})
	s.RecordNews(mayfly.News{Space: "default", Type: "service.ready", Subject: "web", Text: "one"})
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/v1/watch/services":                        `event: service|data: {"space":"default","name":"web"`,
		"/v1/services/web/watch":                    `event: service|data: {"space":"default","name":"web"`,
		"/v1/watch/news?subject=web&type=service":   `event: news|data: {"id":"`,
		"/v1/watch/news?since=2020-01-02T03:04:05Z": `event: news|data: {"id":"`,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, up.tcp+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		first, _ := lines.ReadString('\n')
		second, err := lines.ReadString('\n')
		if got := strings.TrimSpace(first) + "|" + second; err != nil || !strings.HasPrefix(got, want) || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		cancel()
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}

// One question tells of all workloads of an app, each in the space that is asked
// about; a name that cannot be one is refused.
func TestPlan(t *testing.T) {
	up := serve(t, &stub{})
	plan, err := up.client.Plan(t.Context(), client.PlanRequest{App: "blog", Workloads: []mayfly.Workload{{Name: "a"}, {Name: "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Workloads) != 2 || plan.Workloads[1].Name != "default/b" || plan.Workloads[1].Change != mayfly.PlanNone || plan.Others[0] != "blog" {
		t.Errorf("plan %+v", plan)
	}
	if _, err := up.client.Plan(t.Context(), client.PlanRequest{Workloads: []mayfly.Workload{{Name: "A/b"}}}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a bad name: %v", err)
	}
	many := make([]mayfly.Workload, 3000)
	for i := range many {
		many[i] = mayfly.Workload{Name: "w", Image: strings.Repeat("x", 1000)}
	}
	if plan, err := up.client.Plan(t.Context(), client.PlanRequest{Workloads: many}); err != nil || len(plan.Workloads) != 3000 {
		t.Errorf("many workloads: %d, %v", len(plan.Workloads), err)
	}
}
