package discovery

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// lineServer listens on the loopback interface and returns its address.
func lineServer(t testing.TB, d *node, g Guest, opts LineOptions) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { d.ListenLines(ctx, l, opts, func(net.Conn) (Guest, error) { return g, nil }) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return l.Addr().String()
}

// lineClient is a client, written by what the documentation says.
type lineClient struct {
	t      testing.TB
	conn   net.Conn
	reader *bufio.Reader
	pushed []string // lines that came while an answer was waited for
	next   int
}

func dial(t testing.TB, address string) *lineClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(patience))
	return &lineClient{t: t, conn: conn, reader: bufio.NewReader(conn)}
}

// greet dials and says hello.
func greet(t testing.TB, address, hello string) *lineClient {
	t.Helper()
	c := dial(t, address)
	c.ok("hello", hello, nil)
	return c
}

func (c *lineClient) write(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, line); err != nil {
		c.t.Fatal(err)
	}
}

// line returns the next line that says something.
func (c *lineClient) line() string {
	c.t.Helper()
	for {
		text, err := c.reader.ReadString('\n')
		if err != nil {
			c.t.Fatalf("read a line: %v", err)
		}
		if text = strings.TrimSuffix(text, "\n"); text != "" {
			return text
		}
	}
}

// send sends a command and returns its id.
func (c *lineClient) send(command, body string) string {
	c.t.Helper()
	c.next++
	id := fmt.Sprint(c.next)
	c.write(strings.TrimSpace(id+" "+command+" "+body) + "\n")
	return id
}

// answer waits for the answer to a command.
func (c *lineClient) answer(id string) (word, body string) {
	c.t.Helper()
	for {
		text := c.line()
		if rest, ok := strings.CutPrefix(text, id+" "); ok {
			word, body, _ = strings.Cut(rest, " ")
			return word, body
		}
		c.pushed = append(c.pushed, text)
	}
}

func (c *lineClient) ok(command, body string, into any) string {
	c.t.Helper()
	id := c.send(command, body)
	c.okAnswer(id, into)
	return id
}

func (c *lineClient) okAnswer(id string, into any) {
	c.t.Helper()
	word, body := c.answer(id)
	if word != "ok" {
		c.t.Fatalf("command %s: %s %s", id, word, body)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(body), into); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *lineClient) refused(command, body string, kind mayfly.Kind) {
	c.t.Helper()
	word, text := c.answer(c.send(command, body))
	var e lineErrorBody
	if err := json.Unmarshal([]byte(text), &e); err != nil || word != "error" || e.Kind != kind || e.Text == "" {
		c.t.Errorf("%s %s: %s %s, want an error of kind %s", command, body, word, text, kind)
	}
}

// push waits for the next line that was not asked for.
func (c *lineClient) push(word string, into any) {
	c.t.Helper()
	var text string
	if len(c.pushed) > 0 {
		text, c.pushed = c.pushed[0], c.pushed[1:]
	} else {
		text = c.line()
	}
	body, ok := strings.CutPrefix(text, "! "+word+" ")
	if !ok {
		c.t.Fatalf("got %q, want ! %s", text, word)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		c.t.Fatal(err)
	}
}

func (c *lineClient) ended() {
	c.t.Helper()
	for {
		_, err := c.reader.ReadString('\n')
		if err == nil {
			continue
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			c.t.Fatal("the connection is still there")
		}
		return
	}
}

const registerWeb = `{"service":"web","name":"http","protocol":"http","port":8080}`

// TestGuestGoes: each way in which what a guest registered goes, and for how long
// a consumer waits for the news.
func TestGuestGoes(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	address := lineServer(t, d, Guest{}, LineOptions{})
	for _, test := range []struct {
		name     string
		hello    string
		register string
		end      func(c *lineClient, id string) // nil: it goes by itself
	}{
		{"withdrawal", `{}`, registerWeb, func(c *lineClient, id string) { c.send("withdraw", `{"id":"`+id+`","wait":"1m"}`) }},
		{"bye", `{}`, registerWeb, func(c *lineClient, _ string) { c.send("bye", "") }},
		{"closed socket", `{}`, registerWeb, func(c *lineClient, _ string) { c.conn.Close() }},
		{"closed for writing", `{}`, registerWeb, func(c *lineClient, _ string) { c.conn.(*net.TCPConn).CloseWrite() }},
		{"reset socket", `{}`, registerWeb, func(c *lineClient, _ string) {
			c.conn.(*net.TCPConn).SetLinger(0)
			c.conn.Close()
		}},
		{"missed heartbeat, after 1 s", `{}`, `{"service":"web","port":80,"ttl":"1s"}`, nil},
		{"silent connection, after 1 s", `{"timeout":"1s"}`, registerWeb, nil},
		{"a line that is none", `{}`, registerWeb, func(c *lineClient, _ string) { c.write("?\n") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := watch(t, d, Consumer{}, mayfly.Require{Service: "web", Port: AnyPort, All: true})
			c := dial(t, address)
			c.write("1 hello " + test.hello + "\n2 register " + test.register + "\n") // at once: its time runs
			var e lineID
			c.next = 2
			c.okAnswer("2", &e) // by then it was there
			if test.end != nil {
				await(t, s, e.ID)
				test.end(c, e.ID)
			}
			t.Logf("told after %v", await(t, s))
		})
	}
}

