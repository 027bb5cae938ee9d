package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly/bus"
)

// heartbeat is what a node sends to say that it is there.
type heartbeat struct {
	Epoch uint64 `json:"epoch"`
}

// runAlive says that this node is there, listens to others, and judges those that
// are silent. While this node itself could not hear anyone, nobody is judged.
func (d *Discovery) runAlive(ctx context.Context) error {
	sub, err := d.conn.Subscribe(bus.AliveSubject("*"), d.hear)
	if err != nil {
		return fmt.Errorf("listen to other nodes: %w", err)
	}
	defer sub.Unsubscribe()
	beat := time.NewTicker(d.opts.Heartbeat)
	defer beat.Stop()
	last := time.Now()
	d.sayAlive()
	for {
		select {
		case <-beat.C:
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		d.judge(now, now.Sub(last) > d.opts.Heartbeat+d.opts.Lease/2)
		last = now
		d.sayAlive()
	}
}

func (d *Discovery) sayAlive() {
	body, _ := json.Marshal(heartbeat{d.opts.Epoch})
	if err := d.conn.Publish(bus.AliveSubject(token(d.opts.Node)), body); err != nil {
		d.log.Debug("say that this node is there", "error", err) // the next one follows
	}
}

func (d *Discovery) hear(msg *nats.Msg) {
	node, err := untoken(msg.Subject[strings.LastIndexByte(msg.Subject, '.')+1:])
	var beat heartbeat
	if err != nil || json.Unmarshal(msg.Data, &beat) != nil || node == d.opts.Node {
		return
	}
	d.nodes.mu.Lock()
	back := d.nodes.heard(node, beat.Epoch, time.Now())
	d.nodes.mu.Unlock()
	if back {
		d.log.Info("a node is back, and its endpoints", "node", node)
	}
}

// judge takes away what silent nodes had said. asleep is that this process stood
// still, and what it has not heard yet may be on its way.
func (d *Discovery) judge(now time.Time, asleep bool) {
	d.nodes.mu.Lock()
	if asleep || d.conn.Status() != nats.CONNECTED {
		d.nodes.excuse(now)
	}
	lost := d.nodes.expire(now)
	if len(lost) > 0 {
		d.locks.tellAll()
	}
	d.nodes.mu.Unlock()
	for _, node := range lost {
		d.log.Warn("a node is silent; its endpoints are withdrawn", "node", node, "lease", d.opts.Lease)
	}
}
