package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func TestParsePort(t *testing.T) {
	for text, want := range map[string]mayfly.Port{
		"80":                {Container: 80},
		"80/udp":            {Container: 80, Protocol: "udp"},
		"8000:80":           {Container: 80, Host: 8000},
		":80":               {Container: 80},
		"0:80":              {Container: 80},
		"8000:80/tcp":       {Container: 80, Host: 8000, Protocol: "tcp"},
		"127.0.0.1:8000:80": {Container: 80, Host: 8000, HostIP: "127.0.0.1"},
		"127.0.0.1::80":     {Container: 80, HostIP: "127.0.0.1"},
		"[::1]:8000:80":     {Container: 80, Host: 8000, HostIP: "::1"},
		"[2001:db8::1]::80": {Container: 80, HostIP: "2001:db8::1"},
		"65535:65535":       {Container: 65535, Host: 65535},
	} {
		got, err := parsePort(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                   "is not a port",
		"0":                  "is not a port",
		"65536":              "is not a port",
		"-1":                 "ranges",
		"8000:":              "is not a port",
		"x:80":               `"x" is not a port`,
		"1-2:80":             "ranges such as 1-2 are not supported",
		"80/icmp":            "the protocol is tcp or udp",
		"[::1]:80":           "write [::1]::80",
		"host:8000:80":       `"host" is not an IP address`,
		"127.0.0.1:80:80:80": "is not an IP address",
	} {
		if _, err := parsePort(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "4096": 4096, "64k": 64 << 10, "64m": 64 << 20, "64M": 64 << 20, "64MB": 64 << 20, "64MiB": 64 << 20,
		"1.5g": 3 << 29, "2t": 2 << 40, "512 m": 512 << 20, "100b": 100,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "m", "0", "-1m", "x", "1x", "1mm", "1kg", "NaN", "Inf", "1e30g", "0.5", "1m2"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is read as %d", text, got)
		}
	}
}

func TestParseVolume(t *testing.T) {
	t.Chdir("/usr")
	for text, want := range map[string]mayfly.Mount{
		"/a:/b":       {Type: "bind", Source: "/a", Target: "/b"},
		"/a:/b:ro":    {Type: "bind", Source: "/a", Target: "/b", ReadOnly: true},
		"/a:/b:rw":    {Type: "bind", Source: "/a", Target: "/b"},
		"./lib:/b":    {Type: "bind", Source: "/usr/lib", Target: "/b"},
		"..:/b":       {Type: "bind", Source: "/", Target: "/b"},
		"/a/../c/:/b": {Type: "bind", Source: "/c", Target: "/b"},
		"name:/b":     {Type: "volume", Source: "name", Target: "/b"},
	} {
		if got, err := parseVolume(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/a", ":/b", "/a:", "/a:b", "/a:/b:", "/a:/b:rx", "/a:/b:ro:x"} {
		if got, err := parseVolume(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestLogPrinter(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	entries := []mayfly.LogEntry{
		{Time: at, Stream: "stdout", Data: []byte("a\nb")},
		{Time: at.Add(time.Second), Stream: "stderr", Data: []byte("oh\n")},
		{Time: at.Add(2 * time.Second), Stream: "stdout", Data: []byte("c\n\nd\n")},
	}
	for _, c := range []struct {
		times          bool
		stdout, stderr string
	}{
		{false, "a\nbc\n\nd\n", "oh\n"},
		{true, "2026-01-02T03:04:05.000006Z a\n2026-01-02T03:04:05.000006Z bc\n2026-01-02T03:04:07.000006Z \n2026-01-02T03:04:07.000006Z d\n",
			"2026-01-02T03:04:06.000006Z oh\n"},
	} {
		var stdout, stderr bytes.Buffer
		p := newLogPrinter(&stdout, &stderr, c.times)
		for _, e := range entries {
			if err := p.print(e); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{c.stdout, c.stderr}, []string{stdout.String(), stderr.String()}); diff != "" {
			t.Errorf("times %v:\n%s", c.times, diff)
		}
	}
	var several bytes.Buffer
	p := newLogPrinter(&several, nil, false)
	for _, e := range []mayfly.LogEntry{
		{Stream: "stdout", Process: "web", Data: []byte("a\nb")}, {Stream: "stdout", Process: "web", Data: []byte("c\n")},
		{Stream: "stdout", Process: "cron", Data: []byte("d\n")},
	} {
		if err := p.print(e); err != nil {
			t.Fatal(err)
		}
	}
	if want := "web | a\nweb | bc\ncron | d\n"; several.String() != want {
		t.Errorf("several processes: %q, want %q", several.String(), want)
	}
	if err := newLogPrinter(nil, nil, false).print(mayfly.LogEntry{Stream: "x"}); err == nil {
		t.Error("a stream that there is not is printed")
	}
}

func TestProgressWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	v := &progressView{w: &out}
	for _, p := range []client.Progress{
		{Text: "pulling\x1b[2J x"},
		{ID: "sha256:0123456789abcdef", Text: "fetching", Done: 1, Total: 2_000_000},
		{ID: "sha256:0123456789abcdef", Text: "fetching", Done: 1_000_000, Total: 2_000_000},
		{ID: "b", Text: "fetching"},
		{ID: "sha256:0123456789abcdef", Text: "unpacking"},
	} {
		v.report(p)
	}
	v.done()
	want := "pulling?[2J x\n0123456789ab: fetching (2.0 MB)\nb: fetching\n0123456789ab: unpacking\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

// TestProgressOnATerminal: a line for each part, drawn over, none wider than
// the screen, and text of the whole above them.
func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		v := &progressView{w: &out, live: true, width: 60}
		step := func(p client.Progress) string {
			out.Reset()
			v.report(p)
			return out.String()
		}
		bar := func(n int) string { return "[" + strings.Repeat("=", n) + strings.Repeat(" ", 17-n) + "]" }
		for i, c := range []struct {
			p    client.Progress
			want string
		}{
			{client.Progress{ID: "a", Text: "fetching", Total: 2000}, "a             fetching   " + bar(0) + "  0 B of 2.0 kB\n"},
			{client.Progress{ID: "a", Text: "fetching", Done: 1, Total: 2000}, ""}, // too soon to be drawn
			{client.Progress{ID: "b", Text: "waiting"}, "\r\x1b[1A\x1b[Ja             fetching   " + bar(0) + "  1 B of 2.0 kB\nb             waiting\n"},
			{client.Progress{Text: "oh"}, "\r\x1b[2A\x1b[Joh\na             fetching   " + bar(0) + "  1 B of 2.0 kB\nb             waiting\n"},
		} {
			got := step(c.p)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("step %d:\n%s", i, diff)
			}
		}
		time.Sleep(redrawTime)
		for _, line := range strings.Split(step(client.Progress{ID: "a", Text: "fetching", Done: 9000, Total: 2000}), "\n") {
			if n := len([]rune(strings.TrimPrefix(line, "\r\x1b[2A\x1b[J"))); n >= 60 {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		out.Reset()
		v.done()
		if !strings.HasSuffix(out.String(), "b             waiting\n") {
			t.Errorf("at the end: %q", out.String())
		}
	})
}

func TestProgressIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []image.Progress
		report := throttled(func(p image.Progress) { told = append(told, p) })
		for n := range int64(1000) { // a millisecond each
			report(image.Progress{Digest: "a", Phase: image.Fetching, Bytes: n, Total: 1000})
			report(image.Progress{Digest: "b", Phase: image.Fetching, Bytes: n, Total: 1000})
			time.Sleep(time.Millisecond)
		}
		if len(told) != 20 {
			t.Errorf("told %d times in a second of two layers", len(told))
		}
		told = nil
		report(image.Progress{Digest: "a", Phase: image.Fetching, Bytes: 1000, Total: 1000})
		report(image.Progress{Digest: "a", Phase: image.Unpacking, Bytes: 1000, Total: 1000})
		report(image.Progress{Digest: "a", Phase: image.Done, Bytes: 1000, Total: 1000})
		if len(told) != 3 {
			t.Errorf("the end is told as %+v", told)
		}
	})
}

