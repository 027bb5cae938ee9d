package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// defaultPath is what programs of an image without a configuration find others by.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Import reads an image from a tar stream and gives it the name. What is in it
// is found out by looking: an OCI layout, a docker-archive (docker save) or a
// root file system, each plain, gzip or zstd. The same root gives the same
// digest. It fails with kind Invalid, and a hint, where it is none of these.
func (s *Store) Import(ctx context.Context, name string, r io.Reader) (Image, error) {
	if _, err := parseName(name); err != nil {
		return Image{}, err
	}
	f, err := s.spool(r)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", name, err)
	}
	defer f.Close()
	return s.importing(ctx, name, func(ctx context.Context) (digest.Digest, error) {
		return s.importTar(ctx, name, f)
	})
}

// ImportPath imports a file as Import does, or a directory: an OCI layout, an
// unpacked docker-archive or a root. Of a root directory it takes one file
// system only, so that /proc below it stays out.
func (s *Store) ImportPath(ctx context.Context, name, path string) (Image, error) {
	if _, err := parseName(name); err != nil {
		return Image{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return Image{}, mayfly.Errorf(mayfly.Invalid, "import %s: %w", name, err)
	}
	if fi.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return Image{}, mayfly.Errorf(mayfly.Invalid, "import %s: %w", name, err)
		}
		defer root.Close()
		return s.importing(ctx, name, func(ctx context.Context) (digest.Digest, error) {
			return s.importDir(ctx, name, root)
		})
	}
	if !fi.Mode().IsRegular() {
		return Image{}, notAnImage()
	}
	f, err := os.Open(path)
	if err != nil {
		return Image{}, mayfly.Errorf(mayfly.Invalid, "import %s: %w", name, err)
	}
	defer f.Close()
	plain, compressed, err := decompress(f)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", path, err)
	}
	plain.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Image{}, mayfly.Errorf(mayfly.Internal, "import %s: %w", path, err)
	}
	if compressed {
		return s.Import(ctx, name, f)
	}
	return s.importing(ctx, name, func(ctx context.Context) (digest.Digest, error) {
		return s.importTar(ctx, name, f)
	})
}

// importing runs read under a lease and adopts the image that it stored.
func (s *Store) importing(ctx context.Context, name string, read func(context.Context) (digest.Digest, error)) (Image, error) {
	ctx, end, err := s.begin(ctx, "import")
	if err != nil {
		return Image{}, err
	}
	defer end()
	d, err := read(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", name, diskFull(err))
	}
	img, err := s.adopt(ctx, name, d)
	if err != nil {
		return Image{}, fmt.Errorf("import %s: %w", name, diskFull(err))
	}
	return img, nil
}

// spool writes the plain bytes of r to an unnamed temporary file.
func (s *Store) spool(r io.Reader) (*os.File, error) {
	plain, _, err := decompress(newLimitReader(r, s.opts.MaxBlob, "the image"))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f, err := os.CreateTemp(s.tmp, "import-")
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "spool: %w", err)
	}
	os.Remove(f.Name())
	if _, err := io.Copy(f, newLimitReader(plain, s.opts.MaxUnpacked, "the unpacked image")); err != nil {
		f.Close()
		return nil, applyError(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, mayfly.Errorf(mayfly.Internal, "spool: %w", err)
	}
	return f, nil
}

