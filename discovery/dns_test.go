package discovery

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/mayfly-run/mayfly"
)

// who asks, by address: the server believes what it is told.
var askers = map[string]Consumer{
	"127.0.0.1": {Space: "default", App: "blog", Workload: "web"},
	"127.0.0.2": {Space: "other", App: "blog", Workload: "web"},
	"127.0.0.5": {Space: "default", App: "blog", Workload: "front"},
	"127.0.0.3": {Space: "default", App: "shop", Workload: "till"},
}

// resolver is a DNS server that runs, and what asks it from each address.
type resolver struct {
	*DNS
	node *node
	site *site
}

func startDNS(t testing.TB, upstream string) *resolver {
	t.Helper()
	site := newSite(t)
	r := &resolver{node: site.start(t, Options{Node: "a"}), site: site}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("search example\n"+upstream), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, w := range []mayfly.Workload{
		{Space: "default", Name: "web", App: "blog", Service: &mayfly.Service{}},
		{Space: "default", Name: "db", App: "blog", Service: &mayfly.Service{Aliases: []string{"Database", "my_db.local"}}},
		{Space: "default", Name: "quiet", App: "blog", Service: &mayfly.Service{}},
		{Space: "default", Name: "front", App: "blog", Service: &mayfly.Service{Networks: []string{"front"}}},
		{Space: "default", Name: "back", App: "blog", Service: &mayfly.Service{Networks: []string{"back"}, Aliases: []string{"vault"}}},
		{Space: "default", Name: "till", App: "shop", Service: &mayfly.Service{Aliases: []string{"database"}}},
		{Space: "default", Name: "function", App: "blog"},
		{Space: "other", Name: "secret", App: "blog", Service: &mayfly.Service{}},
	} {
		rel, err := site.store.PutRelease(t.Context(), w, "sha256:0")
		if err == nil {
			_, err = site.store.SetWorkload(t.Context(), w.Space, w.Name, rel.Number, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	r.DNS, err = r.node.OpenDNS(t.Context(), DNSOptions{
		Address: netip.MustParseAddrPort("127.9.8.7:0"), // where no connection has its TCP port
		Resolv:  resolv, Subnet: netip.MustParsePrefix("127.0.0.0/8"),
		Askers: func(a netip.Addr) (Consumer, bool) {
			c, ok := askers[a.String()]
			return c, ok
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return r
}

// ask sends one question from an address and returns what came back as text: the
// code, then each record without the parts that are always the same.
func (r *resolver) ask(t testing.TB, network, from, name, kind string) string {
	t.Helper()
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[kind])
	reply, err := r.exchange(network, from, m)
	if err != nil {
		t.Fatal(err)
	}
	return text(reply)
}

func (r *resolver) exchange(network, from string, m *dns.Msg) (*dns.Msg, error) {
	c := &dns.Client{Net: network, Timeout: patience, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}}
	if network == "tcp" {
		c.Dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	reply, _, err := c.Exchange(m, r.Addr().String())
	return reply, err
}

func text(m *dns.Msg) string {
	parts := []string{dns.RcodeToString[m.Rcode]}
	if m.Truncated {
		parts = append(parts, "TC")
	}
	for _, rr := range slices.Concat(m.Answer, m.Ns, m.Extra) {
		if soa, ok := rr.(*dns.SOA); ok && soa.Minttl == 0 {
			parts = append(parts, "SOA")
		} else if rr.Header().Rrtype != dns.TypeOPT {
			fields := strings.Fields(rr.String())
			parts = append(parts, strings.Join(slices.Concat(fields[:2], fields[3:]), " "))
		}
	}
	return strings.Join(parts, "; ")
}

func at(service, name, address string, port uint16) mayfly.Endpoint {
	e := endpoint(service, service+"."+name+"."+address)
	e.Name, e.Address, e.Port, e.Protocol = name, address, port, "tcp"
	return e
}

func TestDNS(t *testing.T) {
	r := startDNS(t, "")
	secret := at("secret", "http", "10.9.9.9", 80)
	secret.Space = "other"
	outside := at("crm", "mysql", "crm.example", 3306)
	outside.Outside, outside.Protocol = true, "mysql"
	publish(t, r.node, at("db", "mysql", "10.88.0.5", 3306), at("db", "metrics", "10.88.0.5", 9100), at("db6", "mysql", "fd00::5", 3306), secret, outside)
	cases := []struct{ from, name, kind, want string }{
		{"127.0.0.1", "db.default.mayfly", "A", "NOERROR; db.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "DB.Default.Mayfly", "A", "NOERROR; DB.Default.Mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "db", "A", "NOERROR; db. 0 A 10.88.0.5"},
		{"127.0.0.1", "database", "A", "NOERROR; database. 0 A 10.88.0.5"},
		{"127.0.0.1", "database.default.mayfly", "A", "NOERROR; database.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "my_db.local", "A", "NOERROR; my_db.local. 0 A 10.88.0.5"},
		{"127.0.0.1", "db", "AAAA", "NOERROR; SOA"},
		{"127.0.0.1", "db", "TXT", "NOERROR; SOA"},
		{"127.0.0.1", "db6.default.mayfly", "AAAA", "NOERROR; db6.default.mayfly. 0 AAAA fd00::5"},
		{"127.0.0.1", "db6.default.mayfly", "A", "NOERROR; SOA"},
		{"127.0.0.1", "quiet", "A", "NOERROR; SOA"}, // nothing is ready
		{"127.0.0.1", "quiet.default.mayfly", "AAAA", "NOERROR; SOA"},
		{"127.0.0.1", "nobody.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.1", "function.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.1", "a.b.db.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.1", "mayfly", "A", "NOERROR; SOA"},
		{"127.0.0.1", "default.mayfly", "A", "NOERROR; SOA"},
		{"127.0.0.1", "other.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.1", "10-88-0-5.db.default.mayfly", "A", "NOERROR; 10-88-0-5.db.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "10-88-0-6.db.default.mayfly", "A", "NOERROR; SOA"},
		{"127.0.0.1", "xfd00-0000-0000-0000-0000-0000-0000-0005.db6.default.mayfly", "AAAA", "NOERROR; xfd00-0000-0000-0000-0000-0000-0000-0005.db6.default.mayfly. 0 AAAA fd00::5"},
		{"127.0.0.1", "_mysql._tcp.db", "SRV", "NOERROR; _mysql._tcp.db. 0 SRV 0 1 3306 10-88-0-5.db.default.mayfly.; 10-88-0-5.db.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "_metrics._tcp.db.default.mayfly", "SRV", "NOERROR; _metrics._tcp.db.default.mayfly. 0 SRV 0 1 9100 10-88-0-5.db.default.mayfly.; 10-88-0-5.db.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.1", "_mysql._udp.db", "SRV", "NOERROR; SOA"},
		{"127.0.0.1", "_mysql._tcp.crm.default.mayfly", "SRV", "NOERROR; _mysql._tcp.crm.default.mayfly. 0 SRV 0 1 3306 crm.example."},
		{"127.0.0.1", "_mysql._tcp.db", "A", "NOERROR; SOA"},
		{"127.0.0.1", "_mysql._tcp.nobody.default.mayfly", "SRV", "NXDOMAIN; SOA"},
		{"127.0.0.1", "3.0.0.127.in-addr.arpa", "PTR", "NOERROR; 3.0.0.127.in-addr.arpa. 0 PTR 127-0-0-3.till.default.mayfly."},
		{"127.0.0.1", "2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN; SOA"}, // of another space
		{"127.0.0.1", "9.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN; SOA"},
		// Another app of the space knows only whole names, and its own plain ones.
		{"127.0.0.3", "db.default.mayfly", "A", "NOERROR; db.default.mayfly. 0 A 10.88.0.5"},
		{"127.0.0.3", "database", "A", "NOERROR; SOA"}, // till's, which has no endpoint
		{"127.0.0.3", "database.default.mayfly", "A", "NOERROR; SOA"},
		{"127.0.0.3", "db", "A", "SERVFAIL"}, // nobody's: nobody can be asked
		// Nor does who shares no network with it.
		{"127.0.0.1", "vault", "A", "NOERROR; SOA"},
		{"127.0.0.5", "vault", "A", "NXDOMAIN; SOA"},
		{"127.0.0.5", "back", "A", "NXDOMAIN; SOA"},
		{"127.0.0.5", "back.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.5", "front", "A", "NOERROR; SOA"},
		{"127.0.0.5", "db", "A", "NOERROR; db. 0 A 10.88.0.5"},
		// Another space knows nothing.
		{"127.0.0.2", "db.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.2", "_mysql._tcp.db.default.mayfly", "SRV", "NXDOMAIN; SOA"},
		{"127.0.0.2", "quiet.default.mayfly", "A", "NXDOMAIN; SOA"},
		{"127.0.0.2", "secret", "A", "NOERROR; secret. 0 A 10.9.9.9"},
		{"127.0.0.1", "secret.other.mayfly", "A", "NXDOMAIN; SOA"},
		// Nobody is told nothing.
		{"127.0.0.4", "db.default.mayfly", "A", "REFUSED"},
		{"127.0.0.4", "example.org", "A", "REFUSED"},
	}
	for _, c := range cases {
		for _, network := range []string{"udp", "tcp"} {
			if got := r.ask(t, network, c.from, c.name, c.kind); got != c.want {
				t.Errorf("%s over %s from %s:\ngot  %s\nwant %s", c.name, network, c.from, got, c.want)
			}
		}
	}
	if got := r.ask(t, "udp", "127.0.0.1", "db.default.mayfly", "SRV"); !strings.Contains(got, "3306 10-88-0-5") || !strings.Contains(got, "9100 10-88-0-5") || strings.Count(got, " A ") != 1 {
		t.Errorf("SRV of all ports: %s", got)
	}
	r.node.Withdraw("db.mysql.10.88.0.5", "db.metrics.10.88.0.5")
	if got := r.ask(t, "udp", "127.0.0.1", "db", "A"); got != "NOERROR; SOA" {
		t.Errorf("after all was withdrawn: %s", got)
	}
}

func TestDNSTakesTurns(t *testing.T) {
	r := startDNS(t, "")
	var list []mayfly.Endpoint
	for i := range 200 {
		list = append(list, at("db", "mysql", fmt.Sprintf("10.88.1.%d", i), 3306))
	}
	publish(t, r.node, list[:3]...)
	first := map[string]int{}
	for range 30 {
		first[r.ask(t, "udp", "127.0.0.1", "db", "A")]++
	}
	if len(first) != 3 {
		t.Errorf("three endpoints in %d orders: %v", len(first), first)
	}
	publish(t, r.node, list...)
	got := r.ask(t, "udp", "127.0.0.1", "db", "A")
	if !strings.HasPrefix(got, "NOERROR; TC; ") {
		t.Errorf("200 addresses in a datagram: %.60s", got)
	}
	m := new(dns.Msg).SetQuestion("db.", dns.TypeA)
	m.SetEdns0(4096, false)
	more, err := r.exchange("udp", "127.0.0.1", m)
	if err != nil || !more.Truncated || len(more.Answer) < 60 {
		t.Errorf("200 addresses in a larger datagram: %v, %v", more, err)
	}
	if n := strings.Count(r.ask(t, "tcp", "127.0.0.1", "db", "A"), " A "); n != 200 {
		t.Errorf("%d of 200 addresses over TCP", n)
	}
}

// upstreamServer answers as a server of the outside would.
func upstreamServer(t testing.TB, h dns.HandlerFunc) (line string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.9.8.7:0") // where nobody else has its TCP port
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, srv := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: ln, Handler: h}} {
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go srv.ActivateAndServe()
		<-started
		t.Cleanup(func() { srv.Shutdown() })
	}
	return "nameserver " + pc.LocalAddr().String() + "\n"
}

func TestDNSForwards(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	good := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		mu.Lock()
		asked = append(asked, m.Question[0].Name)
		mu.Unlock()
		reply := new(dns.Msg).SetReply(m)
		name := m.Question[0].Name
		switch strings.ToLower(name) {
		case "example.org.", "crm.example.":
			rr, _ := dns.NewRR(name + " 300 IN A 192.0.2.1")
			reply.Answer = append(reply.Answer, rr)
		case "large.example.":
			for i := range 100 {
				rr, _ := dns.NewRR(fmt.Sprintf("%s 300 IN A 192.0.2.%d", name, i))
				reply.Answer = append(reply.Answer, rr)
			}
			if w.LocalAddr().Network() == "udp" {
				reply.Truncate(512)
			}
		default:
			reply.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(reply)
	})
	broken := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(m, dns.RcodeServerFailure))
	})
	closed, err := net.ListenPacket("udp", "127.9.8.7:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	r := startDNS(t, "nameserver "+closed.LocalAddr().String()+"\n"+broken+good)
	outside := at("crm", "mysql", "crm.example", 3306)
	outside.Outside = true
	publish(t, r.node, at("db", "mysql", "10.88.0.5", 3306), outside)
	ask := func(network, name, kind string) (got string) {
		t.Helper()
		for limit := time.Now().Add(patience); got == "" || got == "SERVFAIL" && time.Now().Before(limit); { // the others may be slow
			got = r.ask(t, network, "127.0.0.1", name, kind)
		}
		return got
	}
	for _, c := range []struct{ network, name, kind, want string }{
		{"udp", "Example.org", "A", "NOERROR; Example.org. 300 A 192.0.2.1"},
		{"tcp", "example.org", "A", "NOERROR; example.org. 300 A 192.0.2.1"},
		{"udp", "nowhere.example", "A", "NXDOMAIN"},
		{"udp", "crm.default.mayfly", "A", "NOERROR; crm.default.mayfly. 0 CNAME crm.example.; crm.example. 300 A 192.0.2.1"},
		{"udp", "db", "A", "NOERROR; db. 0 A 10.88.0.5"},
		{"udp", "nobody.default.mayfly", "A", "NXDOMAIN; SOA"},
	} {
		if got := ask(c.network, c.name, c.kind); got != c.want {
			t.Errorf("%s over %s: got %s, want %s", c.name, c.network, got, c.want)
		}
	}
	if got := ask("udp", "large.example", "A"); !strings.HasPrefix(got, "NOERROR; TC") {
		t.Errorf("an answer that was cut short: %.80s", got)
	}
	if got := strings.Count(ask("tcp", "large.example", "A"), " A "); got != 100 {
		t.Errorf("%d of 100 records over TCP", got)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, name := range asked {
		if strings.HasSuffix(name, "mayfly.") || name == "db." {
			t.Errorf("others were asked for %s", name)
		}
	}
}

func TestDNSForwardsAreBounded(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	first := make(chan struct{})
	slow := upstreamServer(t, func(w dns.ResponseWriter, m *dns.Msg) {
		once.Do(func() { close(first) })
		<-release
		w.WriteMsg(new(dns.Msg).SetReply(m))
	})
	defer close(release)
	r := startDNS(t, slow)
	for i := range maxForwardsOf {
		if !r.forwards.take(netip.MustParseAddr("127.0.0.1")) {
			t.Fatal("no room for", i)
		}
	}
	if got := r.ask(t, "udp", "127.0.0.1", "example.org", "A"); got != "SERVFAIL" {
		t.Errorf("one question too many: %s", got)
	}
	publish(t, r.node, at("db", "mysql", "10.88.0.5", 3306))
	if got := r.ask(t, "udp", "127.0.0.1", "db", "A"); !strings.HasPrefix(got, "NOERROR") {
		t.Errorf("what is known is answered: %s", got)
	}
}

// TestDNSListensBeforeTheAddressIsThere: the bridge may come later.
func TestDNSListensBeforeTheAddressIsThere(t *testing.T) {
	d := newSite(t).start(t, Options{Node: "a"})
	s, err := d.OpenDNS(t.Context(), DNSOptions{Address: netip.MustParseAddrPort("192.0.2.77:0"), Askers: func(netip.Addr) (Consumer, bool) { return Consumer{}, false }})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestParseServers(t *testing.T) {
	got := parseServers("# x\nnameserver 127.0.0.53\nnameserver fd00::1\nnameserver bad\nnameserver 10.88.0.1\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n",
		netip.MustParseAddrPort("10.88.0.1:53"))
	if want := "[127.0.0.53:53 [fd00::1]:53 1.1.1.1:53]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// fuzzServer answers without a network.
func fuzzServer(f testing.TB) *DNS {
	s := bare(f, blog)
	s.d.Publish(at("db", "mysql", "10.88.0.5", 3306), at("db", "mysql", "10.88.0.6", 3306))
	return s
}

func FuzzDNS(f *testing.F) {
	s := fuzzServer(f)
	for _, name := range []string{"db.default.mayfly.", "_mysql._tcp.db.default.mayfly.", "5.0.88.10.in-addr.arpa.", "example.org."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypePTR, dns.TypeANY} {
			m := new(dns.Msg).SetQuestion(name, kind)
			m.SetEdns0(1400, true)
			packet, _ := m.Pack()
			f.Add(packet)
		}
	}
	f.Add([]byte("\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	keeps := task{kept: newKept()}
	f.Fuzz(func(t *testing.T, packet []byte) {
		var plain task
		for range 3 { // what is kept is as what is made anew
			turn := s.turn.Load()
			was, want := s.handle(&plain, packet, netip.MustParseAddr("10.88.0.9"), true), bytes.Clone(plain.out)
			s.turn.Store(turn)
			if got := s.handle(&keeps, packet, netip.MustParseAddr("10.88.0.9"), true); got != was || was == answer && !bytes.Equal(keeps.out, want) {
				t.Errorf("outcome %d, %x; with what is kept %d, %x", was, want, got, keeps.out)
			}
		}
		for _, udp := range []bool{true, false} {
			var k task
			what := s.handle(&k, packet, netip.MustParseAddr("10.88.0.9"), udp)
			if what == forward || what == chase {
				if j := s.jobOf(&k, what, packet, udp); len(j.fail) < 12 {
					t.Error("no answer for when others fail")
				}
				questionEnd(packet)
			}
			if what != answer {
				continue
			}
			var m dns.Msg
			if err := m.Unpack(k.out); err != nil {
				t.Errorf("our answer cannot be read: %v", err)
			}
			if udp && len(k.out) > maxDatagram || k.out[0] != packet[0] || k.out[1] != packet[1] {
				t.Errorf("%d bytes with number %x", len(k.out), k.out[:2])
			}
		}
	})
}

// BenchmarkDNS/handle and /kept are what an answer costs apart from the kernel.
func BenchmarkDNS(b *testing.B) {
	m := new(dns.Msg).SetQuestion("db.default.mayfly.", dns.TypeA)
	m.SetEdns0(1232, false)
	packet, _ := m.Pack()
	for name, k := range map[string]*task{"handle": {}, "kept": {kept: newKept()}} {
		b.Run(name, func(b *testing.B) {
			s := fuzzServer(b)
			from := netip.MustParseAddr("127.0.0.1")
			b.ReportAllocs()
			for b.Loop() {
				s.handle(k, packet, from, true)
			}
		})
	}
	b.Run("udp", func(b *testing.B) {
		r := startDNS(b, "")
		publish(b, r.node, at("db", "mysql", "10.88.0.5", 3306))
		conn, err := net.Dial("udp", r.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		buf := make([]byte, 2048)
		for b.Loop() {
			conn.Write(packet)
			if _, err := conn.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
