package build

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Limits of the code of one function.
const (
	MaxCode        = 256 << 20 // bytes, all files together
	maxCodeEntries = 100_000

	MaxBuilt        = 1 << 30 // bytes, with what was fetched for it
	maxBuiltEntries = 400_000
)

// Tar is Pack for code that is not built.
func Tar(ctx context.Context, w io.Writer, dir string) error {
	_, err := Pack(ctx, w, dir, nil)
	return err
}

// Pack writes the files of dir to w as a tar: the same files always give the
// same bytes, whoever owns them and whenever they were written. Of a file's mode
// only whether it can be executed is kept.
//
// What an IgnoreFile in dir lists is left out; where there is none, what files
// .gitignore in dir and beneath list, and what is made anew where it runs: what
// Python compiled, its virtual environments, and node_modules where the build, nil
// for none, installs it. Folders of version control are left out in any case.
//
// Symbolic links must be relative and stay within dir; sockets and devices are
// refused. Errors that a user can mend are of kind Invalid or TooLarge.
func Pack(ctx context.Context, w io.Writer, dir string, b *mayfly.Build) (LeftOut, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return LeftOut{}, codeFolder(dir, err)
	}
	defer root.Close()
	ignore, err := readIgnore(root.FS(), b)
	if err != nil {
		return LeftOut{}, err
	}
	t := tarrer{root: root, dir: dir, w: tar.NewWriter(w), left: MaxCode}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || name == "." {
			return err
		}
		skip, err := ignore.skips(name, entry.IsDir())
		if err != nil || skip {
			return err
		}
		return t.add(name, entry)
	})
	if err != nil {
		return *ignore.left, wrap(err, "pack %s", dir)
	}
	return *ignore.left, wrap(t.w.Close(), "pack %s", dir)
}

// wrap adds what was done to an error, unless the error is one that speaks for
// itself, or asks the walk to skip a folder.
func wrap(err error, format string, args ...any) error {
	var own *mayfly.Error
	if err == nil || err == fs.SkipDir || errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	return mayfly.Errorf(mayfly.Invalid, format+": %w", append(args, err)...)
}

// codeFolder is why a folder of code cannot be opened.
func codeFolder(dir string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return mayfly.Errorf(mayfly.Invalid, "there is no folder %s", dir)
	}
	return mayfly.Errorf(mayfly.Invalid, "open code folder: %w", err)
}

type tarrer struct {
	root    *os.Root
	dir     string
	w       *tar.Writer
	left    int64
	entries int
}

func (t *tarrer) add(name string, entry fs.DirEntry) error {
	if t.entries++; t.entries > maxCodeEntries {
		return mayfly.Errorf(mayfly.TooLarge, "%s has more than %d files", t.dir, maxCodeEntries).
			WithHint("leave some out with a %s file", IgnoreFile)
	}
	info, err := t.root.Lstat(name)
	if err != nil {
		return err
	}
	switch {
	case info.IsDir():
		return t.w.WriteHeader(header(name+"/", tar.TypeDir, 0o755))
	case info.Mode().IsRegular():
		return t.file(name, info)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := t.root.Readlink(name)
		if err != nil {
			return err
		}
		if !linkStays(name, target) {
			return mayfly.Errorf(mayfly.Invalid, "%s is a link to %q, which is not beneath %s", filepath.Join(t.dir, name), target, t.dir).
				WithHint("copy the file, or name the link in %s", IgnoreFile)
		}
		h := header(name, tar.TypeSymlink, 0o777)
		h.Linkname = target
		return t.w.WriteHeader(h)
	}
	return mayfly.Errorf(mayfly.Invalid, "%s is neither file, folder nor link", filepath.Join(t.dir, name)).
		WithHint("name it in %s", IgnoreFile)
}

func (t *tarrer) file(name string, info fs.FileInfo) error {
	if t.left -= info.Size(); t.left < 0 {
		return mayfly.Errorf(mayfly.TooLarge, "%s holds more than %d bytes", t.dir, int64(MaxCode)).
			WithHint("leave files out with a %s file, or bring an image", IgnoreFile)
	}
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := header(name, tar.TypeReg, fileMode(int64(info.Mode())))
	h.Size = info.Size()
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(t.w, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = mayfly.Errorf(mayfly.Conflict, "%s changed while it was read", filepath.Join(t.dir, name)).WithHint("try again")
	}
	return err
}

// header is an entry without owner or time, which would differ between machines.
func header(name string, kind byte, mode int64) *tar.Header {
	return &tar.Header{Name: name, Typeflag: kind, Mode: mode, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// writeFile adds a file with this content.
func writeFile(w *tar.Writer, name string, mode int64, content []byte) error {
	h := header(name, tar.TypeReg, mode)
	h.Size = int64(len(content))
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// fileMode keeps of a mode only whether the file can be executed.
func fileMode(mode int64) int64 {
	if mode&0o111 != 0 {
		return 0o755
	}
	return 0o644
}

// linkStays tells whether a link at name leads to something beneath the root
// that name is relative to.
func linkStays(name, target string) bool {
	if target == "" || path.IsAbs(target) {
		return false
	}
	to := path.Join(path.Dir(name), target)
	return to != ".." && !strings.HasPrefix(to, "../")
}