// TestGuestIsBack: a heartbeat brings back what a missed one took away.
func TestGuestIsBack(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	c := greet(t, lineServer(t, d, Guest{}, LineOptions{}), `{}`)
	s := watch(t, d, Consumer{}, all)
	var e lineID
	c.ok("register", `{"service":"web","port":80,"ttl":"1s"}`, &e) // by then it was there
	await(t, s)
	keep(t, s, func() { c.write("\n") })
}

// keep sends heartbeats until a subscription gives one endpoint, which may be gone
// again before anybody has looked.
func keep(t testing.TB, s *Subscription, beat func()) {
	t.Helper()
	for limit := time.After(patience); ; {
		if list, revision := s.Current(); len(list) == 1 {
			s.Ack(revision)
			return
		}
		beat()
		select {
		case <-s.C():
		case <-time.After(shortBeat):
		case <-limit:
			t.Fatal("it is not there")
		}
	}
}

func TestGuestRegisters(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a", Zone: "z"})
	c := greet(t, lineServer(t, d, Guest{}, LineOptions{}), `{"space":"prod"}`)
	var first, second lineID
	c.ok("register", `{"service":"db","protocol":"mysql","port":3306,"role":"primary","tags":{"v":"10"}}`, &first)
	e, ok := d.Get(first.ID)
	want := mayfly.Endpoint{
		ID: first.ID, Space: "prod", Service: "db", Name: "mysql", Protocol: "mysql", Address: "127.0.0.1", Port: 3306, Role: "primary",
		Tags: map[string]string{"v": "10"}, Node: "a", Zone: "z", Outside: true,
	}
	if !ok || !same(&e, &want) {
		t.Errorf("got %+v", e)
	}
	c.ok("register", `{"service":"db","protocol":"mysql","address":"db.example.org","port":3307}`, &second)
	if e, _ := d.Get(first.ID); second.ID != first.ID || e.Port != 3307 || e.Address != "db.example.org" {
		t.Errorf("registered again: %+v", e)
	}
	for _, body := range []string{
		`{"port":1}`, `{"service":"db"}`, `{"service":"d b","port":1}`, `{"service":"db","port":1,"address":"0.0.0.0"}`, `{"service":"db","port":1,"address":"-x"}`,
		`{"service":"db","port":70000}`, `{"service":"db","port":1,"tll":"1s"}`, `{"service":"db","port":1,"ttl":"-1s"}`, `{"service":"db","port":1} {}`, `[]`,
	} {
		c.refused("register", body, mayfly.Invalid)
	}
	c.refused("withdraw", `{"id":"x"}`, mayfly.NotFound)
}

