package queue

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// maxRequest is how many bytes the target and the headers of a task's request may
// have.
const maxRequest = 16 << 10

// RequestOf is what a function is to get of a request that becomes a task: its
// target, which is a path with a query, and those of its headers that say
// something about the body. Who sent it, and with what right, is not passed on:
// a task's record can be read by everybody in its space.
func RequestOf(target string, header http.Header) *mayfly.Request {
	r := &mayfly.Request{Target: target}
	for name, values := range header {
		if passedOn(name) {
			if r.Header == nil {
				r.Header = map[string]string{}
			}
			r.Header[name] = strings.Join(values, ", ")
		}
	}
	return r
}

// NewRequest is the request that gives a task to a function.
func NewRequest(ctx context.Context, host string, task *mayfly.Task, body io.Reader) (*http.Request, error) {
	r := task.Request
	if r == nil {
		r = &mayfly.Request{Target: "/"}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+r.Target, body)
	if err != nil {
		return nil, fmt.Errorf("make the request of task %s: %w", task.ID, err)
	}
	for name, value := range r.Header {
		req.Header.Set(name, value)
	}
	return req, nil
}

// CloudEventOf returns the attributes of the event that a task's request carries in
// binary mode, by their names; nil where there is none.
func CloudEventOf(task *mayfly.Task) map[string]string {
	if task.Request == nil || task.Request.Header["Ce-Specversion"] == "" {
		return nil
	}
	attributes := map[string]string{}
	for name, value := range task.Request.Header {
		if attribute, is := strings.CutPrefix(name, "Ce-"); is {
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
			attributes[strings.ToLower(attribute)] = value
		} else if name == "Content-Type" {
			attributes["datacontenttype"] = value
		}
	}
	return attributes
}

// passedOn reports whether a header, by its canonical name, is one of those that
// RequestOf keeps: of the content, of CloudEvents and Standard Webhooks, of
// traces, and those of the sender's own that do not sound like a secret.
func passedOn(name string) bool {
	switch name {
	case "Content-Length":
		return false
	case "Traceparent", "Tracestate", "User-Agent":
		return true
	}
	if strings.HasPrefix(name, "Ce-") {
		return true // an attribute of an event
	}
	for _, part := range []string{"X-Mayfly-", "X-Forwarded-", "Auth", "Key", "Token", "Secret", "Password"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	for _, prefix := range []string{"Content-", "Webhook-", "X-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// checkRequest refuses what would not be one request again.
func checkRequest(r *mayfly.Request) error {
	if r == nil {
		return nil
	}
	size := len(r.Target)
	if u, err := url.ParseRequestURI(r.Target); err != nil || !strings.HasPrefix(r.Target, "/") || u.RequestURI() != r.Target {
		return mayfly.Errorf(mayfly.Invalid, "%.100q is not the path and query of a request", r.Target)
	}
	for name, value := range r.Header {
		size += len(name) + len(value)
		if name != http.CanonicalHeaderKey(name) || strings.ContainsAny(name, " \t\r\n:") || !passedOn(name) {
			return mayfly.Errorf(mayfly.Invalid, "header %.100q is not passed on to a function", name)
		}
		if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return mayfly.Errorf(mayfly.Invalid, "header %s has a control character", name)
		}
	}
	if size > maxRequest {
		return mayfly.Errorf(mayfly.TooLarge, "the path and the headers have %d bytes, and the limit is %d", size, maxRequest)
	}
	return nil
}
