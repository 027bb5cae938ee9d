package main

import (
	"encoding/binary"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly/container/wire"
)

// log keeps what the programs wrote in two files that take turns: when one is
// full the other is emptied and used, so that the newest of what was written
// is always there and the space is bounded. Whoever is attached gets every
// chunk as well; a slow reader slows the program down, it never loses a byte.
type log struct {
	mu       sync.Mutex
	fds      [2]int
	current  int
	segment  uint64 // number of the segment in fds[current]; 0 before the first
	size     int    // bytes in it
	max      int    // bytes of one segment
	dropped  uint64 // bytes that the disk did not take
	buf      []byte
	attached []*conn
}

const (
	defaultSegment = 8 << 20
	readSize       = 64 << 10
)

func newLog(fd0, fd1 int) *log {
	return &log{fds: [2]int{fd0, fd1}, max: defaultSegment}
}

// copy reads one chunk from fd and passes it on. It reports false when fd has
// nothing to read now.
func (l *log) copy(fd int, stream byte) (n int, ready bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf == nil {
		l.buf = make([]byte, wire.HeaderLen+wire.ChunkLen+readSize)
	}
	const head = wire.HeaderLen + wire.ChunkLen
	for {
		n, err = syscall.Read(fd, l.buf[head:])
		if err != syscall.EINTR {
			break
		}
	}
	if err == syscall.EAGAIN {
		return 0, false, nil
	}
	if n <= 0 {
		return 0, true, err
	}
	wire.PutHeader(l.buf, wire.Output, 0, wire.ChunkLen+n)
	wire.PutChunk(l.buf[wire.HeaderLen:], stream, time.Now().UnixNano(), n)
	l.append(l.buf[wire.HeaderLen : head+n])
	l.send(l.buf[:head+n])
	return n, true, nil
}

// append writes one record to the current segment. l.mu is held.
func (l *log) append(record []byte) {
	if l.segment == 0 || l.size > 0 && l.size+len(record) > l.max {
		l.change()
	}
	if l.dropped > 0 && !l.noteDropped() {
		l.dropped += uint64(len(record))
		return
	}
	if !l.write(record) {
		l.dropped += uint64(len(record))
	}
}

// change goes over to the other file, with the next segment's number at its
// head.
func (l *log) change() {
	if l.segment > 0 {
		l.current = 1 - l.current
		syscall.Ftruncate(l.fds[l.current], 0)
		syscall.Seek(l.fds[l.current], 0, 0)
	}
	l.segment++
	l.size = 0
	var head [wire.SegmentHeadLen]byte
	wire.PutSegmentHead(head[:], l.segment)
	l.write(head[:])
}

// noteDropped records how much the disk did not take, as a chunk of stream 0.
func (l *log) noteDropped() bool {
	var b [wire.ChunkLen + 8]byte
	wire.PutChunk(b[:], 0, time.Now().UnixNano(), 8)
	binary.BigEndian.PutUint64(b[wire.ChunkLen:], l.dropped)
	if !l.write(b[:]) {
		return false
	}
	l.dropped = 0
	return true
}

// write writes b whole or not at all: after a short write, on a full disk, it
// cuts the file back to where it was.
func (l *log) write(b []byte) bool {
	fd := l.fds[l.current]
	done := 0
	for done < len(b) {
		n, err := syscall.Write(fd, b[done:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			syscall.Ftruncate(fd, int64(l.size))
			syscall.Seek(fd, int64(l.size), 0)
			return false
		}
		done += n
	}
	l.size += len(b)
	return true
}

// send passes a frame to everybody attached and drops those who are gone.
func (l *log) send(frame []byte) {
	kept := l.attached[:0]
	for _, c := range l.attached {
		if c.write(frame, -1) == nil {
			kept = append(kept, c)
		} else {
			c.close()
		}
	}
	clear(l.attached[len(kept):])
	l.attached = kept
}

func (l *log) attach(c *conn, number uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := c.reply(wire.Done, number, nil, -1); err != nil {
		return err
	}
	l.attached = append(l.attached, c)
	return nil
}

func (l *log) setMax(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max = max(n, 4096)
}
