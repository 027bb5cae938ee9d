package discovery

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// The line protocol is how programs that are not Mayfly's own register endpoints
// and learn of others. docs/line-protocol.md says it for those who write a client.
//
// A client sends `ID COMMAND JSON`, and gets one answer for each, `ID ok JSON` or
// `ID error JSON`, not necessarily in their order. What the server says unasked
// begins with `!` in place of an ID. An empty line says that the sender is there.
// What a connection registered is withdrawn when it ends, however it ends.

// Bounds of the line protocol.
const (
	maxLine      = 64 << 10         // bytes of what a client sends
	maxLineItems = 1000             // endpoints, subscriptions and locks of one connection
	maxLineBusy  = 100              // commands of one connection without an answer yet
	lineQueue    = 64               // lines that wait to be sent
	lineHello    = 10 * time.Second // for the first command
	lineTimeout  = time.Minute
	lineLeast    = time.Second // least timeout and TTL
	lineMost     = time.Hour   // longest timeout and wait
	lineWrite    = 10 * time.Second
	lineConns    = 1000
)

// Guest is who is at the other end of a connection, as far as whoever accepted it
// knows, and what it may do.
type Guest struct {
	Space    string                          // where it is; empty: the one that its hello names
	Admit    func(space, token string) error // decides on its hello; nil: everyone is admitted
	ReadOnly bool                            // it may neither register endpoints nor lock
	App      string                          // of whoever is in a container; likewise all below
	Workload string                          // also the service of what it registers without naming one
	Instance string
	Zone     string
	Address  string // of endpoints that it registers without one; the peer's if empty
}

// LineOptions bound connections. The zero value is fit for production.
type LineOptions struct {
	Timeout     time.Duration // after which a silent connection is closed, where its hello says nothing else; 1 min if 0
	Connections int           // at once; 1000 if 0
}

// ListenLines serves each connection that a listener accepts, until ctx ends or
// the listener fails. guest says who a connection is of; it is closed if that
// fails. The listener is closed, and nothing is left running, when it returns.
func (d *Discovery) ListenLines(ctx context.Context, l net.Listener, opts LineOptions, guest func(net.Conn) (Guest, error)) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, cmp.Or(opts.Connections, lineConns))
	watching, stop := context.WithCancel(ctx)
	defer stop()
	all.Go(func() { d.unseat(watching) })
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // too many open files
			d.log.Warn("accept a connection for the line protocol", "error", err)
			select {
			case <-time.After(retryPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			refuse(conn, mayfly.Errorf(mayfly.Busy, "there are %d connections already", cap(room)))
			continue
		}
		all.Go(func() {
			defer func() { <-room }()
			g, err := guest(conn)
			if err != nil {
				refuse(conn, err)
				return
			}
			d.ServeLines(ctx, conn, g, opts)
		})
	}
}

// refuse closes a connection with an error, if that can be written at once.
func refuse(conn net.Conn, err error) {
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	conn.Write(line("!", "error", lineError(err)))
	conn.Close()
}

// ServeLines speaks the line protocol over one connection, and closes it. It
// returns when the connection or ctx has ended, and all that the guest registered
// has been withdrawn. Locks are abandoned.
func (d *Discovery) ServeLines(ctx context.Context, conn net.Conn, g Guest, opts LineOptions) {
	ctx, cancel := context.WithCancel(ctx)
	s := &lineSession{
		d: d, conn: conn, guest: g, out: make(chan []byte, lineQueue), end: cancel, timeout: cmp.Or(opts.Timeout, lineTimeout),
		endpoints: map[string]*lineEndpoint{}, subs: map[string]*Subscription{}, locks: map[string]uint64{},
		label: conn.RemoteAddr().String() + "#" + mayfly.NewID()[10:],
	}
	var running sync.WaitGroup
	s.running = &running
	running.Go(func() { s.write(ctx) })
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
	s.read(ctx)
	stop()
	s.leave() // whoever does not read what is sent is not waited for
	cancel()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	running.Wait()
	conn.Close()
	s.abandon()
}

