package container

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/wire"
)

// A program that ends while the next daemon takes its container over is found as
// it ended, not lost: init's answer does not list it, and so it is on record.
func TestAdoptFindsWhatEndsMeanwhile(t *testing.T) {
	dir := t.TempDir()
	first := exec.Command("busybox", "sleep", "1000")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer first.Wait()
	defer first.Process.Kill()
	ticks, err := startTicks(first.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sandbox{ID: "x", dir: dir, host: &Host{}}
	write := func(name string, data []byte) {
		t.Helper()
		if err := s.putOwn(name, data); err != nil {
			t.Fatal(err)
		}
	}
	write(pidName, fmt.Appendf(nil, "%d %d", first.Process.Pid, ticks))
	write(namesName, []byte("web\n"))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/" + socketName})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	answered := make(chan error, 1)
	go func() {
		answered <- func() error {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return err
			}
			init := &initConn{conn: conn}
			if _, _, _, err := init.read(); err != nil {
				return err
			}
			ended := wire.Status{Process: 7, Label: 1, Wait: 4 << 8}
			if err := os.WriteFile(dir+"/"+exitsName, ended.Append(nil), 0o600); err != nil {
				return err
			}
			return init.write(wire.Hello, 0, wire.Greeting{Version: wire.Version}.Append(nil), nil)
		}()
	}()
	if _, err := s.adopt(); err != nil {
		t.Fatal(err)
	}
	defer func() { s.conn.conn.Close(); <-s.conn.done; s.pidfd.Close() }()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	programs := s.Spawned()
	if len(programs) != 1 || programs[0].Name() != "web" {
		t.Fatalf("found %v", programs)
	}
	if e := programs[0].Exit(); e.Code != 4 {
		t.Errorf("it ended with %+v", e)
	}
}

// A process that has the number and the start of one from before the machine was
// started again is another one: it is neither taken over nor killed, and the
// sandbox is returned as lost.
func TestAdoptKnowsAnotherBoot(t *testing.T) {
	stranger := exec.Command("busybox", "sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer stranger.Wait()
	defer stranger.Process.Kill()
	ticks, err := startTicks(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{dir: t.TempDir(), boot: "this", sandboxes: make(map[string]*Sandbox)}
	if err := os.Mkdir(h.dir+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
	left := &Sandbox{ID: "x", dir: h.dir + "/x", state: state{ID: "x", Boot: "the one before"}}
	for name, data := range map[string][]byte{
		stateName: mustJSON(left.state), pidName: fmt.Appendf(nil, "%d %d", stranger.Process.Pid, ticks),
	} {
		if err := left.putOwn(name, data); err != nil {
			t.Fatal(err)
		}
	}
	s, err := h.Adopt("x")
	if err != nil {
		t.Fatal(err)
	}
	if s.pidfd != nil {
		t.Fatal("it was taken over, and killed as it did not answer")
	}
	select {
	case <-s.Ended():
	default:
		t.Fatal("it is not returned as ended")
	}
	if e := s.Exit(); e.Reason != mayfly.Lost {
		t.Errorf("it ended with %+v", e)
	}
}
