package image_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// startRegistry starts Debian's docker-registry on a free port of loopback and
// returns its address and the directory it keeps blobs in.
func startRegistry(t *testing.T, user, password string) (addr, dir string) {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry: apt-get install docker-registry")
	}
	dir = t.TempDir()
	config := fmt.Sprintf("version: 0.1\nlog: {level: info, formatter: text}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: '127.0.0.1:0'}\n", dir)
	if user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "htpasswd")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s}}\n", file)
	}
	file := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-drained
		cmd.Wait()
	})
	listening := make(chan string, 1)
	go func() { // its log says when it listens, and where
		defer close(drained)
		at := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if found := at.FindStringSubmatch(lines.Text()); found != nil {
				select {
				case listening <- found[1]:
				default:
				}
			}
		}
		close(listening)
	}()
	if addr = <-listening; addr == "" {
		t.Fatal("docker-registry ended")
	}
	return addr, dir
}

// randomImage imports an image whose one layer cannot be compressed.
func randomImage(t *testing.T, s *image.Store, name string, size int) image.Image {
	t.Helper()
	noise := make([]byte, size)
	rand.Read(noise)
	img, err := s.Import(t.Context(), name, bytes.NewReader(makeTar(t, entry{name: "bin/noise", body: string(noise), mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// threeLayers imports an image with two layers more.
func threeLayers(t *testing.T, s *image.Store, name string, size int) image.Image {
	t.Helper()
	img := randomImage(t, s, name, size)
	for i := range 2 {
		noise := make([]byte, size)
		rand.Read(noise)
		code := makeTar(t, entry{name: fmt.Sprintf("f%d", i), body: string(noise)})
		var err error
		img, err = s.AddLayer(t.Context(), img.Digest, name, image.Layer{Tar: bytes.NewReader(code)}, func(c *ocispec.ImageConfig) {
			c.Cmd = []string{"/bin/noise"}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func TestPushAndPull(t *testing.T) {
	ctx := t.Context()
	addr, _ := startRegistry(t, "", "")
	from, to := open(t, t.TempDir(), image.Options{}), open(t, t.TempDir(), image.Options{})
	img := threeLayers(t, from, "app", 1<<20)
	ref := addr + "/team/app:v1"
	if err := from.Push(ctx, "app", ref, image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	last := map[string]image.Progress{}
	got, err := to.Pull(ctx, ref, image.PullOptions{Progress: func(p image.Progress) { last[p.Digest] = p }})
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != img.Digest || got.Name != ref || got.Layers != 3 {
		t.Fatalf("got %+v, want digest %s", got, img.Digest)
	}
	if len(last) != 3 {
		t.Fatalf("progress of %d layers", len(last))
	}
	for d, p := range last {
		if p.Phase != image.Done || p.Bytes != p.Total {
			t.Errorf("layer %s ended as %+v", d, p)
		}
	}
	if again, err := to.Pull(ctx, ref, image.PullOptions{}); err != nil || again.Digest != img.Digest {
		t.Fatalf("second pull: %v, %v", again.Digest, err)
	}
	byDigest, err := to.Pull(ctx, addr+"/team/app@"+img.Digest, image.PullOptions{})
	if err != nil || byDigest.Digest != img.Digest {
		t.Fatalf("pull by digest: %v, %v", byDigest.Digest, err)
	}
	if _, err := to.Pull(ctx, addr+"/team/none", image.PullOptions{}); mayfly.KindOf(err) != mayfly.NotFound {
		t.Fatalf("an image that is not there: %v", err)
	}
	if _, err := to.Pull(ctx, ref, image.PullOptions{Platform: "linux/riscv64"}); mayfly.KindOf(err) != mayfly.Invalid {
		t.Fatalf("an image of another platform: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	ctx := t.Context()
	addr, _ := startRegistry(t, "ann", "secret")
	s := open(t, t.TempDir(), image.Options{})
	img := randomImage(t, s, "app", 1000)
	ref := addr + "/app"
	if err := s.Push(ctx, "app", ref, image.PushOptions{}); mayfly.KindOf(err) != mayfly.Denied {
		t.Fatalf("push without credentials: %v", err)
	}
	// As docker login leaves them.
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	config := fmt.Sprintf(`{"auths":{%q:{"auth":"YW5uOnNlY3JldA=="}}}`, addr)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	auth, err := image.Credentials(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Push(ctx, "app", ref, image.PushOptions{Auth: auth}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Pull(ctx, ref, image.PullOptions{Auth: auth}); err != nil || got.Digest != img.Digest {
		t.Fatalf("pull: %v, %v", got.Digest, err)
	}
	wrong := authn.FromConfig(authn.AuthConfig{Username: "ann", Password: "wrong"})
	if _, err := s.Pull(ctx, ref, image.PullOptions{Auth: wrong}); mayfly.KindOf(err) != mayfly.Denied {
		t.Fatalf("pull with a wrong password: %v", err)
	}
}

// startProxy starts a proxy before a registry and returns its address. blob may
// answer in its place: it is asked for each GET of a blob, and says whether it did.
func startProxy(t *testing.T, registry string, blob func(http.ResponseWriter, *http.Request, http.Handler) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: registry})
	transport := http.DefaultTransport.(*http.Transport).Clone()
	pass.Transport = transport
	pass.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && blob(w, r, pass) {
			return
		}
		pass.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
		transport.CloseIdleConnections()
	})
	return l.Addr().String()
}

// cutWriter ends the connection after some bytes of the body.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestPullResumes(t *testing.T) {
	ctx := t.Context()
	addr, _ := startRegistry(t, "", "")
	from := open(t, t.TempDir(), image.Options{})
	const size = 4 << 20
	img := randomImage(t, from, "app", size)
	if err := from.Push(ctx, "app", addr+"/app", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("within one pull", func(t *testing.T) {
		var mu sync.Mutex
		var ranges []string
		via := startProxy(t, addr, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
			mu.Lock()
			ranges = append(ranges, r.Header.Get("Range"))
			mu.Unlock()
			pass.ServeHTTP(&cutWriter{w, 1 << 20}, r)
			return true
		})
		to := open(t, t.TempDir(), image.Options{})
		got, err := to.Pull(ctx, via+"/app", image.PullOptions{})
		if err != nil || got.Digest != img.Digest {
			t.Fatalf("got %v, %v", got.Digest, err)
		}
		resumed := 0
		for _, r := range ranges {
			if r != "" {
				resumed++
			}
		}
		if resumed < 3 {
			t.Fatalf("4 MiB in pieces of 1 MiB took the ranges %q", ranges)
		}
	})
	t.Run("by the next process", func(t *testing.T) {
		dir := t.TempDir()
		first := open(t, dir, image.Options{})
		// The configuration passes, as it is small; the layer breaks for good.
		gate := startProxy(t, addr, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
			if r.Header.Get("Range") != "" {
				panic(http.ErrAbortHandler)
			}
			pass.ServeHTTP(&cutWriter{w, 3 << 20}, r)
			return true
		})
		if _, err := first.Pull(ctx, gate+"/app", image.PullOptions{}); mayfly.KindOf(err) != mayfly.Unavailable {
			t.Fatalf("pull from a registry that went away: %v", err)
		}
		if u, err := first.Usage(ctx); err != nil || u.Partial != 3<<20 || u.Images != 0 {
			t.Fatalf("usage after the break: %+v, %v", u, err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		var asked []string
		back := startProxy(t, addr, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
			asked = append(asked, r.Header.Get("Range"))
			return false
		})
		second := open(t, dir, image.Options{})
		if got, err := second.Pull(ctx, back+"/app", image.PullOptions{}); err != nil || got.Digest != img.Digest {
			t.Fatalf("got %v, %v", got.Digest, err)
		}
		if last := asked[len(asked)-1]; last != fmt.Sprintf("bytes=%d-", 3<<20) {
			t.Fatalf("the layer was asked for with the ranges %q", asked)
		}
	})
	t.Run("from a registry without ranges", func(t *testing.T) {
		cuts := atomic.Int32{}
		via := startProxy(t, addr, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
			r.Header.Del("Range")
			if cuts.Add(1) == 2 { // the layer, once
				pass.ServeHTTP(&cutWriter{w, 1 << 20}, r)
				return true
			}
			return false
		})
		to := open(t, t.TempDir(), image.Options{})
		if got, err := to.Pull(ctx, via+"/app", image.PullOptions{}); err != nil || got.Digest != img.Digest {
			t.Fatalf("got %v, %v", got.Digest, err)
		}
	})
}

func TestCorruptBlobIsRefused(t *testing.T) {
	ctx := t.Context()
	addr, dir := startRegistry(t, "", "")
	from := open(t, t.TempDir(), image.Options{})
	randomImage(t, from, "app", 100_000)
	if err := from.Push(ctx, "app", addr+"/app", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	// One bit of the largest blob, at the registry.
	var largest string
	var size int64
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if fi, ierr := os.Stat(path); ierr == nil && d.Name() == "data" && fi.Size() > size {
			largest, size = path, fi.Size()
		}
		return err
	})
	data, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(largest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	to := open(t, t.TempDir(), image.Options{})
	_, err = to.Pull(ctx, addr+"/app", image.PullOptions{})
	if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "corrupt") {
		t.Fatalf("got %v", err)
	}
	if _, err := to.Get(ctx, addr+"/app"); mayfly.KindOf(err) != mayfly.NotFound {
		t.Fatalf("a corrupt image got its name: %v", err)
	}
	if _, _, err := to.Prune(ctx, image.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	if u, err := to.Usage(ctx); err != nil || u.Total() != 0 {
		t.Fatalf("left over: %+v, %v", u, err)
	}
}

func TestPullsAtOnceFetchOnce(t *testing.T) {
	ctx := t.Context()
	addr, _ := startRegistry(t, "", "")
	from := open(t, t.TempDir(), image.Options{})
	img := threeLayers(t, from, "app", 1<<20)
	if err := from.Push(ctx, "app", addr+"/app", image.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	fetched := map[string]int{}
	via := startProxy(t, addr, func(w http.ResponseWriter, r *http.Request, pass http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		fetched[r.URL.Path]++
		return false
	})
	to := open(t, t.TempDir(), image.Options{})
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			got, err := to.Pull(ctx, via+"/app", image.PullOptions{})
			if err == nil && got.Digest != img.Digest {
				err = errors.New("another digest")
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if len(fetched) != 4 {
		t.Errorf("fetched %d blobs, want 4", len(fetched))
	}
	for blob, n := range fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", blob, n)
		}
	}
}

func TestPlainHTTPOnlyToLoopback(t *testing.T) {
	s := open(t, t.TempDir(), image.Options{})
	// An address of this machine that is not loopback; nothing answers on TLS. It
	// may be one of another test's bridges, and gone by now.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && l == nil && !n.IP.IsLoopback() && n.IP.To4() != nil {
			l, _ = net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
		}
	}
	if l == nil {
		t.Skip("needs an IPv4 address other than loopback")
	}
	asked := atomic.Bool{}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Store(true) })}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	if _, err := s.Pull(t.Context(), l.Addr().String()+"/app", image.PullOptions{}); err == nil || asked.Load() {
		t.Fatalf("plain HTTP was spoken: %v", err)
	}
}
