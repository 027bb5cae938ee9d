// Command init is PID 1 of the machines that package vm boots. It mounts what
// a system has mounted, loads the modules that it was given, runs one command
// with its output on the second serial line, writes the exit code after it,
// and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("init:", err) // on the console; vm reports it with the missing exit code
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("init: power off:", err)
	}
}

func run() error {
	if err := leaveRootfs(); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	text, err := os.ReadFile(vm.JobFile)
	if err != nil {
		return err
	}
	var job vm.Job
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	for _, m := range job.Modules {
		if err := loadModule(m); err != nil {
			return fmt.Errorf("load %s: %w", m, err)
		}
	}
	if job.Disk {
		if err := unix.Mount("/dev/vda", "/data", "ext4", 0, ""); err != nil {
			return fmt.Errorf("mount /data: %w", err)
		}
	}
	if err := raiseLoopback(); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return err
	}
	out, err := openOutput()
	if err != nil {
		return err
	}
	defer out.Close()
	code := execute(job, out)
	if job.Disk {
		if err := unix.Unmount("/data", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount /data: %w", err)
		}
	}
	fmt.Fprintf(out, "\x00exit %d\n", code)
	return unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1) // wait until it is sent
}

// leaveRootfs puts a mount over the kernel's first root, which is not a mount
// that pivot_root would leave, and containers pivot.
func leaveRootfs() error {
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("/", "/mnt", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if err := os.Chdir("/mnt"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

func mountAll() error {
	mounts := []struct {
		kind, at, data string
		flags          uintptr
	}{
		{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"mqueue", "/dev/mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// As systemd does it: what is mounted is seen in every namespace made later.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, name); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func raiseLoopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// openOutput opens the second serial line, set to pass bytes as they are.
func openOutput() (*os.File, error) {
	f, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	state.Iflag, state.Oflag, state.Lflag = 0, 0, 0
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, state)
}

// execute runs the job's command and reaps whatever else ends meanwhile, as
// PID 1 must. It returns 127 when there is no such command.
func execute(job vm.Job, out *os.File) int {
	for _, e := range job.Env { // for the look-up in PATH
		for i := range e {
			if e[i] == '=' {
				os.Setenv(e[:i], e[i+1:])
				break
			}
		}
	}
	file, err := exec.LookPath(job.Command[0])
	if err != nil {
		fmt.Fprintln(out, err)
		return 127
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintln(out, err)
		return 126
	}
	child, err := os.StartProcess(file, job.Command, &os.ProcAttr{
		Dir: job.Dir, Env: job.Env, Files: []*os.File{null, out, out},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		fmt.Fprintln(out, err)
		return 126
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR || err == nil && pid != child.Pid:
		case err != nil:
			fmt.Fprintln(out, "wait:", err)
			return 126
		case status.Signaled():
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}