func TestEveryVerbShowsHowItIsUsed(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		if !cmd.HasParent() {
			return
		}
		if !strings.HasPrefix(cmd.Example, "  ") || !strings.Contains(cmd.Example, cmd.Name()) {
			t.Errorf("%s has the example %q", cmd.CommandPath(), cmd.Example)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s is described as %q", cmd.CommandPath(), cmd.Short)
		}
	}
	walk((&cli{}).root())
}

func TestTimesAgo(t *testing.T) {
	for _, unknown := range []time.Time{{}, time.Unix(0, 0), time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)} {
		if got := ago(unknown); got != "" {
			t.Errorf("%v is %q", unknown, got)
		}
	}
	if got := ago(time.Now().Add(-90 * time.Minute)); got != "1 hour ago" {
		t.Error(got)
	}
}

func TestDurationsHaveThreeDigits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0", 0: "0", 1: "0.001µs", 1500: "1.5µs", 999_499: "999µs", 999_500: "1ms", 999_999: "1ms", 1_234_567: "1.23ms", 999_499_999: "999ms",
		999_500_000: "1s", 999_999_999: "1s", time.Second: "1s", 12345 * time.Millisecond: "12.3s", time.Minute - 1: "60s", time.Minute: "1m0s", time.Hour + 1: "1h0m0s",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("%d ns is %q, not %q", d, got, want)
		}
	}
}
