package discovery

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long other servers may take.
const (
	upstreamTime = 2 * time.Second // one of them
	forwardTime  = 5 * time.Second // all of them
	resolvAge    = 2 * time.Second // after which it is looked whether the file has changed
	maxResolv    = 64 << 10        // bytes
	maxUpstream  = 8 << 10         // bytes of an answer over UDP
	maxServers   = 3               // as resolvers have it
)

// job is a question that others are asked.
type job struct {
	s     *DNS
	query []byte
	udp   bool
	chase *dns.Msg // the reply that lacks the addresses of a name; nil: the answer is passed on
	name  string
	kind  uint16
	limit int
	fail  []byte // the reply if there is no answer
}

// jobOf copies what it needs of a task.
func (s *DNS) jobOf(t *task, what outcome, packet []byte, udp bool) *job {
	j := &job{s: s, query: bytes.Clone(packet), udp: udp, limit: maxMessage - 1}
	if what == chase {
		j.chase, j.name, j.kind = t.reply.Copy(), t.target, t.reply.Question[0].Qtype
		if j.limit = maxMessage - 1; udp {
			j.limit = maxDatagram
			if opt := t.query.IsEdns0(); opt == nil {
				j.limit = minDatagram
			}
		}
		ask := new(dns.Msg).SetQuestion(j.name, j.kind)
		j.query, _ = ask.Pack() // a name that was packed before
	}
	t.failed()
	j.fail = bytes.Clone(t.out)
	return j
}

// failed makes a reply that says that nobody could be asked.
func (t *task) failed() {
	t.reply.Rcode, t.reply.Authoritative = dns.RcodeServerFailure, false
	t.reply.Answer, t.reply.Ns = t.reply.Answer[:0], t.reply.Ns[:0]
	t.finish(minDatagram)
}

// do returns the reply.
func (j *job) do(ctx context.Context) []byte {
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	if j.query == nil {
		return j.fail
	}
	got, err := j.s.up.exchange(ctx, j.query, j.udp && j.chase == nil)
	if err != nil {
		j.s.log.Debug("ask another DNS server", "error", err)
		return j.fail
	}
	if j.chase == nil {
		return got
	}
	var found dns.Msg
	if found.Unpack(got) != nil {
		return j.fail
	}
	t := task{reply: *j.chase}
	t.reply.Rcode = found.Rcode
	t.reply.Answer = append(t.reply.Answer, found.Answer...)
	if t.finish(j.limit) != answer {
		return j.fail
	}
	return t.out
}

// upstream is the servers that this machine asks.
type upstream struct {
	file string
	self netip.AddrPort // never asked

	mu      sync.Mutex
	looked  time.Time // when the file was last looked at
	written time.Time // when it was last changed
	servers []netip.AddrPort
}

// list returns the servers in their order.
func (u *upstream) list(now time.Time) []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.looked.IsZero() && now.Sub(u.looked) < resolvAge {
		return u.servers
	}
	u.looked = now
	info, err := os.Stat(u.file)
	if err != nil || !info.ModTime().Equal(u.written) {
		u.servers = nil
	}
	if err != nil || u.servers != nil {
		return u.servers
	}
	u.written = info.ModTime()
	if info.Size() > maxResolv {
		return nil
	}
	text, err := os.ReadFile(u.file)
	if err != nil {
		return nil
	}
	u.servers = parseServers(string(text), u.self)
	return u.servers
}

// parseServers reads the servers of a resolv.conf.
func parseServers(text string, self netip.AddrPort) []netip.AddrPort {
	list := []netip.AddrPort{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" || len(list) == maxServers {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err != nil {
			if at, err := netip.ParseAddrPort(fields[1]); err == nil && at != self {
				list = append(list, at)
			}
			continue
		}
		if at := netip.AddrPortFrom(addr, 53); at != self {
			list = append(list, at)
		}
	}
	return list
}

var errNoServer = errors.New("this machine names no DNS server")

// exchange asks one server after the other until one answers. What it returns has
// the number of the query. Over UDP an answer may be cut short, and says so.
func (u *upstream) exchange(ctx context.Context, query []byte, udp bool) ([]byte, error) {
	servers := u.list(time.Now())
	if len(servers) == 0 {
		return nil, errNoServer
	}
	var all error
	var worse []byte
	for _, server := range servers {
		got, err := askServer(ctx, server, query, udp)
		if err != nil {
			all = errors.Join(all, fmt.Errorf("ask %s: %w", server, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		if code := got[3] & 15; code != dns.RcodeServerFailure && code != dns.RcodeRefused {
			return got, nil
		}
		worse = got
	}
	if worse != nil {
		return worse, nil
	}
	return nil, all
}

// askServer asks over UDP, and again over TCP where an answer is cut short and
// the client can take all of it.
func askServer(ctx context.Context, server netip.AddrPort, query []byte, udp bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTime)
	defer cancel()
	ask := append([]byte(nil), query...)
	rand.Read(ask[:2]) // so that nobody can guess it
	got, err := askOver(ctx, "udp", server, ask)
	if err == nil && !udp && got[2]&0x02 != 0 {
		got, err = askOver(ctx, "tcp", server, ask)
	}
	if err == nil {
		copy(got[:2], query[:2])
	}
	return got, err
}

func askOver(ctx context.Context, network string, server netip.AddrPort, ask []byte) ([]byte, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		if err := writeFramed(conn, ask); err != nil {
			return nil, err
		}
		got, err := readFramed(conn, nil)
		if err == nil && !answers(got, ask) {
			err = errors.New("it answers another question")
		}
		return got, err
	}
	if _, err := conn.Write(ask); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUpstream)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], ask) { // else it is somebody else's, or late
			return buf[:n:n], nil
		}
	}
}

// answers reports whether a message is an answer to the question that was asked.
func answers(got, ask []byte) bool {
	if len(got) < 12 || !bytes.Equal(got[:2], ask[:2]) || got[2]&0x80 == 0 {
		return false
	}
	if binary.BigEndian.Uint16(got[4:]) == 0 { // as some do when they refuse
		return got[3]&15 != dns.RcodeSuccess
	}
	end := questionEnd(ask)
	return end > 0 && len(got) >= end && bytes.EqualFold(got[12:end], ask[12:end])
}

// questionEnd is where the first question of a message ends; 0: it does not.
func questionEnd(m []byte) int {
	for i := 12; i < len(m); i += 1 + int(m[i]) {
		if m[i] > 63 {
			return 0
		}
		if m[i] == 0 {
			if i+5 > len(m) {
				return 0
			}
			return i + 5
		}
	}
	return 0
}
