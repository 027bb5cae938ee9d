package discovery

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Bounds of messages, in bytes, and of what is in them.
const (
	maxDatagram = 1232 // of an answer over UDP to who says that he takes as much
	minDatagram = 512  // to who says nothing
	maxMessage  = 64 << 10
	maxPlaces   = 512 // endpoints in one answer
)

// outcome is what is to be done with a message.
type outcome int

const (
	drop    outcome = iota
	answer          // send the reply
	forward         // ask others
	chase           // ask others for the name that the reply points to, and add what they say
)

// task is one message and what is made of it. It is used again for the next one,
// so that an answer costs few allocations.
type task struct {
	query, reply dns.Msg
	places       []place
	out          []byte
	target       string // of chase

	kept   *kept  // nil: nothing is kept
	turn   uint32 // decides with which of several records the answer begins
	turned bool   // that is decided
}

// handle makes the reply to a message, in t.out.
func (s *DNS) handle(t *task, packet []byte, from netip.Addr, udp bool) outcome {
	if len(packet) < 12 || packet[2]&0x80 != 0 { // cut short, or an answer
		return drop
	}
	who, known := s.opts.Askers(from)
	t.turned = false
	if known && t.kept != nil && t.kept.look(s, t, packet, &who) {
		return answer
	}
	limit := maxMessage - 1
	if udp {
		limit = minDatagram
	}
	t.reply = dns.Msg{Answer: t.reply.Answer[:0], Extra: t.reply.Extra[:0], Ns: t.reply.Ns[:0], Question: t.reply.Question[:0]}
	err := t.query.Unpack(packet)
	t.reply.Id, t.reply.Response, t.reply.Opcode = t.query.Id, true, t.query.Opcode
	t.reply.RecursionDesired, t.reply.RecursionAvailable = t.query.RecursionDesired, true
	switch {
	case t.query.Opcode != dns.OpcodeQuery:
		return t.refuse(dns.RcodeNotImplemented, limit)
	case err != nil || len(t.query.Question) != 1:
		return t.refuse(dns.RcodeFormatError, limit)
	}
	t.reply.Question = append(t.reply.Question, t.query.Question[0])
	if opt := t.query.IsEdns0(); opt != nil {
		t.reply.SetEdns0(maxDatagram, false)
		if limit == minDatagram {
			limit = min(max(int(opt.UDPSize()), minDatagram), maxDatagram)
		}
		if opt.Version() != 0 {
			return t.refuse(dns.RcodeBadVers, limit)
		}
	}
	if !known {
		return t.refuse(dns.RcodeRefused, limit)
	}
	return s.ask(t, &who, limit)
}

// ask answers the question of somebody who is known.
func (s *DNS) ask(t *task, who *Consumer, limit int) outcome {
	q := &t.reply.Question[0]
	if q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY {
		return t.refuse(dns.RcodeRefused, limit)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if addr, ok := parseReverse(name); ok && s.opts.Subnet.Contains(addr) {
		t.reply.Authoritative = true
		s.reverse(t, addr, who)
		return t.finish(limit)
	}
	m := s.understand(name, who)
	if m.foreign {
		return forward
	}
	t.reply.Authoritative = true
	if m.unknown {
		t.reply.Rcode = dns.RcodeNameError
		t.reply.Ns = append(t.reply.Ns, authority())
		return t.finish(limit)
	}
	m.ports = q.Qtype == dns.TypeSRV
	t.places = s.places(&m, t.places[:0])
	host := ""
	switch {
	case q.Qtype == dns.TypeSRV:
		t.addServices(&m)
	case m.port != "": // a name of services has no addresses
	case q.Qtype == dns.TypeA, q.Qtype == dns.TypeAAAA, q.Qtype == dns.TypeANY:
		host = t.addAddresses(s)
	}
	if host != "" {
		t.target = dns.Fqdn(host)
		t.reply.Answer = append(t.reply.Answer, &dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: t.target})
		if t.finish(limit) == answer && q.Qtype != dns.TypeANY {
			return chase
		}
		return answer
	}
	if len(t.reply.Answer) == 0 {
		t.reply.Ns = append(t.reply.Ns, authority())
	}
	turns := len(t.reply.Answer)
	rotate(t.reply.Answer, s.turnOf(t, turns))
	what := t.finish(limit)
	if t.kept != nil && len(t.places) > 0 && what == answer { // there is an endpoint: only the view and the names say so
		t.kept.add(t, turns)
	}
	return what
}

