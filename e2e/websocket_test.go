package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/mayfly-run/mayfly"
)

// TestWebSocketThroughARoute: frames of every kind pass both ways to a service and
// to a function, closes with their codes, and a connection outlives its release.
func TestWebSocketThroughARoute(t *testing.T) {
	t.Parallel()
	n := start(t)
	service := func(v string) mayfly.Workload {
		w := web(1, mayfly.Update{})
		w.Env = map[string]string{"V": v}
		w.Routes = []mayfly.Route{{Host: "web.test", Path: "/"}}
		w.Service.DrainWait = 10 * time.Minute // a release waits for the connection
		return w
	}
	function := func(v string) mayfly.Workload {
		w := mayfly.Workload{Name: "fn", Isolation: mayfly.IsolationInstance, Scale: mayfly.Scale{Concurrency: 20}, Timeout: 10 * time.Minute}
		w.Env = map[string]string{"V": v}
		return w
	}
	for _, c := range []struct {
		name   string
		deploy func(v string)
		ended  func()
	}{
		{"web", func(v string) { n.serve(service(v)) }, func() { n.settled("web", mayfly.ServiceRunning, 2, 1) }},
		{"fn", func(v string) { n.deploy(function(v)) }, func() {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.with(t)
			c.deploy("one")
			s := n.dial(c.name)
			s.exchanges(c.name == "fn")
			s.closes(n, c.name)
			s = n.dial(c.name)
			c.deploy("two")
			n.until("release 2 answers", func() bool {
				other := n.dial(c.name)
				defer other.CloseNow()
				return strings.HasPrefix(other.says("who"), "two ")
			})
			if got := s.says("who"); !strings.HasPrefix(got, "one ") {
				t.Errorf("the connection from before the release is told %q", got)
			}
			s.close(websocket.StatusNormalClosure, "")
			c.ended()
		})
	}
}

// socket is a client's end of a WebSocket.
type socket struct {
	*websocket.Conn
	t   testing.TB
	ctx context.Context
}

// dial opens a WebSocket as a client that says to be somebody else.
func (n *node) dial(name string) *socket {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	n.t.Cleanup(cancel)
	c, resp, err := websocket.Dial(ctx, n.url+"/websocket", &websocket.DialOptions{
		Host: name + ".test", HTTPHeader: http.Header{"X-Forwarded-For": {"192.0.2.1"}}, Subprotocols: []string{"other", "test"},
	})
	if err != nil {
		n.t.Fatalf("dial %s: %v", name, err)
	}
	if c.Subprotocol() != "test" || resp.StatusCode != http.StatusSwitchingProtocols {
		n.t.Errorf("it speaks %q after status %d", c.Subprotocol(), resp.StatusCode)
	}
	c.SetReadLimit(4 << 20)
	return &socket{c, n.t, ctx}
}

func (s *socket) says(text string) string {
	s.t.Helper()
	if err := s.Write(s.ctx, websocket.MessageText, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
	_, got, err := s.Read(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(got)
}

// close closes it. The answer may be late: five seconds are waited for it, which a
// busy machine may take.
func (s *socket) close(code websocket.StatusCode, reason string) {
	s.t.Helper()
	if err := s.Close(code, reason); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		s.t.Errorf("close: %v", err)
	}
}

// exchanges sends and gets text, binary and fragments, and pings both ways.
func (s *socket) exchanges(function bool) {
	s.t.Helper()
	large := make([]byte, 1<<20)
	rand.Read(large)
	for _, m := range []struct {
		kind websocket.MessageType
		data []byte
	}{
		{websocket.MessageText, []byte("grüße")}, {websocket.MessageBinary, []byte{0, 255, 0x81, 0x88}}, {websocket.MessageBinary, large}, {websocket.MessageText, nil},
	} {
		w, err := s.Writer(s.ctx, m.kind)
		if err != nil {
			s.t.Fatal(err)
		}
		half := len(m.data) / 2 // each write is a frame
		w.Write(m.data[:half])
		w.Write(m.data[half:])
		if err := w.Close(); err != nil {
			s.t.Fatal(err)
		}
		kind, got, err := s.Read(s.ctx)
		if err != nil || kind != m.kind || !bytes.Equal(got, m.data) {
			s.t.Fatalf("%d bytes of %s came back as %d of %s, %v", len(m.data), m.kind, len(got), kind, err)
		}
	}
	if got := s.says("ping"); got != "ponged" { // the program's, which Read answers
		s.t.Errorf("after its ping: %q", got)
	}
	who := strings.Split(s.says("who"), " ")
	if len(who) != 3 || who[0] != "one" || who[1] != "127.0.0.1" || (who[2] != "") != function {
		s.t.Errorf("the program sees %q", who)
	}
}

// closes has each end close, and the other be told of the code.
func (s *socket) closes(n *node, name string) {
	s.t.Helper()
	read := make(chan error, 1)
	go func() { // a ping is answered to who reads
		_, _, err := s.Read(s.ctx)
		read <- err
	}()
	if err := s.Ping(s.ctx); err != nil {
		s.t.Errorf("our ping: %v", err)
	}
	if err := s.Write(s.ctx, websocket.MessageText, []byte("close")); err != nil {
		s.t.Fatal(err)
	}
	if err := <-read; websocket.CloseStatus(err) != 4001 || !strings.Contains(err.Error(), "as you wish") {
		s.t.Errorf("it closed with %v", err)
	}
	n.dial(name).close(4002, "enough")
	n.until("the program hears of the close", func() bool {
		_, body, _ := n.get(name, "/websockets")
		return strings.Contains(body, "4002")
	})
}
