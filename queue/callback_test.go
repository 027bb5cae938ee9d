package queue

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// told is what a receiver of callbacks was told.
type told struct {
	header http.Header
	body   []byte
}

// receiver answers each callback with what answer says.
func receiver(t *testing.T, answer func(call int) int) (url string, calls chan told) {
	calls = make(chan told, 100)
	var count atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if status := answer(int(count.Add(1))); status == 302 {
			http.Redirect(w, r, "/elsewhere", status)
		} else {
			w.WriteHeader(status)
		}
		calls <- told{r.Header, body}
	}))
	t.Cleanup(s.Close)
	return s.URL + "/hook?a=b", calls
}

// eager makes a node whose callbacks are tried again soon.
func eager(n *node) *node {
	n.calls.delays = []time.Duration{time.Millisecond, time.Millisecond}
	n.start()
	return n
}

func (n *node) runWith(callback string, reason mayfly.Reason) mayfly.Task {
	n.t.Helper()
	sub := work("w")
	sub.Callback = callback
	n.submit(sub)
	return n.done(n.next(), reason)
}

// left waits until so many callbacks are on disk.
func (n *node) left(count uint64) {
	n.t.Helper()
	for {
		msgs, _, err := n.Queue.bus.Read(n.t.Context(), bus.CallbacksStream, bus.From{Subject: bus.CallbackSubject("*", "*"), Limit: 100})
		if err != nil {
			n.t.Fatal(err)
		}
		if uint64(len(msgs)) == count {
			return
		}
	}
}

// failed waits until it is on disk that a callback was tried so often.
func (n *node) failed(tries int) {
	n.t.Helper()
	for {
		msg, err := n.Queue.bus.Last(n.t.Context(), bus.CallbacksStream, bus.CallbackSubject("*", "*"))
		if err != nil {
			n.t.Fatal(err)
		}
		rec, err := readCallback(msg)
		if err != nil {
			n.t.Fatal(err)
		}
		if rec.Tries == tries {
			return
		}
	}
}

// The signature is what Standard Webhooks says, computed here by itself.
func TestCallback(t *testing.T) {
	url, calls := receiver(t, func(int) int { return 204 })
	n := eager(newNode(t, Options{}))
	task := n.runWith(url, mayfly.Succeeded)
	got := <-calls
	secret, err := n.Secret(t.Context(), home)
	if err != nil || !strings.HasPrefix(secret, "whsec_") {
		t.Fatalf("secret %q, %v", secret, err)
	}
	key, err := base64.StdEncoding.DecodeString(secret[len("whsec_"):])
	if err != nil || len(key) < 24 {
		t.Fatalf("%d bytes, %v", len(key), err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(got.header.Get("webhook-id") + "." + got.header.Get("webhook-timestamp") + "."))
	mac.Write(got.body)
	if signature := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); got.header.Get("webhook-signature") != signature {
		t.Errorf("signed %q, want %q", got.header.Get("webhook-signature"), signature)
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      mayfly.Task
	}
	if err := json.Unmarshal(got.body, &body); err != nil || body.Type != "task.succeeded" || body.Data.ID != task.ID || !body.Timestamp.Equal(task.Ended) {
		t.Errorf("told %s, %v", got.body, err)
	}
	n.left(0)
	again := n.crash(Options{})
	if same, err := again.Secret(t.Context(), home); err != nil || same != secret {
		t.Errorf("the secret became %q, %v", same, err)
	}
	if other, err := again.Secret(t.Context(), "other"); err != nil || other == secret {
		t.Errorf("another space has the same secret, %v", err)
	}
}

// A callback that fails is made again, with the same id, and then given up.
func TestCallbackThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		status []int
		calls  int
	}{
		"once":      {[]int{500, 200}, 2},
		"always":    {[]int{500, 404, 503}, 3},
		"redirects": {[]int{302, 302, 200}, 3},
		"gone":      {[]int{410}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			url, calls := receiver(t, func(call int) int { return test.status[min(call, len(test.status))-1] })
			n := eager(newNode(t, Options{}))
			n.runWith(url, mayfly.ExitedNonZero)
			ids := map[string]bool{}
			for range test.calls {
				ids[(<-calls).header.Get("webhook-id")] = true
			}
			n.left(0)
			if len(ids) != 1 || len(calls) != 0 {
				t.Errorf("%d ids, and %d calls too many", len(ids), len(calls))
			}
		})
	}
}

