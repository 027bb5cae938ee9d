package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/cgroup"
	"github.com/mayfly-run/mayfly/container/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options tune a Host. The zero value is fit for production.
type Options struct {
	Log *slog.Logger // nil: no log

	// Cgroup is the parent of every container's cgroup, "/mayfly" if empty.
	Cgroup string

	// Volatile is a directory for a tmpfs, on which sandboxes are made that
	// need not survive a power cut. Empty: they are made like others.
	Volatile string

	// Released is called, off the path of any run, with sandboxes whose
	// processes are gone, for what their Maker gave them to be taken back.
	Released func(ctx context.Context, ids []string)
}

// Host keeps the sandboxes of one data directory.
type Host struct {
	dir      string
	init     string
	driver   Driver
	opts     Options
	filter   *specs.LinuxSeccomp
	points   string // makePoints' layer
	pointsOn uint64 // the filesystem that it is on
	boot     string // the kernel's boot_id
	memory   int64  // of the machine, in bytes

	cgroups *cgroup.Host

	volatile     string // "" without one
	volatileInit string

	mu        sync.Mutex
	sandboxes map[string]*Sandbox
	dead      []*Sandbox    // for Run to clean up after
	wake      chan struct{} // something was put on dead
}

// InstallInit puts mayfly-init into dir, where sandboxes can link to it, and
// returns its path. It can be executed but not read: the kernel then keeps
// programs from looking into it from its first instruction on (ptrace(2)).
func InstallInit(dir string, binary []byte) (string, error) {
	sum := sha256.Sum256(binary)
	path := filepath.Join(dir, "init-"+hex.EncodeToString(sum[:8]))
	if st, err := os.Stat(path); err == nil && st.Size() == int64(len(binary)) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := writeFile(path, binary, 0o111); err != nil {
		return "", fmt.Errorf("install init: %w", err)
	}
	return path, nil
}

