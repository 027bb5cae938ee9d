package router

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func readText(text, method string) (*reply, string, error) {
	br := bufio.NewReaderSize(iotest.OneByteReader(strings.NewReader(text)), 64)
	r, err := readReply(br, method)
	rest, _ := io.ReadAll(br)
	return r, string(rest), err
}

func TestReadReply(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct{ text, method, want string }{
		{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi", "GET", "200 2 A=b Content-Length=2|hi"},
		{"HTTP/1.1 200 OK\nContent-Length: 2\nA: b\n\nhi", "GET", "200 2 A=b Content-Length=2|hi"},
		{"HTTP/1.1 200\r\n\r\nall", "GET", "200 -1 close |all"},
		{"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", "200 0 close Content-Length=0|"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Sum, Content-Length\r\n\r\n0\r\n\r\n", "GET", "200 -1 chunked trailer[X-Sum] |0\r\n\r\n"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", "HEAD", "200 0 Content-Length=7|"},
		{"HTTP/1.1 304 x\r\nContent-Length: 7\r\n\r\n", "GET", "304 0 Content-Length=7|"},
		{"HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", "GET", "204 0 |"},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP", "GET", "100 0 |HTTP"},
		{"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nraw", "GET", "101 0 to websocket |raw"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n", "GET", "200 1 close Content-Length=1|"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\nset-cookie: a\r\nSet-Cookie:b \r\n\r\n", "GET", "200 1 Content-Length=1 Set-Cookie=a Set-Cookie=b|"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nL: " + long + "\r\n\r\n", "GET", "200 0 Content-Length=0 L=" + long + "|"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nOdd: caf\xe9\r\n\r\n", "GET", "200 0 Content-Length=0 Odd=caf\xe9|"},

		{"", "GET", "unanswered"},
		{"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-", "GET", "unexpected EOF"},
		{"SSH-2.0-x\r\n\r\n", "GET", "bad"},
		{"HTTP/2.0 200 OK\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 2xx OK\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 099 OK\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0x1\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 204 OK\r\nContent-Length: 3\r\n\r\nabc", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nA: b\rX: c\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\n: b\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nnothing\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n", "GET", "bad"},
		{"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", maxReplyHead) + "\r\n\r\n", "GET", "bad"},
	} {
		r, rest, err := readText(tt.text, tt.method)
		got := tell(r) + "|" + rest
		switch {
		case errors.As(err, new(*errReply)):
			got = "bad"
		case errors.As(err, new(*unansweredError)):
			got = "unanswered"
		case err != nil:
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q:\n got %.200q\nwant %.200q (%v)", excerpt(tt.text), got, tt.want, err)
		}
	}
}

// tell is a reply on one line.
func tell(r *reply) string {
	if r == nil {
		return ""
	}
	text := fmt.Sprint(r.status, " ", r.length, " ")
	if r.chunked {
		text += "chunked "
	}
	if r.close {
		text += "close "
	}
	if r.upgrade != "" {
		text += "to " + r.upgrade + " "
	}
	if r.trailer != nil {
		text += fmt.Sprint("trailer", r.trailer, " ")
	}
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		for _, v := range r.header[name] {
			fields = append(fields, name+"="+v)
		}
	}
	return text + strings.Join(fields, " ")
}

func TestReadTrailer(t *testing.T) {
	br := bufio.NewReader(strings.NewReader("X-Sum: 1\r\nContent-Length: 4\r\n\r\nnext"))
	h, err := readTrailer(br)
	if err != nil || fmt.Sprint(h) != "map[X-Sum:[1]]" {
		t.Errorf("%v, %v", h, err)
	}
	if h, err := readTrailer(bufio.NewReader(strings.NewReader("\r\nnext"))); err != nil || len(h) > 0 {
		t.Errorf("none: %v, %v", h, err)
	}
	if _, err := readTrailer(bufio.NewReader(strings.NewReader(""))); err != io.ErrUnexpectedEOF {
		t.Errorf("cut off: %v", err)
	}
}

// FuzzReply holds the reader against the one of net/http: what it takes, that
// takes too, and sees the same of it.
func FuzzReply(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: b\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 404 No\nConnection: close, a\nA: b\n\nx", "HTTP/1.1 204 x\r\n\r\n", "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\n",
	} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, head bool) {
		method := map[bool]string{false: "GET", true: "HEAD"}[head]
		br := bufio.NewReader(strings.NewReader(text))
		r, err := readReply(br, method)
		if err != nil {
			return
		}
		rest := text[len(text)-br.Buffered():]
		if len(text) > 4096 {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("taken: %s; net/http: %v", tell(r), err)
		}
		if want.StatusCode != r.status {
			t.Fatalf("%s; net/http: %d", tell(r), want.StatusCode)
		}
		if r.length >= 0 && !head && r.status >= 200 && r.status != 304 && want.ContentLength != r.length {
			t.Fatalf("%s; net/http: %d bytes", tell(r), want.ContentLength)
		}
		if r.chunked != (len(want.TransferEncoding) > 0) && !head {
			t.Fatalf("%s; net/http: %v", tell(r), want.TransferEncoding)
		}
		body, _ := io.ReadAll(want.Body)
		if r.length > 0 && int64(len(rest)) >= r.length && string(body) != rest[:r.length] {
			t.Fatalf("%s of %q; net/http: %q", tell(r), rest, body)
		}
		for name, values := range r.header {
			if !slices.Equal(want.Header[name], values) {
				t.Fatalf("%s: %q; net/http: %q", name, values, want.Header[name])
			}
		}
	})
}
