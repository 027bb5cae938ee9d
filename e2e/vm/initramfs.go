package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// initPackage is PID 1 of the machine.
const initPackage = "github.com/mayfly-run/mayfly/e2e/vm/init"

// writeInitramfs makes the file that the kernel unpacks into its first root:
// init, its job, the modules, and what the options ask for.
func writeInitramfs(ctx context.Context, file string, k *kernel, o Options) error {
	init := file + ".init"
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", init, initPackage)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build init: %w\n%s", err, said)
	}
	modules, err := k.order(append(append([]string{}, DefaultModules...), o.Modules...))
	if err != nil {
		return err
	}
	files := map[string]string{init: "/init"}
	var inside []string
	for _, m := range modules {
		to := "/.vm/modules/" + filepath.Base(m)
		files[m] = to
		inside = append(inside, to)
	}
	job, err := encodeJob(o, inside)
	if err != nil {
		return err
	}
	for _, p := range o.Programs {
		if err := addProgram(ctx, files, p); err != nil {
			return err
		}
	}
	for from, to := range o.Files {
		files[from] = to
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeArchive(f, files, job)
}

func writeArchive(w io.Writer, files map[string]string, job []byte) error {
	a := &archive{w: bufio.NewWriterSize(w, 1<<20), dirs: map[string]bool{"/": true}, done: map[string]bool{}}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/etc", "/root", "/data", "/var", "/mnt"} {
		if err := a.dir(d, 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"/tmp", "/var/tmp"} { // as on Debian 12, no mounts of their own
		if err := a.dir(d, 0o1777); err != nil {
			return err
		}
	}
	for _, d := range merged {
		if err := a.dir("/usr"+d, 0o755); err != nil {
			return err
		}
		target := "usr" + d
		if err := a.entry(header{name: d, mode: unix.S_IFLNK | 0o777, size: int64(len(target))}, strings.NewReader(target)); err != nil {
			return err
		}
	}
	// The kernel opens it for init before anything is mounted.
	if err := a.entry(header{name: "/dev/console", mode: unix.S_IFCHR | 0o600, rmajor: 5, rminor: 1}, nil); err != nil {
		return err
	}
	for name, text := range map[string]string{
		JobFile:       string(job),
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\n",
		"/etc/hosts":  "127.0.0.1 localhost vm\n",
	} {
		if err := a.file(name, 0o644, int64(len(text)), strings.NewReader(text)); err != nil {
			return err
		}
	}
	for from, to := range files {
		if err := a.copy(from, to); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
	}
	if err := a.entry(header{name: "TRAILER!!!"}, nil); err != nil {
		return err
	}
	return a.w.Flush()
}

// merged are the directories that on Debian are links to those of /usr.
var merged = []string{"/bin", "/sbin", "/lib", "/lib64"}

// inUsr returns where a path is once such links are followed.
func inUsr(p string) string {
	for _, d := range merged {
		if strings.HasPrefix(p, d+"/") {
			return "/usr" + p
		}
	}
	return p
}

// library matches a line of ldd: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6
// (0x...)" or "/lib64/ld-linux-x86-64.so.2 (0x...)".
var library = regexp.MustCompile(`(?m)(?:=> |^\s*)(/\S+) \(0x`)

// addProgram adds a program and the libraries that it needs.
func addProgram(ctx context.Context, files map[string]string, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	files[file] = file
	// ldd fails on a static program, which needs nothing.
	out, _ := exec.CommandContext(ctx, "ldd", file).Output()
	for _, m := range library.FindAllSubmatch(out, -1) {
		files[string(m[1])] = string(m[1])
	}
	return nil
}

// archive writes the cpio format that the kernel reads ("newc").
type archive struct {
	w    *bufio.Writer
	dirs map[string]bool // written already
	done map[string]bool // files written already, which a link may name twice
	next uint32          // inode number; equal ones would be hard links
}

type header struct {
	name           string
	mode           uint32 // with the type of file
	size           int64
	rmajor, rminor uint32
}

// copy adds a file, or a directory with all that is in it. A symbolic link is
// followed where it was named, and kept where it was found.
func (a *archive) copy(from, to string) error {
	to = inUsr(path.Clean(to))
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return a.regular(from, to, info)
	}
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		at := path.Join(to, filepath.ToSlash(rel))
		switch {
		case p == from || d.IsDir():
			return a.dir(at, uint32(info.Mode().Perm()))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return a.entry(header{name: at, mode: unix.S_IFLNK | 0o777, size: int64(len(target))}, strings.NewReader(target))
		case info.Mode().IsRegular():
			return a.regular(p, at, info)
		}
		return fmt.Errorf("%s: neither a file, a directory nor a link", p)
	})
}

func (a *archive) regular(from, to string, info fs.FileInfo) error {
	if a.done[to] {
		return nil
	}
	a.done[to] = true
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.file(to, uint32(info.Mode().Perm()), info.Size(), f)
}

func (a *archive) file(name string, perm uint32, size int64, r io.Reader) error {
	if err := a.dir(path.Dir(name), 0o755); err != nil {
		return err
	}
	return a.entry(header{name: name, mode: unix.S_IFREG | perm, size: size}, r)
}

// dir adds a directory after its parents, each once.
func (a *archive) dir(name string, perm uint32) error {
	if a.dirs[name] {
		return nil
	}
	if err := a.dir(path.Dir(name), 0o755); err != nil {
		return err
	}
	a.dirs[name] = true
	return a.entry(header{name: name, mode: unix.S_IFDIR | perm}, nil)
}

func (a *archive) entry(h header, r io.Reader) error {
	a.next++
	name := strings.TrimPrefix(h.name, "/")
	fmt.Fprintf(a.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.next, h.mode, 0, 0, 1, 0, h.size, 0, 0, h.rmajor, h.rminor, len(name)+1, 0, name)
	a.pad(110 + len(name) + 1)
	if r != nil {
		n, err := io.Copy(a.w, r)
		if err == nil && n != h.size {
			err = fmt.Errorf("%s changed while it was read", h.name)
		}
		if err != nil {
			return err
		}
	}
	a.pad(int(h.size % 4))
	_, err := a.w.Write(nil) // what went wrong above, if anything
	return err
}

// pad writes zeros up to the next multiple of four. Errors stay in the writer.
func (a *archive) pad(n int) {
	a.w.Write(make([]byte, (4-n%4)%4))
}
