package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// problem is a client.Problem as huma wants an error to be.
type problem struct {
	client.Problem
}

func (p *problem) Error() string { return p.Detail }

// GetStatus is part of huma.StatusError.
func (p *problem) GetStatus() int { return p.Status }

// ContentType is part of huma.ContentTypeFilter.
func (p *problem) ContentType(string) string { return client.ContentProblem }

// problem translates an error, and logs it where it is a defect: its kind says
// nothing to the caller, so someone else has to see it.
func (s *Server) problem(err error, what string) *problem {
	p := &problem{*client.NewProblem(err)}
	if p.Kind == mayfly.Internal && !errors.Is(err, context.Canceled) { // that is a client who has left
		s.opts.Log.Error("request failed", "request", what, "error", err)
	}
	return p
}

// fail answers a request with a problem.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := s.problem(err, r.Method+" "+r.URL.Path)
	w.Header().Set("Content-Type", client.ContentProblem)
	if p.Kind == mayfly.Busy && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", strconv.Itoa(mayfly.RetryAfter(err)))
	}
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p.Problem)
}

// kindOfStatus gives the errors that huma makes by itself their kind.
func kindOfStatus(status int) mayfly.Kind {
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return mayfly.TooLarge
	case status == http.StatusRequestTimeout:
		return mayfly.TimedOut
	case status >= 400 && status < 500:
		return mayfly.Invalid
	}
	return mayfly.Internal
}

// statusOf is the status that a status of huma's becomes.
func statusOf(status int) int {
	switch status {
	case http.StatusNotAcceptable, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestTimeout:
		return kindOfStatus(status).Status()
	}
	return status
}

// translate turns the errors that huma makes by itself into problems. It is a
// huma.Transformer.
func translate(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	var parts []string
	for _, e := range m.Errors {
		if e == nil {
			continue
		}
		text := e.Message
		if e.Location != "" {
			text = e.Location + ": " + text
		}
		if !slices.Contains(parts, text) { // a resolver is also found through what embeds it
			parts = append(parts, text)
		}
	}
	const most = 3
	detail := m.Detail
	if n := len(parts); n > 0 {
		detail = strings.Join(parts[:min(n, most)], ", ")
		if n > most {
			detail += ", and " + strconv.Itoa(n-most) + " more"
		}
	}
	return &problem{*client.NewProblem(&mayfly.Error{Kind: kindOfStatus(m.Status), Text: detail})}, nil
}
