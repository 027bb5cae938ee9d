package router

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// A run's identity reaches the program in /run/mayfly/run.json in every case,
// in the environment where a program is started for the run, and in headers
// where it had been started before.

func (x *run) identity() []byte {
	b, err := json.Marshal(map[string]any{
		"run": x.record.ID, "attempt": 1, "deadline": x.deadline.UnixMilli(),
		"workload": x.record.Workload, "space": x.record.Space, "release": x.record.Release,
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

func (x *run) environment() []string {
	return []string{
		"MAYFLY_RUN=" + x.record.ID,
		"MAYFLY_ATTEMPT=1",
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
	h.Set("X-Mayfly-Attempt", "1")
	h.Set("X-Mayfly-Deadline", strconv.FormatInt(x.deadline.UnixMilli(), 10))
	h.Set("X-Mayfly-Workload", x.record.Workload)
	h.Set("X-Mayfly-Space", x.record.Space)
}
