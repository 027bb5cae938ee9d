package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// paced is the questions that one client sends without waiting for answers.
type paced struct {
	conn *net.UDPConn
	sent [1 << 16]atomic.Int64 // when a question of this number was sent, in nanoseconds; 0: it is answered
}

// pace asks for the address of a name so many times for each second, at even
// distances, whatever is answered; what became due while this program had no core
// is not made up for, for that would be a crowd. A time is from when a question was sent, which
// is up to this program, until the kernel put the answer into its socket: how long
// it then takes until this program looks is not the server's doing.
func pace(name, rate, long string) error {
	server, err := nameServer()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(rate)
	if err != nil || n < 1 {
		return fmt.Errorf("the rate is %q", rate)
	}
	limit, err := time.ParseDuration(long)
	if err != nil {
		return err
	}
	conn, err := net.Dial("udp", server)
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &paced{conn: conn.(*net.UDPConn)}
	if err := p.stamp(); err != nil {
		return err
	}
	var found asked
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		found = p.hear()
	}()
	begun := time.Now()
	count := p.send(name, time.Second/time.Duration(n), begun.Add(limit))
	took := time.Since(begun)
	p.conn.SetReadDeadline(time.Now().Add(time.Second))
	<-heard
	if len(found.took) == 0 {
		return errors.New("nothing was answered")
	}
	found.wrong = count - len(found.took)
	return found.tell(took)
}

// stamp has the kernel say when messages arrived, and keep as many as it may.
func (p *paced) stamp() error {
	p.conn.SetReadBuffer(4 << 20)
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1) })
	return errors.Join(err, set)
}

// send asks until the end, and returns how often.
func (p *paced) send(name string, every time.Duration, end time.Time) (count int) {
	q := question(name)
	for due := time.Now(); due.Before(end); due = due.Add(every) {
		if left := time.Until(due); left > 0 {
			pause := syscall.NsecToTimespec(int64(left))
			syscall.Nanosleep(&pause, nil) // the runtime's timers are too coarse
		} else if left < -every {
			due = time.Now()
		}
		count++
		id := uint16(count)
		binary.BigEndian.PutUint16(q, id)
		p.sent[id].Store(time.Now().UnixNano())
		if _, err := p.conn.Write(q); err != nil {
			p.sent[id].Store(0)
		}
	}
	return count
}

// hear takes answers until the connection's deadline.
func (p *paced) hear() (a asked) {
	var buf, oob [1500]byte
	for {
		n, o, _, _, err := p.conn.ReadMsgUDPAddrPort(buf[:], oob[:])
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return a
		}
		if err != nil || !right(buf[:n]) {
			continue
		}
		sent := p.sent[binary.BigEndian.Uint16(buf[:])].Swap(0)
		if at, ok := stampOf(oob[:o]); ok && sent > 0 {
			a.took = append(a.took, time.Duration(at-sent))
		}
	}
}

// stampOf reads when a message arrived, in nanoseconds (struct timespec of
// SCM_TIMESTAMPNS).
func stampOf(oob []byte) (int64, bool) {
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range list {
		if m.Header.Level == syscall.SOL_SOCKET && m.Header.Type == syscall.SO_TIMESTAMPNS && len(m.Data) == 16 {
			return int64(binary.NativeEndian.Uint64(m.Data))*1e9 + int64(binary.NativeEndian.Uint64(m.Data[8:])), true
		}
	}
	return 0, false
}
