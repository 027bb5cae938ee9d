package router

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// visit is what is known of a web request besides what it says.
type visit struct {
	peer    string // address that it came from; empty if that is none
	trusted bool   // what it says of where it comes from is true
	prefix  string // that its route stripped

	workload string // that it goes to
	release  int
	instance string // of a service
}

// visitOf finds out where a request comes from.
func (r *Router) visitOf(req *http.Request) visit {
	host, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		return visit{}
	}
	v := visit{peer: host}
	if len(r.opts.TrustProxies) > 0 {
		if a, err := netip.ParseAddr(host); err == nil {
			v.trusted = r.trusts(a)
		}
	}
	return v
}

func (r *Router) trusts(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(r.opts.TrustProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// tell gives the fields that say where a request comes from, after what those in
// between said who are trusted.
func (v *visit) tell(req *http.Request, line func(name, value string)) {
	if v.prefix != "" {
		line("X-Forwarded-Prefix", v.before(req, "X-Forwarded-Prefix")+v.prefix)
	}
	if v.peer == "" {
		return
	}
	proto, host := "http", req.Host
	if req.TLS != nil {
		proto = "https"
	}
	if v.trusted {
		if p := strings.ToLower(req.Header.Get("X-Forwarded-Proto")); p == "http" || p == "https" {
			proto = p
		}
		if h := req.Header["X-Forwarded-Host"]; len(h) == 1 && h[0] != "" {
			host = h[0]
		}
	}
	line("X-Forwarded-For", joined(v.before(req, "X-Forwarded-For"), v.peer))
	line("X-Forwarded-Host", host)
	line("X-Forwarded-Proto", proto)
	node := v.peer
	if strings.IndexByte(node, ':') >= 0 {
		node = `"[` + node + `]"`
	}
	own := "for=" + node
	if !strings.ContainsAny(req.Host, "\"\\") {
		own += `;host="` + req.Host + `"`
	}
	line("Forwarded", joined(v.before(req, "Forwarded"), own+";proto="+proto))
}

// before is what those in between said.
func (v *visit) before(req *http.Request, name string) string {
	if !v.trusted {
		return ""
	}
	return strings.Join(req.Header[name], ", ")
}

func joined(before, own string) string {
	if before == "" {
		return own
	}
	return before + ", " + own
}

// client is the address of whoever asks: the last that no trusted one in between
// vouches for.
func (r *Router) client(req *http.Request, v *visit) string {
	if !v.trusted {
		return v.peer
	}
	chain := strings.Split(strings.Join(req.Header["X-Forwarded-For"], ","), ",")
	address := v.peer
	for _, text := range slices.Backward(chain) {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			break
		}
		address = a.String()
		if !r.trusts(a) {
			break
		}
	}
	return address
}

// retold is a request for a program that gets it otherwise than as HTTP: with what
// we say in place of what its client did.
func (v *visit) retold(req *http.Request) *http.Request {
	out := *req
	out.Header = make(http.Header, len(req.Header)+4)
	listed := listedFields(req.Header)
	for name, values := range req.Header {
		if name == "Content-Length" || !ours(name) && !listed[name] {
			out.Header[name] = values
		}
	}
	v.tell(req, func(name, value string) { out.Header[name] = []string{value} })
	return &out
}
