package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mayfly-run/mayfly"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// local reaches what listens on this machine.
func local(ln net.Listener) Target {
	port := uint16(0)
	if ln != nil {
		port = uint16(ln.Addr().(*net.TCPAddr).Port)
	}
	return Target{Port: port, Dial: func(ctx context.Context, port uint16) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}, Exec: run}
}

// run is an Exec that runs commands of this machine.
func run(ctx context.Context, argv []string) (int, string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// raw answers every connection with some bytes, whatever is asked.
func raw(t *testing.T, answer string) Target {
	ln := listen(t)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, answer)
			if answer != "" {
				conn.Read(make([]byte, 4096))
			}
			conn.Close()
		}
	}()
	return local(ln)
}

func web(t *testing.T, h http.HandlerFunc) Target {
	ln := listen(t)
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return local(ln)
}

// expect tries, and wants an error with some text; none if it is empty.
func expect(t *testing.T, target Target, p mayfly.Probe, want string) {
	t.Helper()
	p.Timeout = cmp.Or(p.Timeout, 2*time.Minute)
	err := Try(t.Context(), target, p)
	switch {
	case want == "" && err != nil:
		t.Errorf("not well: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want %q", err, want)
	case err != nil && strings.ContainsAny(err.Error(), "\r\n"):
		t.Errorf("more than one line: %q", err)
	}
}

func TestHTTP(t *testing.T) {
	release := make(chan struct{})
	target := web(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.URL.RawQuery != "deep=1" || r.Host != "localhost" || r.Header.Get("X-Probe") != "" {
				http.Error(w, "not as it was asked", 500)
			}
		case "/header":
			if r.Host != "blog.example" || r.Header.Get("X-Probe") != "yes" {
				http.Error(w, "not as it was asked", 500)
			}
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/sick":
			http.Error(w, "no database", http.StatusServiceUnavailable)
		case "/early":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		case "/long":
			for range 100 {
				w.Write(make([]byte, 10<<10))
			}
		case "/slow":
			<-release
		}
	})
	t.Cleanup(func() { close(release) })
	get := func(path string) mayfly.Probe { return mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: path}} }
	expect(t, target, get("/ok?deep=1"), "")
	expect(t, target, mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/header", Headers: map[string]string{"host": "blog.example", "x-probe": "yes"}}}, "")
	expect(t, target, get("/moved"), "") // and not followed to where it is sick
	expect(t, target, get("/sick"), "http GET /sick: 503 Service Unavailable")
	expect(t, target, get("sick"), "http GET /sick: 503")
	expect(t, target, get("/early"), "")
	expect(t, target, get("/long"), "")
	expect(t, target, get("/%zz"), "the path is not one of a URL")
	slow := get("/slow")
	slow.Timeout = 30 * time.Millisecond
	expect(t, target, slow, "http GET /slow: no answer within 30ms")
}

func TestHTTPAnswersThatAreNone(t *testing.T) {
	get := mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/"}}
	for _, c := range []struct{ name, answer, want string }{
		{"another protocol", "220 mail.example ESMTP\r\n\r\n", "malformed HTTP"},
		{"nothing", "", "http GET /: "},
		{"endless headers", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1<<20), "http GET /: "},
		{"only hints", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20), "only informational"},
		{"a status of its own making", "HTTP/1.1 599 \x1b[31mred\r\nContent-Length: 0\r\n\r\n", "599"},
		{"less than it promised", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", ""},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, raw(t, c.answer), get, c.want) })
	}
}

func TestTCP(t *testing.T) {
	ln := listen(t)
	target := local(ln)
	expect(t, target, mayfly.Probe{TCP: &mayfly.TCPProbe{}}, "")
	expect(t, Target{Dial: target.Dial}, mayfly.Probe{TCP: &mayfly.TCPProbe{Port: target.Port}}, "")
	ln.Close()
	expect(t, target, mayfly.Probe{TCP: &mayfly.TCPProbe{}}, fmt.Sprintf("tcp port %d: connection refused", target.Port))
	expect(t, Target{Dial: target.Dial}, mayfly.Probe{TCP: &mayfly.TCPProbe{}}, "name one in the probe")
	expect(t, Target{}, mayfly.Probe{TCP: &mayfly.TCPProbe{Port: 1}}, "no network")
}

