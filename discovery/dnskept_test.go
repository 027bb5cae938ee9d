package discovery

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
)

// bare is a DNS server without a network, whose services and askers the test sets.
func bare(t testing.TB, who func(netip.Addr) (Consumer, bool)) *DNS {
	site := newSite(t)
	d, err := Open(t.Context(), site.bus, site.store, Options{Node: "a"})
	if err != nil {
		t.Fatal(err)
	}
	s := &DNS{d: d, opts: DNSOptions{Subnet: netip.MustParsePrefix("10.88.0.0/16"), Askers: who}}
	s.names.Store(namesOf())
	return s
}

func blog(netip.Addr) (Consumer, bool) {
	return Consumer{Space: "default", App: "blog", Workload: "web"}, true
}

// namesOf is the names of some services of the app blog.
func namesOf(services ...string) *names {
	snap := &store.Snapshot{Workloads: map[store.Key]*store.Workload{}}
	for _, name := range services {
		w := &store.Workload{}
		w.Workload = mayfly.Workload{Space: "default", Name: name, App: "blog", Service: &mayfly.Service{}}
		snap.Workloads[store.Key{Space: "default", Name: name}] = w
	}
	return newNames(snap)
}

func packed(t testing.TB, id uint16, name string, kind uint16) []byte {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	m.Id = id
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// said is what a reader answers, as text.
func (s *DNS) said(t testing.TB, k *task, from netip.Addr, packet []byte) string {
	t.Helper()
	var m dns.Msg
	if what := s.handle(k, packet, from, true); what != answer {
		return fmt.Sprint("outcome ", what)
	}
	if err := m.Unpack(k.out); err != nil || !bytes.Equal(k.out[:2], packet[:2]) {
		t.Fatalf("answer %x to %x: %v", k.out, packet, err)
	}
	return text(&m)
}

// TestDNSKeepsNothingOld: whatever an answer depends on has changed, so has the
// next answer, although the question is the same to the last bit.
func TestDNSKeepsNothingOld(t *testing.T) {
	web := Consumer{Space: "default", App: "blog", Workload: "web"}
	who, known := web, true
	s := bare(t, func(netip.Addr) (Consumer, bool) { return who, known })
	s.names.Store(namesOf("web", "db"))
	k := task{kept: newKept()}
	publish := func(endpoints ...mayfly.Endpoint) {
		if err := s.d.Publish(endpoints...); err != nil {
			t.Fatal(err)
		}
	}
	one, two := at("db", "mysql", "10.88.0.5", 3306), at("db", "mysql", "10.88.0.6", 3306)
	for _, step := range []struct {
		what string
		do   func()
		want []string // in turns
	}{
		{"nothing is there", func() {}, []string{"NOERROR; SOA"}},
		{"one is published", func() { publish(one) }, []string{"NOERROR; db. 0 A 10.88.0.5"}},
		{"it moves", func() { one.Address = "10.88.0.7"; publish(one) }, []string{"NOERROR; db. 0 A 10.88.0.7"}},
		{"another asks", func() { who.Space = "other" }, []string{"outcome 2"}},
		{"nobody asks", func() { known = false }, []string{"REFUSED"}},
		{"the first asks", func() { who, known = web, true }, []string{"NOERROR; db. 0 A 10.88.0.7"}},
		{"another is published", func() { publish(two) }, []string{"NOERROR; db. 0 A 10.88.0.6; db. 0 A 10.88.0.7", "NOERROR; db. 0 A 10.88.0.7; db. 0 A 10.88.0.6"}},
		{"the service is deleted", func() { s.names.Store(namesOf("web")) }, []string{"outcome 2"}},
		{"it is deployed", func() { s.names.Store(namesOf("web", "db")) }, []string{"NOERROR; db. 0 A 10.88.0.6; db. 0 A 10.88.0.7", "NOERROR; db. 0 A 10.88.0.7; db. 0 A 10.88.0.6"}},
		{"one is withdrawn", func() { s.d.Withdraw(two.ID) }, []string{"NOERROR; db. 0 A 10.88.0.7"}},
		{"all are", func() { s.d.Withdraw(one.ID) }, []string{"NOERROR; SOA"}},
	} {
		step.do()
		seen := map[string]int{}
		for i := range 4 * len(step.want) { // the first ones fill what is kept
			seen[s.said(t, &k, netip.Addr{}, packed(t, uint16(i), "db.", dns.TypeA))]++
		}
		for _, want := range step.want {
			if seen[want] != 4 || len(seen) != len(step.want) {
				t.Errorf("%s: got %v, want %q", step.what, seen, step.want)
			}
		}
	}
}

// TestDNSIsNeverBehindTheView: an answer that is asked for after a change shows it,
// while the view changes all the time.
func TestDNSIsNeverBehindTheView(t *testing.T) {
	s := bare(t, blog)
	s.names.Store(namesOf("web", "db"))
	var done atomic.Bool
	var least atomic.Uint32 // the port that is in the view at least
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			k := task{kept: newKept()}
			packet := packed(t, 1, "_mysql._tcp.db.", dns.TypeSRV)
			var hits int
			for !done.Load() {
				var m dns.Msg
				want := least.Load()
				if s.handle(&k, packet, netip.Addr{}, true) != answer || m.Unpack(k.out) != nil {
					t.Error("no answer")
					return
				}
				if want == 0 {
					continue
				}
				if hits++; len(m.Answer) != 1 || uint32(m.Answer[0].(*dns.SRV).Port) < want {
					t.Errorf("port %d was there before the question, and the answer is %v", want, m.Answer)
					return
				}
			}
			t.Log(hits, "answers")
		})
	}
	for port := range uint16(20_000) {
		if err := s.d.Publish(at("db", "mysql", "10.88.0.5", port+1)); err != nil {
			t.Error(err)
			break
		}
		least.Store(uint32(port) + 1)
	}
	done.Store(true)
	readers.Wait()
}

