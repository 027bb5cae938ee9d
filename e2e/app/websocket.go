package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/coder/websocket"
)

// sockets says how WebSockets ended that clients closed.
type sockets struct {
	mu    sync.Mutex
	ended []string
}

func (s *sockets) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(w, strings.Join(s.ended, " "))
}

// serve does what texts say, and sends everything else back, in two frames.
func (s *sockets) serve(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"test"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(4 << 20)
	for {
		kind, data, err := c.Read(r.Context())
		if err != nil {
			s.mu.Lock()
			s.ended = append(s.ended, fmt.Sprint(int(websocket.CloseStatus(err))))
			s.mu.Unlock()
			return
		}
		switch text := string(data); {
		case kind == websocket.MessageText && text == "close":
			c.Close(4001, "as you wish")
			return
		case kind == websocket.MessageText && text == "ping": // answered while the next Read waits
			go func() {
				if err := c.Ping(r.Context()); err == nil {
					c.Write(r.Context(), websocket.MessageText, []byte("ponged"))
				}
			}()
		case kind == websocket.MessageText && text == "who":
			text = os.Getenv("V") + " " + strings.Join(r.Header["X-Forwarded-For"], ",") + " " + r.Header.Get("X-Mayfly-Run")
			c.Write(r.Context(), websocket.MessageText, []byte(text))
		default:
			out, err := c.Writer(r.Context(), kind)
			if err != nil {
				return
			}
			out.Write(data[:len(data)/2])
			io.Copy(out, strings.NewReader(text[len(data)/2:]))
			out.Close()
		}
	}
}
