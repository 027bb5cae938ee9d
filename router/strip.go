package router

import (
	"net/http"
	"net/url"
	"strings"
)

// strip returns the request without the path of its route.
func strip(req *http.Request, at string) *http.Request {
	out := *req
	u := *req.URL
	out.URL = &u
	if rest, ok := cutPath(u.Path, at); ok {
		u.Path = rest
		if u.RawPath != "" {
			raw, ok := cutPath(u.RawPath, (&url.URL{Path: at}).EscapedPath())
			if !ok {
				raw = "" // it is spelled otherwise, and is spelled anew
			}
			u.RawPath = raw
		}
	} else { // only clean it begins with that: "/a/../api"
		u.Path, u.RawPath = rootOf(strings.TrimPrefix(clean(u.Path), at)), ""
	}
	out.RequestURI = u.RequestURI()
	return &out
}

func cutPath(path, at string) (string, bool) {
	rest, ok := strings.CutPrefix(path, at)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return rootOf(rest), true
}

func rootOf(path string) string {
	if path == "" {
		return "/"
	}
	return path
}
