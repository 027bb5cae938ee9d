package main

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// conn is one connection of the daemon's.
type conn struct {
	used     bool
	greeted  bool // wants to hear of exits
	attached bool // has become the log's: it gets output and nothing else
	broken   bool // to be closed when the turn ends
	fd       int

	n     int // bytes received and not yet taken
	small [4096]byte
	big   []byte // instead of small, for a frame that does not fit there

	fds  [16]int // received and not yet taken
	nfds int

	sent int // attached: how much it has of the log's chunk
}

// deafness is how long nobody is accepted after that has failed: 20 ms.
const deafness = 20e6

func accept() {
	fd, errno := sys(unix.SYS_ACCEPT4, wire.ListenFD, 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 { // no descriptor or no memory is free, perhaps
		in.deafUntil = monotonic() + deafness
		return
	}
	in.deafUntil = 0
	for i := range in.conns {
		if c := &in.conns[i]; !c.used {
			c.used, c.greeted, c.attached, c.broken = true, false, false, false
			c.fd, c.n, c.nfds, c.sent = int(fd), 0, 0, 0
			in.connsEnd = max(in.connsEnd, i+1)
			return
		}
	}
	closeFD(int(fd))
}

func (c *conn) close() {
	closeFD(c.fd)
	for _, fd := range c.fds[:c.nfds] {
		closeFD(fd)
	}
	c.useSmall()
	c.used = false
	forgetDials(c)
}

func pollConns() {
	for i := range in.conns[:in.connsEnd] {
		c := &in.conns[i]
		switch {
		case !c.used:
		case !c.attached:
			poll(c.fd, unix.POLLIN, forConn, i)
		case in.log.pending > c.sent:
			poll(c.fd, unix.POLLOUT, forConn, i)
		default:
			poll(c.fd, 0, forConn, i) // to hear that it is gone
		}
	}
}

// ready is called when the daemon has sent something or has hung up, or, on
// one that is attached, when it takes more.
func (c *conn) ready() {
	if c.attached {
		if c.sent < in.log.pending {
			c.sendChunk()
			chunkSent()
		} else {
			c.broken = true
		}
		return
	}
	if !c.receive() || !c.serveFrames() {
		c.broken = true
	}
}

// closeBroken closes the connections that are of no more use.
func closeBroken() {
	for i := range in.conns[:in.connsEnd] {
		if c := &in.conns[i]; c.used && c.broken {
			c.close()
		}
	}
}

// receive reads once. It returns false at the end.
func (c *conn) receive() bool {
	buf := c.buffer()
	in.iovec.Base = &buf[c.n]
	in.iovec.SetLen(len(buf) - c.n)
	in.message = unix.Msghdr{Iov: &in.iovec, Control: (*byte)(unsafe.Pointer(&in.control))}
	in.message.SetIovlen(1)
	in.message.SetControllen(int(unsafe.Sizeof(in.control)))
	n, errno := sys(unix.SYS_RECVMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&in.message)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC, 0, 0, 0)
	if errno == syscall.EAGAIN {
		return true
	}
	if errno != 0 || n == 0 {
		return false
	}
	c.n += int(n)
	return c.takeFiles(int(in.message.Controllen))
}

// takeFiles keeps the descriptors of the control message (cmsg(3)), of which
// there is one at most.
func (c *conn) takeFiles(length int) bool {
	head := (*unix.Cmsghdr)(unsafe.Pointer(&in.control))
	if length < unix.SizeofCmsghdr || head.Level != unix.SOL_SOCKET || head.Type != unix.SCM_RIGHTS {
		return true
	}
	fds := unsafe.Slice((*int32)(unsafe.Pointer(&in.control[unix.SizeofCmsghdr/8])), (int(head.Len)-unix.SizeofCmsghdr)/4)
	fits := true
	for _, fd := range fds {
		if fits = fits && c.nfds < len(c.fds); fits {
			c.fds[c.nfds] = int(fd)
			c.nfds++
		} else {
			closeFD(int(fd))
		}
	}
	return fits
}

// takeFile returns the next descriptor that came in, -1 if there is none.
func (c *conn) takeFile() int {
	if c.nfds == 0 {
		return -1
	}
	fd := c.fds[0]
	copy(c.fds[:], c.fds[1:c.nfds])
	c.nfds--
	return fd
}

func (c *conn) buffer() []byte {
	if c.big != nil {
		return c.big
	}
	return c.small[:]
}

// serveFrames carries out what has come in whole. It returns false when the
// connection is of no more use.
func (c *conn) serveFrames() bool {
	for c.n >= wire.HeaderLen && !c.attached && !c.broken {
		t, number, n, ok := wire.Header(c.buffer())
		if !ok {
			return false
		}
		whole := wire.HeaderLen + n
		if c.n < whole {
			return c.hold(whole)
		}
		buf := c.buffer()
		if !c.serve(t, number, buf[wire.HeaderLen:whole]) {
			return false
		}
		copy(buf, buf[whole:c.n])
		c.n -= whole
		if c.n <= len(c.small) {
			c.useSmall()
		}
	}
	return true
}

// hold makes room for a frame of n bytes.
func (c *conn) hold(n int) bool {
	if n <= len(c.buffer()) {
		return true
	}
	big := pages(n)
	if big == nil {
		return false
	}
	copy(big, c.buffer()[:c.n])
	old := c.big
	c.big = big
	if old != nil {
		freePages(old)
	}
	return true
}

// useSmall gives the large buffer back; what is in it fits the small one.
func (c *conn) useSmall() {
	if c.big == nil {
		return
	}
	copy(c.small[:], c.big[:min(c.n, len(c.small))])
	big := c.big
	c.big = nil
	freePages(big)
}

