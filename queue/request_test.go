package queue

import (
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestRequestsThatAreNone(t *testing.T) {
	header := func(name, value string) *mayfly.Request {
		return &mayfly.Request{Target: "/", Header: map[string]string{name: value}}
	}
	for name, test := range map[string]struct {
		request *mayfly.Request
		kind    mayfly.Kind
	}{
		"none":              {nil, ""},
		"a path":            {&mayfly.Request{Target: "/a/b%20c?d=e&f"}, ""},
		"a header":          {header("X-Event", "push"), ""},
		"no path":           {&mayfly.Request{}, mayfly.Invalid},
		"a host":            {&mayfly.Request{Target: "http://x/"}, mayfly.Invalid},
		"a second line":     {&mayfly.Request{Target: "/ HTTP/1.1\r\nA: b"}, mayfly.Invalid},
		"a fragment":        {&mayfly.Request{Target: "/a#b"}, mayfly.Invalid},
		"a value of two":    {header("X-Event", "a\r\nHost: b"), mayfly.Invalid},
		"a name of two":     {header("X-A: b\r\nHost", "a"), mayfly.Invalid},
		"not canonical":     {header("x-event", "a"), mayfly.Invalid},
		"a secret":          {header("Authorization", "a"), mayfly.Invalid},
		"an identity":       {header("X-Mayfly-Run", "a"), mayfly.Invalid},
		"another length":    {header("Content-Length", "7"), mayfly.Invalid},
		"a transfer coding": {header("Transfer-Encoding", "chunked"), mayfly.Invalid},
		"much":              {header("X-Event", strings.Repeat("a", maxRequest)), mayfly.TooLarge},
	} {
		if err := checkRequest(test.request); mayfly.KindOf(err) != test.kind {
			t.Errorf("%s: %v, want kind %q", name, err, test.kind)
		}
	}
}
