package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	runc "github.com/containerd/go-runc"
	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// OCI is the driver that has an OCI runtime binary make the containers: runc,
// crun, or one that is called as they are.
type OCI struct {
	name string
	runc runc.Runc
}

// NewOCI returns a driver for the runtime of that name or path. Dir is for the
// runtime's own state.
func NewOCI(runtime, dir string) (*OCI, error) {
	path, err := exec.LookPath(runtime)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "there is no driver and no OCI runtime %q in PATH", runtime).WithHint("use native, or install crun or runc")
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if name == "crun" {
		if path, err = withoutUnified(path, dir); err != nil {
			return nil, err
		}
	}
	return &OCI{name: name, runc: runc.Runc{Command: path, Root: dir + "/" + name, Log: dir + "/" + name + ".log", Setpgid: true}}, nil
}

// withoutUnified returns a command that runs crun where no cgroup v2 tree is
// mounted beside the v1 ones: it refuses such hosts, though it could serve them.
func withoutUnified(path, dir string) (string, error) {
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --mount sh -c 'umount %s && exec \"$@\"' sh '%s' \"$@\"\n", unified, path)
	wrapper := dir + "/crun.sh"
	return wrapper, writeFile(wrapper, []byte(script), 0o700)
}

// Name is the runtime's.
func (o *OCI) Name() string { return o.name }

// Create mounts the root on the host, for that is where a runtime expects it,
// and has the runtime start the container.
func (o *OCI) Create(ctx context.Context, b *Bundle) (_ *Child, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Delete(context.WithoutCancel(ctx), b.ID, b.Dir))
		}
	}()
	root := b.Dir + "/rootfs"
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	if err := b.Rootfs.mount(root, b.Dir); err != nil {
		return nil, fmt.Errorf("mount root: %w", err)
	}
	if err := checkRoot(root); err != nil {
		return nil, err
	}
	b.Spec.Root.Path = root
	if err := os.WriteFile(b.Dir+"/config.json", mustJSON(b.Spec), 0o600); err != nil {
		return nil, err
	}
	null, err := runc.NewNullIO()
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pidFile := b.Dir + "/runtime.pid"
	_, err = o.runc.Run(ctx, b.ID, b.Dir, &runc.CreateOpts{IO: null, PidFile: pidFile, Detach: true, ExtraFiles: b.Files})
	if err != nil {
		return nil, o.explain(err)
	}
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		return nil, err
	}
	return &Child{PID: pid}, nil
}

// checkRoot refuses an image that would lead a runtime outside: runc makes
// links in /dev where a link of the image says it is (seen with 1.1.5).
func checkRoot(root string) error {
	for _, d := range []string{"/dev", "/proc", "/sys"} {
		if st, err := os.Lstat(root + d); err == nil && !st.IsDir() {
			return mayfly.Errorf(mayfly.Invalid, "the image's %s is no directory", d)
		}
	}
	return nil
}

// explain adds the last line that the runtime logged to an error that is only
// an exit status.
func (o *OCI) explain(err error) error {
	data, rerr := os.ReadFile(o.runc.Log)
	if rerr != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return fmt.Errorf("%w: %s", err, lines[len(lines)-1])
}

// Delete has the runtime forget the container and unmounts its root.
func (o *OCI) Delete(ctx context.Context, id, dir string) error {
	var err error
	if _, serr := os.Stat(filepath.Join(o.runc.Root, id)); serr == nil {
		err = o.runc.Delete(ctx, id, &runc.DeleteOpts{Force: true})
	}
	uerr := unix.Unmount(dir+"/rootfs", unix.MNT_DETACH)
	if uerr == unix.EINVAL || uerr == unix.ENOENT { // not mounted
		uerr = nil
	}
	return errors.Join(err, uerr)
}
