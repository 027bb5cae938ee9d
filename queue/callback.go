package queue

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// A callback tells a URL how a task ended, or that it was buried. That it is to
// be made is on disk before the outcome is, and goes only when it was taken or
// given up, so it is made at least once; webhook-id tells repetitions apart.

// CallbackDelays are before each attempt after the first, about a day in all.
func CallbackDelays() []time.Duration {
	return []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 8 * time.Hour}
}

// callbackRecord is a callback that is to be made.
type callbackRecord struct {
	Task  mayfly.Task `json:"task"` // for when its outcome is gone
	Tries int         `json:"tries,omitempty"`
	Next  time.Time   `json:"next,omitzero"`
}

type callKey struct{ space, id string }

// call is a callback that is due at a time.
type call struct {
	key callKey
	url string
	at  time.Time
}

// calls are the callbacks to be made. Its fields are guarded by the queue's
// mutex.
type calls struct {
	heap   callHeap
	wake   chan struct{}
	active map[callKey]bool  // true: it is due again
	hosts  map[string]int    // calls that are being made
	full   map[string][]call // due, to hosts that have as many as they may
	delays []time.Duration   // between attempts
}

func newCalls() calls {
	return calls{wake: make(chan struct{}, 1), active: map[callKey]bool{}, hosts: map[string]int{}, full: map[string][]call{}, delays: CallbackDelays()}
}

func (c *calls) due(next call) {
	heap.Push(&c.heap, next)
	wake(c.wake)
}

// take takes the first call that is due, if it can be made now, and says how
// long to wait otherwise; 0 for the next change.
func (c *calls) take(most int) (next call, ok bool, wait time.Duration) {
	for len(c.heap) > 0 && len(c.active) < most {
		if d := time.Until(c.heap[0].at); d > 0 {
			return call{}, false, min(d, time.Minute) // the clock may be set
		}
		next = heap.Pop(&c.heap).(call)
		host := hostOf(next.url)
		if _, busy := c.active[next.key]; busy {
			c.active[next.key] = true
			continue
		}
		if c.hosts[host] >= max(1, most/4) {
			c.full[host] = append(c.full[host], next)
			continue
		}
		c.hosts[host]++
		c.active[next.key] = false
		return next, true, 0
	}
	return call{}, false, 0
}

// over ends a call.
func (c *calls) over(done call) {
	host := hostOf(done.url)
	if c.hosts[host]--; c.hosts[host] == 0 {
		delete(c.hosts, host)
	}
	if again := c.active[done.key]; again {
		c.due(call{key: done.key, url: done.url, at: time.Now()})
	}
	delete(c.active, done.key)
	if list := c.full[host]; len(list) > 0 {
		c.due(list[0])
		if c.full[host] = list[1:]; len(list) == 1 {
			delete(c.full, host)
		}
	}
	wake(c.wake)
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}

// intendCallback writes down that a task's callback is to be made, before the
// task is seen to have ended. Where there is no room for that there is none.
func (q *Queue) intendCallback(ctx context.Context, task mayfly.Task) error {
	if task.Callback == "" {
		return nil
	}
	err := q.putCallback(ctx, callbackRecord{Task: task}, nil)
	if errors.Is(err, bus.ErrFull) {
		q.log.Error("nobody is told how a task ended: there are too many callbacks that failed", "task", task.ID, "url", task.Callback)
		return nil
	}
	return err
}

// putCallback writes a record, over the one of that sequence if there is one.
func (q *Queue) putCallback(ctx context.Context, rec callbackRecord, over *uint64) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode callback: %w", err)
	}
	msg := &nats.Msg{Subject: bus.CallbackSubject(rec.Task.Space, rec.Task.ID), Data: data, Header: nats.Header{}}
	if over != nil {
		expect(msg, *over)
	}
	if _, err = q.js.PublishMsg(ctx, msg); err != nil {
		return writeError(err)
	}
	return nil
}

// runCallbacks makes callbacks until ctx ends.
func (q *Queue) runCallbacks(ctx context.Context) {
	client := NewCaller()
	defer client.CloseIdleConnections()
	var making sync.WaitGroup
	defer making.Wait()
	making.Go(func() { q.loadCallbacks(ctx) })
	for {
		q.mu.Lock()
		next, ok, wait := q.calls.take(q.opts.Calls)
		q.mu.Unlock()
		if ok {
			making.Go(func() {
				q.makeCall(ctx, client, next)
				q.mu.Lock()
				defer q.mu.Unlock()
				q.calls.over(next)
			})
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-q.calls.wake:
		case <-ctx.Done():
			return
		}
	}
}

// loadCallbacks learns what is left to be made from before.
func (q *Queue) loadCallbacks(ctx context.Context) {
	from := bus.From{Subject: bus.CallbackSubject("*", "*"), Limit: readBatch}
	for more := true; more; {
		msgs, next, err := q.bus.Read(ctx, bus.CallbacksStream, from)
		if err != nil {
			if !q.tryAgain(ctx, "what callbacks are to be made", err) {
				return
			}
			continue
		}
		q.mu.Lock()
		for _, msg := range msgs {
			from.Sequence = msg.Sequence + 1
			if rec, err := readCallback(msg); err != nil {
				q.log.Error("a callback that cannot be read is passed over", "subject", msg.Subject, "error", err)
			} else {
				q.calls.due(call{key: callKey{rec.Task.Space, rec.Task.ID}, url: rec.Task.Callback, at: rec.Next})
			}
		}
		q.mu.Unlock()
		more = next && len(msgs) > 0
	}
}

