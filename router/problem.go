package router

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// wrongMethod answers a request whose route has other methods.
func wrongMethod(w http.ResponseWriter, req *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	p := client.NewProblem(mayfly.Errorf(mayfly.Invalid, "%s%s does not take %s", req.Host, req.URL.Path, req.Method).WithHint("it takes %s", allow))
	p.Status, p.Title = http.StatusMethodNotAllowed, http.StatusText(http.StatusMethodNotAllowed)
	write(w, p)
}

// problem answers with an error as RFC 9457 has it.
func problem(w http.ResponseWriter, err error, run string) {
	p := client.NewProblem(err)
	p.Run = run
	if kind := p.Kind; kind == mayfly.Busy || kind == mayfly.Unavailable {
		w.Header().Set("Retry-After", strconv.Itoa(mayfly.RetryAfter(err)))
	}
	if p.Kind == mayfly.Internal {
		p.Detail, p.Hint = "an internal error", "the node's log has it"
	}
	write(w, p)
}

func write(w http.ResponseWriter, p *client.Problem) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", client.ContentProblem)
	h.Set("X-Content-Type-Options", "nosniff")
	body, _ := json.Marshal(p) // strings and a number
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}
