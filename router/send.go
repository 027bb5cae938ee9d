package router

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// send has the body sent in a goroutine.
func (x *exchange) send() {
	x.sent = make(chan struct{})
	if expects(x.req) {
		x.asked = make(chan bool, 1)
	}
	go func() {
		defer close(x.sent)
		if !x.wanted() {
			x.sendEr = errUnwanted
			return
		}
		x.sendEr = x.sendBody()
		if errors.As(x.sendEr, new(*bodyError)) {
			x.conn.SetReadDeadline(time.Unix(1, 0)) // there may never be an answer
		}
	}()
}

// errUnwanted is a body that was not sent because the answer came without it.
var errUnwanted = errors.New("the body was not asked for")

// continueTime is how long a program may take to say that it wants the body of a
// request that expects it to (RFC 9110, section 10.1.1). Many never say it.
const continueTime = time.Second

// expects reports whether the client waits to be asked for the body.
func expects(req *http.Request) bool {
	return req.ProtoAtLeast(1, 1) && strings.EqualFold(req.Header.Get("Expect"), "100-continue")
}

// ask says whether the program wants the body. Only the first word counts.
func (x *exchange) ask(wants bool) {
	if x.asked != nil {
		select {
		case x.asked <- wants:
		default:
		}
	}
}

func (x *exchange) wanted() bool {
	if x.asked == nil {
		return true
	}
	timer := time.NewTimer(continueTime)
	defer timer.Stop()
	select {
	case wants := <-x.asked:
		return wants
	case <-timer.C:
		return true
	}
}

// sendBody copies what the client sends, as it comes.
func (x *exchange) sendBody() error {
	buf := x.router.copies.get()
	defer x.router.copies.put(buf)
	if x.req.ContentLength >= 0 {
		return x.sendLength(*buf)
	}
	const room = 8 // for the length of a chunk and its end of line
	for {
		n, err := x.body.Read((*buf)[room : len(*buf)-2])
		if n > 0 {
			size := strconv.AppendInt(make([]byte, 0, room), int64(n), 16)
			begin := room - len(size) - 2
			copy((*buf)[begin:], size)
			copy((*buf)[room-2:], "\r\n")
			copy((*buf)[room+n:], "\r\n")
			if _, err := x.conn.Write((*buf)[begin : room+n+2]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			_, err = x.conn.Write(x.end())
			return err
		}
		if err != nil {
			return err
		}
	}
}

func (x *exchange) sendLength(buf []byte) error {
	for left := x.req.ContentLength; left > 0; {
		n, err := x.body.Read(buf[:min(int64(len(buf)), left)])
		if left -= int64(n); n > 0 {
			if _, err := x.conn.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil && left > 0 {
			return err
		}
	}
	x.body.Read(buf[:1]) // its end
	return nil
}

// end is what follows the last chunk.
func (x *exchange) end() []byte {
	b := []byte("0\r\n")
	for name, values := range x.req.Trailer {
		for _, v := range values {
			if validTrailer(name) && validValue(v) {
				b = appendField(b, name, v)
			}
		}
	}
	return append(b, "\r\n"...)
}
