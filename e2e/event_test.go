package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (n *node) mapEvent(m mayfly.EventMapping) {
	n.t.Helper()
	if _, err := n.MapEvent(n.t.Context(), m); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) emit(events ...mayfly.Event) {
	n.t.Helper()
	if _, err := n.Emit(n.t.Context(), events...); err != nil {
		n.t.Fatal(err)
	}
}

// untilEvent waits for an event and returns the first that the filter selects.
func (n *node) untilEvent(f client.EventFilter) mayfly.AcceptedEvent {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		list, err := n.ListEvents(n.t.Context(), f)
		if err != nil {
			n.t.Fatal(err)
		}
		if len(list) > 0 {
			return list[0]
		}
		if time.Now().After(deadline) {
			triggers, _ := n.Triggers(n.t.Context())
			n.t.Fatalf("no event %+v; %+v", f, triggers)
		}
	}
}

// TestEventReachesEveryKindOfFunction: each gets the data and the attributes in
// its own way, and what each returns as an event is published.
func TestEventReachesEveryKindOfFunction(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web", Events: []mayfly.EventMapping{{Type: "to.http"}}})
	n.shell("shell", `printf '{"specversion":"1.0","type":"from.stdio","subject":"%s","data":{"run":%s,"got":%s}}' "$CE_SUBJECT" "$(grep -c '"cloudevent"' /run/mayfly/run.json)" "$(cat)"`,
		func(w *mayfly.Workload) { w.Events = []mayfly.EventMapping{{Type: "to.stdio"}} })
	types := []string{"http", "stdio"}
	if _, err := exec.LookPath("python3"); err == nil {
		types = append(types, "python")
		n.handler("python", "main.py", `import mayfly

def handle(event, context):
    mayfly.emit("said.python", {"n": event["n"]}, subject=context.cloudevent["subject"])
    return {"specversion": "1.0", "type": "from.python", "subject": context.cloudevent["subject"], "data": event}
`, "main.handle", mayfly.IsolationRun)
		n.mapEvent(mayfly.EventMapping{Workload: "python", Type: "to.python"})
	}
	if _, err := exec.LookPath("node"); err == nil {
		types = append(types, "node")
		n.handler("node", "index.mjs", `import { emit } from 'mayfly'

export async function handle (event, context) {
  await emit('said.node', { n: event.n }, { subject: context.cloudevent.subject })
  return { specversion: '1.0', type: 'from.node', subject: context.cloudevent.subject, data: event }
}
`, "index.handle", mayfly.IsolationInstance)
		n.mapEvent(mayfly.EventMapping{Workload: "node", Type: "to.node"})
	}
	for _, kind := range types {
		subject := "für " + kind
		n.emit(mayfly.Event{Source: "/e2e", Type: "to." + kind, Subject: subject, DataContentType: "application/json", Data: []byte(`{"n": 7}`)})
		got := n.untilEvent(client.EventFilter{Type: "from." + kind}).Event
		if got.Subject != subject || !strings.Contains(string(got.Data), `7`) || got.Extensions[mayfly.HopsAttribute] != "2" || !strings.HasPrefix(got.Source, "/mayfly/default/") {
			t.Errorf("%s returned %+v %s", kind, got, got.Data)
		}
		if kind == "python" || kind == "node" {
			said := n.untilEvent(client.EventFilter{Type: "said." + kind}).Event
			if said.Subject != subject || said.Source != "/mayfly/default/"+kind || said.Extensions[mayfly.HopsAttribute] != "2" {
				t.Errorf("%s emitted %+v", kind, said)
			}
		}
	}
	if got := n.untilEvent(client.EventFilter{Type: "from.stdio"}).Event; !strings.Contains(string(got.Data), `"run":1`) {
		t.Errorf("run.json tells nothing of the event: %s", got.Data)
	}
}