func readCallback(msg bus.Message) (rec callbackRecord, err error) {
	if err = json.Unmarshal(msg.Data, &rec); err != nil {
		return rec, err
	}
	if msg.Subject != bus.CallbackSubject(rec.Task.Space, rec.Task.ID) || !idPattern.MatchString(rec.Task.ID) || rec.Tries < 0 {
		return rec, errors.New("it is not its record")
	}
	return rec, CheckURL(rec.Task.Callback)
}

// makeCall makes one attempt at a callback, and decides what follows.
func (q *Queue) makeCall(ctx context.Context, client *http.Client, c call) {
	err := q.tryCall(ctx, client, c)
	if err == nil || ctx.Err() != nil {
		return
	}
	q.log.Warn("a callback waits on; it is tried again", "task", c.key.id, "error", err)
	c.at = time.Now().Add(retryRead)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls.due(c)
}

// tryCall fails when the streams do, and the callback is to be tried again as
// if nothing had happened.
func (q *Queue) tryCall(ctx context.Context, client *http.Client, c call) error {
	msg, err := q.bus.Last(ctx, bus.CallbacksStream, bus.CallbackSubject(c.key.space, c.key.id))
	if errors.Is(err, bus.ErrNoMessage) {
		return nil // it was made
	}
	if err != nil {
		return err
	}
	rec, err := readCallback(msg)
	if err != nil {
		q.log.Error("a callback that cannot be read is passed over", "subject", msg.Subject, "error", err)
		return nil
	}
	if d := time.Until(rec.Next); d > time.Second {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.calls.due(call{c.key, c.url, rec.Next})
		return nil
	}
	task, err := q.Get(ctx, c.key.space, c.key.id)
	switch {
	case mayfly.KindOf(err) == mayfly.NotFound:
		task = rec.Task
	case err != nil:
		return err
	case !task.State.Ended():
		return nil // a crash came before the outcome: it is told of its next end
	}
	secret, err := q.Secret(ctx, c.key.space)
	if err != nil {
		return err
	}
	again, why := notify(ctx, client, task, secret)
	if ctx.Err() != nil {
		return nil // the next start makes it
	}
	return q.afterCall(ctx, c, rec, msg.Sequence, again, why)
}

// afterCall removes a callback that was taken, and has another made again later
// or gives it up. Who was called asks to be left alone for again.
func (q *Queue) afterCall(ctx context.Context, c call, rec callbackRecord, seq uint64, again time.Duration, why error) error {
	var gone *goneError
	if why == nil || errors.As(why, &gone) || rec.Tries >= len(q.calls.delays) {
		if why != nil {
			q.log.Warn("a callback is given up", "task", c.key.id, "url", rec.Task.Callback, "attempts", rec.Tries+1, "error", why)
		}
		stream, err := q.js.Stream(ctx, bus.CallbacksStream)
		if err != nil {
			return err
		}
		return bus.Remove(ctx, stream, seq)
	}
	delay := q.calls.delays[rec.Tries]
	delay = max(again, delay+time.Duration(rand.Float64()*0.2*float64(delay)))
	rec.Tries, rec.Next = rec.Tries+1, now().Add(delay)
	q.log.Info("a callback failed; it is made again", "task", c.key.id, "url", rec.Task.Callback, "in", delay, "error", why)
	if err := q.putCallback(ctx, rec, &seq); errors.Is(err, bus.ErrExists) {
		rec.Next = time.Now() // it is another one by now
	} else if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.calls.due(call{c.key, c.url, rec.Next})
	return nil
}

// Secret returns the secret that the callbacks of a space are signed with, in
// the form of Standard Webhooks: whsec_ and base64. It is made on first use.
func (q *Queue) Secret(ctx context.Context, space string) (string, error) {
	if err := mayfly.CheckName("space", space); err != nil {
		return "", err
	}
	q.mu.Lock()
	secret := q.secrets[space]
	q.mu.Unlock()
	for secret == "" {
		msg, err := q.bus.Last(ctx, bus.CallbacksStream, bus.SecretSubject(space))
		switch {
		case err == nil && strings.HasPrefix(string(msg.Data), secretPrefix):
			secret = string(msg.Data)
		case err == nil:
			return "", fmt.Errorf("read the secret of space %s: it is none", space)
		case !errors.Is(err, bus.ErrNoMessage):
			return "", unavailable("read the secret of space "+space, err)
		default:
			out := &nats.Msg{Subject: bus.SecretSubject(space), Data: []byte(newSecret()), Header: nats.Header{}}
			expect(out, 0)
			if _, err := q.js.PublishMsg(ctx, out); err != nil {
				if err = writeError(err); !errors.Is(err, bus.ErrExists) {
					return "", err
				}
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.secrets[space] = secret
	return secret, nil
}

type callHeap []call

func (h callHeap) Len() int           { return len(h) }
func (h callHeap) Less(i, j int) bool { return cmp.Less(h[i].at.UnixNano(), h[j].at.UnixNano()) }
func (h callHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *callHeap) Push(x any)        { *h = append(*h, x.(call)) }
func (h *callHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = call{}
	*h = old[:len(old)-1]
	return x
}
