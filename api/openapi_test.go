package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

type document struct {
	OpenAPI    string `json:"openapi"`
	Paths      map[string]map[string]documented
	Components struct{ Schemas map[string]any }
}

type documented struct {
	OperationID string `json:"operationId"`
	Summary     string
	Parameters  []struct {
		Name, In string
		Required bool
	}
	Responses map[string]any
}

func readDocument(t *testing.T) (doc document, plain any) {
	t.Helper()
	up := serve(t, &stub{})
	resp, err := http.Get(up.tcp + "/v1/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	return doc, plain
}

var pathParam = regexp.MustCompile(`\{([^}]*)\}`)

func TestDocumentIsSound(t *testing.T) {
	doc, plain := readDocument(t)
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") || len(doc.Paths) < 20 {
		t.Errorf("OpenAPI %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	ids := map[string]string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			at := method + " " + path
			if other, ok := ids[op.OperationID]; ok || op.OperationID == "" {
				t.Errorf("%s: the id %q is that of %s too", at, op.OperationID, other)
			}
			ids[op.OperationID] = at
			if op.Summary == "" || len(op.Responses) < 2 || op.Responses["default"] == nil {
				t.Errorf("%s: no summary, or not both an answer and a problem", at)
			}
			var want, got []string
			for _, m := range pathParam.FindAllStringSubmatch(path, -1) {
				want = append(want, m[1])
			}
			for _, p := range op.Parameters {
				if p.In == "path" {
					got = append(got, p.Name)
					if !p.Required {
						t.Errorf("%s: the path's %s is not required", at, p.Name)
					}
				}
			}
			if slices.Sort(want); !slices.Equal(want, slices.Sorted(slices.Values(got))) {
				t.Errorf("%s: describes %q", at, got)
			}
		}
	}
	checkRefs(t, doc, plain)
	for name := range doc.Components.Schemas {
		if strings.HasPrefix(name, "Error") {
			t.Errorf("schema %s is not ours", name)
		}
	}
}

// checkRefs follows every reference within the document.
func checkRefs(t *testing.T, doc document, v any) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			name, ours := strings.CutPrefix(ref, "#/components/schemas/")
			if _, there := doc.Components.Schemas[name]; !ours || !there {
				t.Errorf("%s leads nowhere", ref)
			}
		}
		for _, w := range v {
			checkRefs(t, doc, w)
		}
	case []any:
		for _, w := range v {
			checkRefs(t, doc, w)
		}
	}
}

// recorder answers everything with an empty object and remembers what it was
// asked.
type recorder struct {
	mu   sync.Mutex
	last *http.Request
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = req
	w.WriteHeader(http.StatusTeapot)
}

