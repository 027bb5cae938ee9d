package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/api"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stub answers what the wire form needs to be shown, and is no platform: each
// test sets the functions that it is about.
type stub struct {
	api.Instances
	api.Workloads
	api.Images
	api.Stacks

	create func(mayfly.InstanceSpec) (mayfly.Instance, error)
	list   []mayfly.Instance
	get    func(space, ref string) (mayfly.Instance, error)
	kill   func(syscall.Signal) error
	wait   func(context.Context) (mayfly.Instance, error)
	attach func(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, ready func()) error
	exec   func(ctx context.Context, ref string, spec mayfly.ExecSpec, stdin io.Reader, stdout io.Writer, ready func()) (mayfly.Exit, error)
	files  *files
	logs   func(ctx context.Context, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error
	deploy func(mayfly.Workload, func(string)) (mayfly.Release, error)
	call   http.HandlerFunc
	runs   []mayfly.Run
	code   func(io.Reader) (string, error)
	image  func(name string) (client.Image, error)
	pull   func(context.Context, client.Transfer, func(client.Progress)) (client.Image, error)
	stop   func(context.Context, func(string)) error
}

func (s *stub) CreateInstance(_ context.Context, spec mayfly.InstanceSpec) (mayfly.Instance, error) {
	return s.create(spec)
}
func (s *stub) ListInstances(context.Context, string, bool) ([]mayfly.Instance, error) {
	return s.list, nil
}
func (s *stub) GetInstance(_ context.Context, space, ref string) (mayfly.Instance, error) {
	if s.get == nil {
		return mayfly.Instance{ID: ref, Space: space}, nil
	}
	return s.get(space, ref)
}
func (s *stub) KillInstance(_ context.Context, _, _ string, signal syscall.Signal) error {
	return s.kill(signal)
}
func (s *stub) WaitInstance(ctx context.Context, _, _ string) (mayfly.Instance, error) {
	return s.wait(ctx)
}
func (s *stub) ReadFiles(ctx context.Context, space, ref, path string, w io.Writer) error {
	return s.files.ReadFiles(ctx, space, ref, path, w)
}
func (s *stub) WriteFiles(ctx context.Context, space, ref, path string, r io.Reader, o client.CopyOptions) (tree.Report, error) {
	return s.files.WriteFiles(ctx, space, ref, path, r, o)
}
func (s *stub) ExecInstance(ctx context.Context, _, ref string, spec mayfly.ExecSpec, stdin io.Reader, stdout, stderr io.Writer, ready func()) (mayfly.Exit, error) {
	return s.exec(ctx, ref, spec, stdin, stdout, ready)
}

func (s *stub) AttachInstance(ctx context.Context, _, _ string, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
	return s.attach(ctx, stdin, stdout, stderr, ready)
}
func (s *stub) InstanceLogs(ctx context.Context, _, _ string, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
	return s.logs(ctx, opts, each)
}
func (s *stub) Deploy(_ context.Context, w mayfly.Workload, progress func(string)) (mayfly.Release, error) {
	return s.deploy(w, progress)
}
func (s *stub) WorkloadReleases(_ context.Context, space, name string) ([]mayfly.ServiceRelease, error) {
	return []mayfly.ServiceRelease{{Release: mayfly.Release{Number: 2, Workload: mayfly.Workload{Space: space, Name: name}}, Wanted: true}}, nil
}

func (s *stub) RollbackWorkload(_ context.Context, space, name string, release int, progress func(string)) (mayfly.Release, error) {
	progress("back")
	return mayfly.Release{Number: release, Workload: mayfly.Workload{Space: space, Name: name}}, nil
}

func (s *stub) DiffReleases(_ context.Context, space, name string, from, to int) (mayfly.ReleaseDiff, error) {
	return mayfly.ReleaseDiff{From: from, To: to, Settings: []mayfly.SettingDiff{}, Files: []mayfly.FileDiff{}}, nil
}

func (s *stub) Plan(_ context.Context, space, app string, list []mayfly.Workload) (mayfly.Plan, error) {
	plan := mayfly.Plan{Others: []string{app}}
	for _, w := range list {
		plan.Workloads = append(plan.Workloads, mayfly.Planned{Name: w.Space + "/" + w.Name, Change: mayfly.PlanNone})
	}
	return plan, nil
}
func (s *stub) ServeCall(w http.ResponseWriter, r *http.Request, to client.Callee) {
	w.Header().Set("X-Called", to.Space+"/"+to.Workload)
	s.call(w, r)
}
func (s *stub) ListRuns(_ context.Context, _, _ string, limit int, before string) ([]mayfly.Run, error) {
	var some []mayfly.Run
	for _, r := range s.runs {
		if (before == "" || r.ID < before) && len(some) < limit {
			some = append(some, r)
		}
	}
	return some, nil
}
func (s *stub) FindCode(_ context.Context, digest string) error {
	if digest == "sha256:there" {
		return nil
	}
	return mayfly.Errorf(mayfly.NotFound, "the code %s was not uploaded", digest)
}

func (s *stub) PutCode(_ context.Context, r io.Reader) (string, error) { return s.code(r) }
func (s *stub) GetImage(_ context.Context, name string) (client.Image, error) {
	return s.image(name)
}
func (s *stub) PullImage(ctx context.Context, t client.Transfer, report func(client.Progress)) (client.Image, error) {
	return s.pull(ctx, t, report)
}
func (s *stub) StopAll(ctx context.Context, progress func(string)) error {
	return s.stop(ctx, progress)
}

// server is a real one on a unix socket and on TCP.
type server struct {
	*api.Server
	socket, tcp string
	stop        func() error
	client      *client.Client
}

func serve(t *testing.T, s *stub) *server {
	t.Helper()
	return serveAll(t, api.Services{Instances: s, Workloads: s, Images: s, Stacks: s, Machine: s},
		api.Options{Version: "1.2.3", Node: "here", Driver: "native", MaxCode: 8 << 20})
}

func serveAll(t testing.TB, services api.Services, opts api.Options) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	opts.Stop = cancel
	srv, err := api.Open([]string{"unix://" + filepath.Join(t.TempDir(), "api.sock"), "http://127.0.0.1:0"}, services, opts)
	if err != nil {
		t.Fatal(err)
	}
	finished := make(chan error, 1)
	go func() { finished <- srv.Run(ctx) }()
	var once sync.Once
	var result error
	up := &server{Server: srv, socket: srv.Addresses()[0], tcp: srv.Addresses()[1], stop: func() error {
		once.Do(func() {
			cancel()
			result = <-finished
			srv.Close()
		})
		return result
	}}
	if up.client, err = client.New(up.socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		up.client.Close()
		if err := up.stop(); err != nil {
			t.Errorf("server ended with: %v", err)
		}
	})
	return up
}

