package main

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly/container/wire"
)

// FuzzFrames feeds a connection with what a daemon might send. Init must take
// it to its end, answer in whole frames, and keep no descriptor.
func FuzzFrames(f *testing.F) {
	frame := func(t wire.Type, body []byte) []byte {
		b := make([]byte, wire.HeaderLen)
		wire.PutHeader(b, t, 7, len(body))
		return append(b, body...)
	}
	hello := frame(wire.Hello, wire.Greeting{Version: 1, LogMax: 1 << 20}.Append(nil))
	start := frame(wire.Start, wire.Program{Argv: []string{"sh", strings.Repeat("x", 9000)}}.Append(nil))
	f.Add(slices.Concat(hello, start, hello), uint8(3))
	f.Add(slices.Concat(hello, frame(wire.Signal, wire.Kill{Signal: 9}.Append(nil)), frame(99, nil)), uint8(200))
	f.Add(frame(wire.Attach, nil), uint8(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1}, uint8(1))
	f.Fuzz(func(t *testing.T, sent []byte, piece uint8) {
		in.ending = true // nothing is started
		fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan []byte)
		go func() { answers <- readAll(fds[0]) }()
		c := &in.conns[0]
		*c = conn{used: true, fd: fds[1]}
		in.connsEnd = 1
		for len(sent) > 0 && !c.broken && !c.attached {
			n := min(len(sent), max(1, int(piece)*37))
			if hasDial(c, sent[:n]) {
				break
			}
			if err := syscall.Sendmsg(fds[0], sent[:n], syscall.UnixRights(0), nil, 0); err != nil {
				t.Fatal(err)
			}
			sent = sent[n:]
			for arrived(c.fd) && !c.broken && !c.attached {
				c.ready()
			}
		}
		c.close()
		checkFrames(t, <-answers)
		syscall.Close(fds[0])
		if c.used || c.big != nil {
			t.Error("a closed connection keeps something")
		}
	})
}

// hasDial says whether a Dial would come of what is there: it connects to
// whatever listens on this machine.
func hasDial(c *conn, more []byte) bool {
	b := append(bytes.Clone(c.buffer()[:c.n]), more...)
	for len(b) >= wire.HeaderLen {
		kind, _, n, ok := wire.Header(b)
		if !ok || len(b) < wire.HeaderLen+n {
			return false
		}
		if kind == wire.Dial {
			return true
		}
		b = b[wire.HeaderLen+n:]
	}
	return false
}

// arrived says whether there is something to read.
func arrived(fd int) bool {
	n, _, err := syscall.Recvfrom(fd, make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	return n > 0 && err == nil
}

func readAll(fd int) []byte {
	var all []byte
	for b := make([]byte, 4096); ; {
		n, err := syscall.Read(fd, b)
		if n <= 0 || err != nil {
			return all
		}
		all = append(all, b[:n]...)
	}
}

// checkFrames wants whole frames.
func checkFrames(t *testing.T, b []byte) {
	for len(b) > 0 {
		if len(b) < wire.HeaderLen {
			t.Fatalf("half a head: %x", b)
		}
		n := int(binary.BigEndian.Uint32(b)) + 4
		if n > len(b) {
			t.Fatalf("half an answer: %x", b)
		}
		b = b[n:]
	}
}
