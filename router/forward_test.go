package router

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// patience is for a machine that does much else at the same time.
const patience = 2 * time.Minute

// program is a backend that speaks bytes: what it gets of each connection it hands
// to answer.
type program struct {
	t       testing.TB
	address string
	conns   atomic.Int32
}

func startProgram(t testing.TB, answer func(conn net.Conn, br *bufio.Reader, n int)) *program {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, address: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n := int(p.conns.Add(1))
			all.Go(func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				answer(conn, bufio.NewReader(conn), n)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return p
}

// readRequest reads the head of a request, as bytes.
func readRequest(br *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// serveProgram serves a program as the only instance of a service, at /.
func serveProgram(t testing.TB, p *program, o Options) *httptest.Server {
	r := &Router{opts: o, gates: map[store.Key]*gate{}}
	r.opts.WakeTimeout = cmp.Or(o.WakeTimeout, patience)
	r.heads.size, r.copies.size = 2<<10, 32<<10
	w := mayfly.Workload{Space: "default", Name: "web", Service: &mayfly.Service{}, MaxBody: 1 << 20}
	b := &backend{key: store.Key{Space: "default", Name: "web"}, gate: r.gate(&w), kick: make(chan struct{}, 1)}
	up := &upstream{Endpoint: mayfly.Endpoint{ID: "1", Name: "http", Instance: "i"}, address: p.address, backend: b}
	b.ups.Store(&[]*upstream{up})
	b.gate.set(1, 0, 100)
	to := &target{route: mayfly.MappedRoute{Route: mayfly.Route{Path: "/"}}, active: &mayfly.Release{Workload: w}, backend: b, port: "http"}
	r.table.Store(newTable().with(changes("web /"), func(store.RouteTarget) *target { return to }, func(*target) {}))
	srv := httptest.NewUnstartedServer(r)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		for end := time.Now().Add(time.Minute); up.busy.Load() != 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // Close waits for no connection that was upgraded
		}
		up.closeIdle(func(keptConn) bool { return true })
		if n := up.busy.Load(); n != 0 || !b.gate.quiet() {
			t.Errorf("%d requests are left", n)
		}
	})
	return srv
}

// raw sends bytes and returns the status and the rest of what comes back.
func raw(t *testing.T, srv *httptest.Server, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, text)
	if strings.HasSuffix(text, broken) {
		conn.(*net.TCPConn).CloseWrite()
	} else {
		io.WriteString(conn, "GET /end HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n") // net/http closes the connection then
	}
	all, _ := io.ReadAll(conn)
	return string(all)
}

const broken = "it breaks off"

