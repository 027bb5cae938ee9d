// Command appliance is what runs in the containers whose wiring is measured: a
// provider that takes connections, consumers that say when they were told of it,
// and one that asks for names. What it has to say it sends to $REPORT as datagrams: its name, a word,
// the time in nanoseconds, and how many endpoints it knows.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	runtime.GOMAXPROCS(1) // a hundred of them share the machine with what is measured
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	switch mode := os.Args[1]; mode {
	case "provide":
		l, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		report("listens", time.Now(), 0)
		go accept(l)
	case "watch":
		told := make(chan os.Signal, 16)
		signal.Notify(told, syscall.SIGUSR1)
		if _, err := ear(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		go func() {
			for range told {
				report("told", time.Now(), known())
			}
		}()
	case "ask":
		if err := ask(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case "pace":
		if err := pace(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	case "deny":
		fmt.Fprintln(os.Stderr, deny(os.Args[2]))
		os.Exit(1)
	case "resolve":
		go resolve(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "provide, watch, ask, pace, deny or resolve, not", mode)
		os.Exit(2)
	}
	<-ended
}

func accept(l net.Listener) {
	for {
		if c, err := l.Accept(); err == nil {
			c.Close()
		}
	}
}

// known is how many endpoints there are of db.
func known() int {
	var sets map[string][]struct{}
	text, err := os.ReadFile("/run/mayfly/endpoints.json")
	if err != nil || json.Unmarshal(text, &sets) != nil {
		return -1
	}
	return len(sets["db"])
}

// resolve asks for a name again and again, as a program must that nobody tells,
// and says when the answer has changed.
func resolve(name string) {
	const often = 2 * time.Millisecond
	r := net.Resolver{PreferGo: true}
	last := -1
	for {
		found, _ := r.LookupHost(context.Background(), name)
		if len(found) != last {
			last = len(found)
			report("told", time.Now(), last)
		}
		time.Sleep(often)
	}
}

// ear opens the way to $REPORT, once: what a consumer does besides hearing of a
// change is not what is measured.
var ear = sync.OnceValues(func() (net.Conn, error) {
	network, address := "udp", os.Getenv("REPORT")
	if strings.HasPrefix(address, "/") {
		network = "unixgram"
	}
	return net.Dial(network, address)
})

func report(word string, at time.Time, n int) {
	c, err := ear()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	name, _ := os.Hostname()
	fmt.Fprintf(c, "%s %s %d %d", name, word, at.UnixNano(), n)
}