func TestErrorsKeepTheirKind(t *testing.T) {
	for _, kind := range []mayfly.Kind{
		mayfly.Invalid, mayfly.Denied, mayfly.NotFound, mayfly.Conflict, mayfly.TooLarge,
		mayfly.Busy, mayfly.Failed, mayfly.Unavailable, mayfly.TimedOut, mayfly.Internal,
	} {
		t.Run(string(kind), func(t *testing.T) {
			cause := mayfly.Errorf(kind, "no room in %s", "here").WithHint("wait")
			up := serve(t, &stub{
				get:  func(string, string) (mayfly.Instance, error) { return mayfly.Instance{}, cause },
				wait: func(context.Context) (mayfly.Instance, error) { return mayfly.Instance{}, cause },
			})
			check := func(what string, err error) {
				t.Helper()
				var e *mayfly.Error
				if !errors.As(err, &e) || e.Kind != kind || e.Text != "no room in here" || e.Hint != "wait" {
					t.Errorf("%s: got %#v", what, err)
				}
			}
			_, err := up.client.GetInstance(t.Context(), "x")
			check("answer", err)
			_, err = up.client.WaitInstance(t.Context(), "x")
			check("stream", err)
			_, err = up.client.Attach(t.Context(), "x", false)
			check("attach", err)

			resp, err := http.Get(up.tcp + "/v1/instances/x")
			if err != nil {
				t.Fatal(err)
			}
			defer http.DefaultClient.CloseIdleConnections()
			defer resp.Body.Close()
			if resp.StatusCode != kind.Status() || resp.Header.Get("Content-Type") != client.ContentProblem {
				t.Errorf("got %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
			}
		})
	}
}

func TestPlainErrorsAreInternal(t *testing.T) {
	up := serve(t, &stub{get: func(string, string) (mayfly.Instance, error) { return mayfly.Instance{}, errors.New("disk on fire") }})
	_, err := up.client.GetInstance(t.Context(), "x")
	if mayfly.KindOf(err) != mayfly.Internal || err.Error() != "disk on fire" {
		t.Errorf("got %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	up := serve(t, &stub{
		create: func(mayfly.InstanceSpec) (mayfly.Instance, error) { return mayfly.Instance{}, nil },
		code:   func(r io.Reader) (string, error) { _, err := io.Copy(io.Discard, r); return "", err },
	})
	cases := []struct {
		name, method, path, body string
		header                   http.Header
		status                   int
		want                     string
	}{
		{"no such operation", "GET", "/v1/things", "", nil, 404, "no operation GET /v1/things"},
		{"another method", "PATCH", "/v1/instances", "", nil, 404, "no operation PATCH"},
		{"a bad space", "GET", "/v1/instances?space=A%20B", "", nil, 400, `space "A B" is not a valid name`},
		{"an unknown parameter", "GET", "/v1/instances?alle=1", "", nil, 400, "query.alle: unknown query parameter"},
		{"a bad number", "GET", "/v1/instances?limit=many", "", nil, 400, "query.limit: "},
		{"a number out of range", "GET", "/v1/instances?limit=1001", "", nil, 400, "query.limit: "},
		{"no body", "POST", "/v1/instances", "", nil, 400, "body is required"},
		{"no JSON", "POST", "/v1/instances", "{", nil, 400, "body: "},
		{"not JSON", "POST", "/v1/instances", "image: x", http.Header{"Content-Type": {"text/yaml"}}, 400, "unknown content type"},
		{"an unknown key", "POST", "/v1/instances", `{"image": "x", "imagge": 1}`, nil, 400, "body.imagge: unexpected property"},
		{"a wrong type", "POST", "/v1/instances", `{"image": "x", "memory": "lots"}`, nil, 400, "body.memory: expected integer"},
		{"no image", "POST", "/v1/instances", `{}`, nil, 400, "no image"},
		{"a bad name", "POST", "/v1/instances", `{"image": "x", "name": "../x"}`, nil, 400, "not a valid name"},
		{"two spaces", "POST", "/v1/instances", `{"image": "x", "space": "other"}`, nil, 400, `the space "other"`},
		{"a body too large", "POST", "/v1/instances", strings.Repeat(" ", 2<<20), nil, 413, "too large"},
		{"image and stack", "POST", "/v1/workloads", `{"name": "w", "image": "x", "stack": "y"}`, nil, 400, "either an image or a stack"},
		{"a bad workload", "GET", "/v1/workloads/A_b", "", nil, 400, `name "A_b" is not a valid name`},
		{"a bad signal", "POST", "/v1/instances/x/kill", `{"signal": 65}`, nil, 400, "body.signal: "},
		{"a plain attach", "POST", "/v1/instances/x/attach", "", nil, 400, "upgraded connection"},
		{"another site's page", "GET", "/v1/instances", "", http.Header{"Origin": {"http://evil.example"}}, 403, "other sites"},
		{"another site's image", "GET", "/v1/workloads/x/call", "", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, "other sites"},
		{"another host", "GET", "/v1/instances", "", http.Header{"Host": {"evil.example"}}, 403, `"evil.example" is not this machine`},
		{"another host with a port", "GET", "/v1/version", "", http.Header{"Host": {"evil.example:80"}}, 403, "not this machine"},
		{"a call to a bad name", "GET", "/v1/workloads/A_b/call", "", nil, 400, "not a valid name"},
	}
	defer http.DefaultClient.CloseIdleConnections()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequest(c.method, up.tcp+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			for k, v := range c.header {
				req.Header[k] = v
			}
			req.Host = c.header.Get("Host")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			var p client.Problem
			text, err := io.ReadAll(resp.Body)
			if err != nil || json.Unmarshal(text, &p) != nil {
				t.Fatalf("%d is no problem: %q, %v", resp.StatusCode, text, err)
			}
			if resp.StatusCode != c.status || p.Status != c.status || p.Kind.Status() != c.status || !strings.Contains(p.Detail, c.want) {
				t.Errorf("got %d %+v, want %d with %q", resp.StatusCode, p, c.status, c.want)
			}
			if n := strings.Count(p.Detail, c.want); n > 1 {
				t.Errorf("says it %d times: %s", n, p.Detail)
			}
		})
	}
}

