package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A step is one change to links, addresses, routes or neighbours.
type step struct {
	doing string     // what an error about it starts with
	fine  unix.Errno // an answer that is as good as success
	*nl.NetlinkRequest
}

func newStep(doing string, kind, flags int, data ...nl.NetlinkRequestData) step {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	for _, d := range data {
		req.AddData(d)
	}
	return step{doing: doing, NetlinkRequest: req}
}

// unless makes the kernel's answer err as good as success.
func (s step) unless(err unix.Errno) step {
	s.fine = err
	return s
}

// rtnl is a routing socket in the network namespace of the thread that dialed
// it. It sends several changes with one system call and reads one answer and
// what failed, which is what makes wiring a namespace cheap.
type rtnl struct {
	mu  sync.Mutex
	fd  int
	buf [16 << 10]byte
}

func dialRtnl() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open routing socket: %w", err)
	}
	// Answers without a copy of the question: a batch's fit in one buffer.
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("open routing socket: %w", err)
	}
	return &rtnl{fd: fd}, nil
}

func (r *rtnl) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	unix.Close(r.fd)
	r.fd = -1
}

// run makes the changes in order. It returns the errors of those that failed;
// a failure does not keep the later ones from being tried.
func (r *rtnl) run(steps ...step) error {
	const most = 64 // a batch's answers must fit the socket's receive buffer
	var errs []error
	for len(steps) > 0 {
		n := min(len(steps), most)
		errs = append(errs, r.batch(steps[:n]))
		steps = steps[n:]
	}
	return errors.Join(errs...)
}

func (r *rtnl) batch(steps []step) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []byte
	bySeq := make(map[uint32]step, len(steps))
	last := steps[len(steps)-1]
	for _, s := range steps {
		if s.Seq != last.Seq {
			s.Flags &^= unix.NLM_F_ACK // failures are answered all the same, and before the last
		}
		out = append(out, s.Serialize()...)
		bySeq[s.Seq] = s
	}
	if err := unix.Sendto(r.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to routing socket: %w", err)
	}
	var errs []error
	for {
		n, err := r.read()
		if err != nil {
			return err
		}
		errs = append(errs, answers(r.buf[:n], bySeq)...)
		if _, waits := bySeq[last.Seq]; !waits {
			return errors.Join(errs...)
		}
	}
}

// answers takes the acknowledgements in b out of waiting and returns the
// errors among them.
func answers(b []byte, waiting map[uint32]step) []error {
	var errs []error
	for len(b) >= unix.NLMSG_HDRLEN+4 {
		size := binary.NativeEndian.Uint32(b)
		kind := binary.NativeEndian.Uint16(b[4:])
		seq := binary.NativeEndian.Uint32(b[8:])
		s, ours := waiting[seq]
		if kind == unix.NLMSG_ERROR && ours {
			delete(waiting, seq)
			code := unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])))
			if code != 0 && code != s.fine {
				errs = append(errs, fmt.Errorf("%s: %w", s.doing, code))
			}
		}
		if size = (size + 3) &^ 3; size < unix.NLMSG_HDRLEN || int(size) > len(b) {
			break
		}
		b = b[size:]
	}
	return errs
}

// settle returns when link index can carry packets. Raising a link only starts
// that: the kernel goes on in the background, and until then it drops what is
// sent, so that a connection made at once would stall for a second. Asking for
// the link's state makes a kernel since 6.8 finish; an older one is asked again.
func (r *rtnl) settle(index int32) error {
	const limit, pause = 2 * time.Second, 200 * time.Microsecond
	for start := time.Now(); ; time.Sleep(pause) {
		up, err := r.isUp(index)
		if err != nil || up {
			return err
		}
		if time.Since(start) > limit {
			return fmt.Errorf("link %d does not come up within %v", index, limit)
		}
	}
}

func (r *rtnl) isUp(index int32) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(linkMsg(unix.AF_UNSPEC, index, false))
	req.AddData(attrUint32(unix.IFLA_EXT_MASK, skipStats))
	if err := unix.Sendto(r.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("send to routing socket: %w", err)
	}
	n, err := r.read()
	if err != nil {
		return false, err
	}
	if errs := answers(r.buf[:n], map[uint32]step{req.Seq: {doing: "read state of link"}}); len(errs) > 0 {
		return false, errs[0]
	}
	const head = unix.NLMSG_HDRLEN + unix.SizeofIfInfomsg
	if n < head {
		return false, fmt.Errorf("read state of link %d: short answer", index)
	}
	attrs, err := nl.ParseRouteAttr(r.buf[head:n])
	if err != nil {
		return false, fmt.Errorf("read state of link %d: %w", index, err)
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_OPERSTATE {
			return len(a.Value) > 0 && a.Value[0] == netlink.OperUp, nil
		}
	}
	return false, fmt.Errorf("read state of link %d: no state", index)
}

// read fills the buffer with the next datagram. The caller holds r.mu.
func (r *rtnl) read() (int, error) {
	for {
		n, _, err := unix.Recvfrom(r.fd, r.buf[:], 0)
		if err == nil {
			return n, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("read routing socket: %w", err)
		}
	}
}

// complete lists things of the kernel again when they changed meanwhile, a few
// times; after that what it has must do.
func complete[T any](list func() ([]T, error)) ([]T, error) {
	for tries := 1; ; tries++ {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
		if tries == 10 {
			return all, nil
		}
	}
}

// linkIndex returns the index of a link in the namespace that r was dialed in.
func (r *rtnl) linkIndex(name string) (int32, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	return int32(req.Uint32()), nil
}

// linkMsg is the fixed part of a change to link index: up, if it is true.
func linkMsg(family uint8, index int32, up bool) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(int(family))
	m.Index = index
	if up {
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	}
	return m
}

func attrString(kind int, s string) *nl.RtAttr { return nl.NewRtAttr(kind, nl.ZeroTerminated(s)) }

func attrUint32(kind int, v uint32) *nl.RtAttr { return nl.NewRtAttr(kind, nl.Uint32Attr(v)) }
