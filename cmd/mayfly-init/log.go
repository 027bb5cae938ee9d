package main

import (
	"encoding/binary"
	"syscall"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// log keeps what the programs wrote in two files that take turns: when one is
// full the other is emptied and used, so that the newest of what was written
// is always there and the space is bounded. Whoever is attached gets every
// chunk as well; a slow reader slows the program down, it never loses a byte.
type log struct {
	fds     [2]int
	current int
	segment uint64 // number of the segment in fds[current]; 0 before the first
	size    int    // bytes in it
	max     int    // bytes of one segment
	dropped uint64 // bytes that the disk did not take

	// The newest chunk as an Output frame. While somebody attached has not
	// all of it, pending is its length, and no pipe is read.
	chunk   [chunkHead + readSize]byte
	pending int

	note [wire.SegmentHeadLen + wire.ChunkLen]byte
}

const (
	chunkHead      = wire.HeaderLen + wire.ChunkLen
	defaultSegment = 8 << 20
	leastSegment   = 4096
	readSize       = 64 << 10
)

func (l *log) open(fd0, fd1 int) {
	l.fds = [2]int{fd0, fd1}
	l.max = defaultSegment
}

// copy reads one chunk from a pipe that is ready and passes it on. It returns
// false at the pipe's end.
func (l *log) copy(fd int, stream, label byte) bool {
	n, errno := sys(unix.SYS_READ, uintptr(fd), at(l.chunk[chunkHead:]), readSize, 0, 0, 0)
	if errno == syscall.EAGAIN { // the program made it so
		return true
	}
	if errno != 0 || n == 0 {
		return false
	}
	end := chunkHead + int(n)
	wire.PutHeader(l.chunk[:], wire.Output, 0, end-wire.HeaderLen)
	wire.PutChunk(l.chunk[wire.HeaderLen:], stream, label, wallTime(), int(n))
	l.append(l.chunk[wire.HeaderLen:end])
	sendChunk(end)
	return true
}

// append writes one record to the current segment.
func (l *log) append(record []byte) {
	if l.segment == 0 || l.size > 0 && l.size+len(record) > l.max {
		l.change()
	}
	if l.dropped > 0 && !l.noteDropped() || !l.write(record) {
		l.dropped += uint64(len(record))
	}
}

// change goes over to the other file, with the next segment's number at its
// head.
func (l *log) change() {
	if l.segment > 0 {
		l.current = 1 - l.current
		l.cut(0)
	}
	l.segment++
	l.size = 0
	head := l.note[:wire.SegmentHeadLen]
	wire.PutSegmentHead(head, l.segment)
	l.write(head)
}

// noteDropped records how much the disk did not take, as a chunk of stream 0.
func (l *log) noteDropped() bool {
	b := l.note[:wire.ChunkLen+8]
	wire.PutChunk(b, 0, 0, wallTime(), 8)
	binary.BigEndian.PutUint64(b[wire.ChunkLen:], l.dropped)
	if !l.write(b) {
		return false
	}
	l.dropped = 0
	return true
}

// write writes b whole or not at all: after a short write, on a full disk, it
// cuts the file back to where it was.
func (l *log) write(b []byte) bool {
	if !writeAll(l.fds[l.current], b) {
		l.cut(l.size)
		return false
	}
	l.size += len(b)
	return true
}

// cut shortens the current file and goes on writing there.
func (l *log) cut(size int) {
	fd := uintptr(l.fds[l.current])
	sys(unix.SYS_FTRUNCATE, fd, uintptr(size), 0, 0, 0, 0)
	sys(unix.SYS_LSEEK, fd, uintptr(size), unix.SEEK_SET, 0, 0, 0)
}

func writeAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, errno := sys(unix.SYS_WRITE, uintptr(fd), at(b), uintptr(len(b)), 0, 0, 0)
		if errno != 0 {
			return false
		}
		b = b[n:]
	}
	return true
}
