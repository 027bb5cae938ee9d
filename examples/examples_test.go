package examples

import (
	"bytes"
	"context"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/manifest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// example is one function with its image, unpacked.
type example struct {
	manifest.Workload
	built image.Image
	lower []string
}

// Each folder has a README and a manifest, which either has one function of the
// folder's name or is an app of that name.
func TestManifests(t *testing.T) {
	folders, err := filepath.Glob("*/mayfly.yaml")
	if err != nil || len(folders) < 6 {
		t.Fatalf("found %v, %v", folders, err)
	}
	for _, file := range folders {
		name := filepath.Dir(file)
		m, err := manifest.Load(file, manifest.Options{})
		if err != nil {
			t.Error(err)
			continue
		}
		function := len(m.Functions) == 1 && m.Functions[0].Name == name && m.Functions[0].Routes[0].Path == "/"+name
		app := len(m.Services)+len(m.Functions) > 1 && m.Name == name
		if !function && !app || len(m.Warnings) > 0 {
			t.Errorf("%s: %+v", file, m)
		}
		readme, err := os.ReadFile(filepath.Join(name, "README.md"))
		if err != nil || !bytes.Contains(readme, []byte("mayfly deploy -f examples/"+file)) {
			t.Errorf("%s has no README that says how to deploy it: %v", name, err)
		}
	}
}

// prepare builds an example's image in a store of its own.
func prepare(t *testing.T, store *image.Store, name string) example {
	t.Helper()
	m, err := manifest.Load(filepath.Join(name, "mayfly.yaml"), manifest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := example{Workload: m.Functions[0]}
	var code bytes.Buffer
	if err := build.Tar(t.Context(), &code, e.CodeDir); err != nil {
		t.Fatal(err)
	}
	stack, err := build.NewStacks(store, build.Options{}).Ensure(t.Context(), e.Stack, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec := build.CodeSpec{Name: "test/" + name, Handler: e.Handler, TempDir: t.TempDir()}
	if e.built, err = build.Code(t.Context(), store, stack, &code, spec); err != nil {
		t.Fatal(err)
	}
	root, err := store.Use(t.Context(), e.built.Digest, "test/"+name)
	if err != nil {
		t.Fatal(err)
	}
	e.lower = root.Lower
	return e
}

// command makes the function's command, in its root.
func (e example) command(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	argv := e.built.Config.Config.Cmd
	if e.Command != nil {
		argv = e.Command
	}
	mounts := ""
	for _, dir := range build.HostMounts(e.built.Config.Config.Labels) {
		mounts += `mount --bind -o ro ` + dir + ` "$2` + dir + `" && `
	}
	script := `mount -t overlay overlay -o "lowerdir=$1" "$2" && ` + mounts +
		`mount --bind /dev "$2/dev" && shift && exec chroot "$1" /bin/sh -c 'cd "$0" && exec "$@"' "$2" "${@:3}"`
	args := append([]string{"-c", script, "bash", strings.Join(e.lower, ":"), t.TempDir(), e.built.Config.Config.WorkingDir}, argv...)
	cmd := exec.CommandContext(t.Context(), "/bin/bash", args...)
	cmd.Env = append(env, e.built.Config.Config.Env...)
	for k, v := range e.Env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// freePort chooses below the ports that the kernel gives to those who ask for
// any, and by chance: what other tests do meanwhile does not take it.
func freePort(t *testing.T) string {
	t.Helper()
	for {
		port := strconv.Itoa(15000 + rand.IntN(15000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return port
		}
	}
}

// serve starts a function that listens, and returns its address.
func (e example) serve(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	cmd := e.command(t, "PORT="+port)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill() // it may have ended
		<-done
	})
	addr := net.JoinHostPort("127.0.0.1", port)
	// Nothing tells that another process listens but connecting to it.
	for range time.Tick(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			break
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v", e.Name, err)
		default:
		}
	}
	return addr
}

func TestExamplesAnswer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	store, err := image.Open(t.TempDir(), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	tests := []struct {
		name, query, body string
		env               []string // of cgi
		want              string
	}{
		{name: "hello-cgi", env: []string{"QUERY_STRING=name=Ada"}, want: "Content-Type: text/plain\r\n\r\nhello, Ada\n"},
		{name: "hello-stdio", body: "Ada", want: "hello, Ada\n"},
		{name: "hello-http", query: "?name=Ada", want: "hello, Ada\n"},
		{name: "hello-python", body: `{"name": "Ada"}`, want: `{"hello": "Ada", "attempt": 1}`},
		{name: "hello-node", body: `{"name": "Ada"}`, want: `{"hello":"Ada","attempt":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "hello-node" {
				if _, err := os.Stat("/usr/bin/node"); err != nil {
					t.Skip("needs node: apt-get install nodejs")
				}
			}
			e := prepare(t, store, tt.name)
			defer release(t, store, e)
			if e.Protocol == mayfly.CGI || e.Protocol == mayfly.Stdio {
				cmd := e.command(t, tt.env...)
				cmd.Stdin = strings.NewReader(tt.body)
				if out, err := cmd.Output(); err != nil || string(out) != tt.want {
					t.Errorf("got %q, %v", out, err)
				}
				return
			}
			if got := request(t, "http://"+e.serve(t)+"/"+tt.query, []byte(tt.body)); string(got) != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	t.Run("thumbnail", func(t *testing.T) {
		if _, err := os.Stat("/usr/lib/python3/dist-packages/PIL"); err != nil {
			t.Skip("needs PIL: apt-get install python3-pil")
		}
		e := prepare(t, store, "thumbnail")
		defer release(t, store, e)
		photo, err := os.ReadFile("thumbnail/photo.jpg")
		if err != nil {
			t.Fatal(err)
		}
		small, err := jpeg.Decode(bytes.NewReader(request(t, "http://"+e.serve(t)+"/", photo)))
		if err != nil {
			t.Fatal(err)
		}
		if size := small.Bounds().Size(); size.Y != 128 || size.X != 109 {
			t.Errorf("the thumbnail measures %v", size)
		}
	})
}

func release(t *testing.T, store *image.Store, e example) {
	t.Helper()
	if err := store.Release(context.Background(), "test/"+e.Name); err != nil {
		t.Error(err)
	}
}

func request(t *testing.T, url string, body []byte) []byte {
	t.Helper()
	method := "POST"
	if len(body) == 0 {
		method = "GET"
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, data)
	}
	return data
}
