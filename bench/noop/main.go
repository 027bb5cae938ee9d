// Command noop is what the containers run that tasks are measured with: as
// `noop serve` it answers every request with nothing, otherwise it says when it
// was started, in nanoseconds.
package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println(time.Now().UnixNano())
		return
	}
	fmt.Fprintln(os.Stderr, serve(":"+os.Getenv("PORT")))
	os.Exit(1)
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

// answer answers the requests of a connection. It reads no further into one
// than the end of its head, so a request must have no body: a function whose
// time is measured should take none.
func answer(conn net.Conn) {
	defer conn.Close()
	request := make([]byte, 0, 64<<10)
	for {
		n, err := conn.Read(request[len(request):cap(request)])
		if err != nil {
			return
		}
		request = request[:len(request)+n]
		for {
			end := bytes.Index(request, []byte("\r\n\r\n"))
			if end < 0 {
				break
			}
			if _, err := conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
				return
			}
			request = request[:copy(request, request[end+4:])]
		}
	}
}
