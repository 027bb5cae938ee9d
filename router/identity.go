package router

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly/container"
)

// A run's identity reaches the program in the environment where a program is
// started for the run, in headers where it had been started before, and in
// /run/mayfly/run.json where the container serves no other run.

func (x *run) identity() container.Run {
	return container.Run{
		ID: x.record.ID, Attempt: x.attempt, Deadline: x.deadline.UnixMilli(),
		Workload: x.record.Workload, Space: x.record.Space, Release: x.record.Release, Task: x.record.Trigger == "queue",
	}
}

func (x *run) environment() []string {
	return []string{
		"MAYFLY_RUN=" + x.record.ID,
		"MAYFLY_ATTEMPT=" + strconv.Itoa(x.attempt),
		"MAYFLY_DEADLINE=" + strconv.FormatInt(x.deadline.UnixMilli(), 10),
		"MAYFLY_WORKLOAD=" + x.record.Workload,
		"MAYFLY_SPACE=" + x.record.Space,
	}
}

// identify replaces whatever X-Mayfly headers a client sent.
func (x *run) identify(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "X-Mayfly-") {
			h.Del(name)
		}
	}
	h.Set("X-Mayfly-Run", x.record.ID)
	h.Set("X-Mayfly-Attempt", strconv.Itoa(x.attempt))
	h.Set("X-Mayfly-Deadline", strconv.FormatInt(x.deadline.UnixMilli(), 10))
	h.Set("X-Mayfly-Workload", x.record.Workload)
	h.Set("X-Mayfly-Space", x.record.Space)
}