// What a crash came before is made by the next start.
func TestCallbackOverACrash(t *testing.T) {
	var well atomic.Bool
	url, calls := receiver(t, func(int) int {
		if well.Load() {
			return 200
		}
		return 500
	})
	n := newNode(t, Options{})
	n.calls.delays = []time.Duration{time.Millisecond, time.Hour}
	n.start()
	buried := work("w")
	buried.Callback, buried.Retries = url, mayfly.Retries{Max: 1, Delays: []time.Duration{0}}
	n.submit(buried)
	n.done(n.next(), mayfly.ExitedNonZero)
	n.done(n.next(), mayfly.ExitedNonZero)
	<-calls
	<-calls
	n.failed(2) // and the next in an hour
	waiting := work("w")
	waiting.Callback = url
	n.submit(waiting)
	n.next() // runs as the crash comes
	n = n.crash(Options{})
	n.calls.delays = []time.Duration{time.Millisecond}
	well.Store(true)
	n.start()
	n.done(n.next(), mayfly.Succeeded)
	if got := <-calls; !strings.Contains(string(got.body), `"type":"task.succeeded"`) {
		t.Errorf("told %s", got.body)
	}
	n.left(1) // the one in an hour
}

func TestCallbackAddresses(t *testing.T) {
	for address, allowed := range map[string]bool{
		"127.0.0.1:80": true, "[::1]:80": true, "10.0.0.1:80": true, "93.184.216.34:443": true,
		"169.254.169.254:80": false, "169.254.0.1:80": false, "[fe80::1]:80": false, "[fe80::1%eth0]:80": false,
		"[::ffff:169.254.169.254]:80": false, "[64:ff9b::a9fe:a9fe]:80": false, "[fd00:ec2::254]:80": false,
		"100.100.100.200:80": false, "224.0.0.1:80": false, "nonsense": false,
	} {
		if err := checkAddress(address); (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}
	_, err := notify(t.Context(), NewCaller(), mayfly.Task{Callback: "http://169.254.169.254/latest"}, newSecret())
	if err == nil || !strings.Contains(err.Error(), "not an address that a callback may go to") {
		t.Errorf("it was called: %v", err)
	}
}

// A slow host takes a quarter of the calls, and the others go on.
func TestCallbacksToASlowHost(t *testing.T) {
	release := make(chan struct{})
	var most, now atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		now.Add(-1)
	}))
	t.Cleanup(slow.Close)
	url, calls := receiver(t, func(int) int { return 200 })
	n := eager(newNode(t, Options{Calls: 8}))
	for range 5 { // few, so that no call takes too long
		n.runWith(slow.URL, mayfly.Succeeded)
	}
	for range 3 {
		n.runWith(url, mayfly.Succeeded)
	}
	for range 3 {
		<-calls
	}
	close(release)
	n.left(0)
	if most.Load() > 2 {
		t.Errorf("%d calls at once", most.Load())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := fmt.Sprint(n.calls.hosts, len(n.calls.full)); !strings.HasSuffix(s, " 0") {
		t.Errorf("left: %s", s)
	}
}

func TestRetryAfter(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "86400": 24 * time.Hour, "86401": 24 * time.Hour, "9223372036854775807": 24 * time.Hour,
		"99999999999999999999999": 24 * time.Hour, "-5": 0, "1.5": 0, "soon": 0,
		"Sat, 31 Jan 2026 12:00:30 GMT": 30 * time.Second, "Saturday, 31-Jan-26 12:01:00 GMT": time.Minute,
		"Sat, 31 Jan 2026 11:00:00 GMT": 0, "Sat, 31 Jan 2037 11:00:00 GMT": 24 * time.Hour,
	} {
		if got := retryAfter(text, at); got != want {
			t.Errorf("%q is %s, not %s", text, got, want)
		}
	}
}

// A receiver that asks to be left alone is, however soon it would have been called.
func TestCallbackRetryAfter(t *testing.T) {
	n := eager(newNode(t, Options{}))
	calls := make(chan time.Time, 10)
	var count atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls <- time.Now()
		if count.Add(1) == 1 {
			w.Header().Set("Retry-After", "2")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer s.Close()
	n.runWith(s.URL, mayfly.Succeeded)
	first := <-calls
	if d := (<-calls).Sub(first); d < 2*time.Second {
		t.Errorf("it was called again after %s", d)
	}
}