// Every method of the client makes a request that the document describes, with
// no parameter that it does not know, and every operation has its method.
func TestClientFollowsTheDocument(t *testing.T) {
	rec := &recorder{}
	srv := httptest.NewServer(rec)
	defer srv.Close()
	c, err := client.New(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, none := t.Context(), strings.NewReader("")
	opts := mayfly.LogOptions{Since: time.Now()}
	entry := func(mayfly.LogEntry) error { return nil }
	filter := client.EndpointFilter{Service: "a", Role: "b", Port: "c", Tags: map[string]mayfly.Match{"d": {Value: "e"}, "f": {Pattern: "g"}}}
	calls := map[string]func(){
		"AddEndpoint":       func() { c.AddEndpoint(ctx, client.EndpointRequest{}) },
		"PutEndpoint":       func() { c.PutEndpoint(ctx, client.EndpointRequest{Name: "x"}) },
		"AddOwnEndpoint":    func() { c.AddOwnEndpoint(ctx, client.EndpointRequest{}) },
		"RemoveOwnEndpoint": func() { c.RemoveOwnEndpoint(ctx, "x") },
		"OwnHeartbeat":      func() { c.OwnHeartbeat(ctx, "x") },
		"ListEndpoints":     func() { c.ListEndpoints(ctx, filter) },
		"GetEndpoint":       func() { c.GetEndpoint(ctx, "x") },
		"RemoveEndpoint":    func() { c.RemoveEndpoint(ctx, "x") },
		"Heartbeat":         func() { c.Heartbeat(ctx, "x") },
		"PollEndpoints":     func() { c.PollEndpoints(ctx, filter, "r", time.Second) },
		"WatchEndpoints":    func() { c.WatchEndpoints(ctx, filter, nil) },
		"Forward":           func() { c.Forward(ctx, filter) },

		"CreateInstance": func() { c.CreateInstance(ctx, mayfly.InstanceSpec{}, "k") },
		"StartInstance":  func() { c.StartInstance(ctx, "x") },
		"ListInstances":  func() { c.ListInstances(ctx, true) },
		"GetInstance":    func() { c.GetInstance(ctx, "x") },
		"StopInstance":   func() { c.StopInstance(ctx, "x", 0) },
		"KillInstance":   func() { c.KillInstance(ctx, "x", 9) },
		"WaitInstance":   func() { c.WaitInstance(ctx, "x") },
		"RemoveInstance": func() { c.RemoveInstance(ctx, "x", true) },
		"InstanceStats":  func() { c.InstanceStats(ctx, "x") },
		"InstanceLogs":   func() { c.InstanceLogs(ctx, "x", opts, entry) },
		"Attach":         func() { c.Attach(ctx, "x", true) },
		"Exec":           func() { c.Exec(ctx, "x", mayfly.ExecSpec{Command: []string{"a"}}) },
		"ReadFiles":      func() { c.ReadFiles(ctx, "x", "/a") },
		"WriteFiles": func() {
			c.WriteFiles(ctx, "x", "/a", strings.NewReader("x"), client.CopyOptions{Keep: true, Into: true})
		},
		"ListImages":     func() { c.ListImages(ctx) },
		"GetImage":       func() { c.GetImage(ctx, "a/b:c") },
		"PullImage":      func() { c.PullImage(ctx, client.Transfer{}, nil) },
		"PushImage":      func() { c.PushImage(ctx, client.Transfer{}, nil) },
		"ImportImage":    func() { c.ImportImage(ctx, "x", none, 0) },
		"TagImage":       func() { c.TagImage(ctx, "x", "y") },
		"RemoveImage":    func() { c.RemoveImage(ctx, "x", true) },
		"PruneImages":    func() { c.PruneImages(ctx, true) },
		"ImageUsage":     func() { c.ImageUsage(ctx) },
		"ListStacks":     func() { c.ListStacks(ctx) },
		"GetStack":       func() { c.GetStack(ctx, "x") },
		"MakeStack":      func() { c.MakeStack(ctx, client.NewStack{Name: "x"}, nil) },
		"BuildStack":     func() { c.BuildStack(ctx, "x", true, nil) },
		"Deploy":         func() { c.Deploy(ctx, mayfly.Workload{}, "k", nil) },
		"Releases":       func() { c.Releases(ctx, "x") },
		"Rollback":       func() { c.Rollback(ctx, "x", 1, nil) },
		"Diff":           func() { c.Diff(ctx, "x", 1, 2) },
		"Plan":           func() { c.Plan(ctx, client.PlanRequest{}) },
		"PutCode":        func() { c.PutCode(ctx, none) },
		"HasCode":        func() { c.HasCode(ctx, "sha256:there") },
		"ListWorkloads":  func() { c.ListWorkloads(ctx) },
		"GetWorkload":    func() { c.GetWorkload(ctx, "x") },
		"DeleteWorkload": func() { c.DeleteWorkload(ctx, "x") },
		"Call": func() {
			if resp, err := c.Call(ctx, "x", client.Call{}); err == nil {
				resp.Body.Close()
			}
		},
		"ListRuns":        func() { c.ListRuns(ctx, "x", 5) },
		"GetRun":          func() { c.GetRun(ctx, "x") },
		"RunLogs":         func() { c.RunLogs(ctx, "x", opts, entry) },
		"Submit":          func() { c.Submit(ctx, mayfly.Submission{}) },
		"SubmitAll":       func() { c.SubmitAll(ctx, []mayfly.Submission{{}, {}}) },
		"PutPayload":      func() { c.PutPayload(ctx, none) },
		"SubmitFrom":      func() { c.SubmitFrom(ctx, mayfly.Submission{}, none) },
		"OpenTaskPayload": func() { c.OpenTaskPayload(ctx, "x") },
		"SubmitRaw": func() {
			c.SubmitRaw(ctx, client.RawTask{Workload: "x", Priority: 1, Delay: 1, Timeout: 1, Retries: 1, Key: "k", Labels: map[string]string{"a": "b"}, Callback: "c"}, none)
		},
		"GetTask": func() { c.GetTask(ctx, "x") },
		"ListTasks": func() {
			c.ListTasks(ctx, client.TaskFilter{Workload: "x", States: []mayfly.TaskState{"a", "b"}, Labels: map[string]string{"a": "b"}, Since: time.Now(), Until: time.Now()})
		},
		"WaitTask":       func() { c.WaitTask(ctx, "x") },
		"WatchTask":      func() { c.WatchTask(ctx, "x", nil) },
		"TaskResult":     func() { c.TaskResult(ctx, "x") },
		"TaskPayload":    func() { c.TaskPayload(ctx, "x") },
		"TaskLogs":       func() { c.TaskLogs(ctx, "x", 2, opts, entry) },
		"CancelTask":     func() { c.CancelTask(ctx, "x") },
		"RetryTask":      func() { c.RetryTask(ctx, "x") },
		"PurgeTask":      func() { c.PurgeTask(ctx, "x") },
		"RetryDead":      func() { c.RetryDead(ctx, client.DeadTasks{}, nil) },
		"PurgeDead":      func() { c.PurgeDead(ctx, client.DeadTasks{}, nil) },
		"Self":           func() { c.Self(ctx) },
		"Progress":       func() { c.Progress(ctx, 1, "x") },
		"TaskProgress":   func() { c.TaskProgress(ctx, "x", client.ProgressRequest{}) },
		"PauseQueue":     func() { c.PauseQueue(ctx, "x") },
		"ResumeQueue":    func() { c.ResumeQueue(ctx, "x") },
		"CallbackSecret": func() { c.CallbackSecret(ctx) },
		"GetQueue":       func() { c.GetQueue(ctx, "x") },
		"Run":            func() { c.Run(ctx, "x", nil, client.RunOptions{}) },
		"RunDetached":    func() { c.RunDetached(ctx, "x", nil, client.RunOptions{}) },
		"AddSchedule":    func() { c.AddSchedule(ctx, mayfly.Schedule{Name: "x"}) },
		"PutSchedule":    func() { c.PutSchedule(ctx, mayfly.Schedule{Name: "x"}) },
		"GetSchedule":    func() { c.GetSchedule(ctx, "x", 5) },
		"ListSchedules":  func() { c.ListSchedules(ctx) },
		"RemoveSchedule": func() { c.RemoveSchedule(ctx, "x") },
		"PauseSchedule":  func() { c.PauseSchedule(ctx, "x") },
		"ResumeSchedule": func() { c.ResumeSchedule(ctx, "x") },
		"RunSchedule":    func() { c.RunSchedule(ctx, "x") },
		"MapRoute":       func() { c.MapRoute(ctx, "x", mayfly.Route{Path: "/a"}) },
		"UnmapRoute":     func() { c.UnmapRoute(ctx, "x", mayfly.Route{Path: "/a", Release: 1}) },
		"UnmapRoutes":    func() { c.UnmapRoutes(ctx, "x") },
		"ListRoutes":     func() { c.ListRoutes(ctx, "x") },
		"Emit":           func() { c.Emit(ctx, mayfly.Event{}) },
		"ListEvents": func() {
			c.ListEvents(ctx, client.EventFilter{Type: "a", Source: "b", ID: "c", Filter: map[string]string{"d": "e"}, SQL: "f", Since: time.Now(), Until: time.Now(), Replays: true})
		},
		"GetEvent":         func() { c.GetEvent(ctx, "x") },
		"TailEvents":       func() { c.TailEvents(ctx, client.EventFilter{Filter: map[string]string{"d": "e"}}, nil) },
		"ReplayEvents":     func() { c.ReplayEvents(ctx, client.Replay{ID: "x"}) },
		"MapEvent":         func() { c.MapEvent(ctx, mayfly.EventMapping{}) },
		"UnmapEvent":       func() { c.UnmapEvent(ctx, "x", "y") },
		"Triggers":         func() { c.Triggers(ctx) },
		"ListServices":     func() { c.ListServices(ctx) },
		"GetService":       func() { c.GetService(ctx, "x") },
		"WatchService":     func() { c.WatchService(ctx, "x", nil) },
		"WatchServices":    func() { c.WatchServices(ctx, nil) },
		"ScaleService":     func() { c.ScaleService(ctx, "x", nil) },
		"Load":             func() { c.Load(ctx, "x") },
		"RestartService":   func() { c.RestartService(ctx, "x") },
		"RollbackService":  func() { c.RollbackService(ctx, "x", 2) },
		"ServiceReleases":  func() { c.ServiceReleases(ctx, "x") },
		"Graph":            func() { c.Graph(ctx) },
		"Why":              func() { c.Why(ctx, "x") },
		"ListNews":         func() { c.ListNews(ctx, client.NewsFilter{Subject: "x", Type: "y", Since: time.Now(), Limit: 5}) },
		"WatchNews":        func() { c.WatchNews(ctx, client.NewsFilter{Limit: -1}, nil) },
		"CreateVolume":     func() { c.CreateVolume(ctx, mayfly.Volume{Name: "x"}) },
		"PutVolume":        func() { c.PutVolume(ctx, mayfly.Volume{Name: "x"}) },
		"ListVolumes":      func() { c.ListVolumes(ctx) },
		"GetVolume":        func() { c.GetVolume(ctx, "x") },
		"RemoveVolume":     func() { c.RemoveVolume(ctx, "x", true) },
		"SnapshotVolume":   func() { c.SnapshotVolume(ctx, "x", "y") },
		"RemoveSnapshot":   func() { c.RemoveSnapshot(ctx, "x", "y") },
		"RestoreVolume":    func() { c.RestoreVolume(ctx, "x", "y") },
		"CloneVolume":      func() { c.CloneVolume(ctx, "x", "y", "z") },
		"ReadVolumeFiles":  func() { c.ReadVolumeFiles(ctx, "x", "/a") },
		"WriteVolumeFiles": func() { c.WriteVolumeFiles(ctx, "x", "/a", none, client.CopyOptions{Keep: true, Into: true}) },
		"PutSecret":        func() { c.PutSecret(ctx, "x", []byte("y")) },
		"ListSecrets":      func() { c.ListSecrets(ctx) },
		"RemoveSecret":     func() { c.RemoveSecret(ctx, "x", true) },
		"PutConfig":        func() { c.PutConfig(ctx, "x", []byte("y")) },
		"SwapConfig":       func() { c.SwapConfig(ctx, "x", []byte("y"), 3) },
		"GetConfig":        func() { c.GetConfig(ctx, "x", 2) },
		"ListConfigs":      func() { c.ListConfigs(ctx) },
		"ConfigHistory":    func() { c.ConfigHistory(ctx, "x") },
		"RemoveConfig":     func() { c.RemoveConfig(ctx, "x", true) },
		"Version":          func() { c.Version(ctx) },
		"Down":             func() { c.Down(ctx, nil) },
	}
	doc, _ := readDocument(t)
	unused := map[string]bool{}
	for path, methods := range doc.Paths {
		for method := range methods {
			if !strings.Contains(path, "/call") {
				unused[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		rec.last = nil
		if calls[name](); rec.last == nil {
			t.Errorf("%s asked for nothing", name)
			continue
		}
		route, err := doc.match(rec.last)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		delete(unused, route)
	}
	for route := range unused {
		t.Errorf("no method of the client calls %s", route)
	}
	local := []string{"Host", "Space", "WithSpace", "Close"} // ask for nothing
	for i := range reflect.TypeOf(c).NumMethod() {
		if name := reflect.TypeOf(c).Method(i).Name; calls[name] == nil && !slices.Contains(local, name) {
			t.Errorf("the method %s is not in this test", name)
		}
	}
}

// match returns the operation that describes a request: of several, the one
// with the fewest parameters in its path.
func (d document) match(r *http.Request) (string, error) {
	params := func(path string) int { return strings.Count(path, "{") }
	for _, path := range slices.SortedFunc(maps.Keys(d.Paths), func(a, b string) int { return params(a) - params(b) }) {
		methods := d.Paths[path]
		pattern := "^" + pathParam.ReplaceAllLiteralString(path, "[^/]*") + "$" // nothing else in a path is special
		if !regexp.MustCompile(pattern).MatchString(r.URL.EscapedPath()) {
			continue
		}
		op, ok := methods[strings.ToLower(r.Method)]
		if !ok {
			continue
		}
		for name := range r.URL.Query() {
			if !slices.ContainsFunc(op.Parameters, func(p struct {
				Name, In string
				Required bool
			}) bool {
				return p.In == "query" && p.Name == name
			}) {
				return "", fmt.Errorf("%s %s has no parameter %s", r.Method, path, name)
			}
		}
		return r.Method + " " + path, nil
	}
	return "", fmt.Errorf("no operation %s %s", r.Method, r.URL.Path)
}

func TestDocsPageNeedsNobodyElse(t *testing.T) {
	up := serve(t, &stub{})
	resp, err := http.Get(up.tcp + "/v1/docs")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?(https?:)?//`).Match(text) {
		t.Errorf("%d, or it loads from outside", resp.StatusCode)
	}
}
