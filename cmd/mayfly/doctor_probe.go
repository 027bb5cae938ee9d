package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespaces runs f on a thread that is alone in new namespaces, and that
// ends with f, so that whatever f made in them ends too.
func inNamespaces(flags int, f func() error) error {
	done := make(chan error)
	go onSpareThread(func() {
		if err := unix.Unshare(flags); err != nil {
			done <- fmt.Errorf("new namespaces: %w", err)
			return
		}
		if flags&unix.CLONE_NEWNS != 0 {
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				done <- fmt.Errorf("make mounts private: %w", err)
				return
			}
		}
		done <- f()
	})
	return <-done
}

// onSpareThread runs f on a thread that Go ends with the goroutine, because it
// is never unlocked. The process's first thread would not end but stay as f
// left it, and /proc/self is that thread, so it is held here until another
// goroutine has a thread of its own.
func onSpareThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	held := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(held)
		f()
	}()
	<-held
	runtime.UnlockOSThread()
}

// verdict turns the outcome of a trial into a check.
func verdict(name, works, fix string, err error) check {
	if err == nil {
		return check{Name: name, OK: true, Detail: works}
	}
	c := check{Name: name, Detail: err.Error(), Fix: fix}
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		c.Detail, c.Fix = "not tried: needs root", ""
	}
	return c
}

func tryCgroup(dir string) error {
	group, err := os.MkdirTemp(dir, "mayfly-doctor-")
	if err != nil {
		return err
	}
	return os.Remove(group)
}

var namespaceFlags = []struct {
	name string
	flag int
}{
	{"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
	{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
}

func probeNamespaces() check {
	var names []string
	for _, n := range namespaceFlags {
		names = append(names, n.name)
		if err := inNamespaces(n.flag, func() error { return nil }); err != nil {
			return verdict("namespaces", "", "the kernel needs CONFIG_NAMESPACES and all its kinds, as distributions' kernels have them",
				fmt.Errorf("%s: %w", n.name, err))
		}
	}
	return verdict("namespaces", strings.Join(names, " "), "", nil)
}

// probeOverlay tries the kernel's overlay on memory, where the file system
// below cannot be what fails.
func probeOverlay() check {
	err := inNamespaces(unix.CLONE_NEWNS, func() error {
		dir, err := os.MkdirTemp("", "mayfly-doctor-")
		if err != nil {
			return err
		}
		defer os.Remove(dir)
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			return fmt.Errorf("mount tmpfs: %w", err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		return tryOverlay(dir)
	})
	return verdict("overlay", "mounts", "modprobe overlay, or a kernel with CONFIG_OVERLAY_FS", err)
}

// probeDataDir tries an overlay whose layers are where a node would keep them.
func probeDataDir(dataDir string) check {
	where, err := nearest(dataDir)
	if err != nil {
		return check{Name: "data", Detail: err.Error(), Fix: "choose another directory with --data"}
	}
	kind := filesystem(where)
	err = inNamespaces(unix.CLONE_NEWNS, func() error {
		dir, err := os.MkdirTemp(where, ".mayfly-doctor-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		return tryOverlay(dir)
	})
	if err != nil {
		err = fmt.Errorf("%s on %s holds no layers: %w", dataDir, kind, err)
	}
	return verdict("data", dataDir+" on "+kind, "choose a directory on ext4, xfs (ftype=1) or btrfs with --data", err)
}

// nearest returns the directory itself or the closest one above that exists.
func nearest(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return dir, nil
		case err == nil:
			return "", fmt.Errorf("%s is not a directory", dir)
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// tryOverlay mounts an overlay with all its directories below dir and does what
// containers do to one: change a file, delete one, replace a directory. The
// last two need device nodes and trusted attributes in the file system.
func tryOverlay(dir string) error {
	at := func(names ...string) string { return filepath.Join(append([]string{dir}, names...)...) }
	for _, d := range []string{"lower", "lower/dir", "upper", "work", "merged"} {
		if err := os.Mkdir(at(d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []string{"lower/file", "lower/dir/file"} {
		if err := os.WriteFile(at(f), []byte("below"), 0o644); err != nil {
			return err
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", at("lower"), at("upper"), at("work"))
	if err := unix.Mount("overlay", at("merged"), "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Unmount(at("merged"), unix.MNT_DETACH)
	if err := os.WriteFile(at("merged", "file"), []byte("above"), 0o644); err != nil {
		return fmt.Errorf("copy up: %w", err)
	}
	if err := os.RemoveAll(at("merged", "dir")); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := os.Mkdir(at("merged", "dir"), 0o755); err != nil {
		return fmt.Errorf("replace a directory: %w", err)
	}
	left, err := os.ReadDir(at("merged", "dir"))
	if err != nil {
		return err
	}
	if text, err := os.ReadFile(at("lower", "file")); err != nil || string(text) != "below" || len(left) > 0 {
		return errors.New("the overlay does not keep its layers apart")
	}
	return nil
}

// fileSystems are the kinds that people meet, by the number in statfs(2).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.MSDOS_SUPER_MAGIC: "vfat", unix.FUSE_SUPER_MAGIC: "fuse",
	0x2fc12fc1: "zfs",
}

func filesystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return err.Error()
	}
	if name, ok := fileSystems[int64(s.Type)]; ok {
		return name
	}
	return fmt.Sprintf("file system 0x%x", s.Type)
}

// probeSeccomp asks the kernel for the answers that the profile gives.
func probeSeccomp() check {
	err := error(nil)
	for _, action := range []uint32{unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_KILL_PROCESS} {
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
		if errno != 0 {
			err = fmt.Errorf("action 0x%x: %w", action, errno)
		}
	}
	return verdict("seccomp", "filters", "a kernel with CONFIG_SECCOMP_FILTER", err)
}

// probeNetwork makes what containers are connected by, in a network namespace
// of its own: a bridge, a pair of virtual cards, address translation.
func probeNetwork() check {
	err := inNamespaces(unix.CLONE_NEWNET, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "doctor0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make a bridge: %w", err)
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "doctor1"}, PeerName: "doctor2"}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("make a veth pair: %w", err)
		}
		if err := netlink.LinkSetMaster(veth, bridge); err != nil {
			return fmt.Errorf("join the bridge: %w", err)
		}
		return tryNftables()
	})
	return verdict("network", "bridge, veth and nftables", "modprobe -a bridge veth nf_tables nft_masq nft_chain_nat, or the distribution's full kernel instead of a minimal one", err)
}

func tryNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "doctor"})
	chain := conn.AddChain(&nftables.Chain{
		Name: "post", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("set nftables rules: %w", err)
	}
	return nil
}
