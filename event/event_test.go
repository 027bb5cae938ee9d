package event_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/event"
	"github.com/mayfly-run/mayfly/queue"
	"github.com/mayfly-run/mayfly/store"
)

func TestMain(m *testing.M) {
	// Each run of the model opens a bus. -rapid.checks asks for more.
	if err := flag.Set("rapid.checks", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const home = mayfly.DefaultSpace

// patience is for a machine that does much else at the same time.
const patience = 2 * time.Minute

// node is a bus with a record, a queue and events on it.
type node struct {
	t      testing.TB
	dir    string
	bus    *bus.Bus
	store  *store.Store
	queue  *queue.Queue
	events *event.Events
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

func start(t testing.TB, opts event.Options) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	n.open(opts)
	t.Cleanup(n.close)
	return n
}

func (n *node) open(opts event.Options) {
	n.t.Helper()
	n.load(opts)
	n.run()
}

// load opens all and runs nothing yet.
func (n *node) load(opts event.Options) {
	n.t.Helper()
	ctx := context.Background()
	must := func(err error) {
		n.t.Helper()
		if err != nil {
			n.t.Fatal(err)
		}
	}
	var err error
	n.bus, err = bus.Open(ctx, n.dir, bus.Options{})
	must(err)
	n.store, err = store.Open(ctx, n.bus, store.Options{})
	must(err)
	n.queue, err = queue.Open(ctx, n.bus, n.store, queue.Options{})
	must(err)
	n.events, err = event.Open(ctx, n.bus, n.store, n.queue, opts)
	must(err)
}

func (n *node) run() {
	running, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.ended.Go(func() { n.queue.Run(running) })
	n.ended.Go(func() { n.events.Run(running) })
}

func (n *node) close() {
	if n.bus == nil {
		return
	}
	n.stop()
	n.ended.Wait()
	n.events.Close()
	n.queue.Close()
	n.store.Close()
	if err := n.bus.Close(); err != nil {
		n.t.Error(err)
	}
	n.bus = nil
}

func (n *node) restart(opts event.Options) {
	n.close()
	n.open(opts)
}

func (n *node) deploy(w mayfly.Workload) {
	n.t.Helper()
	ctx := context.Background()
	w.Space = cmp.Or(w.Space, home)
	rel, err := n.store.PutRelease(ctx, w, "sha256:w")
	if err == nil {
		old, _ := n.store.Workload(w.Space, w.Name)
		_, err = n.store.SetWorkload(ctx, w.Space, w.Name, rel.Number, old.Revision)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) mapTo(m mayfly.EventMapping) mayfly.EventMapping {
	n.t.Helper()
	m.Space = cmp.Or(m.Space, home)
	made, err := n.events.Map(context.Background(), m)
	if err != nil {
		n.t.Fatal(err)
	}
	return made
}

func (n *node) emit(events ...mayfly.Event) {
	n.t.Helper()
	if _, err := n.events.Emit(context.Background(), home, events); err != nil {
		n.t.Fatal(err)
	}
}

// photo is an event.
func photo(id, bucket string) mayfly.Event {
	return mayfly.Event{
		ID: id, Source: "/photos", Type: "photo.uploaded", Subject: id + ".jpg", DataContentType: "application/json",
		Data: []byte(`{"bucket": "` + bucket + `", "user": {"id": 7}}`),
	}
}

// next is granted a task.
func (n *node) next() *queue.Grant {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	g, err := n.queue.Next(ctx, "here")
	if err != nil {
		n.t.Fatal(err)
	}
	return g
}

func (n *node) done(g *queue.Grant, reason mayfly.Reason) {
	n.t.Helper()
	exit := mayfly.Exit{Reason: reason, Time: time.Now()}
	if reason != mayfly.Succeeded {
		exit.Code = 1
	}
	if _, err := n.queue.Done(context.Background(), g, mayfly.Result{Exit: exit}); err != nil {
		n.t.Fatal(err)
	}
}

// until waits for something that nothing tells of.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// tasks are those of a workload, by the event's id, whatever their state.
func (n *node) tasks(workload string) (ids []string) {
	n.t.Helper()
	f := queue.Filter{Space: home, Workload: workload, Limit: 1000}
	for {
		page, err := n.queue.List(context.Background(), f)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, task := range page.Tasks {
			ids = append(ids, task.Request.Header["Ce-Id"])
		}
		if f.After = page.Next; f.After == "" {
			slices.Sort(ids)
			return ids
		}
	}
}

func TestDelivery(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "thumbnail"})
	n.deploy(mayfly.Workload{Name: "metadata", Events: []mayfly.EventMapping{{Type: "photo.*", Filter: map[string]string{"data.user.id": "7"}}}})
	n.mapTo(mayfly.EventMapping{Workload: "thumbnail", Type: "photo.uploaded", Filter: map[string]string{"bucket": "holiday"}})
	n.mapTo(mayfly.EventMapping{Workload: "thumbnail", Type: "*", SQL: "source = '/elsewhere'"})
	n.emit(photo("a", "holiday"), photo("b", "work"))
	n.emit(photo("a", "holiday")) // the same
	other := photo("c", "x")
	other.Type, other.Source = "else", "/elsewhere"
	n.emit(other)
	seen := map[string]int{}
	for range 4 {
		g := n.next()
		seen[g.Task.Workload+" "+g.Task.Request.Header["Ce-Id"]]++
		if h := g.Task.Request.Header; h["Ce-Specversion"] != "1.0" || h["Content-Type"] != "application/json" || string(g.Payload) == "" {
			t.Errorf("%v %s", h, g.Payload)
		}
		n.done(g, mayfly.Succeeded)
	}
	want := map[string]int{"thumbnail a": 1, "metadata a": 1, "metadata b": 1, "thumbnail c": 1}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("delivered %v, not %v", seen, want)
	}
}

