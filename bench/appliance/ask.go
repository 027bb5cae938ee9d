package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// asked is what one client, or all of them, found.
type asked struct {
	took  []time.Duration
	wrong int
}

// ask asks the container's name server for the address of a name, with so many
// clients that each wait for an answer before the next question, and writes how
// that went.
func ask(name, clients, long string) error {
	server, err := nameServer()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(clients)
	if err != nil {
		return err
	}
	limit, err := time.ParseDuration(long)
	if err != nil {
		return err
	}
	var all asked
	var mu sync.Mutex
	var group sync.WaitGroup
	begun := time.Now()
	for range n {
		group.Go(func() {
			one := askUntil(server, name, begun.Add(limit))
			mu.Lock()
			defer mu.Unlock()
			all.took, all.wrong = append(all.took, one.took...), all.wrong+one.wrong
		})
	}
	group.Wait()
	if len(all.took) == 0 {
		return fmt.Errorf("%s answered nothing", server)
	}
	return all.tell(time.Since(begun))
}

// tell writes what was found in so long.
func (a *asked) tell(long time.Duration) error {
	slices.Sort(a.took)
	at := func(q float64) float64 {
		return float64(a.took[int(q*float64(len(a.took)-1))].Microseconds()) / 1000
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"answers": len(a.took), "perSecond": float64(int(float64(len(a.took)) / long.Seconds())),
		"p50ms": at(.5), "p99ms": at(.99), "wrong": a.wrong,
	})
}

// nameServer is the first of /etc/resolv.conf.
func nameServer() (string, error) {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if address, ok := strings.CutPrefix(lines.Text(), "nameserver "); ok {
			return net.JoinHostPort(strings.TrimSpace(address), "53"), nil
		}
	}
	return "", fmt.Errorf("there is no name server")
}

func askUntil(server, name string, end time.Time) (a asked) {
	conn, err := net.Dial("udp", server)
	if err != nil {
		a.wrong++
		return a
	}
	defer conn.Close()
	q := question(name)
	var buf [1500]byte
	for id := uint16(1); ; id++ {
		begin := time.Now()
		if id > 1 && begin.After(end) {
			return a
		}
		binary.BigEndian.PutUint16(q, id)
		conn.SetReadDeadline(begin.Add(time.Second))
		if _, err := conn.Write(q); err != nil {
			a.wrong++
			continue
		}
		n, err := conn.Read(buf[:])
		if err != nil || !right(buf[:n]) || binary.BigEndian.Uint16(buf[:]) != id {
			a.wrong++
			continue
		}
		a.took = append(a.took, time.Since(begin))
	}
}

// right reports whether a message is one answer, and no error (RFC 1035, section
// 4.1.1).
func right(m []byte) bool {
	return len(m) >= 12 && m[3]&15 == 0 && binary.BigEndian.Uint16(m[6:]) == 1
}

// question asks for the A records of a name (RFC 1035, section 4.1).
func question(name string) []byte {
	q := []byte{0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		q = append(append(q, byte(len(label))), label...)
	}
	return append(q, 0, 0, 1, 0, 1)
}

// deny answers every question with "no such name".
func deny(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	var buf [1500]byte
	for {
		n, from, err := conn.ReadFrom(buf[:])
		if err != nil {
			return err
		}
		if n >= 12 {
			buf[2], buf[3] = 0x81, 0x83 // an answer, and NXDOMAIN (RFC 1035, section 4.1.1)
			conn.WriteTo(buf[:n], from)
		}
	}
}