// Open returns a Host whose sandboxes live in dir, which must be on the
// filesystem of init, mayfly-init's path.
func Open(dir, init string, driver Driver, opts Options) (*Host, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Cgroup == "" {
		opts.Cgroup = "/mayfly"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open sandboxes: %w", err)
	}
	points := init + ".points"
	if err := makePoints(points); err != nil {
		return nil, fmt.Errorf("make mount points: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	cgroups, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	h := &Host{
		cgroups:   cgroups,
		memory:    int64(info.Totalram) * int64(info.Unit),
		boot:      strings.TrimSpace(string(boot)),
		dir:       dir,
		init:      init,
		points:    points,
		pointsOn:  filesystem(points),
		driver:    driver,
		opts:      opts,
		filter:    seccomp.Default(capabilities, runtime.GOARCH),
		sandboxes: make(map[string]*Sandbox),
		wake:      make(chan struct{}, 1),
	}
	if opts.Volatile != "" {
		h.volatile = opts.Volatile
		if h.volatileInit, err = mountVolatile(opts.Volatile, init); err != nil {
			return nil, err
		}
		if err := h.openFiles(); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Driver is the one that makes this host's containers.
func (h *Host) Driver() Driver { return h.driver }

// Get returns a sandbox that was created or adopted and not yet removed, or
// nil.
func (h *Host) Get(id string) *Sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sandboxes[id]
}

// Create makes a sandbox. On an error nothing is left of it.
func (h *Host) Create(ctx context.Context, id string, c Config) (_ *Sandbox, err error) {
	dir := h.place(id, c.Volatile)
	s := &Sandbox{ID: id, Address: c.Address, Ports: c.Ports, Groups: c.Groups, User: c.User, host: h, dir: dir, files: filepath.Join(dir, "run"), env: c.environment(), ended: make(chan struct{}), buried: make(chan struct{})}
	s.state = state{ID: id, Cgroup: h.opts.Cgroup + "/" + id, Address: c.Address, Ports: c.Ports, Groups: c.Groups, Driver: h.driver.Name(), LogMax: c.LogMax, Boot: h.boot, Env: s.env, User: s.User}
	if s.state.LogMax == 0 {
		s.state.LogMax = 16 << 20
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	defer func() {
		if err != nil {
			h.discard(s)
		}
	}()
	files, err := h.furnish(s, &c)
	defer closeAll(files)
	if err != nil {
		return nil, fmt.Errorf("furnish sandbox: %w", err)
	}
	child, err := h.driver.Create(ctx, &Bundle{
		ID:     id,
		Dir:    s.dir,
		Spec:   c.spec(s.dir, s.files, s.state.Cgroup, h.filter),
		Rootfs: Rootfs{Lower: h.layers(c.Lower), Upper: s.dir + "/upper", Work: s.dir + "/work", Volatile: c.Volatile},
		NetNS:  c.NetNS,
		Files:  files,
	})
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	if err := s.begin(ctx, child); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.sandboxes[id] = s
	h.mu.Unlock()
	go s.watch(child.Wait)
	return s, nil
}

// furnish fills a sandbox's directory and returns the descriptors for init, in
// the order that package wire gives.
func (h *Host) furnish(s *Sandbox, c *Config) ([]*os.File, error) {
	dir, err := openDir(s.dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	for _, d := range [...]string{"upper", "work"} {
		if err := unix.Mkdirat(dir, d, 0o755); err != nil {
			return nil, &os.PathError{Op: "mkdir", Path: d, Err: err}
		}
	}
	if err := h.putFiles(s, c); err != nil {
		return nil, err
	}
	if err := likeRoot(s.dir+"/upper", c.Lower); err != nil {
		return nil, err
	}
	text := map[string][]byte{
		stateName: mustJSON(s.state), "resolv.conf": c.Resolv, "hosts": c.Hosts, "hostname": []byte(c.Hostname + "\n"),
	}
	for name, data := range text {
		mode := uint32(0o644)
		if name == stateName {
			mode = 0o600 // it has the environment
		}
		if err := put(dir, name, data, mode); err != nil {
			return nil, err
		}
	}
	l, err := listenUnix(dir, socketName)
	if err != nil {
		return nil, err
	}
	files := []*os.File{l}
	for _, name := range [...]string{logName0, logName1, exitsName} {
		fd, err := create(dir, name, 0o600)
		if err != nil {
			return files, err
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files, nil
}

// putFiles makes the directory that is /run/mayfly in the container.
func (h *Host) putFiles(s *Sandbox, c *Config) error {
	var init string
	s.files, init = h.placeFiles(s.dir, s.ID)
	if err := unix.Mkdir(s.files, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: s.files, Err: err}
	}
	dir, err := openDir(s.files)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := unix.Linkat(unix.AT_FDCWD, init, dir, "init", 0); err != nil {
		return &os.LinkError{Op: "link", Old: init, New: "init", Err: err}
	}
	for name, data := range c.Files {
		if below, _, is := strings.Cut(name, "/"); is {
			if err := unix.Mkdirat(dir, below, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
				return &os.PathError{Op: "mkdir", Path: below, Err: err}
			}
		}
		if err := put(dir, name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// likeRoot gives the writable layer's top the owner and mode of the image's,
// for it is the one that the container sees.
func likeRoot(upper string, lower []string) error {
	if len(lower) == 0 {
		return errors.New("an image without layers has no root")
	}
	st, err := os.Stat(lower[0])
	if err != nil {
		return err
	}
	if err := os.Chmod(upper, st.Mode()); err != nil {
		return err
	}
	uid, gid := owner(st)
	if uid == 0 && gid == 0 {
		return nil
	}
	return os.Chown(upper, uid, gid)
}

// Adopt takes over a sandbox that an earlier daemon left. One that has ended
// meanwhile is returned ended, with its exit. An error of kind NotFound means
// that it had not come to be: Discard it.
func (h *Host) Adopt(id string) (*Sandbox, error) {
	s := &Sandbox{ID: id, host: h, dir: h.Dir(id), ended: make(chan struct{}), buried: make(chan struct{})}
	s.files = h.filesOf(s.dir, id)
	data, err := os.ReadFile(s.dir + "/" + stateName)
	if errors.Is(err, fs.ErrNotExist) || err == nil && json.Unmarshal(data, &s.state) != nil {
		return nil, mayfly.Errorf(mayfly.NotFound, "sandbox %s was never made", id)
	}
	if err != nil {
		return nil, err
	}
	s.Address, s.Ports, s.Groups, s.User, s.env = s.state.Address, s.state.Ports, s.state.Groups, s.state.User, s.state.Env
	wait, err := s.adopt()
	if err != nil {
		return nil, err
	}
	s.recallRun()
	h.mu.Lock()
	h.sandboxes[id] = s
	h.mu.Unlock()
	if s.pidfd == nil || pidfdEnded(s.pidfd) {
		s.watch(wait) // there is nothing to wait for
	} else {
		go s.watch(wait)
	}
	return s, nil
}

// Discard removes a sandbox that was left and is not wanted, whatever state
// it is in.
func (h *Host) Discard(id string) error {
	if s := h.Get(id); s != nil {
		s.Remove()
		return nil
	}
	s := &Sandbox{ID: id, host: h, dir: h.Dir(id)}
	s.files = h.filesOf(s.dir, id)
	if data, err := os.ReadFile(s.dir + "/" + stateName); err == nil {
		json.Unmarshal(data, &s.state)
	}
	return h.discard(s)
}

// discard removes what there is of a sandbox that is not in use.
func (h *Host) discard(s *Sandbox) error {
	if s.pidfd == nil {
		if f, err := s.openProcess(); err == nil {
			s.pidfd = f
		}
	}
	if s.pidfd != nil {
		s.Kill()
		waitPidfd(s.pidfd)
		s.pidfd.Close()
	}
	err := s.killGroup()
	err = errors.Join(err, h.driver.Delete(context.Background(), s.ID, s.dir))
	return errors.Join(err, s.removeFiles(), removeDir(s.dir))
}

// Run cleans up after sandboxes that ended, in batches, until ctx ends. What
// was removed by then is cleaned up before it returns.
func (h *Host) Run(ctx context.Context) error {
	for {
		select {
		case <-h.wake:
			h.cleanUp(context.WithoutCancel(ctx))
		case <-ctx.Done():
			h.awaitRemoved()
			h.cleanUp(context.WithoutCancel(ctx))
			return nil
		}
	}
}

// awaitRemoved waits until the processes of all removed sandboxes are dead.
func (h *Host) awaitRemoved() {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.sandboxes))
	h.mu.Unlock()
	for _, s := range all {
		s.mu.Lock()
		removed := s.removed
		s.mu.Unlock()
		if removed {
			<-s.buried
		}
	}
}

// bury hands a sandbox whose processes are dead to Run.
func (h *Host) bury(s *Sandbox) {
	h.mu.Lock()
	h.dead = append(h.dead, s)
	h.mu.Unlock()
	wake(h.wake)
}

// cleanBatch bounds how many sandboxes one call of Released is about.
const cleanBatch = 64

func (h *Host) cleanUp(ctx context.Context) {
	for {
		h.mu.Lock()
		batch := h.dead[:min(len(h.dead), cleanBatch)]
		h.dead = h.dead[len(batch):]
		h.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		var released []string
		for _, s := range batch {
			if s.release(ctx) {
				released = append(released, s.ID)
			}
		}
		if len(released) > 0 && h.opts.Released != nil {
			h.opts.Released(ctx, released)
		}
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types
	}
	return b
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// writeFile puts a file in place whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
