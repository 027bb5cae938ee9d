package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/probe"
)

// maxTail is how much of what a check's command writes is kept, in bytes.
const maxTail = 4 << 10

// target reaches what is outside.
func (k *outsider) target() probe.Target {
	e := &k.rec.Endpoint
	port := func(n uint16) string { return strconv.Itoa(int(n)) }
	return probe.Target{
		Port: e.Port, Host: e.Address,
		Dial: func(ctx context.Context, n uint16) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(e.Address, port(n)))
		},
		Exec: func(ctx context.Context, argv []string) (int, string, error) {
			return k.o.exec(ctx, argv, []string{"ENDPOINT_ADDRESS=" + e.Address, "ENDPOINT_PORT=" + port(e.Port), "ENDPOINT_NAME=" + k.key.Name})
		},
	}
}

// runHere runs a program of this machine. When ctx ends, it and what it started
// are killed.
func runHere(ctx context.Context, argv, env []string) (int, string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}, env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for what has left the group and holds the pipe
	// The kernel sends Pdeathsig when the thread ends that started the program,
	// so that thread is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), out.String(), nil
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return 0, out.String(), err
}

// tail keeps the end of what is written to it.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	if over := t.Len() + len(p) - maxTail; over > 0 {
		t.Next(min(over, t.Len()))
	}
	t.Buffer.Write(p[max(0, len(p)-maxTail):])
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(t.Buffer.String(), "") }

// checkProbe refuses a check that cannot be right.
func checkProbe(p *mayfly.Probe) error {
	ways := 0
	for _, is := range []bool{p.HTTP != nil, p.TCP != nil, p.GRPC != nil, len(p.Exec) > 0} {
		if is {
			ways++
		}
	}
	switch {
	case ways != 1:
		return errors.New("must say one of http, tcp, grpc and exec")
	case p.HTTP != nil && !strings.HasPrefix(p.HTTP.Path, "/"):
		return fmt.Errorf("has the path %q, which does not begin with /", p.HTTP.Path)
	case p.Every < 0 || p.Every > 0 && p.Every < leastEvery || p.Every > mostTTL:
		return fmt.Errorf("is asked every %s, which is not between %s and %s", p.Every, leastEvery, mostTTL)
	case p.Timeout < 0 || p.Timeout > mostTimeout:
		return fmt.Errorf("has a timeout of %s, which is not up to %s", p.Timeout, mostTimeout)
	case p.Grace < 0 || p.Failures < 0 || p.Successes < 0:
		return errors.New("has a number below 0")
	}
	return nil
}