func TestGRPC(t *testing.T) {
	ln := listen(t)
	srv := grpc.NewServer()
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, state)
	state.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	check := func(service string) mayfly.Probe { return mayfly.Probe{GRPC: &mayfly.GRPCProbe{Service: service}} }
	expect(t, local(ln), check(""), "")
	expect(t, local(ln), check("sick"), "grpc health check of sick: NOT_SERVING")
	expect(t, local(ln), check("unknown"), "status 5 unknown service")
	state.Shutdown()
	expect(t, local(ln), check(""), "grpc health check: NOT_SERVING")

	bare := listen(t)
	other := grpc.NewServer()
	go other.Serve(bare)
	t.Cleanup(other.Stop)
	expect(t, local(bare), check(""), "has no health service")

	h2c := listen(t)
	site := &http.Server{Protocols: new(http.Protocols), Handler: http.NotFoundHandler()}
	site.Protocols.SetUnencryptedHTTP2(true)
	go site.Serve(h2c)
	t.Cleanup(func() { site.Close() })
	expect(t, local(h2c), check(""), "404 Not Found, not an answer of gRPC")

	expect(t, web(t, http.NotFound), check(""), "grpc health check: ")
	silent := check("")
	silent.Timeout = 50 * time.Millisecond
	expect(t, local(listen(t)), silent, "no answer within 50ms") // nobody accepts
	dead := listen(t)
	dead.Close()
	expect(t, local(dead), check(""), "grpc health check: connection refused")
}

func TestExec(t *testing.T) {
	sh := func(script string) mayfly.Probe { return mayfly.Probe{Exec: []string{"sh", "-c", script}} }
	expect(t, local(nil), sh("true"), "")
	expect(t, local(nil), sh("echo one; echo 'no  database' >&2; exit 3"), "exit code 3: no  database")
	expect(t, local(nil), sh("exit 4"), "exit code 4")
	expect(t, local(nil), mayfly.Probe{Exec: []string{"/not/there"}}, "no such file")
	hang := mayfly.Probe{Exec: []string{"sleep", "1000"}, Timeout: 30 * time.Millisecond}
	expect(t, local(nil), hang, "exec sleep 1000: no answer within 30ms")
	expect(t, Target{}, sh("true"), "nothing can be run there")
	expect(t, Target{}, mayfly.Probe{}, "neither http, tcp, grpc nor exec")
}

func TestTryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	target := web(t, func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	go func() { <-asked; cancel() }()
	if err := Try(ctx, target, mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: "/"}, Timeout: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func FuzzServingStatus(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 6, 18, 2, 'a', 'b', 8, 2})
	f.Add([]byte{0, 0, 0, 0, 12, 18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0})
	f.Fuzz(func(t *testing.T, body []byte) { servingStatus(body) })
}

func FuzzReason(f *testing.F) {
	f.Add("one\ntwo\r\n", 80)
	f.Add("\x1b[31m\xff\x00\u202e", 3)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		for _, got := range []string{line(text, limit), lastLine(text)} {
			if strings.ContainsAny(got, "\r\n\x1b\x00") || len(got) > max(limit, maxPart)+3 {
				t.Errorf("%q", got)
			}
		}
	})
}

// What an idle service costs: BenchmarkTry/http times 2 (ready and live) divided
// by 5 s, and so on.
func BenchmarkTry(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})}
	go srv.Serve(ln)
	defer srv.Close()
	for name, p := range map[string]mayfly.Probe{
		"tcp":  {TCP: &mayfly.TCPProbe{}},
		"http": {HTTP: &mayfly.HTTPProbe{Path: "/"}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := Try(b.Context(), local(ln), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
