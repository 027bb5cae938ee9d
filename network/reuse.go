package network

import (
	"bytes"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Most functions never touch their network, and making and destroying a
// namespace is the costliest part of a container. So one in which nothing ever
// happened waits for another container instead. That it is as good as new is
// not believed but looked up, when all processes of its container are gone:
//
//   - No socket is in it. One could outlive its container: in a message to
//     another container, say. It would then be inside the next one's network,
//     and hear and speak for it. That must not be.
//   - No packet was sent, received or dropped, on any interface, and no protocol
//     counted anything: then no connection, route, neighbour or fragment is
//     remembered, here or elsewhere. (Multicast that stays inside passes no
//     interface, but is counted by its protocol.) Labels of IPv6 flows, which
//     outlive their sockets by a minute, are looked at too.
//   - Settings are as they were made: changing them needs CAP_NET_ADMIN, which
//     no container has, or a writable /proc/sys, which could only be the host's
//     in a directory that is shared, and then the container is not sealed. (One
//     secret is made for whoever asks a socket of his for TCP Fast Open; it
//     means nothing as long as that is not turned on for servers.)
//   - Nobody else holds a file of it. A file of /proc/net or /sys/class/net goes
//     on showing the namespace to whoever it was passed to, and that cannot be
//     seen from outside. So only the namespaces of sealed containers, which
//     cannot pass files on, are given out again; see AttachSealed. (A file of
//     the namespace itself is worth nothing without CAP_SYS_ADMIN.)
//
// What the kernel may still send for a socket that was closed, like leaving a
// multicast group, would show in the counters of the interfaces, and they are
// looked at again before the next container gets the namespace.

// mostKept is how many namespaces that were given back may wait besides those
// that Run keeps waiting: as many as end at once, in the node's batches.
const mostKept = 64

// trace is what shows whether anything happened in a namespace: files of its
// /proc/net, which can be read again from outside. They hold the namespace.
type trace struct {
	sockstat int
	counters []int // descriptors of files in which something changes when anything happens
	seed     maphash.Seed
	fresh    []uint64 // what those read when the namespace was new, hashed
}

// openTrace opens the trace of the calling thread's namespace, in which no
// container has been yet.
func openTrace() (*trace, error) {
	const dir = "/proc/thread-self/net/"
	t := &trace{seed: maphash.MakeSeed()}
	var err error
	if t.sockstat, err = openRead(dir + "sockstat"); err != nil {
		return nil, err
	}
	for _, name := range [...]string{"dev", "snmp", "snmp6", "ip6_flowlabel"} { // the interfaces first
		fd, err := openRead(dir + name)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, "6") {
			continue // the kernel has no IPv6
		}
		if err != nil {
			t.close()
			return nil, err
		}
		t.counters = append(t.counters, fd)
		sum, err := t.sum(fd)
		if err != nil {
			t.close()
			return nil, err
		}
		t.fresh = append(t.fresh, sum)
	}
	return t, nil
}

func (t *trace) close() {
	if t == nil {
		return
	}
	unix.Close(t.sockstat)
	for _, fd := range t.counters {
		unix.Close(fd)
	}
}

// untouched reports whether nothing has happened in the namespace. What cannot
// be read was touched. The routing socket that wired the namespace counts for
// some 10 ms after it was closed.
func (t *trace) untouched() bool {
	var buf [1 << 10]byte
	text, err := readAgain(t.sockstat, buf[:])
	return err == nil && noSockets(text) && t.asFresh(len(t.counters))
}

// quiet reports whether no interface has sent or received anything.
func (t *trace) quiet() bool { return t.asFresh(1) }

func (t *trace) asFresh(files int) bool {
	for i, fd := range t.counters[:files] {
		if sum, err := t.sum(fd); err != nil || sum != t.fresh[i] {
			return false
		}
	}
	return true
}

func (t *trace) sum(fd int) (uint64, error) {
	var buf [16 << 10]byte
	text, err := readAgain(fd, buf[:])
	return maphash.Bytes(t.seed, text), err
}

// readAgain reads a file of /proc from its start.
func readAgain(fd int, buf []byte) ([]byte, error) {
	for n := 0; n < len(buf); {
		more, err := unix.Pread(fd, buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || more == 0 {
			return buf[:n], err
		}
		n += more
	}
	return nil, io.ErrShortBuffer
}

// noSockets reports whether a namespace's sockstat counts nothing:
//
//	sockets: used 0
//	TCP: inuse 0 orphan 0 tw 0 alloc 15 mem 169
//
// Orphans, alloc and mem of the protocols are the whole machine's; orphans are
// among the used. Kernels before 4.16 count all of the machine's as used, so
// with them no namespace is ever free of sockets.
func noSockets(sockstat []byte) bool {
	used := false
	for line := range bytes.Lines(sockstat) {
		fields := strings.Fields(string(line))
		if len(fields)%2 == 0 {
			return false
		}
		for pair := range slices.Chunk(fields[1:], 2) {
			switch pair[0] {
			case "orphan", "alloc", "mem":
				continue
			case "used":
				used = true
			}
			if pair[1] != "0" {
				return false
			}
		}
	}
	return used
}

// keep puts the namespace of a container that ended among those that wait, if
// it may and is as good as new. Then nothing is left of h.
func (n *Network) keep(h *holding) bool {
	if h.ns == nil || h.ns.trace == nil || !h.ns.trace.untouched() {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.wantWarm == 0 || len(n.warm) >= n.wantWarm+mostKept {
		return false
	}
	h.att.NetNS.Close()
	n.warm = append(n.warm, h.ns) // behind the others: it rests the longest
	n.room = max(n.room, len(n.warm))
	return true
}

// settleDown lets go, in the end, of what was given back and is not needed:
// there is room for as many as were taken at once since the last call.
func (n *Network) settleDown() error {
	n.mu.Lock()
	n.room = max(n.wantWarm, len(n.warm)-n.unneeded)
	n.unneeded = len(n.warm)
	n.mu.Unlock()
	_, err := n.trim()
	return err
}
