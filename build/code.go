package build

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// CodeSpec says what image to make of code.
type CodeSpec struct {
	Name    string  // that the image gets
	Handler string  // FILE.FUNCTION; empty unless the protocol is handler
	Built   *Recipe // what the code was made by; nil: it is as somebody wrote it
	TempDir string  // for the layer while it is made; os.TempDir if empty
}

// Code makes an image of a stack and a tar of code: one layer with the code
// under AppDir and, where there is a handler, its loader and the client of the API. The image's working
// directory is AppDir; with a handler, its command starts the loader.
//
// The tar is read as something from a stranger: names and links that leave its
// root, devices, and more than MaxCode bytes are refused with kind Invalid or
// TooLarge. Owners and times are dropped, so that only content decides the
// digest.
func Code(ctx context.Context, store *image.Store, stack image.Image, code io.Reader, spec CodeSpec) (image.Image, error) {
	layer, err := os.CreateTemp(spec.TempDir, "mayfly-code-")
	if err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
	}
	defer layer.Close()
	if err := os.Remove(layer.Name()); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
	}
	l := layerWriter{w: tar.NewWriter(layer), seen: map[string]bool{}, dirs: map[string]bool{}, left: MaxCode, most: maxCodeEntries}
	if spec.Built != nil {
		l.left, l.most = MaxBuilt, maxBuiltEntries
	}
	if err := l.code(ctx, code); err != nil {
		return image.Image{}, err
	}
	var command []string
	if spec.Handler != "" {
		lang, err := pick(spec.Handler, l.seen, stack.Config.Config.Labels)
		if err != nil {
			return image.Image{}, err
		}
		if err := l.loader(lang.language); err != nil {
			return image.Image{}, mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
		}
		command = lang.command(spec.Handler)
	}
	if err := l.w.Close(); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
	}
	return store.AddLayer(ctx, stack.Digest, spec.Name, image.Layer{Tar: layer}, func(c *ocispec.ImageConfig) {
		c.WorkingDir = AppDir
		c.Labels = withLabels(c, map[string]string{LabelCode: "true"})
		if spec.Built != nil {
			c.Env = spec.Built.environment(c.Env)
		}
		if command != nil {
			c.Entrypoint, c.Cmd = nil, command
		}
	})
}

// layerWriter copies a tar of code into a layer.
type layerWriter struct {
	w       *tar.Writer
	seen    map[string]bool // files and links of the code
	dirs    map[string]bool
	left    int64
	entries int
	most    int // entries
}

func (l *layerWriter) code(ctx context.Context, code io.Reader) error {
	if err := l.dir("."); err != nil {
		return err
	}
	r := tar.NewReader(code)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return mayfly.Errorf(mayfly.Invalid, "the code is not a tar: %w", err)
		}
		if l.entries++; l.entries > l.most {
			return mayfly.Errorf(mayfly.TooLarge, "the code has more than %d files", l.most)
		}
		if err := l.entry(h, r); err != nil {
			return err
		}
	}
}

