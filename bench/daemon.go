package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/network"
	"github.com/mayfly-run/mayfly/node"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// daemon is a running `mayfly up` with a data directory of its own.
type daemon struct {
	cmd   *exec.Cmd
	dir   string // its data
	log   string // path
	http  string // host:port of functions
	api   *client.Client
	web   *http.Client
	ended chan struct{}
}

// up starts a daemon and returns when it serves. A directory that was used
// before is taken up again.
func (b *bench) up(ctx context.Context, name string, flags ...string) (*daemon, error) {
	d := &daemon{dir: filepath.Join(b.dir, name), log: filepath.Join(b.dir, name+".log"), ended: make(chan struct{})}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	d.http = "127.0.0.1:" + strconv.Itoa(port)
	sock := "unix://" + d.dir + ".sock"
	if d.api, err = client.New(sock); err != nil {
		return nil, err
	}
	d.web = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd = exec.Command(b.binary, append([]string{"up", "--data", d.dir, "--http", d.http, "--api", sock, "--log-level", "warn"}, flags...)...)
	d.cmd.Stderr = log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	b.onClose(func() { d.abandon() })
	ready := make(chan bool, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line == "ready\n"
		io.Copy(io.Discard, out)
		d.cmd.Wait()
		close(d.ended)
	}()
	select {
	case ok := <-ready:
		if !ok {
			text, _ := os.ReadFile(d.log)
			return nil, fmt.Errorf("mayfly up: %s", lastLine(string(text)))
		}
		return d, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// freePort finds a port of the loopback that nobody uses at the moment: by chance,
// and below those that the kernel gives to whoever asks for any meanwhile.
func freePort() (port int, err error) {
	for range 100 {
		port = 15000 + rand.IntN(15000)
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, err
}

// down stops the daemon and everything it runs, and takes its bridge away.
func (d *daemon) down(ctx context.Context) error {
	d.web.CloseIdleConnections()
	defer d.abandon()
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := d.api.Down(limit, nil); err != nil {
		return fmt.Errorf("mayfly down: %w", err)
	}
	<-d.ended
	return nil
}

// abandon makes sure that nothing of the daemon goes on. It may be called more
// than once.
func (d *daemon) abandon() {
	select {
	case <-d.ended:
	default:
		limit, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		d.api.Down(limit, nil)
		d.cmd.Process.Kill()
		<-d.ended
	}
	d.api.Close()
	unmountBelow(d.dir)
	network.Destroy(d.token())
}

// token names what the daemon makes in the kernel.
func (d *daemon) token() string { return node.Token(d.dir) }

// deploy puts a function behind /NAME.
func (d *daemon) deploy(ctx context.Context, w mayfly.Workload) error {
	w.Routes = []mayfly.Route{{Path: "/" + w.Name}}
	w.Memory, w.Pids = memoryLimit, pidsLimit
	if _, err := d.api.Deploy(ctx, w, mayfly.NewID(), nil); err != nil {
		return fmt.Errorf("deploy %s: %w", w.Name, err)
	}
	return nil
}

// upStatic starts a daemon that has the function "static".
func (b *bench) upStatic(ctx context.Context, name string) (*daemon, error) {
	d, err := b.up(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := d.importStatic(ctx, b.material); err != nil {
		return nil, err
	}
	return d, d.deploy(ctx, static("static"))
}

// importStatic gives the daemon the image bench-static.
func (d *daemon) importStatic(ctx context.Context, m material) error {
	return d.importTar(ctx, "bench-static", m.staticTar)
}

// importTar makes an image of an archive.
func (d *daemon) importTar(ctx context.Context, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = d.api.ImportImage(ctx, name, f, st.Size())
	return err
}

// putCode uploads the handlers.
func (d *daemon) putCode(ctx context.Context, m material) (string, error) {
	path := d.dir + ".code.tar"
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer os.Remove(path)
	defer f.Close()
	if err := build.Tar(ctx, f, m.code); err != nil {
		return "", err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return d.api.PutCode(ctx, f)
}

// static is the function that writes the answer with busybox.
func static(name string) mayfly.Workload {
	return mayfly.Workload{
		Name: name, Image: "bench-static", Protocol: mayfly.Stdio,
		Process: mayfly.Process{Command: []string{"/bin/echo", answer}},
	}
}

// function is a program as a function. One whose instance is used again must
// listen.
func function(p program, code string, reused bool) mayfly.Workload {
	w := static(p.name)
	if p.host {
		w = mayfly.Workload{Name: p.name, Stack: "host", Code: code, Handler: p.handler, Protocol: mayfly.Handler}
	}
	if reused {
		w.Name, w.Isolation = p.name+"-reused", mayfly.IsolationInstance
		if !p.host {
			w.Protocol, w.Command = mayfly.HTTP, []string{"/bin/sh", "-c", "exec /bin/httpd -f -p $PORT -h /www"}
		}
	}
	return w
}

// reply is what came of one request.
type reply struct {
	status     int
	retryAfter bool
}

// request sends one and reads its answer to the end. Only an answer without a
// status is an error, or one of 200 that is not the program's.
func (d *daemon) request(ctx context.Context, path string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.http+path, nil)
	if err != nil {
		return reply{}, err
	}
	resp, err := d.web.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}, err
	}
	r := reply{status: resp.StatusCode, retryAfter: resp.Header.Get("Retry-After") != ""}
	if r.status == http.StatusOK && !strings.Contains(string(body), answer) {
		return r, fmt.Errorf("%s answered %q", path, body)
	}
	return r, nil
}

// call sends a request that must be answered with 200.
func (d *daemon) call(ctx context.Context, function string) error {
	path := "/" + function
	r, err := d.request(ctx, path)
	if err == nil && r.status != http.StatusOK {
		err = fmt.Errorf("%s answered with status %d", path, r.status)
	}
	return err
}

var errGone = errors.New("the daemon is gone; see its log")