// TestDeadEventIsReplayed: a delivery that fails ends in the dead letters, and a
// new release gets the event when it is replayed.
func TestDeadEventIsReplayed(t *testing.T) {
	t.Parallel()
	n := start(t)
	n.shell("resize", "exit 3", func(w *mayfly.Workload) { w.Retries = mayfly.Retries{Max: 1, Backoff: time.Millisecond} })
	n.mapEvent(mayfly.EventMapping{Workload: "resize", Type: "photo.*", Filter: map[string]string{"kind": "raw"}})
	n.emit(mayfly.Event{ID: "raw-1", Source: "/e2e", Type: "photo.uploaded", Extensions: map[string]string{"kind": "raw"}})
	var trigger mayfly.TriggerState
	for deadline := time.Now().Add(patience); trigger.Dead == 0 || trigger.Failures == 0; time.Sleep(10 * time.Millisecond) {
		list, err := n.Triggers(t.Context())
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v %v", list, err)
		}
		trigger = list[0]
	}
	if trigger.State != "failing" || trigger.LastError == "" || trigger.Failures != 1 {
		t.Errorf("%+v", trigger)
	}
	n.shell("resize", `printf '{"specversion":"1.0","type":"resized","subject":"%s"}' "$CE_ID"`, nil)
	if done, err := n.ReplayEvents(t.Context(), client.Replay{ID: "raw-1", Map: "resize"}); err != nil || done.Events != 1 {
		t.Fatal(done, err)
	}
	if got := n.untilEvent(client.EventFilter{Type: "resized"}).Event; got.Subject != "raw-1" {
		t.Errorf("%+v", got)
	}
	dead, err := n.ListTasks(t.Context(), client.TaskFilter{States: []mayfly.TaskState{mayfly.TaskBuried}})
	if err != nil || len(dead) != 1 {
		t.Fatal(dead, err)
	}
	if _, err := n.PurgeTask(t.Context(), dead[0].ID); err != nil {
		t.Fatal(err)
	}
	n.until("the delivery has ended", func() bool {
		list, err := n.Triggers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		trigger = list[0]
		return trigger.State == "active"
	})
	if trigger.Failures != 1 || trigger.Dead != 0 {
		t.Errorf("after the purge: %+v", trigger)
	}
}

// TestKillsLoseNoEvent kills the daemon while events are emitted in bursts, to a
// function that may run four times at once. Every accepted event is handled, never
// more than four at once, and a handler that has ended is not started again.
func TestKillsLoseNoEvent(t *testing.T) {
	t.Parallel()
	const limit, kills, burst = 4, 5, 40
	n := start(t)
	out, err := os.MkdirTemp("", "mf-ev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(out) })
	n.shell("mark", `mkdir /out/running.$MAYFLY_RUN; ls -d /out/running.* | wc -l >/out/seen.$CE_ID.$MAYFLY_ATTEMPT; sleep 0.02; rmdir /out/running.$MAYFLY_RUN; echo $MAYFLY_ATTEMPT >>/out/done.$CE_ID`,
		func(w *mayfly.Workload) {
			w.Concurrency = limit
			w.Mounts = []mayfly.Mount{{Type: "bind", Source: out, Target: "/out"}}
		})
	n.mapEvent(mayfly.EventMapping{Workload: "mark", Type: "burst"})
	var round atomic.Int32
	var want []string
	for range kills {
		var events []mayfly.Event
		for i := range burst {
			id := fmt.Sprintf("%d-%d", round.Load(), i)
			events = append(events, mayfly.Event{ID: id, Source: "/e2e", Type: "burst"})
			want = append(want, id)
		}
		round.Add(1)
		for { // what is emitted again is the same
			if _, err := n.Emit(context.Background(), events...); err == nil {
				break
			} else if k := mayfly.KindOf(err); k != mayfly.Unavailable && k != mayfly.TimedOut {
				t.Fatal(err)
			}
		}
		n.kill()
		n.up()
	}
	done := func() (ids []string) {
		files, _ := filepath.Glob(out + "/done.*")
		for _, f := range files {
			if text, _ := os.ReadFile(f); len(text) > 0 { // else it is being written
				ids = append(ids, strings.TrimPrefix(filepath.Base(f), "done."))
			}
		}
		return ids
	}
	for deadline := time.Now().Add(3 * time.Minute); len(done()) < len(want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			list, _ := n.Triggers(t.Context())
			t.Fatalf("%d of %d events are handled: %+v", len(done()), len(want), list)
		}
	}
	got := done()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("handled %d, not %d", len(got), len(want))
	}
	for _, id := range want {
		if text, _ := os.ReadFile(out + "/done." + id); strings.Count(string(text), "\n") != 1 {
			t.Errorf("%s was handled in the attempts %q", id, text)
		}
	}
	seen, _ := filepath.Glob(out + "/seen.*")
	most := 0
	for _, f := range seen {
		var count int
		text, _ := os.ReadFile(f)
		fmt.Sscan(string(text), &count)
		most = max(most, count)
	}
	t.Logf("%d at once", most)
	if most > limit {
		t.Errorf("%d ran at once, and the limit is %d", most, limit)
	}
}