// TestDNSTakesTurnsByAnswer: asking for addresses of both kinds, as a C library
// does, leads to each endpoint all the same.
func TestDNSTakesTurnsByAnswer(t *testing.T) {
	s := bare(t, blog)
	s.names.Store(namesOf("web", "db"))
	if err := s.d.Publish(at("db", "mysql", "10.88.0.5", 3306), at("db", "mysql", "10.88.0.6", 3306)); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*task{"kept": {kept: newKept()}, "new": {}} {
		first := map[string]int{}
		for i := range 20 {
			first[s.said(t, k, netip.Addr{}, packed(t, uint16(i), "db.", dns.TypeA))]++
			s.said(t, k, netip.Addr{}, packed(t, uint16(i), "db.", dns.TypeAAAA))
		}
		if len(first) != 2 {
			t.Errorf("%s: two endpoints in 20 answers: %v", name, first)
		}
	}
}

// TestDNSKeepsLittle: a client that asks for ever more does not fill the memory.
func TestDNSKeepsLittle(t *testing.T) {
	s := bare(t, blog)
	s.names.Store(namesOf("web", "db"))
	if err := s.d.Publish(at("db", "mysql", "10.88.0.5", 3306)); err != nil {
		t.Fatal(err)
	}
	k := task{kept: newKept()}
	m := new(dns.Msg).SetQuestion("db.", dns.TypeA)
	for i := range 20_000 {
		m.SetEdns0(uint16(i+1), false)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if s.handle(&k, packet, netip.Addr{}, true) != answer {
			t.Fatal("no answer")
		}
		m.Extra = nil
		size := 0
		if i%1000 == 0 {
			for key, turns := range k.kept.answers {
				size += len(key) + len(turns[0])
			}
		}
		if size > maxKept || len(k.kept.answers) > maxKept/100 {
			t.Fatalf("%d answers of %d bytes are kept", len(k.kept.answers), size)
		}
	}
}