// lineSession is one connection. Only the goroutine that reads uses what is not
// guarded.
type lineSession struct {
	d       *Discovery
	conn    net.Conn
	guest   Guest
	label   string // tells it from other connections
	timeout time.Duration
	out     chan []byte
	end     context.CancelFunc
	running *sync.WaitGroup

	consumer  Consumer
	greeted   bool
	heard     time.Time
	endpoints map[string]*lineEndpoint // by id
	subs      map[string]*Subscription // by the id of the command

	mu    sync.Mutex
	locks map[string]uint64 // tokens by name
	busy  int               // commands without an answer
}

// lineEndpoint is what a connection registered.
type lineEndpoint struct {
	mayfly.Endpoint
	ttl    time.Duration // 0: as long as the connection is there
	silent bool          // its TTL has passed, and it is withdrawn
}

// line makes a line.
func line(id, word string, body any) []byte {
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // strings, numbers and times only
	}
	return append(append(append([]byte(id+" "), word...), ' '), append(data, '\n')...)
}

type lineErrorBody struct {
	Kind mayfly.Kind `json:"kind"`
	Text string      `json:"text"`
}

func lineError(err error) lineErrorBody { return lineErrorBody{mayfly.KindOf(err), err.Error()} }

// send queues a line. It waits while the client does not read, until the
// connection is given up for that.
func (s *lineSession) send(ctx context.Context, line []byte) {
	select {
	case s.out <- line:
	case <-ctx.Done():
	}
}

// write writes what is queued, and says now and then that the server is there.
func (s *lineSession) write(ctx context.Context) {
	defer s.end()
	for {
		var next []byte
		select {
		case next = <-s.out:
		case <-time.After(lineTimeout / 3):
			next = []byte{'\n'}
		case <-ctx.Done():
			for { // answers that are ready, such as the last error
				select {
				case next = <-s.out:
					s.conn.SetWriteDeadline(time.Now().Add(time.Second))
					if _, err := s.conn.Write(next); err != nil {
						return
					}
				default:
					return
				}
			}
		}
		s.conn.SetWriteDeadline(time.Now().Add(lineWrite))
		if _, err := s.conn.Write(next); err != nil {
			return
		}
	}
}

// read carries out what comes, until the connection or ctx ends.
func (s *lineSession) read(ctx context.Context) {
	s.heard = time.Now()
	buf, have := make([]byte, maxLine), 0
	for ctx.Err() == nil {
		s.conn.SetReadDeadline(s.deadline())
		if ctx.Err() != nil { // it may have ended just before the deadline was set
			return
		}
		n, err := s.conn.Read(buf[have:])
		have += n
		rest := buf[:have]
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			s.hear()
			if err := s.handle(ctx, bytes.TrimSuffix(rest[:i], []byte{'\r'})); err != nil {
				if err != io.EOF {
					s.send(ctx, line("!", "error", lineError(err)))
				}
				return
			}
			rest = rest[i+1:]
		}
		if have = copy(buf, rest); have == len(buf) {
			s.send(ctx, line("!", "error", lineError(mayfly.Errorf(mayfly.TooLarge, "a line has more than %d bytes", maxLine))))
			return
		}
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && s.expire(ctx) {
			continue
		}
		return
	}
}

// deadline is when silence has an effect.
func (s *lineSession) deadline() time.Time {
	wait := s.timeout
	if !s.greeted {
		wait = min(wait, lineHello)
	}
	for _, e := range s.endpoints {
		if e.ttl > 0 && !e.silent {
			wait = min(wait, e.ttl)
		}
	}
	return s.heard.Add(wait)
}

// hear notes that the client is there, and brings back what its silence took away.
func (s *lineSession) hear() {
	s.heard = time.Now()
	for _, e := range s.endpoints {
		if e.silent {
			e.silent = false
			if s.mayTake(&e.Endpoint) == nil {
				s.d.Publish(e.Endpoint) // it was checked
			}
		}
	}
}