// TestGuestSubscribes: it is told of changes, and a withdrawal waits until it has
// acknowledged.
func TestGuestSubscribes(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	address := lineServer(t, d, Guest{}, LineOptions{})
	provider, consumer := greet(t, address, `{}`), greet(t, address, `{"name":"reader"}`)
	var got, now lineEndpoints
	sub := consumer.ok("subscribe", `{"service":"web","all":true,"ack":true}`, &got)
	if got.ID != sub || got.Endpoints == nil || len(got.Endpoints) > 0 {
		t.Errorf("got %+v", got)
	}
	consumer.refused("find", `{"service":"web","space":"other"}`, mayfly.Denied)
	consumer.refused("subscribe", `{}`, mayfly.Invalid)
	var e lineID
	provider.ok("register", registerWeb, &e)
	consumer.push("changed", &now)
	if len(now.Endpoints) != 1 || now.Endpoints[0].ID != e.ID || now.Revision <= got.Revision || now.ID != sub {
		t.Errorf("got %+v", now)
	}
	consumer.ok("find", `{"service":"web"}`, &got)
	if len(got.Endpoints) != 1 {
		t.Errorf("found %+v", got)
	}

	withdrawn := provider.send("withdraw", `{"id":"`+e.ID+`","wait":"1m"}`)
	consumer.push("changed", &now)
	provider.ok("find", `{"service":"web"}`, nil) // other commands go on
	if len(now.Endpoints) > 0 {
		t.Errorf("got %+v", now)
	}
	consumer.ok("ack", fmt.Sprintf(`{"id":%q,"revision":%d}`, sub, now.Revision), nil)
	var drained lineDrained
	provider.okAnswer(withdrawn, &drained)
	if len(drained.Pending) > 0 {
		t.Errorf("got %+v", drained)
	}

	provider.ok("register", registerWeb, &e)
	consumer.push("changed", &now)
	provider.ok("withdraw", `{"id":"`+e.ID+`","wait":"0s"}`, &drained)
	if len(drained.Pending) != 1 || drained.Pending[0].Workload != "reader" {
		t.Errorf("got %+v", drained)
	}
	consumer.ok("unsubscribe", `{"id":"`+sub+`"}`, nil)
	consumer.refused("ack", `{"id":"`+sub+`","revision":1}`, mayfly.NotFound)
}

func TestGuestLocks(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a", Lease: longLease})
	address := lineServer(t, d, Guest{}, LineOptions{})
	a, b := greet(t, address, `{}`), greet(t, address, `{}`)
	var first, second lineToken
	a.ok("lock", `{"name":"l"}`, &first)
	a.refused("lock", `{"name":"l"}`, mayfly.Conflict)
	a.refused("lock", `{"name":"_active.web.1"}`, mayfly.Denied)
	b.refused("lock", `{"name":"l","wait":"0s"}`, mayfly.Conflict)
	b.refused("lock", `{"name":"l","wait":"1ms"}`, mayfly.TimedOut)
	b.refused("unlock", `{"name":"l"}`, mayfly.Conflict)
	b.refused("resume", fmt.Sprintf(`{"name":"l","token":%d}`, first.Token), mayfly.Conflict)
	waiting := b.send("lock", `{"name":"l","delay":"1ms"}`)
	awaitWaiting(t, d, 1)
	a.ok("unlock", `{"name":"l"}`, nil)
	b.okAnswer(waiting, &second)
	if second.Token <= first.Token {
		t.Errorf("token %d after %d", second.Token, first.Token)
	}

	// A connection that ends gives it back after its delay.
	waiting = a.send("lock", `{"name":"l"}`)
	awaitWaiting(t, d, 1)
	b.conn.Close()
	a.okAnswer(waiting, &first)
	if first.Token <= second.Token {
		t.Errorf("token %d after %d", first.Token, second.Token)
	}

	// Before, the same client can take it up again over another one.
	a.conn.Close()
	resume := fmt.Sprintf(`{"name":"l","token":%d}`, first.Token)
	for {
		b = greet(t, address, `{}`)
		if word, _ := b.answer(b.send("resume", resume)); word == "ok" {
			break // until then the server has not seen that the connection is closed
		}
	}
	if h, _ := d.Locks().Holder("default", "l"); h.Token != first.Token {
		t.Errorf("got %+v", h)
	}
	b.ok("bye", "", nil)
	b.ended()
	if h, ok := d.Locks().Holder("default", "l"); ok {
		t.Errorf("%+v holds it", h)
	}
}

// TestGuestIsTold that a lock is not its own any more.
func TestGuestIsTold(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	c := greet(t, lineServer(t, d, Guest{}, LineOptions{}), `{}`)
	var held, lost lineToken
	c.ok("lock", `{"name":"l"}`, &held)
	if err := d.Locks().Unlock(t.Context(), "default", "l", held.Token); err != nil {
		t.Fatal(err)
	}
	if c.push("lost", &lost); lost != held {
		t.Errorf("got %+v, want %+v", lost, held)
	}
}

