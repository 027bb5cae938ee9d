package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/mayfly-run/mayfly/network"
)

// testDaemon is a real node with a directory of its own: the program as users
// get it, without the race detector, which has none of the daemon's limits.
type testDaemon struct {
	dir       string
	functions string // address, http://127.0.0.1:port
	bridge    string // mf- and what the node's table of rules is called after
	cmd       *exec.Cmd
}

func newTestDaemon() (*testDaemon, error) {
	dir, err := os.MkdirTemp("", "mf") // short: a socket's path has 107 bytes
	if err != nil {
		return nil, err
	}
	d := &testDaemon{dir: dir}
	if err := d.build(); err != nil {
		return d, err
	}
	return d, d.busybox()
}

// build builds the program with an init that is never older than it: an
// overlay lets the new one stand in for what an earlier make left in the tree.
func (d *testDaemon) build() error {
	embedded, err := filepath.Abs("init/mayfly-init")
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {embedded: d.path("mayfly-init")}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(d.path("overlay.json"), overlay, 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"build", "-trimpath", "-ldflags", "-s -w -E main.entry", "-o", d.path("mayfly-init"), "../mayfly-init"},
		{"build", "-trimpath", "-ldflags", "-s -w", "-overlay", d.path("overlay.json"), "-o", d.path("mayfly"), "."},
	} {
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func (d *testDaemon) path(name string) string { return filepath.Join(d.dir, name) }
func (d *testDaemon) host() string            { return "unix://" + d.path("s") }

// busybox makes a root of the machine's static busybox.
func (d *testDaemon) busybox() error {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w (apt-get install busybox-static)", err)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "run"} {
		if err := os.MkdirAll(d.path("busybox/"+dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"bin/busybox": string(program),
		"etc/passwd":  "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n",
		"etc/group":   "root:x:0:\napp:x:1000:\n",
	}
	for name, text := range files {
		mode := fs.FileMode(0o644)
		if path.Dir(name) == "bin" {
			mode = 0o755
		}
		if err := os.WriteFile(d.path("busybox/"+name), []byte(text), mode); err != nil {
			return err
		}
	}
	for _, name := range strings.Fields("cat dd echo env false hostname httpd id ip kill ls mount printf pwd sh sleep stty test touch true wc") {
		if err := os.Symlink("busybox", d.path("busybox/bin/"+name)); err != nil {
			return err
		}
	}
	return nil
}

var (
	servingRoutes = regexp.MustCompile(`msg="serving routes" address=(\S+)`)
	choseBridge   = regexp.MustCompile(`bridge=(mf-\S+)`)
)

// start starts the daemon, as often as it has ended, and returns when it is
// ready.
func (d *testDaemon) start() error {
	log, err := os.Create(d.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.path("mayfly"), "up", "--data", d.path("data"), "--api", d.host(), "--http", "127.0.0.1:0", "--node", "here", "--log-level", "debug")
	d.cmd.Stderr = log
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	text, err := os.ReadFile(d.path("log"))
	if err != nil {
		return err
	}
	found := servingRoutes.FindSubmatch(text)
	if line != "ready\n" || found == nil {
		return errors.Join(fmt.Errorf("mayfly up said %q: %s", line, text), d.cmd.Process.Kill(), d.cmd.Wait())
	}
	d.functions = string(found[1])
	if found := choseBridge.FindSubmatch(text); found != nil {
		d.bridge = string(found[1])
	}
	return nil
}

// mayfly runs a verb and returns what it prints, trimmed.
func (d *testDaemon) mayfly(args ...string) (string, error) {
	cmd := exec.Command(d.path("mayfly"), args...)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST="+d.host())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("mayfly %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}

// close stops the containers and the daemon, and removes what they had.
func (d *testDaemon) close() error {
	var errs []error
	if d.cmd != nil && d.cmd.ProcessState == nil {
		if _, err := d.mayfly("down"); err != nil {
			errs = append(errs, err, d.cmd.Process.Kill())
		}
		errs = append(errs, d.cmd.Wait())
	}
	return errors.Join(append(errs, d.panics(), d.removeBridge(), os.RemoveAll(d.dir))...)
}

// removeBridge takes away what a node keeps for its next start.
func (d *testDaemon) removeBridge() error {
	name, ok := strings.CutPrefix(d.bridge, "mf-")
	if !ok {
		return nil
	}
	return network.Destroy(name)
}

// panics returns what the daemon wrote of panics: net/http takes them for the
// end of one request.
func (d *testDaemon) panics() error {
	text, err := os.ReadFile(d.path("log"))
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "panic") {
			return fmt.Errorf("the daemon panicked: %s", line)
		}
	}
	return err
}
