package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// Bounds of what is published.
const (
	maxID      = 200 // bytes
	writeBatch = 256 // endpoints on their way at once
	writeTime  = 5 * time.Second
	retryPause = 250 * time.Millisecond // after the engine refused
	loadBatch  = 1000
)

// record is the message of an endpoint. Its key is in the subject.
type record struct {
	Epoch    uint64          `json:"epoch"`
	Endpoint mayfly.Endpoint `json:"endpoint"`
}

// subjectOf is where an endpoint is published.
func subjectOf(e *mayfly.Endpoint) string {
	return bus.EndpointSubject(e.Space, e.Service, token(e.Node), token(e.ID))
}

// token makes one token of a subject of any text.
func token(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02x", c)
		}
	}
	return b.String()
}

// untoken is the reverse of token.
func untoken(s string) (string, error) {
	if !strings.Contains(s, "=") {
		return s, nil
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			b = append(b, s[i])
			continue
		}
		var c byte
		if i+2 >= len(s) {
			return "", fmt.Errorf("token %q ends early", s)
		}
		if _, err := fmt.Sscanf(s[i+1:i+3], "%02x", &c); err != nil {
			return "", fmt.Errorf("token %q: %w", s, err)
		}
		b = append(b, c)
		i += 2
	}
	return string(b), nil
}

// parse reads a message of the stream; a nil e is a removal.
func parse(subject string, header nats.Header, data []byte) (node, id string, e *vouched, err error) {
	parts := strings.Split(subject, ".")
	if len(parts) < 2 {
		return "", "", nil, fmt.Errorf("subject %q is too short", subject)
	}
	node, err1 := untoken(parts[len(parts)-2])
	id, err2 := untoken(parts[len(parts)-1])
	if err := errors.Join(err1, err2); err != nil {
		return "", "", nil, err
	}
	if header.Get("KV-Operation") != "" || header.Get("Nats-Marker-Reason") != "" {
		return node, id, nil, nil
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return "", "", nil, fmt.Errorf("read endpoint %s: %w", id, err)
	}
	if r.Endpoint.ID != id || r.Endpoint.Node != node {
		return "", "", nil, fmt.Errorf("endpoint %s of node %s is under another's subject", r.Endpoint.ID, r.Endpoint.Node)
	}
	return node, id, &vouched{Endpoint: r.Endpoint, epoch: r.Epoch}, nil
}

// take applies a message of the stream to the view.
func (d *Discovery) take(subject string, header nats.Header, data []byte) {
	node, id, e, err := parse(subject, header, data)
	if err != nil {
		d.log.Error("an endpoint is passed over", "error", err)
		return
	}
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	if node != d.opts.Node {
		d.nodes.put(node, id, e, time.Now())
		return
	}
	// Of this node only what a former self said is news.
	if e == nil || e.epoch >= d.opts.Epoch || d.written[id] != "" {
		return
	}
	d.written[id] = subject
	if d.calm {
		d.withdraw(id)
		return
	}
	d.nodes.put(node, id, e, time.Now())
}

// load reads the stream once.
func (d *Discovery) load(ctx context.Context) error {
	if _, err := d.bus.Endpoints(ctx); err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "read the endpoints: %w", err)
	}
	for from := uint64(1); ; {
		msgs, more, err := d.bus.Read(ctx, bus.EndpointsStream, bus.From{Subject: bus.EndpointSubject("*", "*", "*", "*"), Sequence: from, Limit: loadBatch})
		if err != nil && !errors.Is(err, bus.ErrNoMessage) {
			return mayfly.Errorf(mayfly.Unavailable, "read the endpoints: %w", err)
		}
		for _, msg := range msgs {
			d.take(msg.Subject, msg.Header, msg.Data)
			from = msg.Sequence + 1
		}
		if !more || len(msgs) == 0 {
			return nil
		}
	}
}