func TestNothingIsLostOrTwiceOverRestarts(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded"})
	var want []string
	for round := range 5 {
		var list []mayfly.Event
		for i := range 40 {
			id := fmt.Sprintf("%d-%02d", round, i)
			want = append(want, id)
			list = append(list, photo(id, "b"))
		}
		n.emit(list...)
		n.restart(event.Options{}) // in the middle of whatever it does
	}
	until(t, "all are tasks", func() bool { return len(n.tasks("w")) >= len(want) })
	slices.Sort(want)
	if got := n.tasks("w"); !slices.Equal(got, want) {
		t.Errorf("%d tasks: %v", len(got), got)
	}
}

func TestOrder(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w", Retries: mayfly.Retries{Max: 1, Backoff: time.Millisecond}})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded", OrderBy: "bucket"})
	for i := range 4 {
		for _, bucket := range []string{"x", "y"} {
			n.emit(photo(fmt.Sprintf("%s%d", bucket, i), bucket))
		}
	}
	at := map[string]int{}
	running := map[string]*queue.Grant{}
	tries := map[string]int{}
	for len(at) < 2 || at["x"] < 4 || at["y"] < 4 {
		g := n.next()
		id := g.Task.Request.Header["Ce-Id"]
		key := id[:1]
		if running[key] != nil || id != fmt.Sprintf("%s%d", key, at[key]) {
			t.Fatalf("%s is granted while %s is at %d", id, key, at[key])
		}
		running[key] = g
		if running["x"] == nil && at["x"] < 4 || running["y"] == nil && at["y"] < 4 {
			continue // both keys run at once
		}
		for key, g := range running {
			id := g.Task.Request.Header["Ce-Id"]
			delete(running, key)
			tries[id]++
			switch {
			case id == "x1" || id == "y2" && tries[id] == 1: // x1 is buried, y2 tried again
				n.done(g, mayfly.ExitedNonZero)
				if id == "x1" && tries[id] == 2 {
					at[key]++
				}
			default:
				n.done(g, mayfly.Succeeded)
				at[key]++
			}
		}
		if at["x"] == 2 && tries["x1"] == 2 {
			n.restart(event.Options{}) // buried before, so x2 comes
			tries["x1"] = 3
		}
	}
}

