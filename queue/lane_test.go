package queue

import (
	"testing"

	"github.com/mayfly-run/mayfly"
)

// What is submitted while little is queued is granted without being read back.
func TestFewTasksStayInMemory(t *testing.T) {
	n := newNode(t, Options{})
	subs := make([]mayfly.Submission, 500)
	for i := range subs {
		subs[i] = work("a")
	}
	n.submit(subs...)
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.entries) != len(subs) {
		t.Errorf("%d of %d tasks are in memory", len(n.entries), len(subs))
	}
}