// TestHostileRequests sends what proxies and programs have been known to read in
// two ways. What the program gets can be read in one way only, or it gets nothing.
func TestHostileRequests(t *testing.T) {
	var mu sync.Mutex
	var got []string
	p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(req.Body)
			if req.RequestURI == "/end" || err != nil {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				continue
			}
			mu.Lock()
			got = append(got, fmt.Sprintf("%s %s %q %v %v", req.Method, req.RequestURI, body, req.TransferEncoding, req.Header))
			mu.Unlock()
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	srv := serveProgram(t, p, Options{})
	const host = " HTTP/1.1\r\nHost: a.test\r\n"
	for _, tt := range []struct {
		name, text string
		status     string // of the first answer
		sees       string // pattern of all that the program gets; empty: nothing
		never      string
	}{
		{"two lengths", "POST /" + host + "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", "400", "", ""},
		{"two equal lengths", "POST /" + host + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "200", `"abc" \[\]`, ""},
		{"length and chunks", "POST /" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200", `"abc" \[chunked\]`, "Content-Length"},
		{"a length with a sign", "POST /" + host + "Content-Length: +3\r\n\r\nabc", "400", "", ""},
		{"a length in hex", "POST /" + host + "Content-Length: 0x3\r\n\r\nabc", "400", "", ""},
		{"chunked, spelled oddly", "POST /" + host + "Transfer-Encoding: chunKED\r\n\r\n0\r\n\r\n", "200", `"" `, ""},
		{"chunked after something", "POST /" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501", "", ""},
		{"identity, chunked", "POST /" + host + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", "501", "", ""},
		{"chunked twice", "POST /" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "501", "", ""},
		{"chunked with a tab", "POST /" + host + "Transfer-Encoding:\tchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "200", `"abc"`, ""},
		{"a space before the colon", "POST /" + host + "Content-Length : 3\r\n\r\nabc", "400", "", ""},
		{"a folded field", "GET /" + host + "X-A: b\r\n Content-Length: 3\r\n\r\n", "200", `X-A:\[b Content-Length: 3\]`, ""},
		{"a bare CR in a value", "GET /" + host + "X-A: b\rX-B: c\r\n\r\n", "400", "", ""},
		{"a bare LF ends a line for both", "GET /" + host + "X-A: b\nX-B: c\r\n\r\n", "200", `X-A:\[b\] X-B:\[c\]`, ""},
		{"NUL in a value", "GET /" + host + "X-A: b\x00c\r\n\r\n", "400", "", ""},
		{"a chunk's length with a sign", "POST /" + host + "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", "400", "", "abc"},
		{"a chunk that is longer than it says", "POST /" + host + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", "400", "", "abcd"},
		{"a request after the last chunk", "POST /" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x" + host + "\r\n", "200", `(?s)POST / "".*\nGET /x ""`, ""},
		{"Connection names fields of ours", "GET /" + host + "Connection: close, X-Forwarded-For, X-Mayfly-Run, Host\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", "200", `X-Forwarded-For:\[127\.0\.0\.1\]`, "6.6.6.6"},
		{"Connection names a field", "GET /" + host + "Connection: X-Hop\r\nX-Hop: 1\r\n\r\n", "200", "GET", "X-Hop"},
		{"fields of one connection", "GET /" + host + "Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTE: gzip\r\n\r\n", "200", "GET", "(?i)keep-alive|proxy-|gzip"},
		{"the protocol of our own fields", "GET /" + host + "X-Mayfly-Run: 1\r\nX_Mayfly_Run: 2\r\nX_Forwarded_For: 3\r\nForwarded: for=4\r\nX-Real-IP: 5\r\n\r\n", "200", `Forwarded:\[for=127\.0\.0\.1;host="a\.test";proto=http\]`, "X-Mayfly|X_|for=4|Real"},
		{"an upgrade to HTTP/2", "GET /" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "200", "GET", "(?i)upgrade|settings"},
		{"an upgrade that Connection does not name", "GET /" + host + "Upgrade: websocket\r\n\r\n", "200", "GET", "Upgrade"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "400", "", ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400", "", ""},
		{"a target with a space", "GET /a b" + host + "\r\n", "400", "", ""},
		{"a whole URL", "GET http://b.test/x?y" + host + "\r\n", "200", `GET /x\?y .*X-Forwarded-Host:\[b\.test\]`, ""},
		{"CONNECT", "CONNECT b.test:22 HTTP/1.1\r\nHost: b.test:22\r\n\r\n", "400", "", ""},
		{"a path of slashes", "GET //b.test/x" + host + "\r\n", "200", "GET //b.test/x", ""},
		{"a body that is too large", "POST /" + host + "Content-Length: 1048577\r\n\r\n", "413", "", ""},
		{"a body that breaks off", "POST /" + host + "Content-Length: 100\r\n\r\n" + broken, "", "", ""}, // its client has left
	} {
		mu.Lock()
		got = nil
		mu.Unlock()
		answer := raw(t, srv, tt.text)
		mu.Lock()
		saw := strings.Join(got, "\n")
		mu.Unlock()
		if tt.status != "" && !strings.HasPrefix(answer, "HTTP/1.1 "+tt.status) {
			t.Errorf("%s: answered %.100q", tt.name, answer)
		}
		if tt.sees == "" && saw != "" && tt.never == "" || tt.sees != "" && !regexp.MustCompile(tt.sees).MatchString(saw) {
			t.Errorf("%s: the program got %q", tt.name, saw)
		}
		if tt.never != "" && regexp.MustCompile(tt.never).MatchString(saw) {
			t.Errorf("%s: the program got %q", tt.name, saw)
		}
	}
}

// TestTheAddressOfTheClient is believed of trusted proxies, and of nobody else.
func TestTheAddressOfTheClient(t *testing.T) {
	for _, tt := range []struct {
		trust, sent, want string
		client            string
	}{
		{"", "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n", `for=127.0.0.1;host="a.test";proto=http [127.0.0.1] [http] [a.test]`, "127.0.0.1"},
		{"127.0.0.0/8", "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.test\r\n", `for=127.0.0.1;host="a.test";proto=https [192.0.2.7, 127.0.0.1] [https] [shop.test]`, "192.0.2.7"},
		{"127.0.0.0/8", "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: 127.0.0.9\r\n", `for=127.0.0.1;host="a.test";proto=http [6.6.6.6, 192.0.2.7, 127.0.0.9, 127.0.0.1] [http] [a.test]`, "192.0.2.7"},
		{"127.0.0.0/8", "Forwarded: for=192.0.2.7\r\n", `for=192.0.2.7, for=127.0.0.1;host="a.test";proto=http [127.0.0.1] [http] [a.test]`, "127.0.0.1"},
	} {
		got := make(chan string, 1)
		p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
			for {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				if req.URL.Path == "/end" {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					continue
				}
				h := req.Header
				got <- fmt.Sprint(h.Get("Forwarded"), " ", h["X-Forwarded-For"], " ", h["X-Forwarded-Proto"], " ", h["X-Forwarded-Host"])
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		var o Options
		if tt.trust != "" {
			o.TrustProxies = []netip.Prefix{netip.MustParsePrefix(tt.trust)}
		}
		log := &safeBuffer{}
		o.Access = &AccessLog{out: log}
		srv := serveProgram(t, p, o)
		raw(t, srv, "GET /x?token=secret HTTP/1.1\r\nHost: a.test\r\nCookie: secret\r\nAuthorization: Bearer secret\r\nUser-Agent: \"q\"\r\n"+tt.sent+"\r\n")
		if text := <-got; text != tt.want {
			t.Errorf("trusting %q: %s", tt.trust, text)
		}
		srv.Close()
		o.Access.Close()
		line := log.String()
		if !strings.Contains(line, `"client":"`+tt.client+`","method":"GET","host":"a.test","path":"/x","proto":"HTTP/1.1","status":200,"bytes":0,"ms":`) ||
			!strings.Contains(line, `"workload":"web","instance":"i","agent":"\"q\""}`) || strings.Contains(line, "secret") {
			t.Errorf("the access log has %s", line)
		}
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestWhatIsSentTwice is what may be, and only where the program cannot have seen
// it: over a kept connection that ends before a byte of the answer.
func TestWhatIsSentTwice(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		answer             string // over the kept connection
		status             int
		sent               int
	}{
		{"GET", "GET", "", "", 200, 2},
		{"DELETE", "DELETE", "", "", 200, 2},
		{"POST", "POST", "", "", 502, 1},
		{"PUT with a body", "PUT", "x", "", 502, 1},
		{"GET that is answered in part", "GET", "", "HTTP/1.1 200", 502, 1},
		{"GET that is answered badly", "GET", "", "HTTP/1.1 200 OK\r\nbad\r\n\r\n", 502, 1},
	} {
		var seen atomic.Int32
		p := startProgram(t, func(conn net.Conn, br *bufio.Reader, n int) {
			for i := 0; ; i++ {
				head, err := readRequest(br)
				if err != nil {
					return
				}
				if strings.Contains(head, "/second") {
					seen.Add(1)
				}
				if n == 1 && i == 1 {
					io.WriteString(conn, tt.answer)
					return
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}
		})
		srv := serveProgram(t, p, Options{})
		if resp, err := http.Get(srv.URL + "/first"); err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		req, _ := http.NewRequest(tt.method, srv.URL+"/second", strings.NewReader(tt.body))
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(tt.name, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.status || int(seen.Load()) != tt.sent {
			t.Errorf("%s: status %d, sent %d times", tt.name, resp.StatusCode, seen.Load())
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

// TestAnInstanceThatEnds: what it had not answered goes to the next one, if that is
// safe, and waits for it.
func TestAnInstanceThatEnds(t *testing.T) {
	for _, tt := range []struct {
		name, method, body string
		refuses            bool // it takes no connection any more
		answer             string
		status             int
		moved              int // requests that came to the next one
	}{
		{"GET over a new connection", "GET", "", false, "", 200, 1},
		{"POST", "POST", "", false, "", 502, 0},
		{"PUT with a body", "PUT", "x", false, "", 502, 0},
		{"GET that is answered in part", "GET", "", false, "HTTP/1.1 200", 502, 0},
		{"GET that is not taken", "GET", "", true, "", 200, 1},
		{"POST that is not taken", "POST", "x", true, "", 200, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b *backend
			var next atomic.Pointer[[]*upstream]
			replace := func() { // as the news of its end has it
				(*b.ups.Swap(next.Load()))[0].gone.Store(true)
				b.mu.Lock()
				defer b.mu.Unlock()
				if b.news != nil {
					close(b.news)
					b.news = nil
				}
			}
			var wait sync.WaitGroup
			p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
				readRequest(br)
				io.WriteString(conn, tt.answer)
				conn.Close()
				replace()
			})
			var moved atomic.Int32
			other := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
				for {
					if _, err := readRequest(br); err != nil {
						return
					}
					br.Discard(len(tt.body))
					moved.Add(1)
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			})
			srv := serveProgram(t, p, Options{})
			spot, _ := srv.Config.Handler.(*Router).table.Load().match("", "/")
			b = spot.find("GET").pick().backend
			two := &upstream{Endpoint: mayfly.Endpoint{ID: "2", Name: "http", Instance: "j"}, address: other.address, backend: b}
			next.Store(&[]*upstream{two})
			t.Cleanup(func() { two.closeIdle(func(keptConn) bool { return true }) })
			if tt.refuses {
				(*b.ups.Load())[0].address = "127.0.0.1:1"
				wait.Go(func() {
					for (*b.ups.Load())[0].shunned.Load() == 0 {
						runtime.Gosched()
					}
					replace()
				})
			}
			req, _ := http.NewRequest(tt.method, srv.URL+"/", strings.NewReader(tt.body))
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			wait.Wait()
			if resp.StatusCode != tt.status || int(moved.Load()) != tt.moved {
				t.Errorf("status %d, and %d came to the next instance", resp.StatusCode, moved.Load())
			}
			for end := time.Now().Add(time.Minute); two.busy.Load() != 0; runtime.Gosched() {
				if time.Now().After(end) {
					t.Fatal("a request is left")
				}
			}
		})
	}
}

// TestPassedThrough is what HTTP has besides a head and a body.
func TestPassedThrough(t *testing.T) {
	p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			switch req.URL.Path {
			case "/trailers":
				body, _ := io.ReadAll(req.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n%x\r\n%s\r\n0\r\nX-Sum: %s\r\nX-More: m\r\n\r\n", len(body), body, req.Trailer.Get("X-In"))
			case "/hints":
				io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			case "/refuse":
				io.WriteString(conn, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno")
				return
			case "/want":
				io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
				body, _ := io.ReadAll(req.Body)
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			case "/head":
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
			case "/large":
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 5<<20)
				io.CopyN(conn, zeros{}, 5<<20)
			case "/end":
				io.WriteString(conn, "HTTP/1.0 200 OK\r\n\r\nuntil the end")
				return
			case "/cut":
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
				return
			default:
				io.Copy(io.Discard, req.Body)
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		}
	})
	srv := serveProgram(t, p, Options{})
	defer http.DefaultClient.CloseIdleConnections()
	do := func(req *http.Request) (*http.Response, string) {
		t.Helper()
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp, string(body)
	}
	request := func(method, path string, body io.Reader) *http.Request {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		return req
	}
	req := request("POST", "/trailers", io.MultiReader(strings.NewReader("abc")))
	req.Trailer = http.Header{"X-In": {"7"}}
	if resp, body := do(req); body != "abc" || resp.Trailer.Get("X-Sum") != "7" || resp.Trailer.Get("X-More") != "m" {
		t.Errorf("trailers: %q %v", body, resp.Trailer)
	}
	if all := raw(t, srv, "GET /hints HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(all, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n") || strings.Count(all, "Link") != 1 {
		t.Errorf("hints: %q", all)
	}
	if all := raw(t, srv, "GET /hints HTTP/1.0\r\n\r\n"); !strings.HasPrefix(all, "HTTP/1.0 200") {
		t.Errorf("hints to HTTP/1.0: %q", all)
	}
	expect := "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
	if all := raw(t, srv, fmt.Sprintf(expect, "/refuse")); !strings.HasPrefix(all, "HTTP/1.1 417") {
		t.Errorf("a body that the program does not want: %q", all)
	}
	if all := raw(t, srv, fmt.Sprintf(expect, "/want")+"abc"); !strings.Contains(all, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n") || !strings.Contains(all, "\r\n\r\nabcHTTP/1.1 200") {
		t.Errorf("a body that the program wants: %q", all)
	}
	if resp, body := do(request("HEAD", "/head", nil)); resp.ContentLength != 12345 || body != "" {
		t.Errorf("HEAD: %d", resp.ContentLength)
	}
	if resp, body := do(request("GET", "/large", nil)); len(body) != 5<<20 || resp.ContentLength != 5<<20 {
		t.Errorf("a large answer: %d bytes", len(body))
	}
	if _, body := do(request("POST", "/any", io.LimitReader(zeros{}, 1<<20))); body != "ok" {
		t.Errorf("a large request: %q", body)
	}
	if resp, body := do(request("GET", "/end", nil)); body != "until the end" || resp.Header.Get("Content-Type") != "" {
		t.Errorf("until the end: %q %v", body, resp.Header)
	}
	if resp, err := http.Get(srv.URL + "/cut"); err == nil {
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("half an answer looked whole")
		}
		resp.Body.Close()
	}
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	defer two.CloseIdleConnections()
	resp, err := two.RoundTrip(request("POST", "/want", strings.NewReader("two")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "two" || resp.ProtoMajor != 2 {
		t.Errorf("HTTP/2: %s %q", resp.Proto, body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestUpgraded: both ways, what was sent early, and each half by itself.
func TestUpgraded(t *testing.T) {
	p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
		head, err := readRequest(br)
		if err != nil || !strings.Contains(head, "Upgrade: chat\r\n") || !strings.Contains(head, "Connection: Upgrade\r\n") {
			fmt.Fprintf(conn, "HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: chat\r\nX-A: b\r\n\r\nwelcome ")
		said, _ := io.ReadAll(br) // until the client has ended its half
		fmt.Fprintf(conn, "you said %s", said)
	})
	srv := serveProgram(t, p, Options{})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: chat\r\n\r\nhel")
	br := bufio.NewReader(conn)
	head, err := readRequest(br)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "lo")
	conn.(*net.TCPConn).CloseWrite()
	rest, err := io.ReadAll(br)
	if err != nil {
		t.Error(err)
	}
	all := head + string(rest)
	if !strings.HasPrefix(all, "HTTP/1.1 101 Switching Protocols\r\n") || !strings.HasSuffix(all, "\r\n\r\nwelcome you said hello") || !strings.Contains(all, "X-A: b\r\n") {
		t.Errorf("%q", all)
	}
}

// TestStreams: each piece is passed on when it comes.
func TestStreams(t *testing.T) {
	next := make(chan string)
	p := startProgram(t, func(conn net.Conn, br *bufio.Reader, _ int) {
		if _, err := readRequest(br); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
		for text := range next {
			fmt.Fprintf(conn, "%x\r\n%s\r\n", len(text), text)
		}
		io.WriteString(conn, "0\r\n\r\n")
	})
	srv := serveProgram(t, p, Options{})
	defer http.DefaultClient.CloseIdleConnections()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, text := range []string{"data: 1\n\n", "data: 2\n\n"} {
		next <- text
		buf := make([]byte, len(text))
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != text {
			t.Errorf("%q, %v", buf, err)
		}
	}
	close(next)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v", rest, err)
	}
}

// TestAnInstanceThatGoes gets no new request, and is waited for until those that
// it has have ended.
func TestAnInstanceThatGoes(t *testing.T) {
	b := &backend{kick: make(chan struct{}, 1)}
	one := &upstream{Endpoint: mayfly.Endpoint{ID: "1", Name: "http"}, backend: b}
	two := &upstream{Endpoint: mayfly.Endpoint{ID: "2", Name: "http"}, backend: b}
	other := &upstream{Endpoint: mayfly.Endpoint{ID: "3", Name: "admin"}, backend: b}
	b.ups.Store(&[]*upstream{one, other, two})
	seen := map[*upstream]int{}
	for range 10 {
		seen[b.pick("http")]++
	}
	if seen[one] != 5 || seen[two] != 5 || b.pick("none") != nil {
		t.Errorf("the least busy gets the next: %d and %d", seen[one], seen[two])
	}
	one.gone.Store(true)
	b.ups.Store(&[]*upstream{two})
	for range 5 {
		one.done()
	}
	select {
	case <-b.kick:
	default:
		t.Error("nobody heard that nothing is in flight any more")
	}
	if got := b.pick("http"); got != two {
		t.Error("an instance that goes was chosen")
	}
	two.shunned.Store(time.Now().Add(time.Hour).UnixNano())
	if b.pick("http") != two {
		t.Error("the only one is chosen, whatever")
	}
}

// TestNoInstance is answered when the wait is over, or there are too many who wait.
func TestNoInstance(t *testing.T) {
	p := startProgram(t, func(net.Conn, *bufio.Reader, int) {})
	for _, tt := range []struct {
		name string
		wait time.Duration
		full bool // another request waits already
		want string
	}{
		{"the wait is over", 20 * time.Millisecond, false, "503 true true"},
		{"too many wait", time.Hour, true, "429 true false"},
	} {
		srv := serveProgram(t, p, Options{WakeTimeout: tt.wait})
		r := srv.Config.Handler.(*Router)
		g := r.gate(&mayfly.Workload{Space: "default", Name: "web"})
		spot, _ := r.table.Load().match("", "/")
		b := spot.find("GET").pick().backend
		old := b.ups.Swap(&[]*upstream{})
		g.set(0, 0, 1)
		get := func(ctx context.Context) string {
			req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err.Error()
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return fmt.Sprint(resp.StatusCode, resp.Header.Get("Retry-After") != "", strings.Contains(string(body), "web"))
		}
		ctx, leave := context.WithCancel(t.Context())
		var first sync.WaitGroup
		if tt.full {
			first.Go(func() { get(ctx) })
			for g.load(time.Now()).Waiting == 0 {
				runtime.Gosched()
			}
		}
		if got := get(t.Context()); got != tt.want {
			t.Errorf("%s: %s", tt.name, got)
		}
		leave()
		first.Wait()
		http.DefaultClient.CloseIdleConnections()
		b.ups.Store(old)
	}
}

// BenchmarkForward is one request over kept connections, with client and program.
func BenchmarkForward(b *testing.B) {
	p := startProgram(b, func(conn net.Conn, br *bufio.Reader, _ int) {
		conn.SetDeadline(time.Time{})
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: text/plain; charset=utf-8\r\nDate: Sat, 21 Nov 2026 21:37:53 GMT\r\n\r\nhello world\n")
		for {
			line, err := br.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				conn.Write(answer)
			}
		}
	})
	srv := serveProgram(b, p, Options{})
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		io.WriteString(conn, "GET /hello HTTP/1.1\r\nHost: a.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n")
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("world\n")); {
			m, err := conn.Read(buf[n:])
			if n += m; err != nil {
				b.Fatal(err)
			}
		}
	}
}
