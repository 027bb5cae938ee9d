// App is the function that the end-to-end tests deploy: a static program that
// does on request whatever can go well or wrong.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "never-listens" {
		fmt.Println("I will not listen")
		os.Exit(3)
	}
	if len(os.Args) > 3 && os.Args[1] == "ask" {
		for range 6000 { // a daemon that is away comes back
			status, text, err := ask(os.Args[2], os.Args[3], strings.Join(os.Args[4:], " "))
			if err == nil {
				fmt.Println(status, text)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == "tell" {
		tell()
		return
	}
	http.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) { // what a task asks for
		if r.Header.Get("Ce-Type") == "to.http" {
			w.Header().Set("Ce-Specversion", "1.0")
			w.Header().Set("Ce-Type", "from.http")
			w.Header().Set("Ce-Subject", r.Header.Get("Ce-Subject"))
			w.Header().Set("Content-Type", "text/plain")
		}
		echo(w, r)
	})
	http.HandleFunc("/well", (&health{}).answer)
	http.HandleFunc("/alive", (&health{}).answer)
	http.HandleFunc("/tell", hear)
	http.HandleFunc("/hostname", hostname)
	http.HandleFunc("/fetch", fetch)
	http.HandleFunc("/reach", reach)
	http.HandleFunc("/told", told)
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/request", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method, " ", r.URL.RequestURI(), " ", r.Header.Get("Content-Type"), " ", r.Header.Get("Ce-Id"), " ")
		echo(w, r)
	})
	http.HandleFunc("/ticks", ticks)
	http.HandleFunc("/upgrade", upgrade)
	web := &sockets{}
	http.HandleFunc("/websocket", web.serve)
	http.HandleFunc("/websockets", web.list)
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
	http.HandleFunc("/hold", hold)
	http.HandleFunc("/await", func(_ http.ResponseWriter, r *http.Request) { awaitFile(r.Context(), r.URL.Query().Get("file")) })
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
	http.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status, text, err := ask(r.URL.Query().Get("method"), r.URL.Query().Get("path"), string(body))
		fmt.Fprintln(w, status, text, err)
	})
	http.HandleFunc("/client", useClient)
	http.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) })
	hangUp, _ := time.ParseDuration(os.Getenv("HANG_UP")) // on connections that are idle for so long
	server := http.Server{Addr: ":" + os.Getenv("PORT"), IdleTimeout: hangUp}
	if hangUp > 0 {
		server.ConnState = (&connections{}).note
	}
	log.Fatal(server.ListenAndServe())
}

// awaitFile returns when there is a file, or ctx ends.
func awaitFile(ctx context.Context, file string) {
	for ctx.Err() == nil {
		if _, err := os.Stat(file); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask asks the API from inside.
func ask(method, path, body string) (int, string, error) {
	socket, _ := strings.CutPrefix(os.Getenv("MAYFLY_HOST"), "unix://")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequest(method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(text)), err
}

// useClient has the Go client ask from inside, which knows where by itself.
func useClient(w http.ResponseWriter, r *http.Request) {
	c, err := client.New("")
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	defer c.Close()
	who, err := c.Self(r.Context())
	fmt.Fprintln(w, who.Space, who.Workload, err)
	task, err := c.Submit(r.Context(), mayfly.Submission{Workload: who.Workload, NotBefore: time.Now().Add(time.Hour)})
	fmt.Fprintln(w, task.Space, task.State, err)
	_, err = c.CancelTask(r.Context(), task.ID)
	fmt.Fprintln(w, err, mayfly.KindOf(c.Progress(r.Context(), 1, "")))
	_, err = c.ListInstances(r.Context(), true)
	fmt.Fprintln(w, mayfly.KindOf(err))
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

// hold answers when there is no file hold in the directory shared.
func hold(_ http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := os.Stat("/shared/hold"); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// connections notes in the directory shared when one is idle, and when one is closed
// that was.
type connections struct{ idle sync.Map }

func (c *connections) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateIdle:
		c.idle.Store(conn, true)
	case http.StateActive:
		c.idle.Delete(conn)
		return
	case http.StateClosed:
		if _, was := c.idle.LoadAndDelete(conn); !was {
			return
		}
	default:
		return
	}
	f, err := os.OpenFile("/shared/connections", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintln(f, state)
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