// turnOf is with which of so many the answer begins.
func (s *DNS) turnOf(t *task, many int) int {
	if many < 2 {
		return 0
	}
	if !t.turned {
		t.turn, t.turned = s.turn.Add(1), true
	}
	return int(t.turn % uint32(many))
}

// rotate makes a list begin with another one.
func rotate[T any](list []T, first int) {
	slices.Reverse(list[:first])
	slices.Reverse(list[first:])
	slices.Reverse(list)
}

// addAddresses returns the name that is to be asked for instead, where there is
// no endpoint that has an address.
func (t *task) addAddresses(s *DNS) (host string) {
	q := &t.reply.Question[0]
	addresses := false
	for i, p := range t.places {
		if !p.addr.IsValid() {
			continue
		}
		addresses = true
		if !fits(q.Qtype, p.addr) || slices.ContainsFunc(t.places[:i], func(o place) bool { return o.addr == p.addr }) {
			continue
		}
		t.reply.Answer = append(t.reply.Answer, address(q.Name, p.addr))
	}
	if len(t.places) > 0 && !addresses {
		return t.places[s.turnOf(t, len(t.places))].host
	}
	return ""
}

// addServices adds an SRV record for each endpoint, and the address of each.
func (t *task) addServices(m *meaning) {
	q := &t.reply.Question[0]
	for i, p := range t.places {
		target := p.host
		if p.addr.IsValid() {
			target = strings.Join([]string{hostOf(p.addr), p.service, m.space, domain}, ".")
			if !slices.ContainsFunc(t.places[:i], func(o place) bool { return o.addr == p.addr && o.service == p.service }) {
				t.reply.Extra = append(t.reply.Extra, address(target+".", p.addr))
			}
		}
		t.reply.Answer = append(t.reply.Answer, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Priority: 0, Weight: 1, Port: p.port, Target: dns.Fqdn(target)})
	}
}

// reverse names a container after its service, to those of its own space.
func (s *DNS) reverse(t *task, addr netip.Addr, who *Consumer) {
	q := &t.reply.Question[0]
	owner, ok := s.opts.Askers(addr)
	if !ok || owner.Space != who.Space || owner.Workload == "" {
		t.reply.Rcode = dns.RcodeNameError
		t.reply.Ns = append(t.reply.Ns, authority())
		return
	}
	if q.Qtype != dns.TypePTR && q.Qtype != dns.TypeANY {
		return
	}
	name := strings.Join([]string{hostOf(addr), owner.Workload, owner.Space, domain, ""}, ".")
	t.reply.Answer = append(t.reply.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: name})
}

// refuse answers with nothing but a code.
func (t *task) refuse(code, limit int) outcome {
	t.reply.Rcode = code
	return t.finish(limit)
}

// finish packs the reply so that it fits.
func (t *task) finish(limit int) outcome {
	if t.reply.Compress = len(t.reply.Answer)+len(t.reply.Extra) > 1; t.reply.Len() > limit {
		t.reply.Truncate(limit)
	}
	var err error
	if t.out, err = t.reply.PackBuffer(t.out[:cap(t.out)]); err != nil {
		return drop
	}
	return answer
}

func fits(kind uint16, addr netip.Addr) bool {
	return kind == dns.TypeANY || addr.Is4() == (kind == dns.TypeA)
}

// header is that of a record which nobody shall remember: the next answer may be
// another one.
func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: 0}
}

func address(name string, addr netip.Addr) dns.RR {
	if addr.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: addr.AsSlice()}
}

// authority says for how long one may remember that there is nothing: not at all.
func authority() dns.RR {
	return &dns.SOA{Hdr: header(domain+".", dns.TypeSOA), Ns: "ns." + domain + ".", Mbox: "hostmaster." + domain + ".", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 0}
}
