package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// Files of the machine that the host stack has a copy of: settings that
// programs in /usr read and that tell nothing of the machine's users, networks
// or secrets. Folders are copied with all that is in them.
func publicFiles() []string {
	return []string{
		"etc/ImageMagick-6", "etc/ImageMagick-7", "etc/alternatives", "etc/ca-certificates.conf", "etc/fonts",
		"etc/debian_version", "etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/localtime", "etc/magic",
		"etc/mime.types", "etc/os-release", "etc/perl", "etc/protocols", "etc/python3*", "etc/services",
		"etc/ssl/certs", "etc/ssl/openssl.cnf", "etc/timezone", "etc/java-*", "etc/vulkan", "etc/OpenCL",
	}
}

// The least that programs ask for, the same on every machine.
const (
	hostPasswd = "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
		"www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	hostGroup   = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nnogroup:x:65534:\n"
	hostSwitch  = "passwd: files\ngroup: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"
	maxHostFile = 16 << 20 // bytes of one copied file
	maxHostAll  = 64 << 20 // bytes of all
)

// HostMounts returns the directories of the machine that an image with these
// labels has mounted, read-only. A label is a stranger's word once images are
// pulled, so whatever it says, only /usr is ever returned: that is what anyone
// who may use the stack "host" can read anyway.
func HostMounts(labels map[string]string) []string {
	if slices.Contains(strings.Fields(labels[LabelHostMounts]), hostDir) {
		return []string{hostDir}
	}
	return nil
}

// hostDir is the only directory of the machine that the host stack shows.
const hostDir = "/usr"

// buildHost makes the stack "host" unless the machine was looked at just now.
func (s *Stacks) buildHost(ctx context.Context, d Description, progress io.Writer, fresh bool) (image.Image, error) {
	if !fresh {
		if img, ok := s.seenHost(ctx, d); ok {
			return img, nil
		}
	}
	img, err := s.lookAtHost(ctx, d, progress)
	if err == nil {
		s.mu.Lock()
		s.host.digest, s.host.at = img.Digest, time.Now()
		s.mu.Unlock()
	}
	return img, err
}

// seenHost returns the stack's image if the machine was looked at just now.
func (s *Stacks) seenHost(ctx context.Context, d Description) (image.Image, bool) {
	s.mu.Lock()
	seen := s.host
	s.mu.Unlock()
	if time.Since(seen.at) >= hostFresh {
		return image.Image{}, false
	}
	img, err := s.store.Get(ctx, d.image)
	return img, err == nil && img.Digest == seen.digest
}

// hashHost makes the layer of the machine as it is now, and the hash that stands
// for it.
func hashHost(d *Description) (hash string, layer []byte, err error) {
	d.Loaders = hostInterpreters("/")
	if layer, err = hostLayer("/"); err != nil {
		return "", nil, err
	}
	hash, err = hashOf(*d, layer)
	return hash, layer, err
}

// lookAtHost makes the layer, and its hash tells whether the machine's files have
// changed.
func (s *Stacks) lookAtHost(ctx context.Context, d Description, progress io.Writer) (image.Image, error) {
	hash, layer, err := hashHost(&d)
	if err != nil {
		return image.Image{}, err
	}
	if img, ok, err := s.current(ctx, d, hash); err != nil || ok {
		return img, err
	}
	if _, err := io.WriteString(progress, "building stack host of this machine's /usr\n"); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack host: %w", err)
	}
	root, err := s.store.Import(ctx, d.image, bytes.NewReader(layer))
	if err != nil {
		return image.Image{}, err
	}
	return s.finish(ctx, d, root, hash)
}

// hostInterpreters finds the languages that the machine has, within /usr.
func hostInterpreters(root string) map[string]string {
	found := map[string]string{}
	for language, names := range map[string][]string{"python": {"python3"}, "node": {"node", "nodejs"}} {
		for _, name := range names {
			for _, dir := range []string{"/usr/bin/", "/usr/local/bin/"} {
				info, err := os.Stat(path.Join(root, dir, name))
				if _, has := found[language]; !has && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
					found[language] = dir + name
				}
			}
		}
	}
	return found
}

// hostLayer makes the one layer of the host stack from the root of a machine.
// It is the same for the same files, whenever they were written.
func hostLayer(root string) ([]byte, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "build stack host: %w", err)
	}
	defer r.Close()
	var b bytes.Buffer
	h := hostWriter{root: r, w: tar.NewWriter(&b), left: maxHostAll, made: map[string]bool{}}
	if err := errors.Join(h.skeleton(), h.links(), h.public()); err != nil {
		var own *mayfly.Error
		if errors.As(err, &own) {
			return nil, own
		}
		return nil, mayfly.Errorf(mayfly.Internal, "build stack host: %w", err)
	}
	if err := h.w.Close(); err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "build stack host: %w", err)
	}
	return b.Bytes(), nil
}

