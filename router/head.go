package router

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
)

// appendHead appends the head of a request as a program gets it. net/http has
// checked what the client sent, and frames it; it is framed anew here.
func appendHead(b []byte, req *http.Request, v *visit, body *requestBody, p peer) []byte {
	line := func(name, value string) { b = appendField(b, name, value) }
	b = append(append(append(b, req.Method...), ' '), targetOf(req)...)
	b = append(b, " HTTP/1.1\r\n"...)
	line("Host", req.Host)
	listed := listedFields(req.Header)
	for name, values := range req.Header {
		if ours(name) || listed != nil && listed[name] {
			continue
		}
		for _, value := range values {
			line(name, value)
		}
	}
	switch {
	case !body.eof.Load() && req.ContentLength >= 0:
		b = appendLength(b, req.ContentLength)
	case !body.eof.Load():
		line("Transfer-Encoding", "chunked")
		if names := trailerNames(req.Trailer); names != "" {
			line("Trailer", names)
		}
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = appendLength(b, 0)
	}
	if !body.eof.Load() && expects(req) {
		line("Expect", "100-continue")
	}
	if hasToken(req.Header["Te"], "trailers") {
		line("Te", "trailers")
	}
	if u := upgradeOf(req.Header); u != "" {
		line("Connection", "Upgrade")
		line("Upgrade", u)
	}
	v.tell(req, line)
	p.tell(line)
	return append(b, "\r\n"...)
}

func appendField(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

func appendLength(b []byte, n int64) []byte {
	return append(strconv.AppendInt(append(b, "Content-Length: "...), n, 10), "\r\n"...)
}

// targetOf is the request's target as the client wrote it, where nobody can take
// that for anything else.
func targetOf(req *http.Request) string {
	t := req.RequestURI
	if t == "" || t[0] != '/' {
		return req.URL.RequestURI()
	}
	for i := range len(t) {
		if c := t[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '#' || c == '<' || c == '>' || c == '\\' || c == '^' || c == '`' {
			return req.URL.RequestURI()
		}
	}
	return t
}

// ours reports whether a field is one that the client does not set: it concerns
// one connection only, frames the body, or is what we say. Programs that see
// fields in their environment do not tell '_' from '-'.
func ours(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Http2-Settings", "Content-Length", "Host", "Expect", "Forwarded", "X-Real-Ip":
		return true
	}
	if len(name) > 2 && (name[0] == 'X' || name[0] == 'x') {
		if strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Mayfly-") {
			return true
		}
	}
	if strings.IndexByte(name, '_') >= 0 {
		return ours(textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-")))
	}
	return false
}

// listedFields are those that the client's Connection names, and that are for us
// alone; nil for none.
func listedFields(h http.Header) map[string]bool {
	var listed map[string]bool
	for _, line := range h["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			switch token = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(token)); token {
			case "", "Close", "Keep-Alive", "Upgrade":
			default:
				if listed == nil {
					listed = map[string]bool{}
				}
				listed[token] = true
			}
		}
	}
	return listed
}

func trailerNames(t http.Header) string {
	var names []string
	for name := range t {
		if validTrailer(name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// buffers keeps buffers of a size for use again.
type buffers struct {
	size int // bytes, at first
	pool sync.Pool
}

// maxKept bounds the buffers that are kept, in bytes.
const maxKept = 64 << 10

func (b *buffers) get() *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, b.size)
	return &p
}

func (b *buffers) put(p *[]byte) {
	if cap(*p) <= maxKept {
		b.pool.Put(p)
	}
}
