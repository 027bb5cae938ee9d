package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// firstOf is the first process of a container, by its directory; 0 if that is gone.
func firstOf(dir string) int {
	text, _ := os.ReadFile(dir + "/pid")
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, _ := strconv.Atoi(first)
	return pid
}

// directoriesOf are those of a function's containers.
func (n *node) directoriesOf(function string) (dirs []string) {
	n.t.Helper()
	told, err := filepath.Glob(n.dir + "/data/volatile/*/run/self.json")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, path := range told {
		if text, _ := os.ReadFile(path); strings.Contains(string(text), fmt.Sprintf(`"workload":%q`, function)) {
			dirs = append(dirs, filepath.Dir(filepath.Dir(path)))
		}
	}
	return dirs
}

// childOf is the program that the first process of a container runs; 0 if that is
// gone.
func (n *node) childOf(first int) int {
	n.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, path := range all {
		status, _ := os.ReadFile(path)
		if strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", first)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// killFunction kills all instances of a function that is to have one.
func (n *node) killFunction(function string, child bool) {
	n.t.Helper()
	for _, dir := range n.directoriesOf(function) {
		pid := firstOf(dir)
		if child && pid > 0 {
			pid = n.childOf(pid)
		}
		if pid > 0 { // else it was on its way out
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// killService kills those instances of a service that are asked for.
func (n *node) killService(service string, which func(i int) bool) {
	n.t.Helper()
	for i, in := range n.instancesOf(service) {
		if pid := firstOf(n.dir + "/data/sandboxes/" + in.ID); pid > 0 && which(i) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// TestRequestsMoveFromInstancesThatEnd: where it is safe, a request whose instance
// ends before it has answered is given to the next one.
func TestRequestsMoveFromInstancesThatEnd(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	kept := func(name string, s mayfly.Scale) {
		n.deploy(mayfly.Workload{
			Name: name, Isolation: mayfly.IsolationInstance, Scale: s, Resources: mayfly.Resources{Memory: 64 << 20}, Timeout: patience,
			Mounts: []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}},
		})
	}
	kept("one", mayfly.Scale{Max: 1, Concurrency: 4})
	kept("alone", mayfly.Scale{Max: 1})
	kept("many", mayfly.Scale{Max: 3, Concurrency: 4})
	n.serve(mayfly.Workload{
		Name: "web", Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Scale: mayfly.Scale{Min: 2},
		Provides: []mayfly.Provide{{Name: "http", Port: 8080, Protocol: "http"}},
		Routes:   []mayfly.Route{{Host: "web.test", Path: "/"}},
	})
	t.Run("OneIsRecordedAsMoved", func(t *testing.T) { n.with(t).movesOne(filepath.Join(shared, "hold")) })
	t.Run("FunctionsUnderLoad", func(t *testing.T) {
		n := n.with(t)
		n.underLoad("many", 6, func(round int) {
			n.loadIs("many", "it serves", func(l mayfly.Load) bool { return l.InFlight > 2 && l.Starting == 0 })
			dirs := n.directoriesOf("many")
			if pid := firstOf(dirs[round%len(dirs)]); pid > 0 {
				if child := n.childOf(pid); round%2 == 1 && child > 0 {
					pid = child
				}
				syscall.Kill(pid, syscall.SIGKILL)
			}
		})
	})
	t.Run("ServicesUnderLoad", func(t *testing.T) {
		n := n.with(t)
		n.underLoad("web", 3, func(round int) {
			n.until("both are ready", func() bool {
				s, err := n.GetService(t.Context(), "web")
				return err == nil && s.Ready == 2 && len(n.instancesOf("web")) == 2
			})
			n.killService("web", func(i int) bool { return round == 2 || i == round }) // in the end both
		})
		n.loadIs("web", "it is at rest", func(l mayfly.Load) bool { return l.InFlight == 0 && l.Instances == 2 })
		n.breaksOff("web", func() {
			n.loadIs("web", "it reads", func(l mayfly.Load) bool { return l.InFlight == 1 })
			n.killService("web", func(int) bool { return true })
		})
	})
}

// movesOne has single requests lose their instance. They are answered when there is
// no file hold.
func (n *node) movesOne(hold string) {
	serves := func(workload string) {
		n.loadIs(workload, "it serves", func(l mayfly.Load) bool { return l.InFlight == 1 && l.Starting == 0 })
	}
	for _, child := range []bool{false, true} {
		if err := os.WriteFile(hold, nil, 0o600); err != nil {
			n.t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, workload := range []string{"one", "alone"} {
			all.Go(func() {
				status, body, id := n.get(workload, "/hold")
				if r := n.runOf(id); status != http.StatusOK || r.Moved != 1 || r.Exit.Reason != mayfly.Succeeded {
					n.t.Errorf("a GET to %s: %d %s, %+v", workload, status, body, r)
				}
			})
			serves(workload)
			n.killFunction(workload, child)
			n.until("the GET to "+workload+" has moved", func() bool {
				runs, err := n.ListRuns(n.t.Context(), workload, 10)
				if err != nil {
					n.t.Fatal(err)
				}
				return slices.ContainsFunc(runs, func(r mayfly.Run) bool { return r.Exit == nil && r.Moved == 1 })
			})
		}
		if err := os.Remove(hold); err != nil {
			n.t.Error(err)
		}
		all.Wait()
	}
	n.breaksOff("one", func() {
		serves("one")
		n.killFunction("one", false)
	})
	if status, _, id := n.get("alone", "/exit"); status != http.StatusBadGateway || n.runOf(id).Moved != 0 {
		n.t.Errorf("a GET that ends its instance: %d, %+v", status, n.runOf(id))
	}
	if status, _, id := n.get("one", "/exit"); status != http.StatusBadGateway || n.runOf(id).Moved != 1 {
		n.t.Errorf("a GET that may have ended an instance where others may be: %d, %+v", status, n.runOf(id))
	}
}

// breaksOff has an instance end while a client sends it a body.
func (n *node) breaksOff(workload string, kill func()) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /count HTTP/1.1\r\nHost: %s.test\r\nContent-Length: 100\r\n\r\nsome", workload)
	kill()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadGateway {
		n.t.Errorf("a POST that has begun at %s: %d", workload, resp.StatusCode)
	}
	if id := resp.Header.Get("X-Mayfly-Run"); id != "" && n.runOf(id).Moved != 0 {
		n.t.Errorf("a POST that has begun: %+v", n.runOf(id))
	}
}

// underLoad has clients ask a workload while kill ends instances, so many times.
func (n *node) underLoad(workload string, rounds int, kill func(round int)) {
	var all sync.WaitGroup
	var over atomic.Bool
	var gets, posts, failed atomic.Int32
	for range 8 {
		all.Go(func() {
			for !over.Load() {
				status, body, _ := n.get(workload, "/sleep?for=10ms")
				if gets.Add(1); status != http.StatusOK {
					n.t.Errorf("a GET: %d %s", status, body)
				}
			}
		})
	}
	for range 2 {
		all.Go(func() {
			for !over.Load() {
				status, body, _ := n.post(workload, "/sleep?for=10ms", strings.NewReader("some"))
				switch posts.Add(1); status {
				case http.StatusOK:
				case http.StatusBadGateway:
					failed.Add(1)
				default:
					n.t.Errorf("a POST: %d %s", status, body)
				}
			}
		})
	}
	for round := range rounds {
		kill(round)
		before := gets.Load()
		n.until("it goes on", func() bool { return gets.Load() > before+100 })
	}
	over.Store(true)
	all.Wait()
	n.t.Logf("%d GETs, %d POSTs of which %d failed, %d kills", gets.Load(), posts.Load(), failed.Load(), rounds)
}
