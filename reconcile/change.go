package reconcile

import (
	"fmt"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// What a change does.
const (
	putAssignment = iota + 1
	dropAssignment
	dropReplica
	putRollout
	dropRollout
	dropWish
	dropScale
)

// change is one write to the record, and what people are told when it is done.
type change struct {
	do         int
	key        store.Key // the workload
	assignment mayfly.Assignment
	rollout    mayfly.Rollout
	seen       uint64 // revision that it is based on; assignments are chained instead
	news       []mayfly.News
}

// String is for tests.
func (c change) String() string {
	a := &c.assignment
	switch c.do {
	case putAssignment:
		verb := "run"
		if a.Stop {
			verb = "stop"
		}
		return fmt.Sprintf("%s %s/%d r%d g%d on %s", verb, c.key.Name, a.Replica, a.Release, a.Generation, a.Node)
	case dropAssignment:
		return fmt.Sprintf("forget %s/%d r%d", c.key.Name, a.Replica, a.Release)
	case dropReplica:
		return fmt.Sprintf("forget what %s says of %s/%d", a.Node, c.key.Name, a.Replica)
	case putRollout:
		ro := &c.rollout
		return fmt.Sprintf("rollout %s r%d %s stable %d", c.key.Name, ro.Release, ro.State, ro.Stable)
	case dropRollout:
		return "forget rollout " + c.key.Name
	case dropWish:
		return "forget wish " + c.key.Name
	case dropScale:
		return "forget scale " + c.key.Name
	}
	return "nothing"
}

// news is what is told of a service.
func (s *service) news(kind, text string, release, replica int, node string) mayfly.News {
	return mayfly.News{Space: s.Space, Type: kind, Subject: s.Name, Release: release, Replica: replica, Node: node, Text: text}
}
