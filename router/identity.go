package router

import (
	"net/http"
	"strings"

	"github.com/mayfly-run/mayfly/container"
)

// A run's identity reaches the program in the environment where a program is
// started for the run, in headers where it had been started before, and in
// /run/mayfly/run.json where the container serves no other run.

func (x *run) identity() container.Run {
	r := container.Run{
		ID: x.record.ID, Attempt: x.attempt, Workload: x.record.Workload, Space: x.record.Space,
		Release: x.record.Release, Task: x.record.Trigger == triggerQueue,
	}
	r.SetDeadline(x.deadline)
	return r
}

// identify replaces whatever X-Mayfly headers a client sent.
func (x *run) identify(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "X-Mayfly-") {
			h.Del(name)
		}
	}
	x.identity().Headers(h.Set)
}