// write notes that what a subject holds is to be published.
func (d *Discovery) write(subject string) {
	d.dirty[subject] = struct{}{}
	wakeUp(d.kick)
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// runWrites publishes what is dirty.
func (d *Discovery) runWrites(ctx context.Context) error {
	for {
		select {
		case <-d.kick:
		case <-ctx.Done():
			return nil
		}
		for {
			subjects, msgs := d.nextWrites()
			if len(msgs) == 0 {
				break
			}
			err := d.publish(ctx, subjects, msgs)
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				continue
			}
			d.log.Warn("endpoints are not published; they are tried again", "error", err)
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// nextWrites takes some of what is dirty.
func (d *Discovery) nextWrites() (subjects []string, msgs []*nats.Msg) {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	current := map[string]string{}
	for subject := range d.dirty {
		if len(subjects) == writeBatch {
			break
		}
		subjects = append(subjects, subject)
		delete(d.dirty, subject)
	}
	for _, subject := range subjects {
		_, id, _, err := parse(subject, nats.Header{"KV-Operation": {"PURGE"}}, nil)
		if err == nil && d.written[id] == subject {
			current[subject] = id
		}
	}
	for _, subject := range subjects {
		msg := &nats.Msg{Subject: subject, Header: nats.Header{}}
		if id, ok := current[subject]; ok {
			e := d.nodes.each[d.opts.Node].has[id]
			msg.Data, _ = json.Marshal(record{Epoch: e.epoch, Endpoint: e.Endpoint}) // strings and numbers only
		} else {
			msg.Header.Set("KV-Operation", "PURGE")
		}
		msgs = append(msgs, msg)
	}
	return subjects, msgs
}

// publish waits for the answers. What was not taken is dirty again.
func (d *Discovery) publish(ctx context.Context, subjects []string, msgs []*nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, len(msgs))
	failed := map[string]error{}
	for i, msg := range msgs {
		opts := []jetstream.PublishOpt{jetstream.WithStallWait(writeTime)}
		if len(msg.Header) > 0 {
			opts = append(opts, jetstream.WithMsgTTL(bus.MarkerTTL))
		}
		var err error
		if futures[i], err = d.bus.JetStream().PublishMsgAsync(msg, opts...); err != nil {
			failed[subjects[i]] = err
		}
	}
	for i, future := range futures {
		if future == nil {
			continue
		}
		select {
		case <-future.Ok():
		case err := <-future.Err():
			failed[subjects[i]] = err
		case <-ctx.Done():
			failed[subjects[i]] = ctx.Err()
		}
	}
	if len(failed) == 0 {
		return nil
	}
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	for subject := range failed {
		d.write(subject)
	}
	return failed[slices.Sorted(maps.Keys(failed))[0]]
}

// runFollow applies what is published, and begins again whenever the connection
// was lost: the stream may be another one then, and empty.
func (d *Discovery) runFollow(ctx context.Context) error {
	status := d.conn.StatusChanged(nats.CONNECTED)
	defer d.conn.RemoveStatusListener(status)
	var all sync.WaitGroup // consumers that are being stopped
	defer all.Wait()
	for {
		stop, err := d.follow(ctx)
		if err != nil && ctx.Err() == nil {
			d.log.Warn("the endpoints of other nodes are not followed; it is tried again", "error", err)
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
			}
		}
		if err == nil {
			select {
			case <-status:
				d.reconnected()
			case <-ctx.Done():
			}
			all.Go(stop)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// reconnected publishes all that this node has again.
func (d *Discovery) reconnected() {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	now := time.Now()
	d.nodes.excuse(now)
	d.nodes.sweep(now)
	for _, subject := range d.written {
		d.write(subject)
	}
}

// follow begins to apply what is published, from the beginning.
func (d *Discovery) follow(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	stream, err := d.bus.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	cons, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return nil, err
	}
	return d.consume(cons, "endpoints", func(msg jetstream.Msg) { d.take(msg.Subject(), msg.Headers(), msg.Data()) })
}

// consume gives each message of a consumer to each, until stop.
func (d *Discovery) consume(cons jetstream.Consumer, what string, each func(jetstream.Msg)) (stop func(), err error) {
	watch, err := cons.Consume(each, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		d.log.Debug("follow the "+what+"; it is resumed", "error", err)
	}))
	if err != nil {
		return nil, err
	}
	return func() {
		watch.Stop()
		<-watch.Closed()
	}, nil
}
