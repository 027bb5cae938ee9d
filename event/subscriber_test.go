package event_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/event"
)

// asker is a subscriber outside that answers as it is told, and notes when it was
// asked.
type asker struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(call int) (status int, retryAfter string)
	calls  []time.Time
	taken  int
}

func ask(t *testing.T, answer func(call int) (int, string)) *asker {
	a := &asker{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.calls = append(a.calls, time.Now())
		status, after := a.answer(len(a.calls))
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		if w.WriteHeader(status); status < 300 {
			a.taken++
		}
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *asker) have() (calls []time.Time, taken int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append(calls, a.calls...), a.taken
}

// trigger is the one mapping there is.
func (n *node) trigger() mayfly.TriggerState {
	n.t.Helper()
	list, err := n.events.Triggers(context.Background(), home)
	if err != nil || len(list) != 1 {
		n.t.Fatal(list, err)
	}
	return list[0]
}

func TestSubscriberIsLeftAlone(t *testing.T) {
	until2 := time.Now().Add(2 * time.Second).Truncate(time.Second)
	for name, tt := range map[string]struct {
		status int
		after  string
		sooner func(calls []time.Time) bool
	}{
		"seconds": {http.StatusTooManyRequests, "1", func(calls []time.Time) bool { return calls[1].Sub(calls[0]) < time.Second }},
		"date":    {http.StatusServiceUnavailable, until2.UTC().Format(http.TimeFormat), func(calls []time.Time) bool { return calls[1].Before(until2) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sub := ask(t, func(call int) (int, string) {
				if call == 1 {
					return tt.status, tt.after
				}
				return http.StatusNoContent, ""
			})
			n := start(t, event.Options{Delays: []time.Duration{time.Millisecond, time.Millisecond}})
			n.mapTo(mayfly.EventMapping{URL: sub.URL, Type: "photo.uploaded", Concurrency: 1})
			n.emit(photo("1", "x"), photo("2", "x"), photo("3", "x")) // all of which wait for it
			until(t, "all are taken", func() bool { _, taken := sub.have(); return taken == 3 })
			if calls, _ := sub.have(); len(calls) != 4 || tt.sooner(calls) {
				t.Errorf("it was called at %v", calls)
			}
		})
	}
}

// What a subscriber asks for is bounded, and holds over a restart.
func TestSubscriberIsLeftAloneForADay(t *testing.T) {
	sub := ask(t, func(int) (int, string) { return http.StatusServiceUnavailable, "99999999999999999999" })
	opts := event.Options{Delays: []time.Duration{time.Millisecond, time.Millisecond}}
	n := start(t, opts)
	n.mapTo(mayfly.EventMapping{URL: sub.URL, Type: "photo.uploaded", Concurrency: 1})
	n.emit(photo("1", "x"))
	waits := func() bool {
		s := n.trigger()
		left := time.Until(s.Retry)
		return s.State == "failing" && s.Lag == 1 && s.LastError == "it answered 503 Service Unavailable" && left > 23*time.Hour && left <= 24*time.Hour
	}
	until(t, "it is left alone for a day", waits)
	n.restart(opts)
	until(t, "that is known after a restart", waits)
	n.emit(photo("2", "x"))
	until(t, "what comes now waits as long", func() bool {
		c := to(n.story("2"), sub.URL).Call
		return c != nil && c.State == "waiting" && time.Until(c.Due) > 23*time.Hour
	})
	if calls, _ := sub.have(); len(calls) != 1 {
		t.Errorf("it was called at %v", calls)
	}
}

// 410 gives up the event, at once, and the next one is pushed as any other.
func TestSubscriberThatIsGone(t *testing.T) {
	sub := ask(t, func(call int) (int, string) {
		if call == 1 {
			return http.StatusGone, "1"
		}
		return http.StatusOK, ""
	})
	n := start(t, event.Options{Delays: []time.Duration{time.Millisecond}})
	n.mapTo(mayfly.EventMapping{URL: sub.URL, Type: "photo.uploaded", Concurrency: 1})
	n.emit(photo("1", "x"))
	until(t, "it is given up", func() bool { s := n.trigger(); return s.Failures == 1 && s.State == "failing" && s.Lag == 0 })
	n.emit(photo("2", "x"))
	until(t, "the next is taken", func() bool { s := n.trigger(); return s.Delivered == 1 && s.State == "active" })
	if calls, _ := sub.have(); len(calls) != 2 {
		t.Errorf("it was called at %v", calls)
	}
}