func TestMappingsLimitOnlyTheirs(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded", Concurrency: 2})
	var list []mayfly.Event
	for i := range 10 {
		list = append(list, photo(fmt.Sprint(i), "b"))
	}
	n.emit(list...)
	until(t, "all are tasks", func() bool { return len(n.tasks("w")) == 10 })
	a, b := n.next(), n.next()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if g, err := n.queue.Next(ctx, "here"); err == nil {
		t.Fatalf("a third is granted: %s", g.Task.ID)
	}
	n.done(a, mayfly.Succeeded)
	n.done(b, mayfly.Succeeded)
	for range 8 {
		n.done(n.next(), mayfly.Succeeded)
	}
}

// A task counts for one limit beside that of its function, so whichever comes second
// is refused.
func TestKeyAndConcurrencyExcludeEachOther(t *testing.T) {
	n := start(t, event.Options{})
	ctx := context.Background()
	key := mayfly.Workload{Space: home, Name: "w", Key: mayfly.KeyLimit{Field: "user", Max: 1}}
	n.deploy(key)
	m := mayfly.EventMapping{Space: home, Workload: "w", Type: "a", Concurrency: 2}
	if _, err := n.events.Map(ctx, m); mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "its mapping of a cannot have a concurrency too") {
		t.Errorf("mapped: %v", err)
	}
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(m)
	if err := n.events.CheckWorkload(key); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("deployed: %v", err)
	}
	if err := n.events.CheckRelease(ctx, home, "w", 1); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("rolled back to: %v", err)
	}
	if err := n.events.CheckRelease(ctx, home, "w", 9); err != nil {
		t.Error(err)
	}
	m.Concurrency = 0
	n.mapTo(m)
	if err := n.events.CheckWorkload(key); err != nil {
		t.Errorf("without the concurrency: %v", err)
	}
	key.Events = []mayfly.EventMapping{{Type: "b", Concurrency: 1}}
	if err := n.events.CheckWorkload(key); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("with one in the manifest: %v", err)
	}
}

// subscriber is a server outside.
type subscriber struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string // ids, in the order of their calls
	fail int      // so many calls first, with
	with int      // this status
}

