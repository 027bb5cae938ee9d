package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// errClosing is why a stream ends when the daemon does.
var errClosing = &mayfly.Error{Kind: mayfly.Unavailable, Text: "the daemon is stopping"}

// untilClosing returns a context that also ends when streams shall end.
func (s *Server) untilClosing(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	finished := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.closing:
			cancel(errClosing)
		case <-finished:
		}
	}()
	return ctx, func() {
		close(finished)
		<-watched
		cancel(nil)
	}
}

// because returns the cause of a context that has ended, if err is only that.
func because(ctx context.Context, err error) error {
	if err != nil && errors.Is(err, context.Canceled) && errors.Is(context.Cause(ctx), errClosing) {
		return errClosing
	}
	return err
}

// stream writes messages, a line each, or as server-sent events. It is safe for
// concurrent use.
type stream struct {
	mu    sync.Mutex
	w     io.Writer
	flush func() error
	begin func() // before the first message
	form  func(client.Message) ([]byte, error)
	begun bool
	ended bool
}

// asLine is a message as a line of JSON.
func asLine(m client.Message) ([]byte, error) {
	line, err := json.Marshal(m)
	return append(line, '\n'), err
}

// asEvent is a message as a server-sent event, whose name says which of the
// message's fields its data is. A sign of life is a comment.
func asEvent(m client.Message) ([]byte, error) {
	var name string
	var value any
	switch {
	case m.Progress != nil:
		name, value = "progress", m.Progress
	case m.Log != nil:
		name, value = "log", m.Log
	case m.Task != nil:
		name, value = "task", m.Task
	case m.Service != nil:
		name, value = "service", m.Service
	case m.News != nil:
		name, value = "news", m.News
	case m.Event != nil:
		name, value = "event", m.Event
	case m.Dropped > 0:
		name, value = "dropped", m.Dropped
	case m.Result != nil:
		name, value = "result", m.Result
	case m.Error != nil:
		name, value = "error", m.Error
	default:
		return []byte(":\n\n"), nil
	}
	data, err := json.Marshal(value) // without a line break
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data), err
}

// wantsEvents reports whether a request asks for server-sent events.
func wantsEvents(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Accept"), func(v string) bool {
		return strings.Contains(v, client.ContentEvents)
	})
}

// serveStream answers with what handle sends and then what it returns. An
// error that comes before anything was sent has its own status.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request, handle func(context.Context, *stream) (any, error)) {
	ctx, stop := s.untilClosing(r.Context())
	defer stop()
	content, form := client.ContentStream, asLine
	if wantsEvents(r) {
		content, form = client.ContentEvents, asEvent
	}
	out := &stream{w: w, form: form, flush: http.NewResponseController(w).Flush, begin: func() {
		w.Header().Set("Content-Type", content)
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusOK)
	}}
	result, err := out.whileAlive(ctx, handle)
	if err = because(ctx, err); err != nil && out.end() {
		s.fail(w, r, err)
		return
	}
	out.finish(s, r, result, err)
}

// whileAlive runs handle and shows signs of life meanwhile.
func (o *stream) whileAlive(ctx context.Context, handle func(context.Context, *stream) (any, error)) (any, error) {
	finished := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				_ = o.send(client.Message{}) // the next real message meets the same failure
			}
		}
	})
	defer beating.Wait()
	defer close(finished)
	return handle(ctx, o)
}

// end says whether nothing was sent, and lets nothing more be sent by others.
func (o *stream) end() (untouched bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	return !o.begun
}

func (o *stream) finish(s *Server, r *http.Request, result any, err error) {
	var last client.Message
	if err == nil {
		last.Result, err = json.Marshal(result)
	}
	if err != nil {
		p := s.problem(err, r.Method+" "+r.URL.Path).Problem
		last = client.Message{Error: &p}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	_ = o.write(last) // who does not read it has left
}

// send sends a message, unless the stream has ended.
func (o *stream) send(m client.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return nil
	}
	return o.write(m)
}

func (o *stream) write(m client.Message) error {
	if !o.begun {
		o.begun = true
		o.begin()
	}
	text, err := o.form(m)
	if err != nil {
		return err
	}
	if _, err := o.w.Write(text); err != nil {
		return err
	}
	return o.flush()
}

// report sends progress. That nobody listens is found out elsewhere.
func (o *stream) report(p client.Progress) { _ = o.send(client.Message{Progress: &p}) }

// say sends progress that is only text.
func (o *stream) say(text string) { o.report(client.Progress{Text: text}) }

// log sends an entry of a log.
func (o *stream) log(e mayfly.LogEntry) error { return o.send(client.Message{Log: &e}) }
