package router

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// spliceFrom is how much of a body must be left for the kernel to be asked to move
// it by itself, in bytes.
const spliceFrom = 64 << 10

var errCutOff = errors.New("the answer broke off")

// passBody passes an answer's body on as it comes.
func (x *exchange) passBody(r *reply) error {
	switch {
	case r.length == 0:
		return nil
	case r.chunked:
		return x.passChunks(r)
	case r.length < 0:
		return x.copy(x.br, nil)
	default:
		return x.passLength(r.length)
	}
}

// passLength passes so many bytes on. What has come with the head is most often
// all, and then goes out with it.
func (x *exchange) passLength(left int64) error {
	for x.br.Buffered() > 0 && left > 0 {
		p, _ := x.br.Peek(int(min(int64(x.br.Buffered()), left)))
		n, err := x.w.Write(p)
		x.br.Discard(n)
		if left -= int64(n); err != nil {
			return err
		}
	}
	if left == 0 {
		return nil
	}
	x.flush()
	if to, ok := x.w.(io.ReaderFrom); ok && left >= spliceFrom {
		n, err := to.ReadFrom(&io.LimitedReader{R: x.conn, N: left})
		if left -= n; err == nil && left > 0 {
			err = errCutOff
		}
		return err
	}
	return x.copy(&io.LimitedReader{R: x.conn, N: left}, &left)
}

// copy passes on what comes, each piece at once. With left, so many bytes must
// come.
func (x *exchange) copy(from io.Reader, left *int64) error {
	buf := x.router.copies.get()
	defer x.router.copies.put(buf)
	if !x.more() {
		x.flush() // the head
	}
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			if _, err := x.w.Write((*buf)[:n]); err != nil {
				return err
			}
			if left != nil {
				if *left -= int64(n); *left == 0 {
					return nil // it goes out with the end
				}
			}
			if !x.more() {
				x.flush()
			}
		}
		switch {
		case err == io.EOF && left != nil:
			return errCutOff
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// more reports whether the next read takes no time, most likely: there is at least
// the length of a chunk.
func (x *exchange) more() bool {
	have, _ := x.br.Peek(x.br.Buffered())
	return bytes.IndexByte(have, '\n') >= 0
}

func (x *exchange) passChunks(r *reply) error {
	if err := x.copy(httputil.NewChunkedReader(x.br), nil); err != nil {
		return err
	}
	trailer, err := readTrailer(x.br)
	if err != nil {
		return err
	}
	h := x.w.Header()
	for _, name := range r.trailer {
		if values := trailer[name]; values != nil {
			h[name] = values
			delete(trailer, name)
		}
	}
	for name, values := range trailer { // that was not announced
		h[http.TrailerPrefix+name] = values
	}
	return nil
}

func (x *exchange) flush() { http.NewResponseController(x.w).Flush() }

// upgrade connects the client and the program for whatever they speak from now on,
// until both have ended.
func (x *exchange) upgrade(r *reply) error {
	if want := upgradeOf(x.req.Header); want == "" || !strings.EqualFold(want, r.upgrade) {
		return badReply("it goes on in %q, which nobody asked for", excerpt(r.upgrade))
	}
	h := x.w.Header()
	client, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return err
	}
	defer client.Close()
	x.status = r.status
	for name, values := range r.header {
		h[name] = values
	}
	head := []byte("HTTP/1.1 101 Switching Protocols\r\n")
	for name, values := range h {
		for _, v := range values {
			head = appendField(head, name, v)
		}
	}
	head = appendField(appendField(head, "Connection", "Upgrade"), "Upgrade", r.upgrade)
	client.SetDeadline(time.Time{})
	if _, err := client.Write(append(head, "\r\n"...)); err != nil {
		return err
	}
	var ways sync.WaitGroup
	ways.Go(func() { pass(x.conn, buffered.Reader, client) })
	ways.Go(func() { pass(client, x.br, x.conn) })
	ways.Wait()
	return nil
}

// pass copies one direction of a connection, of which the first part is buffered,
// and ends it.
func pass(to net.Conn, buffered interface {
	io.Reader
	Buffered() int
}, from net.Conn) {
	_, err := io.CopyN(to, buffered, int64(buffered.Buffered()))
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if half, ok := to.(interface{ CloseWrite() error }); err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	from.Close()
}

// upgradeOf is the protocol that a request wants to go on in, empty for none. HTTP/2
// is not one: what its requests are for, nobody here would see.
func upgradeOf(h http.Header) string {
	if len(h["Upgrade"]) != 1 || !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	u := textproto.TrimString(h["Upgrade"][0])
	if strings.EqualFold(u, "h2c") || !validName(strings.ReplaceAll(u, "/", "")) {
		return ""
	}
	return u
}

func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}