func subscribe(t *testing.T) *subscriber {
	s := &subscriber{with: 500}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		events, err := event.Decode(r.Header, body, nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		if err != nil || r.Header.Get("webhook-signature") == "" || r.Header.Get("webhook-id") == "" {
			t.Errorf("%v %v", err, r.Header)
			return
		}
		if s.fail > 0 {
			s.fail--
			w.WriteHeader(s.with)
			return
		}
		s.got = append(s.got, events[0].ID)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *subscriber) ids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func TestSubscriber(t *testing.T) {
	sub := subscribe(t)
	sub.fail = 3
	opts := event.Options{Delays: []time.Duration{time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond}}
	n := start(t, opts)
	n.mapTo(mayfly.EventMapping{URL: sub.URL, Type: "photo.uploaded", OrderBy: "bucket"})
	for i := range 5 {
		n.emit(photo(fmt.Sprint(i), "b"))
	}
	until(t, "all are pushed", func() bool { return len(sub.ids()) == 5 })
	if got := sub.ids(); !slices.IsSorted(got) {
		t.Errorf("in the order %v", got)
	}
	list, err := n.events.Triggers(context.Background(), home)
	if err != nil || len(list) != 1 || list[0].LastError == "" {
		t.Fatalf("%+v %v", list, err)
	}
	n.restart(opts)
	n.emit(photo("last", "b"))
	until(t, "the last is pushed", func() bool { ids := sub.ids(); return ids[len(ids)-1] == "last" })
	sub.mu.Lock()
	sub.fail = 100
	sub.mu.Unlock()
	n.emit(photo("lost", "b"))
	until(t, "it is given up", func() bool {
		list, _ := n.events.Triggers(context.Background(), home)
		return list[0].Failures == 1 && list[0].State == "failing" && list[0].Lag == 0
	})
}

func TestMetadataAddressesAreRefused(t *testing.T) {
	n := start(t, event.Options{})
	for _, url := range []string{"http://169.254.169.254/latest", "https://[fd00:ec2::254]:8443/"} {
		_, err := n.events.Map(t.Context(), mayfly.EventMapping{Space: home, URL: url, Type: "*"})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "is not an address that a callback may go to") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestReplayAndTail(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w"})
	n.deploy(mayfly.Workload{Name: "v"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded"})
	n.emit(photo("a", "x"), photo("b", "x"), photo("c", "x"))
	until(t, "all are tasks", func() bool { return len(n.tasks("w")) == 3 })
	m := n.mapTo(mayfly.EventMapping{Workload: "v", Type: "photo.uploaded"}) // later than the events
	tail, err := n.events.Tail(mayfly.EventMapping{Space: home})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	ctx := context.Background()
	if done, err := n.events.Replay(ctx, event.Replay{Space: home, From: "b", Map: "v"}); err != nil || done.Events != 2 {
		t.Fatalf("%+v %v", done, err)
	}
	until(t, "b and c are replayed", func() bool { return slices.Equal(n.tasks("v"), []string{"b", "c"}) })
	if got := n.tasks("w"); len(got) != 3 {
		t.Errorf("the other mapping got %v", got)
	}
	if done, err := n.events.Replay(ctx, event.Replay{Space: home, ID: "a"}); err != nil || done.Events != 1 {
		t.Fatalf("%+v %v", done, err)
	}
	until(t, "a is replayed to both", func() bool {
		return slices.Equal(n.tasks("v"), []string{"a", "b", "c"}) && slices.Equal(n.tasks("w"), []string{"a", "a", "b", "c"})
	})
	var seen []string
	for len(seen) < 3 {
		list, _, err := tail.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			seen = append(seen, a.Event.ID)
		}
	}
	list, _, err := n.events.List(ctx, event.Filter{Space: home})
	if err != nil || len(list) != 3 || list[0].Event.ID != "c" {
		t.Errorf("%v %v", list, err)
	}
	if _, err := n.events.Replay(ctx, event.Replay{Space: home, ID: "a", From: "b"}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Error(err)
	}
	if _, err := n.events.Replay(ctx, event.Replay{Space: home, Since: time.Now().Add(-time.Hour), Map: m.ID}); err != nil {
		t.Error(err)
	}
}

func TestUnmap(t *testing.T) {
	n := start(t, event.Options{})
	ctx := context.Background()
	n.deploy(mayfly.Workload{Name: "w", Events: []mayfly.EventMapping{{Type: "said.here"}}})
	first := n.mapTo(mayfly.EventMapping{Workload: "w", Type: "a", Concurrency: 1})
	if again := n.mapTo(mayfly.EventMapping{Workload: "w", Type: "a", Concurrency: 2}); again.ID != first.ID {
		t.Error("the same mapping is another one")
	}
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "b", OrderBy: "subject"})
	if k, err := n.events.Unmap(ctx, home, "w", "a"); k != 1 || err != nil {
		t.Error(k, err)
	}
	for target, kind := range map[string]mayfly.Kind{"w said.here": mayfly.Conflict, "w a": mayfly.NotFound, "x": mayfly.NotFound} {
		name, eventType, _ := strings.Cut(target, " ")
		if _, err := n.events.Unmap(ctx, home, name, eventType); mayfly.KindOf(err) != kind {
			t.Error(target, err)
		}
	}
	if err := n.events.Forget(ctx, home, "w"); err != nil {
		t.Error(err)
	}
	list, err := n.events.Triggers(ctx, home)
	if err != nil || len(list) != 1 || !list[0].Manifest {
		t.Errorf("%+v %v", list, err)
	}
	for _, bad := range []mayfly.EventMapping{
		{Workload: "w"}, {Workload: "w", Type: "a*b"}, {Type: "a"}, {Workload: "w", URL: "http://x", Type: "a"}, {URL: "ftp://x", Type: "a"},
		{Workload: "w", Type: "a", SQL: "a = "}, {Workload: "w", Type: "a", Filter: map[string]string{"": "x"}}, {Workload: "w", Type: "a", OrderBy: "a b"},
	} {
		bad.Space = home
		if _, err := n.events.Map(ctx, bad); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := n.events.Map(ctx, mayfly.EventMapping{Space: home, Workload: "nobody", Type: "a"}); mayfly.KindOf(err) != mayfly.NotFound {
		t.Error(err)
	}
}

func TestPlatformEventsAreMadeWhereWanted(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "*"}) // which none of the platform's are
	n.store.RecordNews(mayfly.News{Space: home, Type: "volume.created", Subject: "data"})
	n.deploy(mayfly.Workload{Name: "v"})
	n.mapTo(mayfly.EventMapping{Workload: "v", Type: "mayfly.service.*"})
	n.mapTo(mayfly.EventMapping{Workload: "v", Type: "mayfly.task.*"})
	n.store.RecordNews(mayfly.News{Space: home, Type: "service.crashed", Subject: "web"})
	g := n.next()
	if h := g.Task.Request.Header; g.Task.Workload != "v" || h["Ce-Type"] != "mayfly.service.crashed" || h["Ce-Subject"] != "web" {
		t.Fatalf("%v", h)
	}
	n.done(g, mayfly.Succeeded) // of which nobody is told
	if got := n.queue.Submit(context.Background(), []mayfly.Submission{{Workload: "w"}})[0]; got.Err != nil {
		t.Fatal(got.Err)
	}
	n.done(n.next(), mayfly.Succeeded)
	g = n.next()
	if h := g.Task.Request.Header; h["Ce-Type"] != "mayfly.task.succeeded" {
		t.Fatalf("%v", h)
	}
	if list, _, err := n.events.List(context.Background(), event.Filter{Space: home, Type: "mayfly.volume.*"}); err != nil || len(list) > 0 {
		t.Errorf("nobody wants %+v, %v", list, err)
	}
	if _, err := n.events.Emit(context.Background(), home, []mayfly.Event{{ID: "1", Source: "x", Type: "mayfly.task.succeeded"}}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Error(err)
	}
}

