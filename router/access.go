package router

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mayfly-run/mayfly"
)

// AccessLog writes a line of JSON for each web request when it has been answered.
// No line has a query or a header's value but User-Agent and Referer without its
// query: secrets are in the others.
//
// What is written is in the file within a second. Nothing here renames or removes
// the file: Reopen begins with another one, as after a rotation.
type AccessLog struct {
	path string // empty: out is not ours to open

	mu   sync.Mutex
	out  io.Writer
	file *os.File
	buf  []byte
	fail error // of the last write; logged once until one succeeds
	told bool  // fail was reported
}

// accessBuffer is how much waits to be written, in bytes.
const accessBuffer = 64 << 10

// OpenAccessLog appends to a file, which it makes; "-" is standard output.
func OpenAccessLog(path string) (*AccessLog, error) {
	l := &AccessLog{path: path}
	if path == "-" {
		l.path, l.out = "", os.Stdout
		return l, nil
	}
	return l, l.Reopen()
}

// Reopen writes to the file of the name from now on, whatever has become of the
// one so far.
func (l *AccessLog) Reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "open the access log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	if l.file != nil {
		l.file.Close()
	}
	l.out, l.file = f, f
	return nil
}

// Run writes what waits once a second, and at each signal opens the file anew,
// until ctx ends. failed is told of errors, once in a row.
func (l *AccessLog) Run(ctx context.Context, reopen <-chan os.Signal, failed func(error)) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-tick.C:
		case <-reopen:
			err = l.Reopen()
		case <-ctx.Done():
			l.mu.Lock()
			defer l.mu.Unlock()
			l.flush()
			return nil
		}
		l.mu.Lock()
		l.flush()
		if err == nil && !l.told {
			err, l.told = l.fail, l.fail != nil
		}
		l.mu.Unlock()
		if err != nil {
			failed(err)
		}
	}
}

// Close closes the file.
func (l *AccessLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flush()
	if l.file != nil {
		return l.file.Close()
	}
	return nil
}

// flush writes what waits; what cannot be written is lost. l.mu is held.
func (l *AccessLog) flush() {
	if len(l.buf) == 0 {
		return
	}
	if _, l.fail = l.out.Write(l.buf); l.fail == nil {
		l.told = false
	}
	l.buf = l.buf[:0]
}

// begin wraps what answers a request.
func (l *AccessLog) begin(w http.ResponseWriter, req *http.Request, client string, v *visit) *logged {
	return &logged{ResponseWriter: w, log: l, req: req, client: client, visit: v, began: time.Now()}
}

// logged counts what is answered.
type logged struct {
	http.ResponseWriter
	log    *AccessLog
	req    *http.Request
	client string
	visit  *visit
	began  time.Time
	status int
	bytes  int64
}

// WriteHeader notes the status.
func (l *logged) WriteHeader(status int) {
	if l.status == 0 && status >= 200 {
		l.status = status
	}
	l.ResponseWriter.WriteHeader(status)
}

// Write counts bytes.
func (l *logged) Write(p []byte) (int, error) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	n, err := l.ResponseWriter.Write(p)
	l.bytes += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom.
func (l *logged) ReadFrom(r io.Reader) (n int64, err error) {
	if to, ok := l.ResponseWriter.(io.ReaderFrom); ok && l.status != 0 {
		n, err = to.ReadFrom(r)
		l.bytes += n
		return n, err
	}
	return io.Copy(struct{ io.Writer }{l}, r)
}

// Hijack implements http.Hijacker.
func (l *logged) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(l.ResponseWriter).Hijack()
	if err == nil {
		l.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach the connection.
func (l *logged) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// end writes the line.
func (l *logged) end() {
	cut := recover() // half an answer: net/http is to hear of it
	took := time.Since(l.began)
	log := l.log
	log.mu.Lock()
	log.buf = l.append(log.buf, took, cut != nil)
	if len(log.buf) >= accessBuffer {
		log.flush()
	}
	log.mu.Unlock()
	if cut != nil {
		panic(cut)
	}
}

func (l *logged) append(b []byte, took time.Duration, cut bool) []byte {
	b = append(b, `{"time":"`...)
	b = l.began.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, '"')
	b = appendText(b, "client", l.client)
	b = appendText(b, "method", l.req.Method)
	b = appendText(b, "host", l.req.Host)
	b = appendText(b, "path", l.req.URL.Path)
	b = appendText(b, "proto", l.req.Proto)
	b = appendNumber(b, "status", int64(l.status))
	b = appendNumber(b, "bytes", l.bytes)
	b = append(b, `,"ms":`...)
	b = strconv.AppendFloat(b, float64(took)/float64(time.Millisecond), 'f', 3, 64)
	b = appendText(b, "workload", l.visit.workload)
	if l.visit.release != 0 {
		b = appendNumber(b, "release", int64(l.visit.release))
	}
	b = appendText(b, "instance", l.visit.instance)
	b = appendText(b, "run", l.Header().Get("X-Mayfly-Run"))
	b = appendText(b, "agent", l.req.UserAgent())
	if cut {
		b = append(b, `,"cut":true`...)
	}
	return append(b, "}\n"...)
}

func appendNumber(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(append(append(b, `,"`...), name...), `":`...), n, 10)
}

// maxAccessText bounds a text of a line, in bytes.
const maxAccessText = 2 << 10

// appendText appends a member, unless it is empty.
func appendText(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	b = append(append(append(b, `,"`...), name...), `":"`...)
	text = text[:min(len(text), maxAccessText)]
	for len(text) > 0 {
		c, n := utf8.DecodeRuneInString(text)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || c == 0x7f || c == utf8.RuneError || c >= 0x80 && c < 0xa0 || c == 0x2028 || c == 0x2029:
			b = append(b, `\ufffd`...)
		default:
			b = append(b, text[:n]...)
		}
		text = text[n:]
	}
	return append(b, '"')
}
