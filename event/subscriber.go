package event

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/mayfly-run/mayfly/queue"
)

// contentStructured is the media type of an event in structured mode.
const contentStructured = "application/cloudevents+json"

// call pushes an event to a subscriber once, and decides what follows.
func (l *line) call(ctx context.Context, client *http.Client, m *mapping, it *item) {
	again, err := l.post(ctx, client, m, it)
	l.mu.Lock()
	l.calls--
	if ctx.Err() != nil {
		it.started = false
		l.mu.Unlock()
		return // the next start makes it
	}
	if err == nil || queue.IsGone(err) || it.tries >= l.attempts(m) {
		l.remember(it, err)
		l.mu.Unlock()
		if err == nil {
			l.events.count(m.ID, func(s *stat) { s.delivered++; s.failing = false; s.last = time.Now().UTC() })
		} else {
			l.events.failed(m, fmt.Sprintf("event %d was given up after %d attempts: %s", it.event.Number, it.tries+1, err))
		}
		l.over(it)
		return
	}
	delay := l.events.opts.Delays[min(it.tries, len(l.events.opts.Delays)-1)]
	delay += time.Duration(rand.Float64() * 0.2 * float64(delay))
	it.tries++
	it.started, it.err, it.due = false, shortError(err), time.Now().Add(max(delay, again))
	if until := time.Now().Add(again); again > 0 && until.After(l.quiet) {
		l.quiet = until
	}
	due := it.due
	if due.Before(l.quiet) {
		due = l.quiet
	}
	l.mu.Unlock()
	l.events.count(m.ID, func(s *stat) { s.failing, s.err, s.last, s.retry = true, err.Error(), time.Now().UTC(), due })
	wakeUp(l.wake)
	wakeUp(l.events.dirty)
}

// attempts is how many follow the first.
func (l *line) attempts(m *mapping) int {
	switch {
	case m.Retries < 0:
		return 0
	case m.Retries > 0:
		return m.Retries
	}
	return len(l.events.opts.Delays)
}

func (l *line) post(ctx context.Context, client *http.Client, m *mapping, it *item) (time.Duration, error) {
	secret, err := l.events.queue.Secret(ctx, m.Space)
	if err != nil {
		return 0, err
	}
	body, err := it.event.Event.MarshalJSON()
	if err != nil {
		return 0, err
	}
	id := it.event.Key
	return queue.Post(ctx, client, queue.Webhook{URL: m.URL, ID: id, Secret: secret, Type: contentStructured, Body: body})
}
