package router

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/mayfly-run/mayfly"
)

// retryAfter is what a client is told to wait when there was no room, in
// seconds.
const retryAfter = 1

// problem answers with an error as RFC 9457 has it.
func problem(w http.ResponseWriter, err error, run string) {
	kind := mayfly.KindOf(err)
	status := kind.Status()
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	if kind == mayfly.Busy {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	detail := err.Error()
	if kind == mayfly.Internal {
		detail = "an internal error; the node's log has it"
	}
	body, _ := json.Marshal(map[string]any{
		"title": http.StatusText(status), "status": status, "kind": kind, "detail": detail, "run": run,
	})
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
