package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// release is what /usr/lib/os-release says of the machine.
type release struct {
	ID       string // debian
	Codename string // bookworm
	Arch     string // as Go calls it
}

func readRelease(file string) (release, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return release{}, mayfly.Errorf(mayfly.Unavailable, "find out Debian's release: %w", err)
	}
	r := release{Arch: runtime.GOARCH}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.Trim(value, `"'`); key {
		case "ID":
			r.ID = value
		case "VERSION_CODENAME":
			r.Codename = value
		}
	}
	if r.Codename == "" {
		return r, mayfly.Errorf(mayfly.Unavailable, "%s names no release of Debian", file).
			WithHint("stacks other than host need a Debian machine; or import an image")
	}
	return r, nil
}

// buildDebian makes a root of Debian packages with mmdebstrap and streams it
// into the store.
func (s *Stacks) buildDebian(ctx context.Context, d Description, r release, hash string, progress io.Writer) (image.Image, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.Timeout,
		mayfly.Errorf(mayfly.TimedOut, "building stack %s took longer than %s", d.Name, s.opts.Timeout))
	defer cancel()
	select {
	case s.room <- struct{}{}:
		defer func() { <-s.room }()
	case <-ctx.Done():
		return image.Image{}, context.Cause(ctx)
	}
	s.swept.Do(s.sweep)
	temp, err := os.MkdirTemp(s.opts.TempDir, "mayfly-stack-")
	if err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}
	defer os.RemoveAll(temp)
	// apt's sandbox user, and users within the root, pass through it.
	if err := os.Chmod(temp, 0o755); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}

	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := mmdebstrap(ctx, d, r, temp, pw, progress)
		pw.CloseWithError(err) // io.EOF for nil
		done <- err
	}()
	base, importErr := s.store.Import(ctx, d.image, pr)
	pr.CloseWithError(errors.New("the import has ended"))
	if err := <-done; err != nil && ctx.Err() == nil {
		return image.Image{}, err // the cause; the import saw it as an unreadable tar
	}
	if err := context.Cause(ctx); err != nil {
		return image.Image{}, err
	}
	if importErr != nil {
		return image.Image{}, importErr
	}
	return s.finish(ctx, d, base, hash)
}

// sweep removes what builds left that were killed with their process. A folder
// that others use as well is not swept.
func (s *Stacks) sweep() {
	if s.opts.TempDir == "" {
		return
	}
	left, err := filepath.Glob(filepath.Join(s.opts.TempDir, "mayfly-stack-*"))
	if err != nil {
		return // only for a TempDir with brackets in its name
	}
	for _, dir := range left {
		os.RemoveAll(dir) // what stays costs room and nothing else
	}
}

// No manuals, but the licences. Told by --dpkgopt, mmdebstrap would filter each of
// the first packages with a program of its own, which took longer than all else.
const (
	leaveOut = `cd "$1/etc/dpkg/dpkg.cfg.d" && { printf 'path-exclude=/usr/share/%s/*\n' man info locale doc; ` +
		`echo 'path-include=/usr/share/doc/*/copyright'; } >mayfly`
	removeDocs = `cd "$1/usr/share" && rm -rf man/* info/* locale/* ../../etc/alternatives/*.gz && ` +
		`find doc -type f ! -name copyright -delete && find doc -type l -delete && find doc -mindepth 1 -type d -empty -delete`
)

