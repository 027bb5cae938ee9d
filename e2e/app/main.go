// App is the function that the end-to-end tests deploy: a static program that
// does on request whatever can go well or wrong.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "never-listens" {
		fmt.Println("I will not listen")
		os.Exit(3)
	}
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/ticks", ticks)
	http.HandleFunc("/upgrade", upgrade)
	http.HandleFunc("/touch", touch)
	http.HandleFunc("/status", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("code"))
		w.WriteHeader(n)
	})
	http.HandleFunc("/sleep", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.Query().Get("for"))
		fmt.Println("sleeping")
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	})
	http.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(os.Stderr, "leaving")
		if r.URL.Query().Get("code") == "0" {
			os.Exit(0)
		}
		os.Exit(7)
	})
	http.HandleFunc("/eat", func(http.ResponseWriter, *http.Request) {
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(i)
			}
			all = append(all, b)
			runtime.KeepAlive(all)
		}
	})
	http.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	http.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) })
	log.Fatal(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}

// echo sends back each piece of the body as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	c.EnableFullDuplex()
	c.Flush()
	buf := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			w.Write(buf[:n])
			c.Flush()
		}
		if err != nil {
			return
		}
	}
}

// ticks is a stream of server-sent events until the client leaves.
func ticks(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := 0; r.Context().Err() == nil; i++ {
		fmt.Fprintf(w, "data: %d\n\n", i)
		http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond)
	}
	fmt.Println("the client left")
}

// upgrade speaks another protocol after the handshake: it sends lines back.
func upgrade(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\n")
	s := bufio.NewScanner(rw)
	for s.Scan() {
		fmt.Fprintf(conn, "> %s\n", s.Text())
	}
}

// touch says how often it was called in this container.
func touch(w http.ResponseWriter, _ *http.Request) {
	data, _ := os.ReadFile("/touched")
	data = append(data, 'x')
	if err := os.WriteFile("/touched", data, 0o644); err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	host, _ := os.Hostname()
	fmt.Fprintf(w, "%d %s", len(data), host)
}
