package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
	"go.uber.org/goleak"
)

// TestMain runs the tests in a network namespace of their own, so that they
// leave the machine's alone.
func TestMain(m *testing.M) {
	const inside = "MAYFLY_NETWORK_TEST_INSIDE"
	if os.Getuid() != 0 {
		goleak.VerifyTestMain(m)
		return
	}
	if os.Getenv(inside) != "" {
		if err := raiseLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "start tests in a network namespace:", err)
			os.Exit(1)
		}
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

func raiseLoopback() error {
	r, err := dialRtnl()
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(loopbackUp())
}

func open(t testing.TB, name string, opts Options) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	n, err := Open(t.Context(), name, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := Destroy(name); err != nil {
			t.Error(err)
		}
	})
	return n
}

func BenchmarkAttachCold(b *testing.B) {
	n := open(b, "bench", Options{})
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint(i)
		if _, err := n.Attach(context.Background(), id, nil); err != nil {
			b.Fatal(err)
		}
		if i%100 == 99 {
			b.StopTimer()
			ids := make([]string, 100)
			for j := range ids {
				ids[j] = fmt.Sprint(i - j)
			}
			if err := n.Detach(context.Background(), ids...); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
}

func TestSmoke(t *testing.T) {
	n := open(t, "smoke", Options{})
	a, err := n.Attach(t.Context(), "a", []mayfly.Port{{Container: 80}, {Container: 53, Protocol: "udp", Host: 5353, HostIP: "127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("sh", "-c", "ip -d -br a; ip neigh; ip r; nft list ruleset; bridge fdb; nsenter --net=/proc/"+fmt.Sprint(os.Getpid())+"/fd/"+fmt.Sprint(a.NetNS.Fd())+" sh -c 'ip a; ip r; ip neigh'").CombinedOutput()
	t.Logf("%+v\n%s", a, out)
	if err := n.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	out, _ = exec.Command("sh", "-c", "ip -d -br a; ip neigh; nft list ruleset").CombinedOutput()
	t.Logf("%s", out)
}
