package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// What is asked of a running platform is answered from its records.
func TestWhyAndGraph(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}},
		Requires: []mayfly.Require{{Name: "db", Service: "db"}},
	})
	why := func(ref string) mayfly.Explanation {
		x, err := n.Why(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	says := func(x mayfly.Explanation, part string) bool {
		return strings.Contains(strings.Join(append(x.Why, x.Help...), "\n"), part)
	}
	n.until("web waits", func() bool { return says(why("web"), "it requires service db, which is not deployed") })
	n.until("it is said what helps, and what happened", func() bool { x := why("web"); return says(x, "deploy a service db") && len(x.News) > 0 })
	g, err := n.Graph(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := mayfly.GraphEdge{From: "web", To: "db", Name: "db"}
	if len(g.Edges) != 1 || g.Edges[0].From != want.From || g.Edges[0].To != want.To || g.Edges[0].Met {
		t.Errorf("edges: %+v", g.Edges)
	}
	db := n.provider()
	n.until("web runs", func() bool { return says(why("web"), "web runs release 1 as it shall") })
	if x := why(db.ID); x.Kind != "container" || !says(x, "replica 1 of service db") {
		t.Errorf("its container: %+v", x)
	}
	if g, err = n.Graph(t.Context()); err != nil || len(g.Edges) != 1 || !slices.Equal(g.Edges[0].Use, []string{db.Address + ":8080"}) {
		t.Errorf("edges: %+v, %v", g.Edges, err)
	}
	if _, err := n.Why(t.Context(), "nothing"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("of what is not there: %v", err)
	}
}
