package build

import (
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestUnreached(t *testing.T) {
	for _, tt := range []struct{ name, recipe, log, why, hint string }{
		{"pip without names", "pip", "WARNING: Retrying (Retry(total=0)): Failed to establish a new connection: [Errno -2] Name or service not known')': /simple/six/\n" +
			"ERROR: No matching distribution found for six==1.16.0", "Name or service not known", "PIP_INDEX_URL"},
		{"pip, refused", "pip", "[Errno 111] Connection refused')': /simple/six/", "Connection refused", "pip download"},
		{"pip, no such version", "pip", "ERROR: Could not find a version that satisfies the requirement six==99 (from versions: 1.0, 1.16.0)", "", ""},
		{"npm without names", "npm", "npm error network request to https://example.org/ms failed, reason: getaddrinfo EAI_AGAIN example.org", "EAI_AGAIN", "NPM_CONFIG_REGISTRY"},
		{"npm, refused", "npm", "npm error code ECONNREFUSED\nnpm error syscall connect", "ECONNREFUSED", "npm pack"},
		{"npm, no such package", "npm", "npm error code E404\nnpm error 404 Not Found - GET https://example.org/nothing", "", ""},
		{"go without names", "go", "main.go:3:8: dial tcp: lookup example.org on 10.0.0.1:53: no such host", "no such host", "go mod vendor"},
		{"go, a mistake", "go", "./main.go:3:8: undefined: x", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &mayfly.Build{Recipe: tt.recipe, Fetch: true}
			why, hint := Unreached(b, strings.Split(tt.log, "\n"))
			if why != tt.why || !strings.Contains(hint, tt.hint) || (hint == "") != (tt.hint == "") {
				t.Errorf("got %q; %q", why, hint)
			}
			b.Fetch = false
			if why, _ := Unreached(b, strings.Split(tt.log, "\n")); why != "" {
				t.Errorf("a build that fetches nothing: %q", why)
			}
		})
	}
}
