package main

import (
	"os"
	"time"

	"github.com/mayfly-run/mayfly/container/wire"
	"golang.org/x/sys/unix"
)

// hostile is an init that does to the daemon what it can.
func hostile(how string) {
	for {
		c, _, err := unix.Accept4(wire.ListenFD, unix.SOCK_CLOEXEC)
		if err != nil {
			time.Sleep(time.Millisecond) // the daemon made the socket non-blocking
			continue
		}
		go attack(how, c)
	}
}

func frame(t wire.Type, number uint32, body []byte) []byte {
	b := make([]byte, wire.HeaderLen)
	wire.PutHeader(b, t, number, len(body))
	return append(b, body...)
}

func attack(how string, c int) {
	greeting := frame(wire.Hello, 0, wire.Greeting{Version: wire.Version}.Append(nil))
	switch how {
	case "silent":
		return
	case "closes":
		unix.Close(c)
		return
	case "exits":
		os.Exit(0)
	case "garbage":
		unix.Write(c, []byte("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
		return
	case "huge":
		unix.Write(c, []byte{0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0})
		return
	case "descriptors before the greeting":
		sendFiles(c, greeting, 200)
		return
	}
	unix.Write(c, greeting)
	request := make([]byte, 1<<16)
	unix.Read(c, request) // Hello
	if how == "deaf" {
		time.Sleep(time.Hour) // the runtime takes an empty select for a deadlock
	}
	for {
		n, err := unix.Read(c, request)
		if err != nil || n < wire.HeaderLen {
			return
		}
		_, number, _, _ := wire.Header(request[:n])
		answerBadly(how, c, number)
	}
}

func answerBadly(how string, c int, number uint32) {
	switch how {
	case "flood":
		big := frame(wire.Output, number, make([]byte, wire.MaxFrame-wire.HeaderLen))
		for range 20 {
			unix.Write(c, big)
		}
		unix.Write(c, frame(wire.Done, number, nil))
	case "short bodies":
		for t := wire.Type(0); t < 20; t++ {
			unix.Write(c, frame(t, number+uint32(t), []byte{1}))
		}
		unix.Write(c, frame(wire.Error, number, []byte{1}))
	case "files":
		sendFiles(c, frame(wire.Done, number, nil), 20)
	case "a file for a connection":
		sendFiles(c, frame(wire.Done, number, nil), 1)
	case "its own end":
		unix.Sendmsg(c, []byte{0, 0}, unix.UnixRights(c, c), nil, 0) // half a frame, and no end to come
		os.Exit(3)
	case "the end of what runs on":
		unix.Write(c, frame(wire.Done, number, nil))
		for range 1000 {
			unix.Write(c, frame(wire.Exited, number, wire.Status{Process: number}.Append(nil)))
		}
	}
}

// sendFiles sends a frame with descriptors, again and again.
func sendFiles(c int, b []byte, times int) {
	null, err := unix.Open("/dev/null", unix.O_RDWR, 0)
	if err != nil {
		fail(err)
	}
	for range times {
		if unix.Sendmsg(c, b, unix.UnixRights(null, null, null), nil, unix.MSG_NOSIGNAL) != nil {
			return
		}
	}
}
