package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// health is what a probe asks for.
type health struct {
	mu  sync.Mutex
	ill bool
}

// answer answers a probe. With ?ok=false it answers so from then on.
func (h *health) answer(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ok := r.URL.Query().Get("ok"); ok != "" {
		h.ill = ok == "false"
		fmt.Fprintln(w, time.Now().UnixNano())
	} else if h.ill {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// tell is what on_change runs: it tells the program beside it of its environment.
func tell() {
	text := fmt.Sprintf("%d %s", time.Now().UnixNano(), os.Getenv("DB_ENDPOINTS"))
	resp, err := http.Post("http://127.0.0.1:"+os.Getenv("PORT")+"/tell", "text/plain", strings.NewReader(text))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	resp.Body.Close()
}

var heard struct {
	sync.Mutex
	lines []string
	more  chan struct{}
}

func hear(_ http.ResponseWriter, r *http.Request) {
	line, _ := io.ReadAll(r.Body)
	heard.Lock()
	defer heard.Unlock()
	heard.lines = append(heard.lines, string(line))
	if heard.more != nil {
		close(heard.more)
		heard.more = nil
	}
}

// told answers with line n of what was heard, as soon as there is one.
func told(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	for {
		heard.Lock()
		if n < len(heard.lines) {
			fmt.Fprint(w, heard.lines[n])
			heard.Unlock()
			return
		}
		if heard.more == nil {
			heard.more = make(chan struct{})
		}
		more := heard.more
		heard.Unlock()
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

func hostname(w http.ResponseWriter, _ *http.Request) {
	name, err := os.Hostname()
	fmt.Fprintln(w, name, err)
}

// fetch asks the db at the address that was there when this program started, and
// passes the answer on.
func fetch(w http.ResponseWriter, r *http.Request) {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(os.Getenv("DB_URL") + r.URL.Query().Get("path"))
	if err != nil {
		fmt.Fprintln(w, "error:", err)
		return
	}
	defer resp.Body.Close()
	io.Copy(w, resp.Body)
}

// reach says whether a connection to an address can be made in two seconds.
func reach(w http.ResponseWriter, r *http.Request) {
	c, err := net.DialTimeout("tcp", r.URL.Query().Get("to"), 2*time.Second)
	if err != nil {
		fmt.Fprintln(w, err)
		return
	}
	c.Close()
	fmt.Fprintln(w, "reached")
}
