package discovery

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// Bounds of what clients may occupy.
const (
	maxForwards    = 512 // questions that others are being asked
	maxForwardsOf  = 64  // of them, of one client
	maxStreams     = 256 // TCP connections
	maxStreamsOf   = 16  // of them, of one client
	streamIdle     = 10 * time.Second
	datagramBuffer = 4096 // bytes; more is no question
)

// DNSOptions say where a DNS server listens and who its clients are.
type DNSOptions struct {
	// Address is where it listens, over UDP and TCP; required. The address need
	// not be there yet.
	Address netip.AddrPort
	// Askers says who has an address: Space, App and Workload of a container.
	// Nobody else is answered; required.
	Askers func(netip.Addr) (Consumer, bool)
	// Subnet is where containers are. Names of its addresses are never asked of
	// other servers.
	Subnet netip.Prefix
	// Resolv is the file that names the servers which are asked for all other
	// names; /etc/resolv.conf if empty. It is read again when it has changed.
	Resolv string
	Log    *slog.Logger // nil: nothing is logged
}

// DNS answers questions for names with what is in the view of a Discovery:
//
//	SERVICE.SPACE.mayfly               A, AAAA: addresses of its endpoints; SRV: addresses and ports
//	_PORT._tcp.SERVICE.SPACE.mayfly    SRV: of the endpoints of that name or protocol
//	SERVICE, ALIAS                     the same, for those of its app
//	10-88-0-5.SERVICE.SPACE.mayfly     what an SRV record points to
//
// Several endpoints are listed beginning with another one each time. A service
// that has no endpoint just now has a name without addresses; another space's
// has none at all. Nothing may be remembered: records live for 0 s. Other names
// are asked for at the servers that this machine asks.
type DNS struct {
	d     *Discovery
	opts  DNSOptions
	log   *slog.Logger
	udp   *datagrams
	tcp   *net.TCPListener
	names atomic.Pointer[names]
	turn  atomic.Uint32
	up    *upstream
	close func() error // once

	forwards, streams *quota
}

// OpenDNS listens. Run answers, and closes what is open.
func (d *Discovery) OpenDNS(ctx context.Context, opts DNSOptions) (*DNS, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Resolv == "" {
		opts.Resolv = "/etc/resolv.conf"
	}
	s := &DNS{d: d, opts: opts, log: opts.Log, forwards: newQuota(maxForwards, maxForwardsOf), streams: newQuota(maxStreams, maxStreamsOf)}
	s.names.Store(newNames(d.store.Snapshot()))
	listen := net.ListenConfig{Control: freebind}
	udp, err := listen.ListenPacket(ctx, "udp", opts.Address.String())
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Unavailable, "answer DNS questions: %w", err).WithHint("is another server on this address?")
	}
	if s.udp, err = newDatagrams(udp.(*net.UDPConn)); err != nil {
		return nil, fmt.Errorf("answer DNS questions: %w", err)
	}
	// With port 0, both are to have the same.
	at := netip.AddrPortFrom(opts.Address.Addr(), s.udp.at.Port())
	tcp, err := listen.Listen(ctx, "tcp", at.String())
	if err != nil {
		s.udp.close()
		return nil, mayfly.Errorf(mayfly.Unavailable, "answer DNS questions: %w", err).WithHint("is another server on this address?")
	}
	s.tcp = tcp.(*net.TCPListener)
	s.close = sync.OnceValue(func() error { return errors.Join(s.udp.close(), s.tcp.Close()) })
	s.up = &upstream{file: opts.Resolv, self: at}
	return s, nil
}

// Addr is where it listens.
func (s *DNS) Addr() netip.AddrPort { return s.udp.at }

// Close stops listening. Run does it at its end.
func (s *DNS) Close() error { return s.close() }

// freebind lets an address be listened on that comes later.
func freebind(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(err, set)
}

// Run answers until ctx ends. It returns when all that it started has ended.
func (s *DNS) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { s.followNames(ctx) })
	for range max(runtime.GOMAXPROCS(0), 2) {
		parts.Go(func() { s.serveDatagrams(ctx, &parts) })
	}
	s.serveStreams(ctx, &parts)
	return ctx.Err()
}

// serveDatagrams answers what is known at once, and starts a goroutine only for
// what others are to be asked.
func (s *DNS) serveDatagrams(ctx context.Context, parts *sync.WaitGroup) {
	t := task{kept: newKept()}
	s.udp.read(func(packet []byte, from unix.Sockaddr) {
		client := addrOf(from)
		what := s.handle(&t, packet, client, true)
		switch what {
		case answer:
			s.udp.write(t.out, from)
		case forward, chase:
			if !s.forwards.take(client) {
				t.failed()
				s.udp.write(t.out, from)
				return
			}
			job := s.jobOf(&t, what, packet, true)
			parts.Go(func() {
				defer s.forwards.give(client)
				s.udp.write(job.do(ctx), from)
			})
		}
	}, func(err error) { s.log.Debug("read a DNS question", "error", err) })
}

func (s *DNS) serveStreams(ctx context.Context, parts *sync.WaitGroup) {
	for {
		conn, err := s.tcp.AcceptTCP()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Warn("accept a DNS client", "error", err)
			time.Sleep(10 * time.Millisecond) // too many open files, say
			continue
		}
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.streams.take(client) {
			conn.Close()
			continue
		}
		parts.Go(func() {
			defer s.streams.give(client)
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			s.serveStream(ctx, conn, client)
		})
	}
}

// serveStream answers one question after the other.
func (s *DNS) serveStream(ctx context.Context, conn net.Conn, client netip.Addr) {
	var t task
	var buf []byte
	for {
		conn.SetDeadline(time.Now().Add(streamIdle))
		var err error
		if buf, err = readFramed(conn, buf); err != nil {
			return
		}
		what := s.handle(&t, buf, client, false)
		out := t.out
		switch what {
		case drop:
			return
		case forward, chase:
			if s.forwards.take(client) {
				out = s.jobOf(&t, what, buf, false).do(ctx)
				s.forwards.give(client)
			} else {
				t.failed()
				out = t.out
			}
		}
		conn.SetDeadline(time.Now().Add(streamIdle))
		if writeFramed(conn, out) != nil {
			return
		}
	}
}

// readFramed reads a message as it is sent over TCP: after its length.
func readFramed(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return buf, err
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if cap(buf) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	_, err := io.ReadFull(r, buf)
	return buf, err
}

func writeFramed(w io.Writer, message []byte) error {
	if len(message) >= maxMessage {
		return fmt.Errorf("a message of %d bytes does not fit", len(message))
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// quota bounds how much there is at once, of all clients and of each.
type quota struct {
	all, each int

	mu  sync.Mutex
	sum int
	of  map[netip.Addr]int // none at zero
}

func newQuota(all, each int) *quota { return &quota{all: all, each: each, of: map[netip.Addr]int{}} }

func (q *quota) take(client netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sum >= q.all || q.of[client] >= q.each {
		return false
	}
	q.sum++
	q.of[client]++
	return true
}

func (q *quota) give(client netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sum--
	if q.of[client]--; q.of[client] == 0 {
		delete(q.of, client)
	}
}