// What happens while a start still looks what is there is told of too.
func TestNewsBeforeRunIsTold(t *testing.T) {
	n := start(t, event.Options{})
	n.deploy(mayfly.Workload{Name: "v"})
	n.mapTo(mayfly.EventMapping{Workload: "v", Type: "mayfly.service.*"})
	n.store.RecordNews(mayfly.News{Space: home, Type: "service.ready", Subject: "before"})
	n.done(n.next(), mayfly.Succeeded)
	n.close()
	n.load(event.Options{})
	n.store.RecordNews(mayfly.News{Space: home, Type: "service.crashed", Subject: "web"})
	n.run()
	if h := n.next().Task.Request.Header; h["Ce-Type"] != "mayfly.service.crashed" || h["Ce-Subject"] != "web" {
		t.Errorf("%v", h)
	}
}

func TestReturned(t *testing.T) {
	n := start(t, event.Options{MaxHops: 3})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "loop"})
	n.emit(mayfly.Event{ID: "1", Source: "/x", Type: "loop"})
	runs := 0
	for ; runs < 3; runs++ {
		g := n.next()
		for range 2 { // the second time as after a crash
			if err := n.events.Returned(context.Background(), &g.Task, nil, []byte(`{"specversion": "1.0", "type": "loop", "data": {"n": 1}}`)); err != nil {
				t.Fatal(err)
			}
		}
		n.done(g, mayfly.Succeeded)
	}
	until(t, "three are tasks", func() bool { return len(n.tasks("w")) == 3 })
	list, _, err := n.events.List(context.Background(), event.Filter{Space: home})
	if err != nil || len(list) != 3 {
		t.Fatalf("%d events, %v", len(list), err)
	}
	if ev := list[0].Event; ev.Source != "/mayfly/default/w" || ev.Extensions[mayfly.HopsAttribute] != "3" || ev.ID == "" || ev.Time.IsZero() {
		t.Errorf("%+v", ev)
	}
	task := mayfly.Task{ID: mayfly.NewID(), Space: home, Workload: "w"}
	for name, c := range map[string]struct {
		header http.Header
		body   string
		want   int
	}{
		"batch":      {http.Header{"Content-Type": {event.ContentBatch}}, `[{"specversion":"1.0","type":"a"},{"specversion":"1.0","type":"b"}]`, 2},
		"binary":     {http.Header{"Ce-Specversion": {"1.0"}, "Ce-Type": {"a"}, "Content-Type": {"text/plain"}}, `hello`, 1},
		"array":      {nil, `[{"specversion":"1.0","type":"a"}]`, 1},
		"no event":   {nil, `{"type":"a"}`, 0},
		"text":       {http.Header{"Content-Type": {"text/plain"}}, `{"specversion":"1.0","type":"a"}`, 0},
		"bad":        {nil, `{"specversion":"2.0","type":"a"}`, 0},
		"no type":    {nil, `{"specversion":"1.0"}`, 0},
		"platform's": {nil, `{"specversion":"1.0","type":"mayfly.x"}`, 0},
		"nothing":    {nil, ``, 0},
	} {
		task.ID = mayfly.NewID()
		before, _, _ := n.events.List(context.Background(), event.Filter{Space: home, Limit: 1000})
		if err := n.events.Returned(context.Background(), &task, c.header, []byte(c.body)); err != nil {
			t.Error(name, err)
		}
		after, _, _ := n.events.List(context.Background(), event.Filter{Space: home, Limit: 1000})
		if got := len(after) - len(before); got != c.want {
			t.Errorf("%s: %d events", name, got)
		}
	}
}