func TestGuestIsRefused(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	admit := func(_, token string) error {
		if token != "right" {
			return mayfly.Errorf(mayfly.Denied, "the token is wrong")
		}
		return nil
	}
	for _, test := range []struct {
		name  string
		guest Guest
		hello string
		kind  mayfly.Kind
	}{
		{"another space", Guest{Space: "a"}, `{"space":"b"}`, mayfly.Denied},
		{"no space", Guest{}, `{"space":"A b"}`, mayfly.Invalid},
		{"wrong token", Guest{Admit: admit}, `{"token":"wrong"}`, mayfly.Denied},
		{"unknown word", Guest{}, `{"tokn":""}`, mayfly.Invalid},
	} {
		c := dial(t, lineServer(t, d, test.guest, LineOptions{}))
		c.refused("hello", test.hello, test.kind)
		c.ended()
	}
	c := dial(t, lineServer(t, d, Guest{}, LineOptions{}))
	c.write("1 find {}\n")
	c.push("error", &lineErrorBody{})
	c.ended()
	c = greet(t, lineServer(t, d, Guest{Admit: admit, ReadOnly: true}, LineOptions{}), `{"token":"right"}`)
	c.refused("register", registerWeb, mayfly.Denied)
	c.refused("lock", `{"name":"l"}`, mayfly.Denied)
	c.refused("hello", `{}`, mayfly.Invalid)
	c.refused("fly", ``, mayfly.Invalid)
	c.write("2 find " + strings.Repeat(" ", maxLine) + "\n")
	var e lineErrorBody
	if c.push("error", &e); e.Kind != mayfly.TooLarge {
		t.Errorf("got %+v", e)
	}
	c.ended()

	address := lineServer(t, d, Guest{}, LineOptions{Connections: 1})
	first := greet(t, address, `{}`)
	second := dial(t, address)
	if second.push("error", &e); e.Kind != mayfly.Busy {
		t.Errorf("got %+v", e)
	}
	second.ended()
	first.ok("find", `{"service":"web"}`, nil)
}

// FuzzLines: whatever a client sends, each line of the answer is well formed, the
// connection ends when the client's does, and nothing of it stays.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{
		"", "\n\n", "1 hello {}\n", "1 hello\r\n2 bye\n", "x\n", "1 hello {}\n2 register " + registerWeb + "\n\n3 find {\"service\":\"web\"}\n",
		"1 hello {\"space\":\"s\",\"name\":\"n\",\"timeout\":\"5s\"}\n2 subscribe {\"service\":\"web\",\"all\":true,\"ack\":true}\n3 register " + registerWeb + "\n4 ack {\"id\":\"2\",\"revision\":1}\n5 unsubscribe {\"id\":\"2\"}\n",
		"1 hello {}\n2 lock {\"name\":\"l\",\"wait\":\"0s\"}\n3 unlock {\"name\":\"l\"}\n4 resume {\"name\":\"l\",\"token\":1}\n",
		"1 hello {}\n2 subscribe {\"role\":\"r\",\"tags\":{\"a\":{\"pattern\":\"(\"}}}\n", "1 hello {}\n2 withdraw {\"id\":\"x\",\"wait\":\"1h\"}\n", "! hello {}\n", "1 hello {} {}\n", "\x00\xff 1\n",
	} {
		f.Add([]byte(seed))
	}
	d := newSite(f).start(f, Options{Node: "a", Lease: time.Millisecond})
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		var running sync.WaitGroup
		running.Go(func() { d.ServeLines(context.Background(), theirs, Guest{}, LineOptions{}) })
		running.Go(func() {
			ours.Write(input)
			ours.Write([]byte("\nend bye\n"))
		})
		reader := bufio.NewReader(ours)
		for {
			text, err := reader.ReadString('\n')
			if err != nil {
				break
			}
			wellFormed(t, strings.TrimSuffix(text, "\n"))
			if strings.HasPrefix(text, "end ") {
				break
			}
		}
		ours.Close()
		running.Wait()
		d.nodes.mu.Lock()
		defer d.nodes.mu.Unlock()
		if len(d.nodes.entries) > 0 || len(d.nodes.owed) > 0 || len(d.nodes.buckets) > 0 {
			t.Errorf("left: %v, %v, %v", d.nodes.entries, d.nodes.owed, d.nodes.buckets)
		}
	})
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	if text == "" {
		return
	}
	parts := strings.SplitN(text, " ", 3)
	if len(parts) != 3 || !json.Valid([]byte(parts[2])) {
		t.Fatalf("not well formed: %q", text)
	}
	known := map[bool][]string{true: {"changed", "lost", "error"}, false: {"ok", "error"}}
	for _, word := range known[parts[0] == "!"] {
		if parts[1] == word {
			return
		}
	}
	t.Fatalf("an unknown word: %q", text)
}
