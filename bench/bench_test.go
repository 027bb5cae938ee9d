package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuick runs every part with small counts: the bench works, and leaves
// nothing behind. What it measures is not looked at.
func TestQuick(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("starts daemons; -short")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "mayfly")
	build := exec.Command("go", "build", "-o", binary, "../cmd/mayfly")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build mayfly: %v\n%s", err, out)
	}
	t.Setenv("TMPDIR", t.TempDir())
	out := filepath.Join(dir, "results.json")
	if err := run(context.Background(), options{quick: true, alone: true, binary: binary, out: out}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var r Results
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"fork+exec", poolHit, poolMiss, reused} {
		if r.latency("static", what) == nil {
			t.Errorf("no latency of %s", what)
		}
	}
	if r.Burst == nil || r.Burst.Lost+r.Burst.Hung+r.Burst.Other != 0 {
		t.Errorf("burst: %+v", r.Burst)
	}
	if r.Memory == nil || r.Leftovers == nil || r.highest(freshRate) == 0 || len(r.Load) != 2 {
		t.Errorf("a part is missing: %s", text)
	}
	if r.tasksOf(mayflyTasks) == 0 || r.Enqueue == nil || len(r.First) != 2 || len(r.Limits) != 4 || len(r.Flat) == 0 || r.Node == nil || r.Idle == nil {
		t.Errorf("a part about tasks is missing: %s", text)
	}
	if e := r.Events; e == nil || e.Runs == 0 || e.Lost+e.Twice > 0 || e.Most > e.Limit {
		t.Errorf("events: %+v", e)
	}
	if len(r.Told) != 3 || len(r.View) != 3 || len(r.Names) != 3 || len(r.Deploys) != 4 || r.ServicesIdle == nil {
		t.Errorf("a part about services is missing: %s", text)
	}
	if r.route(routeService) == nil || r.route(routeFunction) == nil || len(r.Tables) != 2 {
		t.Errorf("the part about routes is missing: %s", text)
	}
	if len(r.Push) != 3*len(present()[1:]) {
		t.Errorf("the part about pushes is missing: %s", text)
	}
	left, err := filepath.Glob(os.Getenv("TMPDIR") + "/*")
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestQuantileIsAMeasuredValue(t *testing.T) {
	var s sample
	for i := range 200 {
		s = append(s, time.Duration(200-i)*time.Millisecond)
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 100}, {0.99, 198}, {1, 200}} {
		if got := s.quantile(c.q); got != c.want*time.Millisecond {
			t.Errorf("quantile %v is %v, not %d ms", c.q, got, c.want)
		}
	}
	if got := (sample{}).quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
}

func TestGoalsAreJudgedByWhatWasMeasured(t *testing.T) {
	r := Results{
		Latency: []LatencyRow{
			{Program: "static", What: "crun run", P50: 15},
			{Program: "static", What: "docker run --rm", P50: 250},
			{Program: "static", What: poolHit, P50: 2.8},
			{Program: "static", What: poolMiss, P50: 11},
		},
		Rate:  []RateRow{{What: "crun run", Clients: 4, PerSecond: 100}, {What: freshRate, Clients: 4, PerSecond: 150}},
		Load:  []LoadRow{{Arrivals: "even", P99: 15}, {Arrivals: "random", P99: 99}},
		Burst: &BurstRow{Requests: 500, OK: 499, Lost: 1},
		Leftovers: &LeftoverRow{Runs: 10000, Kinds: []Kind{
			{What: "mounts", Before: 3, After: 2}, {What: "files", Before: 1, After: 4}, {What: "logs", After: 9, Kept: true},
		}},
	}
	r.judge()
	want := []Goal{
		{Value: 2.8, Bound: 3, Met: true},
		{Value: 11, Bound: 10, Met: false},
		{Value: 2.8, Bound: 2.5, Met: false},
		{Value: 150, Bound: 150, Met: true},
		{Value: 15, Bound: 15, Met: true},
		{Value: 1, Bound: 0, Met: false},
		{Value: 3, Bound: 0, Met: false},
	}
	if len(r.Goals) != len(want) {
		t.Fatalf("%d goals, not %d: %+v", len(r.Goals), len(want), r.Goals)
	}
	for i, w := range want {
		if g := r.Goals[i]; g.Value != w.Value || g.Bound != w.Bound || g.Met != w.Met {
			t.Errorf("goal %d is %+v, not %+v", i, g, w)
		}
	}
}

func TestGoalsOfTheQueueAreJudgedByTheBetterWay(t *testing.T) {
	r := Results{
		Tasks: []TasksRow{
			{What: mayflyTasks, InAll: 4000}, {What: river, InAll: 3000}, {What: river + apart, InAll: 4100}, {What: asynq, InAll: 3900},
		},
		Enqueue: &EnqueueRow{HTTP: 3000, Bare: 5000, Ratio: 0.6},
		First:   []FirstRow{{What: firstCall, P50: 2}, {What: firstTask, P50: 7.5}},
		Flat:    []FlatRow{{Queued: 1000, CPU: 0.1}, {Queued: 10_000, CPU: 9}, {Queued: 100_000, CPU: 0.125}},
		Node:    &NodeRow{Start: 4, Stop: 3},
		Idle:    &IdleRow{CPU: 0.6},
	}
	r.judge()
	want := []Goal{
		{Value: 4000, Bound: 4100, Met: false},
		{Value: 4000, Bound: 3900, Met: true},
		{Value: 0.6, Bound: 0.5, Met: true},
		{Value: 7.5, Bound: 7, Met: false},
		{Value: 0.125, Bound: 0.125, Met: true},
		{Value: 4, Bound: 5, Met: true},
		{Value: 3, Bound: 2, Met: false},
		{Value: 0.6, Bound: 0.5, Met: false},
	}
	if len(r.Goals) != len(want) {
		t.Fatalf("%d goals, not %d: %+v", len(r.Goals), len(want), r.Goals)
	}
	for i, w := range want {
		if g := r.Goals[i]; g.Value != w.Value || g.Bound != w.Bound || g.Met != w.Met {
			t.Errorf("goal %d is %+v, not %+v", i, g, w)
		}
	}
}

func TestQuoteReplacesWhatIsBetweenTheMarks(t *testing.T) {
	r := Results{Latency: []LatencyRow{{Program: "static", What: poolHit, P50: 1.5, P99: 2.25}}}
	r.judge()
	got, err := quote("head\n"+quoteBegin+"\nold\n"+quoteEnd+"\ntail\n", r.figures())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "head\n"+quoteBegin+"\n") || !strings.HasSuffix(got, quoteEnd+"\ntail\n") ||
		strings.Contains(got, "old") || !strings.Contains(got, "| mayfly, pool hit | 1.5 (2.2) |") {
		t.Errorf("it became %q", got)
	}
	if _, err := quote("no marks", ""); err == nil {
		t.Error("a page without marks was accepted")
	}
}
