package discovery

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// datagramQueue is what questions that wait to be read may occupy, in bytes as the
// kernel counts them. One that is lost is asked again after seconds.
const datagramQueue = 2 << 20

// datagrams is a UDP socket on which threads wait in the kernel, as many as read
// from it. The runtime's poller has no part in it: it would cost more than the
// rest of an answer, which is found in microseconds.
type datagrams struct {
	file   *os.File
	conn   syscall.RawConn // holds the descriptor open for as long as it is used
	at     netip.AddrPort
	closed atomic.Bool
}

// newDatagrams takes the socket of a connection, which it closes.
func newDatagrams(c *net.UDPConn) (d *datagrams, err error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	own := -1
	if e := raw.Control(func(fd uintptr) {
		if own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.SetNonblock(own, false)
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, datagramQueue) != nil { // as root only
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, datagramQueue)
		}
	}); e != nil {
		return nil, e
	}
	if own < 0 {
		return nil, err
	}
	file := os.NewFile(uintptr(own), "dns")
	d = &datagrams{file: file, at: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	if err == nil {
		d.conn, err = file.SyscallConn()
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return d, nil
}

// read gives each message to each until close. The packet is each's until it
// returns.
func (d *datagrams) read(each func(packet []byte, from unix.Sockaddr), failed func(error)) {
	d.conn.Control(func(fd uintptr) {
		buf := make([]byte, datagramBuffer)
		for {
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			switch {
			case d.closed.Load():
				return
			case err == nil:
				each(buf[:n], from)
			case !errors.Is(err, unix.EINTR):
				failed(err)
			}
		}
	})
}

// write sends a message, or drops it if there is no room for it.
func (d *datagrams) write(message []byte, to unix.Sockaddr) {
	d.conn.Control(func(fd uintptr) { unix.Sendto(int(fd), message, unix.MSG_DONTWAIT, to) })
}

// close has read return. The socket is gone when nobody uses it any more.
func (d *datagrams) close() error {
	d.closed.Store(true)
	d.conn.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) }) // wakes who waits, although nothing is connected
	return d.file.Close()
}

// addrOf is the address of a client, or none.
func addrOf(from unix.Sockaddr) netip.Addr {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}