// importTar stores what the plain tar f holds and returns the manifest's digest.
func (s *Store) importTar(ctx context.Context, name string, f *os.File) (digest.Digest, error) {
	src, newest, err := indexTar(f, s.opts.MaxEntries)
	if err != nil {
		return "", err
	}
	if d, ok, err := s.importParts(ctx, name, src); ok || err != nil {
		return d, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	return s.importRoot(ctx, func(w io.Writer) (time.Time, error) {
		_, err := io.Copy(w, contextReader{ctx, f})
		return newest, err
	})
}

// importDir is importTar for a directory.
func (s *Store) importDir(ctx context.Context, name string, root *os.Root) (digest.Digest, error) {
	if d, ok, err := s.importParts(ctx, name, dirSource{root}); ok || err != nil {
		return d, err
	}
	return s.importRoot(ctx, func(w io.Writer) (time.Time, error) { return writeTar(ctx, w, root) })
}

// importParts imports src when it is an OCI layout or a docker-archive.
func (s *Store) importParts(ctx context.Context, name string, src source) (d digest.Digest, ok bool, err error) {
	if exists(src, ocispec.ImageLayoutFile) && exists(src, ocispec.ImageIndexFile) {
		d, err := s.importLayout(ctx, name, src)
		return d, true, err
	}
	if list, isDocker := dockerManifest(src); isDocker {
		d, err := s.importDocker(ctx, name, src, list)
		return d, true, err
	}
	return "", false, nil
}

// importRoot stores a root file system as an image of one layer. write gives
// its tar and returns the newest time in it, which becomes the image's: a clock
// would give each import another digest.
func (s *Store) importRoot(ctx context.Context, write func(io.Writer) (time.Time, error)) (digest.Digest, error) {
	var created time.Time
	layer, diffID, err := s.storeLayer(ctx, func(w io.Writer) (err error) {
		created, err = write(w)
		return err
	})
	if err != nil {
		return "", err
	}
	config := ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   ocispec.ImageConfig{Env: []string{defaultPath}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	}
	if !created.IsZero() {
		config.Created = new(created.UTC())
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	desc, err := s.putManifest(ctx, raw, []ocispec.Descriptor{layer})
	return desc.Digest, err
}

// storeLayer stores the plain tar that write gives as a zstd layer.
func (s *Store) storeLayer(ctx context.Context, write func(io.Writer) error) (ocispec.Descriptor, digest.Digest, error) {
	diffID := digest.Canonical.Digester()
	desc, err := s.streamBlob(ctx, ocispec.MediaTypeImageLayerZstd, func(blob io.Writer) error {
		zw, err := newZstdWriter(blob)
		if err != nil {
			return err
		}
		if err := write(io.MultiWriter(diffID.Hash(), zw)); err != nil {
			zw.Close()
			return err
		}
		return zw.Close()
	})
	return desc, diffID.Digest(), err
}

// tarSource finds files of an uncompressed tar.
type tarSource struct {
	f     io.ReaderAt
	files map[string]span
	links map[string]string
}

type span struct{ offset, size int64 }

// indexTar notes where the files are that may belong to an OCI layout or a
// docker-archive, and the newest time in the tar.
func indexTar(f io.ReadSeeker, maxEntries int) (src tarSource, newest time.Time, err error) {
	src = tarSource{f: f.(io.ReaderAt), files: map[string]span{}, links: map[string]string{}}
	tr := tar.NewReader(f)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if err == io.EOF && n > 0 {
			return src, newest, nil
		}
		if err != nil && n == 0 {
			return src, newest, notAnImage()
		}
		if err != nil {
			return src, newest, mayfly.Errorf(mayfly.Invalid, "read tar after %d files: %w", n, err)
		}
		if n >= maxEntries {
			return src, newest, mayfly.Errorf(mayfly.TooLarge, "more than %d files", maxEntries)
		}
		if hdr.ModTime.After(newest) {
			newest = hdr.ModTime.Truncate(time.Second)
		}
		name := strings.TrimPrefix(filepath.Clean("/"+hdr.Name), "/")
		if !mayBePart(name) {
			continue
		}
		switch hdr.Typeflag {
		case tar.TypeReg:
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return src, newest, err
			}
			src.files[name] = span{offset, hdr.Size}
		case tar.TypeLink:
			src.links[name] = strings.TrimPrefix(filepath.Clean("/"+hdr.Linkname), "/")
		case tar.TypeSymlink: // docker save linked equal layers so
			src.links[name] = strings.TrimPrefix(filepath.Clean("/"+filepath.Dir(name)+"/"+hdr.Linkname), "/")
		}
	}
}

// mayBePart keeps the index of a large root small.
func mayBePart(name string) bool {
	return name == ocispec.ImageLayoutFile || strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") ||
		strings.HasSuffix(name, ".json") && strings.Count(name, "/") <= 1 ||
		strings.HasSuffix(name, ".tar") && strings.Count(name, "/") <= 1
}

func (t tarSource) open(name string) (io.ReadCloser, int64, error) {
	if to, ok := t.links[name]; ok {
		name = to
	}
	at, ok := t.files[name]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(t.f, at.offset, at.size)), at.size, nil
}

// contextReader ends with the context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// source is the files of an image that came as an archive or a directory.
type source interface {
	// open fails with fs.ErrNotExist when there is no such file.
	open(name string) (r io.ReadCloser, size int64, err error)
}

func exists(src source, name string) bool {
	r, _, err := src.open(name)
	if err != nil {
		return false
	}
	r.Close()
	return true
}

// readPart reads a small file of src.
func readPart(src source, name string) ([]byte, error) {
	r, size, err := src.open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is missing", name)
	}
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "open %s: %w", name, err)
	}
	defer r.Close()
	if size > maxManifest {
		return nil, mayfly.Errorf(mayfly.TooLarge, "%s is larger than %d bytes", name, maxManifest)
	}
	return io.ReadAll(newLimitReader(r, maxManifest, name))
}
