package container

import (
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly/container/wire"
)

// FuzzInitConn feeds the daemon's side of the protocol with what an init might
// send. It must take it to its end, tell whoever waits, and keep no file.
func FuzzInitConn(f *testing.F) {
	frame := func(t wire.Type, number uint32, body []byte) []byte {
		b := make([]byte, wire.HeaderLen)
		wire.PutHeader(b, t, number, len(body))
		return append(b, body...)
	}
	done := frame(wire.Done, 1, nil)
	status := wire.Status{Process: 1, Wait: 9}.Append(nil)
	f.Add(done, true)
	f.Add(append(done, frame(wire.Exited, 1, status)...), false)
	f.Add(append(frame(wire.Exited, 1, status), done[:5]...), true)
	f.Add(frame(wire.Error, 1, wire.Failure{Errno: 2, Text: "no"}.Append(nil)), false)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 6, 0, 0, 0, 1}, true)
	f.Fuzz(func(t *testing.T, sent []byte, file bool) {
		ours, theirs := unixPair(t)
		answered := make(chan answer, 1)
		p := newProcess("")
		p.number = 1
		c := &initConn{
			conn: ours, done: make(chan struct{}),
			waiting: map[uint32]chan<- answer{1: answered}, exits: map[uint32]*Process{1: p},
		}
		go c.serve()
		if file && len(sent) > 0 {
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			theirs.WriteMsgUnix(sent[:1], syscall.UnixRights(int(null.Fd()), int(null.Fd())), nil)
			null.Close()
			sent = sent[1:]
		}
		theirs.Write(sent) // fails when they have hung up
		theirs.Close()
		<-c.done
		<-p.Done()
		if a, ok := <-answered; ok && a.fd >= 0 {
			syscall.Close(a.fd)
		}
		if len(c.fds) > 0 {
			t.Errorf("kept %v", c.fds)
		}
	})
}

// unixPair returns the two ends of a connection.
func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn.(*net.UnixConn)
	}
	return conns[0], conns[1]
}