func (l *layerWriter) entry(h *tar.Header, r io.Reader) error {
	name := clean(h.Name)
	if name == "" || len(name) > 4096 {
		return mayfly.Errorf(mayfly.Invalid, "code: the name %q leaves the code's folder", short(h.Name))
	}
	if name == "." || h.Typeflag == tar.TypeXGlobalHeader { // the latter from git archive
		return nil
	}
	for _, part := range strings.Split(name, "/") {
		if strings.HasPrefix(part, ".wh.") { // would delete from the stack, as a layer's whiteout
			return mayfly.Errorf(mayfly.Invalid, "code: the name %q is reserved", short(name)).WithHint("rename it")
		}
	}
	if h.Typeflag == tar.TypeDir {
		return l.dir(name)
	}
	if l.seen[name] || l.dirs[name] {
		return mayfly.Errorf(mayfly.Invalid, "code: %q is in the tar twice", short(name))
	}
	if err := l.dir(path.Dir(name)); err != nil {
		return err
	}
	l.seen[name] = true
	switch h.Typeflag {
	case tar.TypeReg:
		return l.file(name, h, r)
	case tar.TypeSymlink:
		if !linkStays(name, h.Linkname) {
			return mayfly.Errorf(mayfly.Invalid, "code: %q is a link to %q, which leaves the code's folder", short(name), short(h.Linkname))
		}
		return l.link(name, h.Linkname, tar.TypeSymlink)
	case tar.TypeLink:
		target := clean(h.Linkname)
		if target == "" || !l.seen[target] {
			return mayfly.Errorf(mayfly.Invalid, "code: %q is a hard link to %q, which is not before it in the tar", short(name), short(h.Linkname))
		}
		return l.link(name, inApp(target), tar.TypeLink)
	}
	return mayfly.Errorf(mayfly.Invalid, "code: %q is neither file, folder nor link", short(name)).WithHint("leave it out")
}

// dir writes a folder and those above it, each once.
func (l *layerWriter) dir(name string) error {
	if l.dirs[name] {
		return nil
	}
	if l.seen[name] {
		return mayfly.Errorf(mayfly.Invalid, "code: %q is both a file and a folder", short(name))
	}
	if name != "." {
		if err := l.dir(path.Dir(name)); err != nil {
			return err
		}
	}
	l.dirs[name] = true
	return internal(l.w.WriteHeader(header(inApp(name)+"/", tar.TypeDir, 0o755)))
}

func (l *layerWriter) file(name string, h *tar.Header, r io.Reader) error {
	if l.left -= h.Size; l.left < 0 {
		return mayfly.Errorf(mayfly.TooLarge, "the code is too large: it may hold %d bytes, or %d with what it was built with", int64(MaxCode), int64(MaxBuilt)).
			WithHint("leave files out with a %s file, or bring an image", IgnoreFile)
	}
	out := header(inApp(name), tar.TypeReg, fileMode(h.Mode))
	out.Size = h.Size
	if err := l.w.WriteHeader(out); err != nil {
		return internal(err)
	}
	if _, err := io.Copy(l.w, r); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "code: %q is cut short: %w", short(name), err)
	}
	return nil
}

func (l *layerWriter) link(name, target string, kind byte) error {
	h := header(inApp(name), kind, 0o777)
	h.Linkname = target
	return internal(l.w.WriteHeader(h))
}

// loader adds a language's loader, and the client of the API beside it. The
// folders above them may be the stack's as well, and stay as they are there.
func (l *layerWriter) loader(lang language) error {
	files := map[string]string{lang.at: string(lang.loader)}
	err := fs.WalkDir(lang.sdk, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(lang.sdk, name)
		files[path.Join(lang.sdkAt, name)] = string(text)
		return err
	})
	if err != nil {
		return err
	}
	return writeFiles(l.w, files)
}

// above writes the folders above a file that were not made yet.
func (l *layerWriter) above(name string, made map[string]bool) error {
	dir := path.Dir(name)
	if made[dir] {
		return nil
	}
	if err := l.above(dir, made); err != nil {
		return err
	}
	made[dir] = true
	return l.w.WriteHeader(header(dir+"/", tar.TypeDir, 0o755))
}

func inApp(name string) string { return path.Join(strings.TrimPrefix(AppDir, "/"), name) }

func internal(err error) error {
	if err == nil {
		return nil
	}
	return mayfly.Errorf(mayfly.Internal, "make code layer: %w", err)
}

// short keeps a stranger's name from filling the line.
func short(s string) string {
	if len(s) > 120 {
		return s[:120] + "..."
	}
	return s
}

// withLabels returns c's labels with more.
func withLabels(c *ocispec.ImageConfig, more map[string]string) map[string]string {
	labels := maps.Clone(c.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, more)
	return labels
}
