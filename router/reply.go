package router

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// Bounds of what a program answers before its body.
const (
	maxReplyHead = 256 << 10 // bytes of one head, or of trailers
	maxInterim   = 16        // answers before the one proper
)

// reply is the head of a program's answer. What frames the body and what concerns
// one connection only is not in header any more.
type reply struct {
	status  int
	header  http.Header
	length  int64    // bytes of the body; -1: chunks, or until the connection ends
	chunked bool     // it comes in chunks
	close   bool     // the connection is of no use after it
	upgrade string   // of an answer with status 101
	trailer []string // names of what may come after the body
}

// errReply is an answer that is not HTTP, or could be read in two ways. What came
// is not passed on.
type errReply struct{ what string }

func (e *errReply) Error() string { return "it did not answer as HTTP/1.1 has it: " + e.what }

func badReply(format string, args ...any) error { return &errReply{fmt.Sprintf(format, args...)} }

// readReply reads the head of an answer to a request of a method. An error is
// an unansweredError only when not a byte had come.
func readReply(br *bufio.Reader, method string) (*reply, error) {
	text, err := readHead(br)
	if err != nil {
		return nil, err
	}
	line, rest, _ := strings.Cut(text, "\n")
	r, err := parseStatus(strings.TrimSuffix(line, "\r"))
	if err != nil {
		return nil, err
	}
	if r.header, err = parseFields(rest); err != nil {
		return nil, err
	}
	if err := r.frame(method); err != nil {
		return nil, err
	}
	return r, r.hop()
}

// readHead returns everything up to the empty line. Most often all of it has come
// with the first read.
func readHead(br *bufio.Reader) (string, error) {
	var long []byte
	for {
		if _, err := br.Peek(1); err != nil {
			if len(long) == 0 {
				return "", &unansweredError{err}
			}
			return "", notEOF(err)
		}
		have, _ := br.Peek(br.Buffered())
		if long == nil {
			if n := endOfHead(have, true); n > 0 {
				text := string(have[:n])
				br.Discard(n)
				return text, nil
			}
		}
		line, err := br.ReadSlice('\n')
		long = append(long, line...)
		if len(long) > maxReplyHead {
			return "", badReply("its head has more than %d bytes", maxReplyHead)
		}
		switch {
		case err == nil && endOfHead(long[max(0, len(long)-4):], len(long) <= 2) > 0:
			return string(long), nil
		case err != nil && err != bufio.ErrBufferFull:
			return "", notEOF(err)
		}
	}
}

// notEOF is err where the end must not come yet.
func notEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// endOfHead returns how long a head with its empty line is, 0 if that has not come.
// At the start an empty line may come first.
func endOfHead(b []byte, start bool) int {
	if start && len(b) > 0 && (b[0] == '\n' || b[0] == '\r' && len(b) > 1 && b[1] == '\n') {
		return bytes.IndexByte(b, '\n') + 1
	}
	for at := 0; ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return 0
		}
		at += i + 1
		switch rest := b[at:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return at + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return at + 2
		}
	}
}

func parseStatus(line string) (*reply, error) {
	version, rest, ok := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if !ok || len(code) != 3 || code[0] < '1' || code[0] > '9' || code[1] < '0' || code[1] > '9' || code[2] < '0' || code[2] > '9' {
		return nil, badReply("%q is not a status line", excerpt(line))
	}
	r := &reply{}
	switch version {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.close = true
	default:
		return nil, badReply("%q is not a version that it may have", excerpt(version))
	}
	r.status, _ = strconv.Atoi(code) // three digits
	return r, nil
}

func excerpt(s string) string { return s[:min(len(s), 60)] }

