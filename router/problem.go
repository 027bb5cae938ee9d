package router

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// retryAfter is what a client is told to wait when there was no room, in
// seconds.
const retryAfter = 1

// problem answers with an error as RFC 9457 has it.
func problem(w http.ResponseWriter, err error, run string) {
	p := client.NewProblem(err)
	p.Run = run
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", client.ContentProblem)
	h.Set("X-Content-Type-Options", "nosniff")
	if p.Kind == mayfly.Busy {
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	if p.Kind == mayfly.Internal {
		p.Detail, p.Hint = "an internal error", "the node's log has it"
	}
	body, _ := json.Marshal(p) // strings and a number
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}