func TestAbsentServices(t *testing.T) {
	srv, err := api.Open([]string{"http://127.0.0.1:0"}, api.Services{}, api.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	go func() { finished <- srv.Run(ctx) }()
	defer func() { cancel(); <-finished }()
	c, err := client.New(srv.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.ListImages(ctx)
	if mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("got %v", err)
	}
	if err := c.Down(ctx, nil); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, err := c.Version(ctx); err != nil {
		t.Error(err)
	}
}

func TestCreatePassesEverything(t *testing.T) {
	want := mayfly.InstanceSpec{
		Space: "default", Name: "web", Image: "docker.io/library/debian:12@sha256:0",
		Process:   mayfly.Process{Entrypoint: []string{"/bin/sh", "-c"}, Command: []string{"echo $0 <&>"}, Env: map[string]string{"A": "b c", "É": "\n"}, User: "1:2", WorkDir: "/tmp"},
		Resources: mayfly.Resources{Memory: 1 << 40, CPUs: 0.25, Pids: 10, Files: 1 << 20},
		Mounts:    []mayfly.Mount{{Type: "tmpfs", Target: "/t", Size: 5, ReadOnly: true}},
		Ports:     []mayfly.Port{{Container: 80, Host: 8080, HostIP: "::1", Protocol: "udp"}},
		ReadOnly:  true, Network: "none", Hostname: "h", Labels: map[string]string{"x": "y"},
		Stdin: true, Timeout: time.Hour, AutoRemove: true,
	}
	var got mayfly.InstanceSpec
	up := serve(t, &stub{create: func(s mayfly.InstanceSpec) (mayfly.Instance, error) {
		got = s
		return mayfly.Instance{ID: "1", State: mayfly.Created}, nil
	}})
	made, err := up.client.CreateInstance(t.Context(), want, "")
	if err != nil || made.ID != "1" || made.State != mayfly.Created {
		t.Fatalf("got %+v, %v", made, err)
	}
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	var mu sync.Mutex
	made := 0
	fail := true
	up := serve(t, &stub{create: func(s mayfly.InstanceSpec) (mayfly.Instance, error) {
		mu.Lock()
		defer mu.Unlock()
		if made++; fail {
			return mayfly.Instance{}, mayfly.Errorf(mayfly.Busy, "not now")
		}
		return mayfly.Instance{ID: fmt.Sprint(made)}, nil
	}})
	create := func(image, key string) (mayfly.Instance, error) {
		return up.client.CreateInstance(t.Context(), mayfly.InstanceSpec{Image: image}, key)
	}
	if _, err := create("a", "k"); mayfly.KindOf(err) != mayfly.Busy {
		t.Fatal(err)
	}
	fail = false // a failure is not remembered
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if i, err := create("a", "k"); err != nil || i.ID != "2" {
				t.Errorf("got %+v, %v; want the first answer", i, err)
			}
		})
	}
	group.Wait()
	if _, err := create("b", "k"); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("another body: %v", err)
	}
	if i, err := create("a", "other"); err != nil || i.ID != "3" {
		t.Errorf("another key: %+v, %v", i, err)
	}
	if i, err := create("a", ""); err != nil || i.ID != "4" {
		t.Errorf("no key: %+v, %v", i, err)
	}
	if _, err := create("a", strings.Repeat("k", 256)); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a long key: %v", err)
	}
}