// parseFields reads the lines of a head or of trailers, of which the last is empty.
func parseFields(text string) (http.Header, error) {
	n := strings.Count(text, "\n")
	h := make(http.Header, n+2) // and what is added to an answer
	values := make([]string, n)
	for i := 0; ; i++ {
		line, rest, ok := strings.Cut(text, "\n")
		line = strings.TrimSuffix(line, "\r")
		if line == "" || !ok {
			return h, nil
		}
		text = rest
		name, value, ok := strings.Cut(line, ":")
		if !ok || !validName(name) { // also of a folded line, and of a name with a space after it
			return nil, badReply("%q is not a field", excerpt(line))
		}
		value = textproto.TrimString(value)
		if !validValue(value) {
			return nil, badReply("the value of field %s has control characters", name)
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if old := h[name]; old != nil {
			h[name] = append(old, value)
			continue
		}
		values[i] = value
		h[name] = values[i : i+1 : i+1]
	}
}

// frame finds out where the body ends, as RFC 9112, section 6.3 says, and refuses
// what others might read differently.
func (r *reply) frame(method string) error {
	lengths, codings := r.header["Content-Length"], r.header["Transfer-Encoding"]
	delete(r.header, "Transfer-Encoding")
	for i, l := range lengths {
		n, err := strconv.ParseUint(l, 10, 63)
		if err != nil || l[0] == '+' || i > 0 && l != lengths[0] {
			return badReply("Content-Length %q", excerpt(strings.Join(lengths, ", ")))
		}
		r.length = int64(n)
	}
	if len(lengths) > 1 {
		r.header["Content-Length"] = lengths[:1]
	}
	switch {
	case len(codings) > 0 && len(lengths) > 0:
		return badReply("it has both Content-Length and Transfer-Encoding")
	case len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"):
		return badReply("Transfer-Encoding %q", excerpt(strings.Join(codings, ", ")))
	case len(codings) == 1 && r.close:
		return badReply("chunks in HTTP/1.0") // they cannot be there, and may be the body
	}
	switch {
	case r.status < 200, r.status == http.StatusNoContent:
		if len(codings) > 0 || r.length > 0 {
			return badReply("a body after status %d", r.status)
		}
		delete(r.header, "Content-Length")
	case method == http.MethodHead, r.status == http.StatusNotModified:
		r.length = 0 // and Content-Length says what it would be
	case len(codings) > 0:
		r.length, r.chunked = -1, true
	case len(lengths) == 0:
		r.length, r.close = -1, true
	}
	return nil
}

// hop takes out what concerns one connection only (RFC 9110, section 7.6.1).
func (r *reply) hop() error {
	for _, line := range r.header["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			token = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(token))
			switch token {
			case "Close":
				r.close = true
			case "", "Keep-Alive", "Upgrade", "Content-Length":
			default:
				delete(r.header, token)
			}
		}
	}
	if r.status == http.StatusSwitchingProtocols {
		r.upgrade = r.header.Get("Upgrade")
		if r.upgrade == "" {
			return badReply("status 101 without Upgrade")
		}
	}
	if names := r.header["Trailer"]; len(names) > 0 {
		for name := range strings.SplitSeq(strings.Join(names, ","), ",") {
			if name = textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)); validTrailer(name) && r.chunked {
				r.trailer = append(r.trailer, name)
			}
		}
	}
	for _, name := range hopHeaders {
		delete(r.header, name)
	}
	return nil
}

// hopHeaders concern one connection only, whether or not Connection names them.
var hopHeaders = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// readTrailer reads what follows the last chunk.
func readTrailer(br *bufio.Reader) (http.Header, error) {
	text, err := readHead(br)
	if bad := (*unansweredError)(nil); errors.As(err, &bad) {
		err = notEOF(bad.error)
	}
	if err != nil {
		return nil, err
	}
	h, err := parseFields(text)
	for name := range h {
		if !validTrailer(name) {
			delete(h, name)
		}
	}
	return h, err
}

// unansweredError is the end of a connection on which not a byte of an answer has
// come.
type unansweredError struct{ error }

func (e *unansweredError) Unwrap() error { return e.error }

// tokenByte are the bytes of a field's name (RFC 9110, section 5.6.2).
var tokenByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c < 0x80 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return t
}()

func validName(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

// validValue reports whether a field's value has no control characters: neither
// an end of line that others would see, nor NUL.
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// validTrailer reports whether a field may come after a body: not one that says
// how to read it, or who asks (RFC 9110, section 6.5.1).
func validTrailer(name string) bool {
	switch name {
	case "", "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Host", "Connection", "Upgrade", "Authorization", "Cookie", "Set-Cookie",
		"Content-Encoding", "Content-Type", "Content-Range", "Cache-Control", "Expect", "Max-Forwards", "Www-Authenticate", "Proxy-Authenticate", "Proxy-Authorization":
		return false
	}
	return validName(name) && !strings.HasPrefix(name, "If-") && !strings.HasPrefix(name, "X-Forwarded-")
}
