package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// guard refuses what a browser sends on behalf of another site. On TCP the
// host must be this machine's too, or a page whose name was pointed at
// 127.0.0.1 would count as the same site.
func (s *Server) guard(tcp bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkSite(tcp, r); err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func checkSite(tcp bool, r *http.Request) error {
	if tcp && !isLocal(r.Host) {
		return mayfly.Errorf(mayfly.Denied, "the host %q is not this machine", r.Host).
			WithHint("name it as localhost or 127.0.0.1")
	}
	if origin := r.Header.Get("Origin"); origin != "" && origin != "http://"+r.Host {
		return mayfly.Errorf(mayfly.Denied, "requests from web pages of other sites are refused")
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return mayfly.Errorf(mayfly.Denied, "requests from web pages of other sites are refused")
	}
	return nil
}

func isLocal(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
