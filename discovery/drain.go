package discovery

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly/bus"
)

// drainMargin is how much longer than its consumers a node is waited for.
const drainMargin = 500 * time.Millisecond

// maxDrains is for how many drains of other nodes' this one waits at once.
const maxDrains = 1000

// drainRequest asks other nodes to wait for their consumers.
type drainRequest struct {
	Node string        `json:"node"`
	IDs  []string      `json:"ids"`
	Wait time.Duration `json:"wait"` // ns
}

type drainReply struct {
	Node    string     `json:"node"`
	Pending []Consumer `json:"pending,omitempty"`
}

// DrainReport says how a drain ended.
type DrainReport struct {
	Waited  time.Duration `json:"waited"`            // ns
	Pending []Consumer    `json:"pending,omitempty"` // those that did not acknowledge, and nodes that did not answer; none: all did
}

// Drain withdraws endpoints and waits until every subscription, on any node, that
// has seen one of them has acknowledged that it is gone or was closed, for as long
// as wait and ctx allow.
func (d *Discovery) Drain(ctx context.Context, ids []string, wait time.Duration) DrainReport {
	began := time.Now()
	d.Withdraw(ids...)
	var remote []Consumer
	var others sync.WaitGroup
	if nodes := d.others(); len(nodes) > 0 {
		others.Go(func() {
			asking, cancel := context.WithTimeout(ctx, wait+drainMargin)
			defer cancel()
			remote = d.askToDrain(asking, drainRequest{d.opts.Node, ids, wait}, nodes)
		})
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	pending := d.nodes.awaitPaid(waiting, ids)
	others.Wait()
	return DrainReport{Waited: time.Since(began), Pending: append(pending, remote...)}
}

// others lists the other nodes that are alive.
func (d *Discovery) others() (names []string) {
	d.nodes.mu.Lock()
	defer d.nodes.mu.Unlock()
	for name, state := range d.nodes.each {
		if name != d.opts.Node && !state.lost {
			names = append(names, name)
		}
	}
	return names
}

// askToDrain has other nodes wait, and returns who did not acknowledge there.
func (d *Discovery) askToDrain(ctx context.Context, req drainRequest, nodes []string) (pending []Consumer) {
	body, _ := json.Marshal(req) // strings and a number
	replies, err := d.conn.SubscribeSync(d.conn.NewInbox())
	if err == nil {
		defer replies.Unsubscribe()
		err = d.conn.PublishRequest(bus.DrainSubject(), replies.Subject, body)
	}
	for err == nil && len(nodes) > 0 {
		var msg *nats.Msg
		if msg, err = replies.NextMsgWithContext(ctx); err != nil {
			break
		}
		var r drainReply
		if json.Unmarshal(msg.Data, &r) != nil || !slices.Contains(nodes, r.Node) {
			continue
		}
		nodes = slices.DeleteFunc(nodes, func(n string) bool { return n == r.Node })
		pending = append(pending, r.Pending...)
	}
	for _, name := range nodes {
		d.log.Warn("a node did not say whether its consumers have turned away", "node", name, "error", err)
		pending = append(pending, Consumer{Workload: "node " + name})
	}
	return pending
}

// runDrains waits for this node's consumers when another node withdraws something.
func (d *Discovery) runDrains(ctx context.Context, requests <-chan *nats.Msg) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	room := make(chan struct{}, maxDrains)
	for {
		select {
		case msg := <-requests:
			var req drainRequest
			if json.Unmarshal(msg.Data, &req) != nil || req.Node == d.opts.Node {
				continue
			}
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			all.Go(func() {
				defer func() { <-room }()
				d.answerDrain(ctx, msg, req)
			})
		case <-ctx.Done():
			return
		}
	}
}

// answerDrain takes the endpoints out of the view, as the request may be here
// before the withdrawal is.
func (d *Discovery) answerDrain(ctx context.Context, msg *nats.Msg, req drainRequest) {
	d.nodes.mu.Lock()
	for _, id := range req.IDs {
		d.nodes.put(req.Node, id, nil, time.Now())
	}
	d.nodes.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, req.Wait)
	defer cancel()
	body, _ := json.Marshal(drainReply{d.opts.Node, d.nodes.awaitPaid(ctx, req.IDs)})
	if err := msg.Respond(body); err != nil {
		d.log.Debug("answer a drain", "error", err)
	}
}