// serve carries out one request.
func (c *conn) serve(t wire.Type, number uint32, body []byte) bool {
	r := reader{body: body}
	switch t {
	case wire.Hello:
		r.uint16() // the daemon's version
		r.uint32()
		logMax := r.uint32()
		if r.short {
			return false
		}
		return c.hello(number, logMax)
	case wire.Start, wire.Spawn:
		return c.start(number, body, t == wire.Start)
	case wire.Signal:
		k := wire.Kill{Process: r.uint32(), Signal: r.byte(), Group: r.byte() != 0}
		if r.short {
			return false
		}
		return c.answer(number, kill(k))
	case wire.Dial:
		port, timeout := r.uint16(), r.uint32()
		if r.short {
			return false
		}
		return c.dial(number, port, timeout)
	case wire.Attach:
		c.attached = c.reply(wire.Done, number, 0, -1)
		c.sent = in.log.pending // it gets what is read from now on
		return c.attached
	}
	return c.fail(number, syscall.ENOSYS, "")
}

func (c *conn) hello(number, logMax uint32) bool {
	if logMax > 0 {
		in.log.max = max(int(logMax), leastSegment)
	}
	c.greeted = true
	main := uint32(0)
	if in.main != nil {
		main = in.main.number
	}
	b := in.frame[wire.HeaderLen:]
	binary.BigEndian.PutUint16(b, wire.Version)
	binary.BigEndian.PutUint32(b[2:], main)
	binary.BigEndian.PutUint32(b[6:], 0)
	n := greetingLen
	for i := range in.programs[:in.programsEnd] {
		if p := &in.programs[i]; p.used && p != in.main {
			binary.BigEndian.PutUint32(b[n:], p.number)
			b[n+4] = p.label
			n += wire.RunningLen
		}
	}
	binary.BigEndian.PutUint32(b[10:], uint32(n-greetingLen)/wire.RunningLen)
	return c.reply(wire.Hello, number, n, -1)
}

// greetingLen is the length in bytes of a greeting's body without its list.
const greetingLen = 14

// answer says that a request was carried out, or why not.
func (c *conn) answer(number uint32, errno syscall.Errno) bool {
	if errno != 0 {
		return c.fail(number, errno, "")
	}
	return c.reply(wire.Done, number, 0, -1)
}

// fail refuses a request; an errno needs no text.
func (c *conn) fail(number uint32, errno syscall.Errno, text string) bool {
	b := in.frame[wire.HeaderLen:]
	binary.BigEndian.PutUint32(b, uint32(errno))
	binary.BigEndian.PutUint32(b[4:], uint32(len(text)))
	copy(b[8:], text)
	return c.reply(wire.Error, number, 8+len(text), -1)
}

// reply sends the frame whose body, of n bytes, is in in.frame already, with a
// descriptor unless fd is negative. It waits while the daemon does not read.
func (c *conn) reply(t wire.Type, number uint32, n, fd int) bool {
	wire.PutHeader(in.frame[:], t, number, n)
	in.message = unix.Msghdr{Iov: &in.iovec}
	in.message.SetIovlen(1)
	if fd >= 0 {
		*(*unix.Cmsghdr)(unsafe.Pointer(&in.control)) = unix.Cmsghdr{Level: unix.SOL_SOCKET, Type: unix.SCM_RIGHTS}
		(*unix.Cmsghdr)(unsafe.Pointer(&in.control)).SetLen(unix.SizeofCmsghdr + 4)
		*(*int32)(unsafe.Pointer(&in.control[unix.SizeofCmsghdr/8])) = int32(fd)
		in.message.Control = (*byte)(unsafe.Pointer(&in.control))
		in.message.SetControllen(unix.SizeofCmsghdr + 8)
	}
	for b := in.frame[:wire.HeaderLen+n]; len(b) > 0; {
		in.iovec.Base = &b[0]
		in.iovec.SetLen(len(b))
		sent, errno := sys(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&in.message)), unix.MSG_NOSIGNAL, 0, 0, 0)
		if errno != 0 {
			return false
		}
		b = b[sent:]
		in.message.Control = nil
		in.message.SetControllen(0)
	}
	return true
}

// sendChunk passes the log's chunk, n bytes with its head, to everybody
// attached.
func sendChunk(n int) {
	in.log.pending = n
	for i := range in.conns[:in.connsEnd] {
		if c := &in.conns[i]; c.used && c.attached && !c.broken {
			c.sent = 0
			c.sendChunk()
		}
	}
	chunkSent()
}

// sendChunk sends as much as the connection takes now.
func (c *conn) sendChunk() {
	rest := in.log.chunk[c.sent:in.log.pending]
	n, errno := sys(unix.SYS_SENDTO, uintptr(c.fd), at(rest), uintptr(len(rest)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	switch errno {
	case 0:
		c.sent += int(n)
	case syscall.EAGAIN:
	default:
		c.broken = true
	}
}

// chunkSent lets pipes be read again when everybody has the chunk.
func chunkSent() {
	for i := range in.conns[:in.connsEnd] {
		if c := &in.conns[i]; c.used && c.attached && !c.broken && c.sent < in.log.pending {
			return
		}
	}
	in.log.pending = 0
	for i := range in.conns[:in.connsEnd] {
		in.conns[i].sent = 0
	}
}

// reader reads a frame's body from the front. When that is too short it gives
// zeroes and sets short.
type reader struct {
	body  []byte
	short bool
}

func (r *reader) take(n uint32) []byte {
	if r.short || uint64(n) > uint64(len(r.body)) {
		r.short = true
		return nil
	}
	b := r.body[:n]
	r.body = r.body[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); len(b) == 2 {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}