// expire withdraws what the client has been silent about for too long. It returns
// false when that is the connection itself.
func (s *lineSession) expire(ctx context.Context) bool {
	silence := time.Since(s.heard)
	if silence >= s.timeout || !s.greeted && silence >= lineHello {
		s.send(ctx, line("!", "error", lineError(mayfly.Errorf(mayfly.TimedOut, "nothing was heard for %v", silence.Round(time.Millisecond)))))
		return false
	}
	for id, e := range s.endpoints {
		if e.ttl > 0 && !e.silent && silence >= e.ttl {
			e.silent = true
			s.d.Withdraw(id)
		}
	}
	return true
}

// leave takes back what the connection registered and subscribed to.
func (s *lineSession) leave() {
	for id := range s.endpoints {
		s.d.Withdraw(id)
	}
	for _, sub := range s.subs {
		sub.Close()
	}
}

// abandon gives up the locks, when no command is under way any more.
func (s *lineSession) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, token := range s.locks {
		s.d.Locks().Abandon(s.consumer.Space, name, token)
	}
}

var (
	linePattern   = regexp.MustCompile(`^([A-Za-z0-9._-]{1,64}) ([a-z]{1,32})(?: (.*))?$`)
	errLineFormat = mayfly.Errorf(mayfly.Invalid, "a line is not of the form ID COMMAND JSON").WithHint("an ID is 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'")
)

// parseLine takes a line apart. A command without JSON has an empty object.
func parseLine(text []byte) (id, command string, body []byte, err error) {
	m := linePattern.FindSubmatch(text)
	if m == nil {
		return "", "", nil, errLineFormat
	}
	if body = bytes.TrimSpace(m[3]); len(body) == 0 {
		body = []byte("{}")
	}
	return string(m[1]), string(m[2]), body, nil
}

// handle carries out one line. An error ends the connection; io.EOF is an end
// that was asked for.
func (s *lineSession) handle(ctx context.Context, text []byte) error {
	if len(text) == 0 {
		return nil
	}
	id, command, body, err := parseLine(text)
	if err != nil {
		return err
	}
	if !s.greeted && command != "hello" {
		return mayfly.Errorf(mayfly.Invalid, "the first command is hello")
	}
	answer, err := s.command(command)(ctx, id, body)
	if answer == errLater {
		return nil
	}
	s.reply(ctx, id, answer, err)
	if command == "bye" && err == nil {
		return io.EOF
	}
	if !s.greeted {
		return io.EOF
	}
	return nil
}

// command returns what carries out a command.
func (s *lineSession) command(name string) func(ctx context.Context, id string, body []byte) (any, error) {
	switch name {
	case "hello":
		return s.hello
	case "register":
		return s.register
	case "withdraw":
		return s.withdraw
	case "find":
		return s.find
	case "subscribe":
		return s.subscribe
	case "unsubscribe":
		return s.unsubscribe
	case "ack":
		return s.ack
	case "lock":
		return s.lock
	case "resume":
		return s.resume
	case "unlock":
		return s.unlock
	case "bye":
		return s.bye
	default:
		return func(context.Context, string, []byte) (any, error) {
			return nil, mayfly.Errorf(mayfly.Invalid, "there is no command %q", name)
		}
	}
}

func (s *lineSession) reply(ctx context.Context, id string, answer any, err error) {
	if err != nil {
		s.send(ctx, line(id, "error", lineError(err)))
		return
	}
	if answer == nil {
		answer = struct{}{}
	}
	s.send(ctx, line(id, "ok", answer))
}

// background carries out what may take long, and answers then.
func (s *lineSession) background(ctx context.Context, id string, do func() (any, error)) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy >= maxLineBusy {
		return nil, mayfly.Errorf(mayfly.Busy, "%d commands have no answer yet", s.busy)
	}
	s.busy++
	s.running.Go(func() {
		answer, err := do()
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
		s.reply(ctx, id, answer, err)
	})
	return errLater, nil
}
