package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kernel is an unpacked Debian kernel package.
type kernel struct {
	image   string            // the bootable file
	files   map[string]string // module name -> file
	builtin map[string]bool   // modules that the image holds already
}

// metapackage depends on the newest cloud kernel of the release.
const metapackage = "linux-image-cloud-amd64"

// findKernel returns the kernel that apt would install now, downloading it the
// first time. Where apt cannot say, one from an earlier time will do.
func findKernel(ctx context.Context) (*kernel, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "mayfly", "vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	pkg, err := newestPackage(ctx)
	if err != nil {
		if old, _ := filepath.Glob(filepath.Join(cache, "linux-image-*")); len(old) > 0 {
			return openKernel(old[len(old)-1])
		}
		return nil, err
	}
	dir := filepath.Join(cache, pkg)
	if !exists(dir) {
		if err := download(ctx, cache, pkg); err != nil {
			return nil, err
		}
	}
	return openKernel(dir)
}

// lock waits for other test programs that may be downloading the same.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

var kernelDepends = regexp.MustCompile(`(?m)^Depends:.*?\b(linux-image-[^ ,]+) \(= ([^)]+)\)`)

// newestPackage returns the kernel that the metapackage depends on, as name=version.
func newestPackage(ctx context.Context) (string, error) {
	if _, err := exec.LookPath("apt-cache"); err != nil {
		return "", errors.New("apt is not installed: the kernel is Debian's, run this test on a Debian")
	}
	show := func() [][]byte {
		out, _ := exec.CommandContext(ctx, "apt-cache", "show", "--no-all-versions", metapackage).Output()
		return kernelDepends.FindSubmatch(out)
	}
	m := show()
	if m == nil {
		if err := update(ctx); err != nil {
			return "", err
		}
		m = show()
	}
	if m == nil {
		return "", fmt.Errorf("apt knows no %s", metapackage)
	}
	return string(m[1]) + "=" + string(m[2]), nil
}

// update fetches the lists of packages, which a fresh machine may lack.
func update(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "apt-get", "-qq", "update").CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get update: %w\n%s", err, out)
	}
	return nil
}

// download fetches a package and unpacks it to cache/pkg, whole or not at all.
func download(ctx context.Context, cache, pkg string) error {
	tmp, err := os.MkdirTemp(cache, "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	get := func() error {
		cmd := exec.CommandContext(ctx, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get download %s: %w\n%s", pkg, err, out)
		}
		return nil
	}
	if err := get(); err != nil { // the lists may be older than the archive
		if errUpdate := update(ctx); errUpdate != nil {
			return errors.Join(err, errUpdate)
		}
		if err := get(); err != nil {
			return err
		}
	}
	debs, _ := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages", pkg, len(debs))
	}
	root := filepath.Join(tmp, "root")
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", debs[0], root).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w\n%s", pkg, err, out)
	}
	return os.Rename(root, filepath.Join(cache, pkg))
}

func openKernel(dir string) (*kernel, error) {
	images, _ := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels; remove it, and it is fetched again", dir, len(images))
	}
	k := &kernel{image: images[0], files: map[string]string{}, builtin: map[string]bool{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(p, ".ko"):
			k.files[moduleName(p)] = p
		case d.Name() == "modules.builtin":
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			for line := range strings.FieldsSeq(string(text)) {
				k.builtin[moduleName(line)] = true
			}
		}
		return nil
	})
	return k, err
}

// moduleName is a module's name as the kernel writes it.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// order returns the files of the modules, each after those that it needs.
func (k *kernel) order(names []string) ([]string, error) {
	var files []string
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		file, ok := k.files[name]
		if !ok {
			if k.builtin[name] {
				return nil
			}
			return fmt.Errorf("the kernel has no module %q", name)
		}
		if slices.Contains(files, file) {
			return nil
		}
		needs, err := moduleNeeds(file)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		files = append(files, file)
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// moduleNeeds reads a module's own list of those it needs: the package holds
// no index, which depmod would make on installation.
func moduleNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s: not a kernel module", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