// mmdebstrap writes the tar of a root to out. The program and all that it
// starts is killed with ctx, and what it mounts is gone with it.
func mmdebstrap(ctx context.Context, d Description, r release, temp string, out, progress io.Writer) error {
	program, err := exec.LookPath("mmdebstrap")
	if err != nil {
		return mayfly.Errorf(mayfly.Unavailable, "building stack %s needs mmdebstrap", d.Name).WithHint("apt-get install mmdebstrap")
	}
	sources, err := aptSources("/etc/apt", r.Codename)
	if err != nil {
		return mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}
	if sources, err = withSuites(sources, r.Codename, d.Suites); err != nil {
		return mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}
	variant := d.Variant
	if variant == "" {
		variant = "essential"
	}
	args := []string{
		"--dpkgopt=force-unsafe-io", // what is written is read at once, and never needed after a power loss
		"--mode=root", "--format=tar", "--variant=" + variant, "--skip=output/dev",
		"--extract-hook=" + leaveOut, "--customize-hook=" + removeDocs,
		// Copies of this machine's, which are not the container's business.
		`--customize-hook=: >"$1/etc/hostname"; : >"$1/etc/hosts"; : >"$1/etc/resolv.conf"`,
	}
	for _, command := range d.Prepare {
		args = append(args, `--customize-hook=chroot "$1" /bin/sh -ec `+quote(command))
	}
	if len(d.Packages) > 0 {
		args = append(args, "--include="+strings.Join(d.Packages, ","))
	}
	args = append(args, r.Codename, "-")
	args = append(args, sources...)

	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = temp
	cmd.Env = append(os.Environ(), "TMPDIR="+temp, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SOURCE_DATE_EPOCH=315532800")
	cmd.Stdout = out
	said := lineWriter{to: progress}
	cmd.Stderr = &said
	// Whatever it starts ends with it, also when the daemon is killed: the kernel
	// ends a process namespace with its first process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	cmd.WaitDelay = 10 * time.Second
	// The kernel sends Pdeathsig when the thread ends that started the program,
	// so that thread is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fmt.Fprintf(progress, "building stack %s: %s %s with %s\n", d.Name, r.ID, r.Codename, strings.Join(d.Packages, ", "))
	err = cmd.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Failed, "building stack %s: mmdebstrap: %s", d.Name, said.reason(err))
	}
	return nil
}

// aptSources returns the files of the machine's own apt that serve its
// release, so that a stack comes from where the machine does. Where there are
// none, mmdebstrap has its own default.
func aptSources(dir, codename string) ([]string, error) {
	files := []string{filepath.Join(dir, "sources.list")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		found, err := filepath.Glob(filepath.Join(dir, "sources.list.d", pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	var serving []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if servesRelease(string(data), codename) {
			serving = append(serving, file)
		}
	}
	return serving, nil
}

// servesRelease tells whether a line, comments aside, names the release as a
// word, or one of its suites such as bookworm-updates.
func servesRelease(text, codename string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "#") {
			continue
		}
		for _, word := range strings.Fields(line) {
			if suite, _, _ := strings.Cut(word, "/"); suite == codename || strings.HasPrefix(suite, codename+"-") {
				return true
			}
		}
	}
	return false
}

// lineWriter passes lines on and keeps the last ones, to say why a program
// failed.
type lineWriter struct {
	to   io.Writer
	part []byte
	last []string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexAny(w.part, "\n\r")
		if i < 0 {
			if len(w.part) > 4096 {
				w.part = w.part[:0] // a progress bar, not a line
			}
			return len(p), nil
		}
		line := strings.TrimSpace(string(w.part[:i]))
		w.part = w.part[i+1:]
		if line == "" {
			continue
		}
		if w.last = append(w.last, line); len(w.last) > 20 {
			w.last = w.last[1:]
		}
		fmt.Fprintln(w.to, line)
	}
}

// reason is the first of the last lines that is marked as an error, with what
// dpkg said before it, or the last line, or what the system said.
func (w *lineWriter) reason(err error) string {
	for i, line := range w.last {
		if strings.HasPrefix(line, "dpkg: error") && i+1 < len(w.last) {
			return short(line) + " " + short(w.last[i+1])
		}
		if text, ok := strings.CutPrefix(line, "E: "); ok {
			return short(text)
		}
	}
	if len(w.last) > 0 {
		return short(w.last[len(w.last)-1])
	}
	return err.Error()
}