type hostWriter struct {
	root *os.Root
	w    *tar.Writer
	left int64
	made map[string]bool
}

// skeleton writes the folders, and the files that are not the machine's.
func (h *hostWriter) skeleton() error {
	for _, d := range []struct {
		name string
		mode int64
	}{
		{"app", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"mnt", 0o755}, {"opt", 0o755}, {"proc", 0o555},
		{"root", 0o700}, {"run", 0o755}, {"srv", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}, {"usr", 0o755}, {"var", 0o755},
		{"var/cache", 0o755}, {"var/lib", 0o755}, {"var/log", 0o755}, {"var/tmp", 0o1777}, {"var/www", 0o755},
	} {
		if err := h.dir(d.name, d.mode); err != nil {
			return err
		}
	}
	for _, f := range [][2]string{
		{"etc/group", hostGroup}, {"etc/passwd", hostPasswd}, {"etc/nsswitch.conf", hostSwitch},
		{"etc/host.conf", "multi on\n"},
		{"etc/hostname", ""}, {"etc/hosts", ""}, {"etc/resolv.conf", ""}, // the container's own are mounted here
	} {
		if err := writeFile(h.w, f[0], 0o644, []byte(f[1])); err != nil {
			return err
		}
	}
	if err := h.link("etc/mtab", "/proc/self/mounts"); err != nil {
		return err
	}
	if err := h.link("var/run", "/run"); err != nil {
		return err
	}
	return h.link("var/lock", "/run")
}

// links writes /bin and its like, which must be links into /usr.
func (h *hostWriter) links() error {
	for _, name := range []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"} {
		info, err := h.root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		target, err := h.root.Readlink(name)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 || !strings.HasPrefix(strings.TrimPrefix(target, "/"), "usr/") {
			return mayfly.Errorf(mayfly.Unavailable, "the stack host needs /%s to be a link into /usr, and here it is none", name).
				WithHint("apt-get install usrmerge, or build the stack debian")
		}
		if err := h.link(name, target); err != nil {
			return err
		}
	}
	return nil
}

// public copies the machine's public files. Patterns are matched against names
// alone, as a link that leads nowhere is copied as well.
func (h *hostWriter) public() error {
	in, err := fs.ReadDir(h.root.FS(), "etc")
	if err != nil {
		return err
	}
	for _, pattern := range publicFiles() {
		first, rest, _ := strings.Cut(strings.TrimPrefix(pattern, "etc/"), "/")
		for _, entry := range in {
			if ok, err := path.Match(first, entry.Name()); err != nil || !ok {
				continue
			}
			if err := h.copyTree(path.Join("etc", entry.Name(), rest)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyTree copies a file, a link or a folder with all that is in it.
func (h *hostWriter) copyTree(name string) error {
	info, err := h.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.parents(name); err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return h.copyLink(name)
	case info.Mode().IsRegular() && info.Mode()&0o004 != 0: // what others cannot read is not public
		return h.copyFile(name, info)
	case info.IsDir() && info.Mode()&0o005 == 0o005:
		if err := h.dir(name, 0o755); err != nil {
			return err
		}
		entries, err := fs.ReadDir(h.root.FS(), name)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if err := h.copyTree(path.Join(name, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *hostWriter) copyLink(name string) error {
	target, err := h.root.Readlink(name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "etc/alternatives/") && strings.Contains(target, "/man/") {
		return nil // manual pages: most of the links, and nobody reads them there
	}
	return h.link(name, target)
}

func (h *hostWriter) copyFile(name string, info fs.FileInfo) error {
	if info.Size() > maxHostFile || info.Size() > h.left {
		return mayfly.Errorf(mayfly.TooLarge, "build stack host: /%s is too large to be copied", name)
	}
	data, err := h.root.ReadFile(name)
	if err != nil {
		return err
	}
	h.left -= int64(len(data))
	return writeFile(h.w, name, fileMode(int64(info.Mode())), data)
}

func (h *hostWriter) parents(name string) error {
	if name = path.Dir(name); name == "." || h.made[name] {
		return nil
	}
	if err := h.parents(name); err != nil {
		return err
	}
	return h.dir(name, 0o755)
}

func (h *hostWriter) dir(name string, mode int64) error {
	if h.made[name] {
		return nil
	}
	h.made[name] = true
	return h.w.WriteHeader(header(name+"/", tar.TypeDir, mode))
}

func (h *hostWriter) link(name, target string) error {
	head := header(name, tar.TypeSymlink, 0o777)
	head.Linkname = target
	return h.w.WriteHeader(head)
}
