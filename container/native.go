package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/cgroup"
	"github.com/mayfly-run/mayfly/container/setup"
	"golang.org/x/sys/unix"
)

// NativeOptions tune a Native. The zero value is fit for production.
type NativeOptions struct {
	Log *slog.Logger // nil: discard

	// MountPoint is a directory on which each container mounts its root, out
	// of sight in its own mount namespace. It is made if missing; it is named
	// as the init binary with ".root" behind if empty.
	MountPoint string
}

// Native is the Driver that makes containers itself, with no more system calls
// than the Spec asks for. It translates the Spec into a setup.Program and
// starts the init binary in new namespaces to carry it out.
type Native struct {
	init string
	at   string
	log  *slog.Logger
	host host

	server *setupServer

	cgroups *cgroup.Host
	filters filterCache

	mu      sync.Mutex
	warned  map[string]bool // what has been logged once
	parents map[string]bool // cgroups that are ready for containers' below them
}

// NewNative returns the driver. Init is the path of the mayfly-init binary,
// which holds the setup stage.
func NewNative(initPath string, opts NativeOptions) (*Native, error) {
	if os.Geteuid() != 0 {
		return nil, mayfly.Errorf(mayfly.Denied, "the native driver makes namespaces and mounts").WithHint("run as root")
	}
	n := &Native{init: initPath, at: opts.MountPoint, log: opts.Log, warned: make(map[string]bool), parents: make(map[string]bool)}
	if n.at == "" {
		n.at = initPath + ".root"
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(n.at, 0o700); err != nil {
		return nil, fmt.Errorf("make mount point: %w", err)
	}
	var err error
	if n.cgroups, err = cgroup.Detect(); err != nil {
		return nil, err
	}
	if n.host, err = readHost(n.cgroups); err != nil {
		return nil, err
	}
	if n.server, err = startServer(initPath); err != nil {
		return nil, err
	}
	return n, nil
}

// Close ends the server that forks setup stages. Containers go on.
func (n *Native) Close() error { return n.server.Close() }

// Name returns "native".
func (n *Native) Name() string { return "native" }

// Create implements Driver.
func (n *Native) Create(ctx context.Context, b *Bundle) (*Child, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := n.translate(b)
	if err != nil {
		return nil, err
	}
	defer t.close()
	// The link is there before the cgroup, so that Delete finds it.
	if err := os.Symlink(t.cgroup, b.Dir+cgroupLink); err != nil {
		return nil, fmt.Errorf("create container %s: %w", b.ID, err)
	}
	child, err := n.build(ctx, b, t)
	if err != nil {
		err = fmt.Errorf("create container %s: %w", b.ID, err)
		return nil, errors.Join(err, n.Delete(context.WithoutCancel(ctx), b.ID, b.Dir))
	}
	return child, nil
}

// build makes the cgroup and then the container in it.
func (n *Native) build(ctx context.Context, b *Bundle, t *translation) (*Child, error) {
	if err := n.prepare(path.Dir(t.cgroup)); err != nil {
		return nil, err
	}
	g, err := n.cgroups.Make(t.cgroup, b.Spec.Linux.Resources)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	if err := n.finish(t, b, g); err != nil {
		return nil, err
	}
	return n.start(ctx, b, t, g.FD())
}

// prepare makes the parent of containers' cgroups ready, once.
func (n *Native) prepare(parent string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.parents[parent] || parent == "/" {
		return nil
	}
	if err := n.cgroups.Parent(parent); err != nil {
		return err
	}
	n.parents[parent] = true
	return nil
}

// cgroupLink is a link in a container's directory that says where its cgroup is.
const cgroupLink = "/cgroup"

// Delete implements Driver. All mounts are in the container's own namespace and
// end with it, so only the cgroup can be left. What is still in it is killed:
// a setup stage, perhaps, whose daemon has been killed.
func (n *Native) Delete(ctx context.Context, id, dir string) error {
	path, err := os.Readlink(dir + cgroupLink)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	if err := n.cgroups.Discard(path); err != nil {
		return fmt.Errorf("delete container %s: %w", id, err)
	}
	if err := os.Remove(dir + cgroupLink); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// start has a setup stage forked and returns when it has become the first
// process.
func (n *Native) start(ctx context.Context, b *Bundle, t *translation, group int) (*Child, error) {
	program, err := memfile(t.program.Bytes())
	if err != nil {
		return nil, err
	}
	defer unix.Close(program)
	status, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer status.Close()
	err = n.server.fork(t.request(b, group), t.descriptors(b, program, w, group))
	w.Close()
	if err != nil {
		return nil, err
	}
	c, report, err := newNativeChild(status)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, stageTimeout, errStageTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, c.kill)
	more, err := io.ReadAll(io.LimitReader(status, 64<<10))
	stop()
	if err == nil {
		err = n.outcome(program, append(report, more...))
	}
	if err == nil {
		return &Child{PID: c.pid, Wait: c.wait}, nil
	}
	c.kill()
	_, werr := c.wait()
	if ctx.Err() != nil {
		return nil, errors.Join(context.Cause(ctx), werr)
	}
	return nil, errors.Join(err, werr)
}

// stageTimeout is far more than a stage takes: only a mount of something that
// is away, as on a network, can be so slow.
const stageTimeout = 30 * time.Second

var errStageTimeout = mayfly.Errorf(mayfly.TimedOut, "the container was not made within %v", stageTimeout)

// request is what the server is asked for.
func (t *translation) request(b *Bundle, group int) setup.Request {
	return setup.Request{
		Clone: uint64(t.clone), Size: uint32(len(t.program.Bytes())), Files: uint32(len(b.Files)), Cgroup: group >= 0,
	}
}

// descriptors are those that go with the request.
func (t *translation) descriptors(b *Bundle, program int, status *os.File, group int) []int {
	fds := make([]int, 0, 16)
	for _, f := range b.Files {
		fds = append(fds, int(f.Fd()))
	}
	fds = append(fds, program, int(status.Fd()))
	for _, f := range t.files {
		fds = append(fds, int(f.Fd()))
	}
	if group >= 0 {
		fds = append(fds, group)
	}
	return fds
}

// outcome says what became of the stage: nil when it has executed the first
// process.
func (n *Native) outcome(program int, report []byte) error {
	for {
		r, rest, ok := setup.ParseReport(report)
		if !ok {
			break
		}
		if !r.Warning {
			return fmt.Errorf("%s: %w", r.Text, syscall.Errno(r.Errno))
		}
		n.warn(r)
		report = rest
	}
	if len(report) > 0 {
		return fmt.Errorf("setup stage broke down: %s", report)
	}
	var state [1]byte
	if _, err := unix.Pread(program, state[:], 0); err != nil {
		return err
	}
	if state[0] != setup.Executing {
		return errors.New("setup stage was killed; the memory limit may be too low")
	}
	return nil
}

// warn logs what a stage could not do, once each.
func (n *Native) warn(r setup.Report) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.warned[r.Text] || len(n.warned) > 100 {
		return
	}
	n.warned[r.Text] = true
	n.log.Warn("a container goes without", "step", r.Text, "err", syscall.Errno(r.Errno))
}

// memfile returns a memory file that holds b.
func memfile(b []byte) (int, error) {
	fd, err := unix.MemfdCreate(setup.Name, unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	for done := 0; done < len(b); {
		k, err := unix.Write(fd, b[done:])
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("write program: %w", err)
		}
		done += k
	}
	return fd, nil
}
