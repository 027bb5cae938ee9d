package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// UpstreamResolv is where systemd-resolved writes the name servers that it
// forwards to itself.
const UpstreamResolv = "/run/systemd/resolve/resolv.conf"

// maxResolv bounds what is read of a resolv.conf, in bytes.
const maxResolv = 64 << 10

// HostResolv returns the text of /etc/resolv.conf for a container on the
// bridge, from the files of this machine.
func HostResolv() ([]byte, error) {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	text, found := filterResolv(host)
	if found {
		return text, nil
	}
	if upstream, err := os.ReadFile(UpstreamResolv); err == nil {
		if better, found := filterResolv(upstream); found {
			return better, nil
		}
	}
	return text, nil
}

// Resolv returns the text of a container's /etc/resolv.conf for a host's. Name
// servers on the host's own loopback are left out, because a container cannot
// reach them; search domains and options stay.
func Resolv(host []byte) []byte {
	text, _ := filterResolv(host)
	return text
}

// filterResolv also says whether a name server is left.
func filterResolv(host []byte) (text []byte, found bool) {
	if len(host) > maxResolv {
		host = host[:maxResolv]
	}
	var out bytes.Buffer
	for line := range strings.Lines(string(host)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			addr, err := netip.ParseAddr(fields[1])
			if err != nil || !addr.Unmap().Is4() || addr.Unmap().IsLoopback() || addr.IsUnspecified() {
				continue
			}
			found = true
			fmt.Fprintf(&out, "nameserver %s\n", addr.Unmap())
		case "search", "domain", "options", "sortlist":
			out.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return out.Bytes(), found
}

// maxServers is how many name servers resolvers heed.
const maxServers = 3

// AskFirst returns the text of Resolv with a name server and a search domain
// before those that are there.
func AskFirst(text []byte, server netip.Addr, domain string) []byte {
	out := bytes.NewBufferString("nameserver " + server.String() + "\n")
	search := []string{domain}
	servers := 1
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if servers++; servers > maxServers || fields[1] == server.String() {
				continue
			}
			out.WriteString(line)
		case "search", "domain": // the last one counts
			search = append([]string{domain}, fields[1:]...)
		default:
			out.WriteString(line)
		}
	}
	out.WriteString("search " + strings.Join(search, " ") + "\n")
	return out.Bytes()
}

// nameServers lists the name servers of what Resolv returned.
func nameServers(text []byte) []netip.Addr {
	var list []netip.Addr
	for line := range strings.Lines(string(text)) {
		if addr, ok := strings.CutPrefix(line, "nameserver "); ok {
			list = append(list, netip.MustParseAddr(strings.TrimSpace(addr)))
		}
	}
	return list
}

// Hosts returns the text of a container's /etc/hosts. An invalid addr leaves
// the host name to the loopback.
func Hosts(hostname string, addr netip.Addr) []byte {
	var out bytes.Buffer
	out.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	if !addr.IsValid() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if hostname != "" {
		fmt.Fprintf(&out, "%s\t%s\n", addr, hostname)
	}
	return out.Bytes()
}
