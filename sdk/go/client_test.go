package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHosts(t *testing.T) {
	for _, host := range []string{"unix:///run/x.sock", "http://127.0.0.1:80", "https://node.example:443/", "http://[::1]:80"} {
		c, err := New(host)
		if err != nil || c.Host() != host {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, host := range []string{"unix://x.sock", "unix:", "/run/x.sock", "ftp://x", "http://", "http://x/path", "tcp://x:1", "127.0.0.1:80", "http://%"} {
		if _, err := New(host); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: got %v", host, err)
		}
	}
	t.Setenv(HostVariable, "http://127.0.0.1:1")
	if c, err := New(""); err != nil || c.Host() != "http://127.0.0.1:1" {
		t.Errorf("got %v", err)
	}
	t.Setenv(HostVariable, "")
	if c, err := New(""); err != nil || c.Host() != DefaultHost {
		t.Errorf("got %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"unix://" + dir + "/none.sock", "unix://" + dead, "unix://" + file, "http://127.0.0.1:1"} {
		c, err := New(host)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Version(t.Context())
		if mayfly.KindOf(err) != mayfly.Unavailable || err.Error() != "cannot reach the daemon at "+host+"; start it with: mayfly up" {
			t.Errorf("got %v", err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	c, err := New("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Version(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// answer serves one thing to every request.
func answer(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	c, err := New(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); srv.Close() })
	return c
}

func TestStrangeAnswers(t *testing.T) {
	cases := []struct {
		name        string
		status      int
		contentType string
		body        string
		kind        mayfly.Kind
		want        string
	}{
		{"a problem", 404, ContentProblem, `{"kind":"not-found","detail":"no x","hint":"make one"}`, mayfly.NotFound, "no x; make one"},
		{"a problem of a later version", 418, ContentProblem, `{"kind":"odd","detail":"no x"}`, "odd", "no x"},
		{"a proxy's page", 502, "text/html", "<html>bad gateway", mayfly.Failed, "the daemon answered 502: <html>bad gateway"},
		{"nothing", 500, "", "", mayfly.Internal, "the daemon answered 500: Internal Server Error"},
		{"a redirect", 302, "", "", mayfly.Internal, "the daemon answered 302: Found"},
		{"not JSON", 200, "application/json", "hello", mayfly.Internal, "decode the daemon's answer"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cl := answer(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			})
			_, err := cl.GetInstance(t.Context(), "x")
			if mayfly.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStreamsThatBreakOff(t *testing.T) {
	cases := map[string]string{
		"empty":           "",
		"no last line":    `{"progress":{"text":"x"}}` + "\n",
		"half a line":     `{"progress":{"text":"x"}}` + "\n" + `{"result":{"id":"1"}}`,
		"not JSON":        "hello\n",
		"a line too long": `{"log":{"data":"` + strings.Repeat("A", maxMessage) + "\"}}\n",
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			cl := answer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })
			if i, err := cl.WaitInstance(t.Context(), "x"); err == nil {
				t.Errorf("got %+v", i)
			}
		})
	}
}

func TestSignsOfLifeAreNoProgress(t *testing.T) {
	cl := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "{}\n{\"progress\":{\"text\":\"x\"}}\n{}\n{\"result\":{\"digest\":\"d\"}}\n")
	})
	n := 0
	i, err := cl.PullImage(t.Context(), Transfer{Name: "x"}, func(Progress) { n++ })
	if err != nil || i.Digest != "d" || n != 1 {
		t.Errorf("got %+v, %v after %d", i, err, n)
	}
}

func TestCallsSeeTheirPath(t *testing.T) {
	var got *http.Request
	cl := answer(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		w.WriteHeader(404)
	}).WithSpace("other")
	resp, err := cl.Call(t.Context(), "f", Call{Method: "PUT", Path: "/a%2Fb//c?space=mine&x=1", Header: http.Header{"X-A": {"b"}}, Body: strings.NewReader("body")})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 404 || got.RequestURI != "/v1/workloads/f/call/a%2Fb//c?space=mine&x=1" || got.Method != "PUT" ||
		got.Header.Get(HeaderSpace) != "other" || got.Header.Get("X-A") != "b" || got.ContentLength != 4 {
		t.Errorf("got %s %s %v", got.Method, got.RequestURI, got.Header)
	}
	for _, path := range []string{"a", "http://x/", "/%zz"} {
		if _, err := cl.Call(t.Context(), "f", Call{Path: path}); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func FuzzStream(f *testing.F) {
	f.Add("{}\n{\"result\":{}}\n")
	f.Add("{\"error\":{\"kind\":\"busy\"}}\n")
	f.Add("\n\n")
	cl, err := New("http://127.0.0.1:1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, wire string) {
		var i mayfly.Instance
		_ = cl.readStream(t.Context(), bufio.NewReader(strings.NewReader(wire)), progress(func(Progress) {}), &i)
	})
}
