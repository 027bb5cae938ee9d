package network

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestResolv(t *testing.T) {
	tests := []struct{ name, host, want string }{
		{"empty", "", ""},
		{"plain", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"},
		{"resolved", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n", "options edns0 trust-ad\nsearch lan\n"},
		{"dnsmasq beside another", "nameserver 127.0.0.1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"IPv6", "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"mapped", "nameserver ::ffff:192.0.2.1\n", "nameserver 192.0.2.1\n"},
		{"comments and spaces", "# a\n; b\n\tnameserver\t192.0.2.1  # c\n\n", "nameserver 192.0.2.1\n"},
		{"options", "search a.example b.example\noptions ndots:2\ndomain c\nsortlist 192.0.2.0\n", "search a.example b.example\noptions ndots:2\ndomain c\nsortlist 192.0.2.0\n"},
		{"no last newline", "nameserver 192.0.2.1", "nameserver 192.0.2.1\n"},
		{"nonsense", "nameserver\nnameserver example.com\nfamily inet4\nnameserver 0.0.0.0\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := string(Resolv([]byte(tt.host))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAskFirst(t *testing.T) {
	for text, want := range map[string]string{
		"": "nameserver 10.88.0.1\nsearch default.mayfly\n",
		"nameserver 1.1.1.1\nsearch a.example\nsearch b.example c.example\noptions ndots:2\n": "nameserver 10.88.0.1\nnameserver 1.1.1.1\noptions ndots:2\nsearch default.mayfly b.example c.example\n",
		"nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\ndomain a.example\n":      "nameserver 10.88.0.1\nnameserver 1.1.1.1\nnameserver 1.1.1.2\nsearch default.mayfly a.example\n",
	} {
		if got := string(AskFirst([]byte(text), netip.MustParseAddr("10.88.0.1"), "default.mayfly")); got != want {
			t.Errorf("of %q\ngot  %q\nwant %q", text, got, want)
		}
	}
}

func FuzzResolv(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\noptions edns0\nsearch lan\n"))
	f.Add([]byte("nameserver 192.0.2.1 # x\r\nnameserver ::ffff:192.0.2.1"))
	f.Fuzz(func(t *testing.T, host []byte) {
		text := Resolv(host)
		if again := Resolv(text); !bytes.Equal(text, again) {
			t.Errorf("%q is read back as %q", text, again)
		}
		for _, server := range nameServers(text) {
			if server.IsLoopback() || !server.Is4() {
				t.Errorf("name server %s for a container", server)
			}
		}
	})
}

func TestHosts(t *testing.T) {
	with := string(Hosts("web", netip.MustParseAddr("10.1.0.2")))
	if !strings.HasPrefix(with, "127.0.0.1\tlocalhost\n") || !strings.HasSuffix(with, "\n10.1.0.2\tweb\n") {
		t.Errorf("got %q", with)
	}
	if got := string(Hosts("web", netip.Addr{})); !strings.HasSuffix(got, "\n127.0.0.1\tweb\n") {
		t.Errorf("without an address: %q", got)
	}
}

func TestFirstFree(t *testing.T) {
	list := []netip.Prefix{mustPrefix("10.200.0.0/16"), mustPrefix("172.31.0.0/16"), mustPrefix("192.168.240.0/20")}
	tests := []struct{ name, routes, want string }{
		{"nothing", "", "10.200.0.0/16"},
		{"defaults", "0.0.0.0/0 0.0.0.0/1 128.0.0.0/1", "10.200.0.0/16"},
		{"the first", "10.200.0.0/16", "172.31.0.0/16"},
		{"part of it", "10.200.7.0/24", "172.31.0.0/16"},
		{"one host of it", "10.200.7.1/32", "172.31.0.0/16"},
		{"a wide route", "10.0.0.0/8 172.17.0.0/16", "172.31.0.0/16"},
		{"two wide routes", "10.0.0.0/8 172.16.0.0/12", "192.168.240.0/20"},
		{"every one", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, r := range strings.Fields(tt.routes) {
				taken = append(taken, mustPrefix(r))
			}
			got, err := firstFree(list, taken)
			if tt.want == "" {
				if err == nil {
					t.Errorf("got %s", got)
				}
			} else if err != nil || got != mustPrefix(tt.want) {
				t.Errorf("got %s, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestCandidatesArePrivate(t *testing.T) {
	for _, c := range candidates() {
		if !c.Addr().IsPrivate() || c.Masked() != c || !lastOf(c).IsPrivate() {
			t.Errorf("candidate %s", c)
		}
	}
}
