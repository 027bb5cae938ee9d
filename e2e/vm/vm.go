// Package vm runs a command in a small virtual machine: Debian's own cloud
// kernel with nothing but cgroup v2, the host that most users have and that
// a machine with the older hierarchies is not.
//
// The machine is qemu in plain emulation, so it needs neither root nor
// nested virtualisation, and boots in a few seconds. Its files are a tmpfs
// made for the occasion; its kernel is downloaded once with apt and kept in
// the user's cache directory. PID 1 is the program in init/, which mounts
// what a system has mounted, loads the kernel modules that containers need,
// runs the command and powers off.
//
// There is no network card: what runs there makes its own networks.
package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Options say what a machine is made of and what it runs. Command is needed;
// every other zero value is fit for a test.
type Options struct {
	Command []string          // argv, looked up in the machine's PATH
	Env     []string          // NAME=value, after PATH, HOME and TMPDIR
	Dir     string            // working directory; "/" if empty
	Files   map[string]string // path here, a file or a directory -> path in the machine

	// Programs of this machine are copied to the same path together with the
	// shared libraries that they need; a name is looked up in PATH.
	Programs []string

	Modules []string      // kernel modules besides DefaultModules
	Memory  int           // MB; 1024 if zero. Files are held in it
	CPUs    int           // 2 if zero
	Disk    int           // MB of an empty ext4 at /data; none if zero
	Image   string        // path here of a disk for /data, as MakeDisk makes it and an earlier machine left it
	Timeout time.Duration // from power-on to power-off; 5m if zero

	// CutPower is asked what the command has written so far, every few
	// milliseconds; when it says so, the machine loses its power: what it had
	// not given to its disk is gone. Never if nil.
	CutPower func(output []byte) bool
}

// DefaultModules are loaded in every machine: an overlay, bridges, pairs of
// virtual cards, address translation, and a virtio disk.
var DefaultModules = []string{
	"overlay", "bridge", "br_netfilter", "nft_meta_bridge", "veth", "vxlan",
	"nf_conntrack_netlink", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir", "nft_ct", "nft_fib_inet",
	"nft_reject_ipv4", "nft_reject_inet", "nft_limit", "nft_log", "nft_numgen", "nft_hash", "nft_objref", "nft_compat",
	"virtio_pci", "virtio_blk",
}

// Result is what a machine left behind.
type Result struct {
	Output  string // stdout and stderr of the command, in the order written
	Exit    int    // exit code of the command; 128+n when signal n ended it
	Console string // what the kernel and init said
	Cut     bool   // the power was cut, and there is no exit code
}

// Job is what init is told, as JSON in JobFile.
type Job struct {
	Command []string `json:"command"`
	Env     []string `json:"env"`
	Dir     string   `json:"dir"`
	Disk    bool     `json:"disk"`
	Modules []string `json:"modules"` // file paths, each after those that it needs
}

// JobFile is where init finds its Job.
const JobFile = "/.vm/job.json"

// exitLine is written by init after the command's last byte of output. The
// zero byte keeps it apart from what a program prints.
var exitLine = regexp.MustCompile(`\x00exit (\d+)\r?\n$`)

