package router

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// requestBody is what a client sends, which a function need not read to its
// end. With answers that begin before that, net/http leaves it to the handler
// to see to the rest: what it reads itself, after the handler, makes it panic
// when the connection is used again.
type requestBody struct {
	whole       io.Reader // net/http's own
	limited     io.Reader // of it, what the function takes
	w           http.ResponseWriter
	control     *http.ResponseController
	eof         atomic.Bool
	interrupted atomic.Bool
	unwanted    bool  // interrupted though the client was there: net/http says then that it has left
	left        bool  // nothing more is to be done with it
	err         error // why the last Read failed, a bodyError; whoever reads has ended
}

// bodyError is a body that could not be read to its end.
type bodyError struct{ error }

func (e *bodyError) Unwrap() error { return e.error }

// moment is how long something is waited for that has most likely happened.
const moment = 10 * time.Millisecond

// The rest of a body that nobody wants is read for so long, and so much of it,
// that the client sees the answer and may use its connection again.
const (
	restTime  = 2 * time.Second
	restBytes = 16 << 20
)

func newRequestBody(w http.ResponseWriter, body io.ReadCloser) *requestBody {
	b := &requestBody{whole: body, limited: body, w: w, control: http.NewResponseController(w)}
	b.eof.Store(body == http.NoBody)
	return b
}

// limit makes Read fail beyond so many bytes.
func (b *requestBody) limit(most int64) {
	b.limited = http.MaxBytesReader(b.w, io.NopCloser(b.whole), most)
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.limited.Read(p)
	switch err {
	case nil:
	case io.EOF:
		b.eof.Store(true)
	default:
		err = &bodyError{err}
		b.err = err
	}
	return n, err
}

// Close leaves the body as it is: leave sees to it.
func (b *requestBody) Close() error { return nil }

// interrupt makes a Read return that waits for the client. The connection is
// of no use after that.
func (b *requestBody) interrupt() {
	if !b.eof.Load() {
		b.interrupted.Store(true)
		b.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// over reports whether ctx has ended, for another reason than that what is left of
// the body was not wanted.
func (b *requestBody) over(ctx context.Context) bool {
	return ctx.Err() != nil && (b == nil || !b.unwanted || context.Cause(ctx) != context.Canceled)
}

// await waits until whoever reads the body is done, and makes him be. It is
// called when the body is not wanted any more.
func (b *requestBody) await(done <-chan struct{}) {
	t := time.NewTimer(moment)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		b.interrupt()
		<-done
	}
}

// closeAfterReply has net/http close the connection when the answer is out,
// even if its head is out already: the only call that does is this.
func (b *requestBody) closeAfterReply() {
	w := b.w
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

// leave sends the answer and reads on for a while what the client still sends,
// for one that is cut off while it writes does not see the answer. Nobody else
// reads the body any more.
func (b *requestBody) leave() {
	if b.left {
		return
	}
	b.left = true
	if !b.eof.Load() && !b.interrupted.Load() {
		b.control.Flush()
		b.drain()
	}
	if !b.eof.Load() || b.interrupted.Load() {
		b.closeAfterReply()
	}
}

// drain reads on for a while.
func (b *requestBody) drain() {
	if b.control.SetReadDeadline(time.Now().Add(restTime)) == nil {
		if _, err := io.CopyN(io.Discard, b.whole, restBytes); err == io.EOF {
			b.eof.Store(true)
		}
	}
}
