package router

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestCGIEnvironment(t *testing.T) {
	req := httptest.NewRequest("POST", "http://shop.example:8080/a%20b?q=1&r", strings.NewReader("hello"))
	req.RemoteAddr = "192.0.2.7:5555"
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("Proxy", "http://evil.example")
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Add("X-Many", "1")
	req.Header.Add("X-Many", "2")
	req.Header.Add("Cookie", "a=1")
	req.Header.Add("Cookie", "b=2")
	env := cgiEnvironment(req, 5)
	for _, want := range []string{
		"GATEWAY_INTERFACE=CGI/1.1", "REQUEST_METHOD=POST", "QUERY_STRING=q=1&r", "PATH_INFO=/a b", "SCRIPT_NAME=",
		"CONTENT_LENGTH=5", "CONTENT_TYPE=text/plain", "SERVER_NAME=shop.example", "SERVER_PORT=8080",
		"REMOTE_ADDR=192.0.2.7", "HTTP_X_MANY=1, 2", "HTTP_COOKIE=a=1; b=2", "HTTP_HOST=shop.example:8080",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %q", want, env)
		}
	}
	for _, e := range env {
		if strings.HasPrefix(e, "HTTP_PROXY=") || strings.Contains(e, "secret") {
			t.Errorf("%s is there", e)
		}
	}
}

func TestCGIStatus(t *testing.T) {
	for _, tt := range []struct {
		name, value string
		want        int
	}{
		{"Status", "404 Not Found", 404},
		{"Status", "201", 201},
		{"Status", "99", 0},
		{"Status", "100 Continue", 0},
		{"Status", "huh", 0},
		{"Location", "http://example.org/", 302},
		{"Content-Type", "text/plain", 200},
		{"X-Nothing", "1", 0},
	} {
		h := http.Header{}
		h.Set(tt.name, tt.value)
		got, err := cgiStatus(h)
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("%s: %s is %d, %v; want %d", tt.name, tt.value, got, err, tt.want)
		}
	}
}