// Run boots a machine, runs the command in it and returns its output and exit
// code. A machine that cannot be made, does not come up or outlives its time
// fails the test.
func Run(t testing.TB, o Options) (output string, exit int) {
	t.Helper()
	r, err := Boot(t.Context(), t.TempDir(), o)
	if errors.Is(err, ErrStuck) {
		t.Log(err)
		r, err = Boot(t.Context(), t.TempDir(), o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Output, r.Exit
}

// ErrStuck means that the machine's kernel stood still for minutes, each of its
// processors waiting for another, as plain emulation now and then has them. The
// machine was switched off.
var ErrStuck = errors.New("the machine's kernel stands still")

// Boot does what Run does, with its files in dir, outside of a test, and once. Its
// error holds the end of the console and of the output where there is any; with
// ErrStuck there is a result nevertheless.
func Boot(ctx context.Context, dir string, o Options) (*Result, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("vm: no command to run")
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return nil, errors.New("vm: qemu-system-x86_64 is not installed: apt-get install --no-install-recommends qemu-system-x86")
	}
	kernel, err := findKernel(ctx)
	if err != nil {
		return nil, fmt.Errorf("vm: find kernel: %w", err)
	}
	initrd := filepath.Join(dir, "initramfs")
	if err := writeInitramfs(ctx, initrd, kernel, o); err != nil {
		return nil, fmt.Errorf("vm: write initramfs: %w", err)
	}
	console, output := filepath.Join(dir, "console"), filepath.Join(dir, "output")
	args := []string{
		"-accel", accel(), "-cpu", "max", "-machine", "pc",
		"-m", strconv.Itoa(or(o.Memory, 1024)), "-smp", strconv.Itoa(or(o.CPUs, 2)),
		"-kernel", kernel.image, "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on cgroup_no_v1=all",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "file:" + console, "-serial", "file:" + output,
	}
	disk := o.Image
	if o.Disk > 0 {
		disk = filepath.Join(dir, "disk")
		if err := MakeDisk(ctx, disk, o.Disk); err != nil {
			return nil, err
		}
	}
	if disk != "" {
		args = append(args, "-drive", "file="+disk+",format=raw,if=virtio,cache=unsafe")
	}
	limit := or(o.Timeout, 5*time.Minute)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A test program that is killed takes its machine along. The kernel means
	// the thread that started it, so that one must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, qemu, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("vm: start qemu: %w", err)
	}
	cut := watchFile(cmd, output, o.CutPower)
	stuck := watchFile(cmd, console, standsStill)
	err = cmd.Wait()
	wasStuck := stuck()
	if cut() {
		out, err := os.ReadFile(output)
		return &Result{Output: string(out), Cut: true}, err
	}
	if wasStuck {
		err = ErrStuck
	} else if ctx.Err() != nil {
		err = fmt.Errorf("still on after %v: %w", limit, ctx.Err())
	}
	return collect(console, output, said.Bytes(), err)
}

// standsStill reports whether a kernel has said, every half minute for some
// minutes, that its processors get nowhere.
func standsStill(console []byte) bool {
	return bytes.Count(console, []byte("soft lockup - CPU#")) >= 8
}

// lookAgain is how often what a machine says is looked at.
const lookAgain = 5 * time.Millisecond

// watchFile kills a machine when when says so of what it has written to a file.
// The function that it returns is called after the machine's end and reports
// whether that was why.
func watchFile(cmd *exec.Cmd, output string, when func([]byte) bool) (cut func() bool) {
	if when == nil {
		return func() bool { return false }
	}
	over, done := make(chan struct{}), make(chan bool)
	go func() {
		for {
			out, _ := os.ReadFile(output)
			if when(out) {
				cmd.Process.Kill()
				done <- true
				return
			}
			select {
			case <-over:
				done <- false
				return
			case <-time.After(lookAgain):
			}
		}
	}()
	return func() bool {
		close(over)
		return <-done
	}
}

// collect reads what a machine wrote on its two serial lines.
func collect(console, output string, said []byte, ran error) (*Result, error) {
	con, _ := os.ReadFile(console) // absent when qemu refused to start
	out, _ := os.ReadFile(output)
	r := &Result{Console: string(con), Output: string(out)}
	m := exitLine.FindSubmatchIndex(out)
	if m == nil && ran == nil {
		ran = errors.New("it went off without an exit code")
	}
	if ran != nil {
		return r, fmt.Errorf("vm: run: %w\n%s\nconsole:\n%s\noutput:\n%s", ran, said, tail(con), tail(out))
	}
	r.Output = string(out[:m[0]])
	r.Exit, _ = strconv.Atoi(string(out[m[2]:m[3]]))
	return r, nil
}

// MakeDisk makes a file that can be a machine's disk, with an empty ext4.
func MakeDisk(ctx context.Context, path string, megabytes int) error {
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", path, strconv.Itoa(megabytes)+"M").CombinedOutput()
	if err != nil {
		return fmt.Errorf("vm: make disk: mke2fs: %w\n%s", err, out)
	}
	return nil
}

// accel is plain emulation unless MAYFLY_VM_ACCEL names another, such as kvm:
// a /dev/kvm may be there and hang.
func accel() string { return or(os.Getenv("MAYFLY_VM_ACCEL"), "tcg") }

func encodeJob(o Options, modules []string) ([]byte, error) {
	return json.Marshal(Job{
		Command: o.Command,
		Env:     append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp"}, o.Env...),
		Dir:     or(o.Dir, "/"),
		Disk:    o.Disk > 0 || o.Image != "",
		Modules: modules,
	})
}

func or[T comparable](v, ifZero T) T {
	var zero T
	if v == zero {
		return ifZero
	}
	return v
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// tail keeps an error message readable.
func tail(b []byte) []byte {
	const most = 8 << 10
	return b[max(0, len(b)-most):]
}