func TestKeep(t *testing.T) {
	n := start(t, event.Options{KeepAge: time.Nanosecond})
	n.deploy(mayfly.Workload{Name: "w"})
	n.mapTo(mayfly.EventMapping{Workload: "w", Type: "photo.uploaded"})
	n.emit(photo("a", "b"))
	until(t, "it is a task", func() bool { return len(n.tasks("w")) == 1 })
	n.restart(event.Options{KeepAge: time.Nanosecond}) // which looks at once
	until(t, "it is dropped", func() bool {
		list, _, err := n.events.List(context.Background(), event.Filter{Space: home})
		return err == nil && len(list) == 0
	})
	n.emit(photo("a", "b")) // which is not known any more
	until(t, "it is a task again, under the same key", func() bool { return len(n.tasks("w")) == 1 })
}

func TestOwnFiles(t *testing.T) {
	n := start(t, event.Options{})
	v := mayfly.Volume{Space: home, Name: "photos", Events: mayfly.VolumeEvents{Type: "photo.came"}}
	if _, err := n.store.Volumes.Put(context.Background(), home, v.Name, v, 0); err != nil {
		t.Fatal(err)
	}
	writes, reads := []mayfly.VolumeMount{{Volume: "photos", Target: "/a"}}, []mayfly.VolumeMount{{Volume: "photos", Target: "/a", ReadOnly: true}}
	for _, c := range []struct {
		mounts []mayfly.VolumeMount
		m      mayfly.EventMapping
		loops  bool
	}{
		{writes, mayfly.EventMapping{Type: "photo.*"}, true},
		{writes, mayfly.EventMapping{Type: "photo.came", Source: "/volumes/photos"}, true},
		{writes, mayfly.EventMapping{Type: "photo.came", Source: "/volumes/other"}, false},
		{writes, mayfly.EventMapping{Type: "photo.came", SQL: "subject LIKE 'in/%'"}, false},
		{writes, mayfly.EventMapping{Type: "order.*"}, false},
		{reads, mayfly.EventMapping{Type: "photo.*"}, false},
		{[]mayfly.VolumeMount{{Volume: "made", Target: "/a"}}, mayfly.EventMapping{Type: "photo.*"}, false},
	} {
		w := mayfly.Workload{Space: home, Name: "w", Volumes: c.mounts, Events: []mayfly.EventMapping{c.m}}
		if got := n.events.OwnFiles(w); len(got) > 0 != c.loops {
			t.Errorf("%+v: %v", c, got)
		}
	}
	n.deploy(mayfly.Workload{Name: "late", Volumes: writes})
	n.mapTo(mayfly.EventMapping{Workload: "late", Type: "photo.came"})
	until(t, "it is news", func() bool {
		news, _ := n.store.News(store.NewsFilter{Space: home, Subject: "late", Type: "function.loops"}, 10)
		return len(news) == 1
	})
}