func TestListsArePaged(t *testing.T) {
	s := &stub{}
	for i := range 250 {
		s.list = append(s.list, mayfly.Instance{ID: fmt.Sprintf("%04d", (i*7)%250)})
		s.runs = append(s.runs, mayfly.Run{ID: fmt.Sprintf("%04d", 249-i)})
	}
	up := serve(t, s)
	instances, err := up.client.ListInstances(t.Context(), true)
	if err != nil || len(instances) != 250 || instances[0].ID != "0249" || instances[249].ID != "0000" {
		t.Errorf("got %d instances, %v", len(instances), err)
	}
	if !slices.IsSortedFunc(instances, func(a, b mayfly.Instance) int { return strings.Compare(b.ID, a.ID) }) {
		t.Error("not newest first")
	}
	for _, limit := range []int{1, 100, 249, 250, 251, 0} {
		runs, err := up.client.ListRuns(t.Context(), "w", limit)
		want := min(limit, 250)
		if limit == 0 {
			want = 100
		}
		if err != nil || len(runs) != want || runs[0].ID != "0249" {
			t.Errorf("limit %d: got %d runs, %v", limit, len(runs), err)
		}
	}
	s.list = nil
	if none, err := up.client.ListInstances(t.Context(), true); err != nil || none == nil || len(none) != 0 {
		t.Errorf("got %v, %v", none, err)
	}
}

