package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// newsInMemory is how much news can be read; all that the stream keeps.
const newsInMemory = bus.NewsMax

// news is what happened lately, in memory, kept by a watch of its stream.
type news struct {
	watch jetstream.ConsumeContext

	mu      sync.Mutex
	list    []mayfly.News // oldest first
	first   uint64        // number of list[0], counted from 0 since the start
	changed chan struct{} // nil until somebody wants to know

	waiting []mayfly.News   // to be published
	own     map[string]bool // in list already, and not yet back from the stream
}

// newsLater is when news is published that can wait: after what it is about, for
// hundreds of containers may be in the middle of being told of one change.
const newsLater = 250 * time.Millisecond

// RecordNews writes down what happened, in the background: nobody waits for it,
// and the last of it may be lost in a crash. Readers of this store have it at
// once. It sets ID and Time where they are not set.
func (s *Store) RecordNews(n mayfly.News) {
	if s.addNews(&n) {
		s.publishNews(n)
	}
}

// RecordNewsLater is RecordNews for news of which there is much at a time when
// more urgent things are to be done.
func (s *Store) RecordNewsLater(n mayfly.News) {
	if !s.addNews(&n) {
		return
	}
	w := &s.news
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting = append(w.waiting, n); len(w.waiting) == 1 {
		time.AfterFunc(newsLater, s.publishWaiting)
	}
}

// addNews completes news and adds it to what is read here. It reports whether it
// is in order.
func (s *Store) addNews(n *mayfly.News) bool {
	if n.ID == "" {
		n.ID = mayfly.NewID()
	}
	if n.Time.IsZero() {
		n.Time = time.Now().UTC()
	}
	if err := mayfly.CheckName("space", n.Space); err != nil {
		s.log.Error("news is missing", "type", n.Type, "subject", n.Subject, "error", err)
		return false
	}
	w := &s.news
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addLocked(*n)
	w.own[n.ID] = true
	return true
}

// publishWaiting publishes what RecordNewsLater left.
func (s *Store) publishWaiting() {
	w := &s.news
	w.mu.Lock()
	list := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	for _, n := range list {
		s.publishNews(n)
	}
}

func (s *Store) publishNews(n mayfly.News) {
	data, err := json.Marshal(n)
	if err == nil {
		_, err = s.bus.JetStream().PublishMsgAsync(&nats.Msg{Subject: bus.NewsSubject(n.Space), Data: data}, jetstream.WithStallWait(runStall))
	}
	if err == nil {
		return
	}
	s.news.mu.Lock()
	delete(s.news.own, n.ID)
	s.news.mu.Unlock()
	s.log.Error("news is missing", "type", n.Type, "subject", n.Subject, "error", err)
}

// NewsFilter selects news. Empty fields select everything.
type NewsFilter struct {
	Space   string
	Subject string
	Type    string // a whole type, or a noun: "service" is "service.ready" and others
	Since   time.Time
}

func (f *NewsFilter) matches(n *mayfly.News) bool {
	return (f.Space == "" || n.Space == f.Space) && (f.Subject == "" || n.Subject == f.Subject) &&
		(f.Type == "" || n.Type == f.Type || len(n.Type) > len(f.Type) && n.Type[:len(f.Type)+1] == f.Type+".") &&
		!n.Time.Before(f.Since)
}

// News returns the last limit of what f selects, oldest first; all if limit is 0.
// next is for FollowNews.
func (s *Store) News(f NewsFilter, limit int) (list []mayfly.News, next uint64) {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	for i := len(s.news.list) - 1; i >= 0 && (limit == 0 || len(list) < limit); i-- {
		if f.matches(&s.news.list[i]) {
			list = append(list, s.news.list[i])
		}
	}
	slices.Reverse(list)
	return list, s.news.first + uint64(len(s.news.list))
}

// FollowNews gives what f selects from next on to each, as it happens, until ctx
// ends or each fails.
func (s *Store) FollowNews(ctx context.Context, f NewsFilter, next uint64, each func(mayfly.News) error) error {
	for {
		list, changed, after := s.news.from(&f, next)
		for _, n := range list {
			if err := each(n); err != nil {
				return err
			}
		}
		if next = after; len(list) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.mirror.closed:
			return mayfly.Errorf(mayfly.Unavailable, "follow the news: %w", errClosed)
		}
	}
}

func (w *news) from(f *NewsFilter, next uint64) (list []mayfly.News, changed <-chan struct{}, after uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	after = w.first + uint64(len(w.list))
	for i := max(next, w.first); i < after; i++ {
		if n := &w.list[i-w.first]; f.matches(n) {
			list = append(list, *n)
		}
	}
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return list, w.changed, after
}

// take adds what the stream has, unless it was recorded here.
func (w *news) take(n mayfly.News) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.own[n.ID] {
		delete(w.own, n.ID)
		return
	}
	w.addLocked(n)
}

func (w *news) addLocked(n mayfly.News) {
	w.list = append(w.list, n)
	if over := len(w.list) - newsInMemory; over > newsInMemory/4 { // seldom, for it copies
		w.list = slices.Clone(w.list[over:])
		w.first += uint64(over)
	}
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// followNews starts the watch of the news and returns when memory holds what
// was there at the start.
func (s *Store) followNews(ctx context.Context) error {
	stream, err := s.bus.JetStream().Stream(ctx, bus.NewsStream)
	if err != nil {
		return unavailable("open the news", err)
	}
	last := stream.CachedInfo().State.LastSeq
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return unavailable("watch the news", err)
	}
	ready := make(chan struct{})
	caughtUp := sync.OnceFunc(func() { close(ready) })
	if cons.CachedInfo().NumPending == 0 {
		caughtUp()
	}
	s.news.watch, err = cons.Consume(func(msg jetstream.Msg) {
		meta, err := msg.Metadata()
		var n mayfly.News
		if err = errors.Join(err, json.Unmarshal(msg.Data(), &n)); err != nil {
			s.log.Error("news is passed over", "error", err)
			return
		}
		s.news.take(n)
		if meta.NumPending == 0 || meta.Sequence.Stream >= last {
			caughtUp()
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.log.Warn("watch the news; it is resumed", "error", err)
	}))
	if err != nil {
		return unavailable("watch the news", err)
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("read the news: %w", ctx.Err())
	}
}