func TestImageNamesWithSlashes(t *testing.T) {
	up := serve(t, &stub{image: func(name string) (client.Image, error) {
		return client.Image{Name: name, Config: json.RawMessage(`{"os":"linux"}`)}, nil
	}})
	for _, name := range []string{"debian", "registry.example.com:5000/team/app:v1@sha256:aa", "sha256:00", "a%2Fb", "usage", "pull"} {
		i, err := up.client.GetImage(t.Context(), name)
		if err != nil || i.Name != name || string(i.Config) != `{"os":"linux"}` {
			t.Errorf("%s: got %+v, %v", name, i, err)
		}
	}
	for _, name := range []string{"", ".", ".."} {
		if _, err := up.client.GetImage(t.Context(), name); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

func TestProgressThenResult(t *testing.T) {
	up := serve(t, &stub{
		pull: func(_ context.Context, tr client.Transfer, report func(client.Progress)) (client.Image, error) {
			var group sync.WaitGroup
			for i := range 20 {
				group.Go(func() { report(client.Progress{ID: fmt.Sprint(i), Text: "fetching", Done: 1, Total: 2}) })
			}
			group.Wait()
			return client.Image{Name: tr.Name + "/" + tr.Credentials.Username}, nil
		},
		deploy: func(w mayfly.Workload, say func(string)) (mayfly.Release, error) {
			say("starting one sandbox")
			return mayfly.Release{}, mayfly.Errorf(mayfly.Failed, "it did not become ready:\nTraceback\n  boom").WithHint("mend it")
		},
	})
	var seen []client.Progress
	i, err := up.client.PullImage(t.Context(), client.Transfer{Name: "x", Credentials: client.Credentials{Username: "me"}},
		func(p client.Progress) { seen = append(seen, p) })
	if err != nil || i.Name != "x/me" || len(seen) != 20 {
		t.Errorf("got %+v, %v, %d reports", i, err, len(seen))
	}
	var said []string
	_, err = up.client.Deploy(t.Context(), mayfly.Workload{Name: "w", Stack: "python"}, "", func(p client.Progress) { said = append(said, p.Text) })
	if mayfly.KindOf(err) != mayfly.Failed || !strings.Contains(err.Error(), "Traceback\n  boom; mend it") || !slices.Equal(said, []string{"starting one sandbox"}) {
		t.Errorf("got %v after %q", err, said)
	}
}

func TestLogsAreWholeAndEndWithTheReader(t *testing.T) {
	left := make(chan error, 1)
	data := bytes.Repeat([]byte{0, 0xff, '\n', 'x'}, 10000)
	since := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	var options mayfly.LogOptions
	up := serve(t, &stub{logs: func(ctx context.Context, opts mayfly.LogOptions, each func(mayfly.LogEntry) error) error {
		options = opts
		for range 3 {
			if err := each(mayfly.LogEntry{Time: since, Stream: "stderr", Data: data}); err != nil {
				left <- err // the reader has left already
				return err
			}
		}
		if opts.Follow {
			<-ctx.Done()
			left <- ctx.Err()
			return ctx.Err()
		}
		return nil
	}})
	var got []byte
	err := up.client.InstanceLogs(t.Context(), "x", mayfly.LogOptions{Since: since, Tail: 5}, func(e mayfly.LogEntry) error {
		if e.Stream != "stderr" || !e.Time.Equal(since) {
			t.Errorf("got %+v", e)
		}
		got = append(got, e.Data...)
		return nil
	})
	if err != nil || !bytes.Equal(got, bytes.Repeat(data, 3)) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if !options.Since.Equal(since) || options.Tail != 5 || options.Follow {
		t.Errorf("got %+v", options)
	}
	enough := errors.New("enough")
	if err := up.client.InstanceLogs(t.Context(), "x", mayfly.LogOptions{Follow: true, Tail: -1}, func(mayfly.LogEntry) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if err := <-left; err == nil {
		t.Error("the service was not told")
	}
}

func TestStreamsEndWithTheServer(t *testing.T) {
	begun := make(chan struct{})
	up := serve(t, &stub{wait: func(ctx context.Context) (mayfly.Instance, error) {
		close(begun)
		<-ctx.Done()
		return mayfly.Instance{}, ctx.Err()
	}})
	waited := make(chan error, 1)
	go func() { _, err := up.client.WaitInstance(t.Context(), "x"); waited <- err }()
	<-begun
	if err := up.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; mayfly.KindOf(err) != mayfly.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("got %v", err)
	}
	if _, err := up.client.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot reach the daemon at unix://") || !strings.HasSuffix(err.Error(), "; start it with: mayfly up") {
		t.Errorf("got %v", err)
	}
}

func TestUploads(t *testing.T) {
	up := serve(t, &stub{code: func(r io.Reader) (string, error) {
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			return "", mayfly.Errorf(mayfly.Invalid, "bad tar: %w", err)
		}
		return fmt.Sprint("sha256:", n), nil
	}})
	got, err := up.client.PutCode(t.Context(), io.LimitReader(zeros{}, 5<<20))
	if err != nil || got != fmt.Sprint("sha256:", 5<<20) {
		t.Errorf("got %s, %v", got, err)
	}
	if has, err := up.client.HasCode(t.Context(), "sha256:there"); !has || err != nil {
		t.Errorf("code that is there: %v, %v", has, err)
	}
	if has, err := up.client.HasCode(t.Context(), "sha256:gone"); has || err != nil {
		t.Errorf("code that is not there: %v, %v", has, err)
	}
	_, err = up.client.PutCode(t.Context(), io.LimitReader(zeros{}, 8<<20+1))
	if mayfly.KindOf(err) != mayfly.TooLarge {
		t.Errorf("got %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestDownIsSeenToItsEnd(t *testing.T) {
	up := serve(t, &stub{stop: func(_ context.Context, say func(string)) error { say("stopping 1 container"); return nil }})
	said := make(chan string, 10)
	ended := make(chan error, 1)
	go func() { ended <- up.client.Down(t.Context(), func(p client.Progress) { said <- p.Text }) }()
	if got := <-said; got != "stopping 1 container" {
		t.Error(got)
	}
	if err := up.stop(); err != nil { // Options.Stop has ended it, or we do
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestDownThatFails(t *testing.T) {
	up := serve(t, &stub{stop: func(context.Context, func(string)) error { return mayfly.Errorf(mayfly.Internal, "one does not die") }})
	if err := up.client.Down(t.Context(), nil); err == nil || err.Error() != "one does not die" {
		t.Errorf("got %v", err)
	}
	if _, err := up.client.Version(t.Context()); err != nil {
		t.Errorf("the daemon did not go on: %v", err)
	}
}
