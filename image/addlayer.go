package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// Layer is a program's files, to be put over an image.
type Layer struct {
	Tar    io.Reader // plain, gzip or zstd
	Prefix string    // directory that the names are below, such as /app; / if empty
}

// AddLayer puts a layer over the image base, lets change edit the
// configuration, and gives the result the name. The same base, tar and change
// give the same digest: the files are sorted and belong to root, may be read
// and, where anyone could run them, run by all, and have a fixed time. Devices,
// pipes and whiteouts are refused with kind Invalid.
func (s *Store) AddLayer(ctx context.Context, base, name string, layer Layer, change func(*ocispec.ImageConfig)) (Image, error) {
	if _, err := parseName(name); err != nil {
		return Image{}, err
	}
	f, err := s.spool(layer.Tar)
	if err != nil {
		return Image{}, fmt.Errorf("add layer to %s: %w", base, err)
	}
	defer f.Close()
	return s.importing(ctx, name, func(ctx context.Context) (digest.Digest, error) {
		return s.addLayer(ctx, base, f, layer.Prefix, change)
	})
}

func (s *Store) addLayer(ctx context.Context, base string, f *os.File, prefix string, change func(*ocispec.ImageConfig)) (digest.Digest, error) {
	rec, err := s.find(ctx, base)
	if err != nil {
		return "", err
	}
	if err := s.hold(ctx, base, rec.Target); err != nil {
		return "", err
	}
	p, err := s.readManifest(ctx, rec.Target.Digest)
	if err != nil {
		return "", err
	}
	code, err := readCode(f, prefix, s.opts.MaxEntries)
	if err != nil {
		return "", err
	}
	desc, diffID, err := s.storeLayer(ctx, func(w io.Writer) error { return code.write(ctx, w) })
	if err != nil {
		return "", err
	}
	config, err := extendConfig(p.raw, p.config, diffID, change)
	if err != nil {
		return "", err
	}
	out, err := s.putManifest(ctx, config, append(slices.Clone(p.manifest.Layers), desc))
	return out.Digest, err
}

// extendConfig adds a layer to a configuration. What the OCI does not know of
// it, such as Docker's health check, stays.
func extendConfig(raw []byte, c ocispec.Image, diffID digest.Digest, change func(*ocispec.ImageConfig)) ([]byte, error) {
	var all, inner map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "configuration is not JSON: %w", err)
	}
	if old := all["config"]; old != nil {
		if err := json.Unmarshal(old, &inner); err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "configuration is not JSON: %w", err)
		}
	}
	if change != nil {
		change(&c.Config)
	}
	c.RootFS.DiffIDs = append(slices.Clone(c.RootFS.DiffIDs), diffID)
	c.History = append(slices.Clone(c.History), ocispec.History{Created: c.Created, CreatedBy: "mayfly: add code"})
	merged, err := overlayJSON(inner, c.Config, "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "ArgsEscaped")
	if err != nil {
		return nil, err
	}
	out, err := overlayJSON(all, c, "rootfs", "history")
	if err != nil {
		return nil, err
	}
	if out["config"], err = json.Marshal(merged); err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// overlayJSON replaces the named fields of old by those that v has.
func overlayJSON(old map[string]json.RawMessage, v any, fields ...string) (map[string]json.RawMessage, error) {
	out := maps.Clone(old)
	if out == nil {
		out = map[string]json.RawMessage{}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var fresh map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fresh); err != nil {
		return nil, err
	}
	for _, f := range fields {
		delete(out, f)
		if val, ok := fresh[f]; ok {
			out[f] = val
		}
	}
	return out, nil
}

// codeTar is a tar of code, sorted and with everything that varies from one
// machine to the next taken out of its headers.
type codeTar struct {
	f     io.ReaderAt
	files map[string]codeFile // by name, without a leading slash
}

type codeFile struct {
	hdr tar.Header
	at  span
}

// codeTime is the time of every file in a code layer: the earliest that a zip
// archive can hold, as programs do zip themselves.
func codeTime() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }

// readCode reads the headers of the plain tar f. Later entries replace earlier
// ones of the same name.
func readCode(f *os.File, prefix string, maxEntries int) (codeTar, error) {
	c := codeTar{f: f, files: map[string]codeFile{}}
	prefix = path.Clean("/" + prefix)
	for dir := prefix; dir != "/"; dir = path.Dir(dir) {
		c.files[dir[1:]] = codeFile{hdr: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
	}
	tr := tar.NewReader(f)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			return c, c.settleLinks()
		}
		if err != nil {
			return c, mayfly.Errorf(mayfly.Invalid, "read code: %w", err).WithHint("code is sent as a tar")
		}
		if n >= maxEntries {
			return c, mayfly.Errorf(mayfly.TooLarge, "code has more than %d files", maxEntries)
		}
		name := path.Join(prefix, path.Clean("/"+hdr.Name))[1:]
		if name == "" || hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		file, err := newCodeFile(hdr, prefix)
		if err != nil {
			return c, err
		}
		if hdr.Typeflag == tar.TypeReg {
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return c, err
			}
			file.at = span{offset, hdr.Size}
		}
		c.files[name] = file
	}
}

// newCodeFile keeps of a header what the code is, and drops whose it was.
func newCodeFile(hdr *tar.Header, prefix string) (codeFile, error) {
	out := codeFile{hdr: tar.Header{Typeflag: hdr.Typeflag, Size: hdr.Size, Mode: 0o644}}
	for part := range strings.SplitSeq(hdr.Name, "/") {
		if strings.HasPrefix(part, whiteout) {
			return out, mayfly.Errorf(mayfly.Invalid, "code has a file %q: names that begin with %q are reserved", hdr.Name, whiteout)
		}
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		for record := range hdr.PAXRecords { // its bytes are not where they seem
			if strings.HasPrefix(record, "GNU.sparse.") {
				return out, mayfly.Errorf(mayfly.Invalid, "code has a sparse file %q", hdr.Name).WithHint("make the tar without --sparse")
			}
		}
		if hdr.Mode&0o111 != 0 {
			out.hdr.Mode = 0o755
		}
	case tar.TypeDir:
		out.hdr.Mode = 0o755
	case tar.TypeSymlink:
		out.hdr.Linkname, out.hdr.Mode = hdr.Linkname, 0o777
	case tar.TypeLink:
		out.hdr.Linkname = path.Join(prefix, path.Clean("/"+hdr.Linkname))[1:]
	default:
		return out, mayfly.Errorf(mayfly.Invalid, "code has %q, which is no file, directory or link", hdr.Name)
	}
	return out, nil
}

// settleLinks makes each hard link name a file itself, so that the order of
// links does not matter.
func (c codeTar) settleLinks() error {
	for name, file := range c.files {
		if file.hdr.Typeflag != tar.TypeLink {
			continue
		}
		to, hops := file.hdr.Linkname, 0
		for c.files[to].hdr.Typeflag == tar.TypeLink && hops < 64 {
			to, hops = c.files[to].hdr.Linkname, hops+1
		}
		if t := c.files[to].hdr.Typeflag; t != tar.TypeReg && t != tar.TypeSymlink {
			return mayfly.Errorf(mayfly.Invalid, "code has a link %q to %q, which is not in it", name, file.hdr.Linkname)
		}
		file.hdr.Linkname = to
		c.files[name] = file
	}
	return nil
}

// write writes the tar: names in order, hard links after all else.
func (c codeTar) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	names := slices.Sorted(maps.Keys(c.files))
	for _, links := range []bool{false, true} {
		for _, name := range names {
			file := c.files[name]
			if (file.hdr.Typeflag == tar.TypeLink) != links {
				continue
			}
			hdr := file.hdr
			hdr.Name, hdr.Format, hdr.ModTime = name, tar.FormatPAX, codeTime()
			if hdr.Typeflag == tar.TypeDir {
				hdr.Name += "/"
			}
			if err := tw.WriteHeader(&hdr); err != nil {
				return mayfly.Errorf(mayfly.Invalid, "code has %q: %w", name, err)
			}
			if _, err := io.Copy(tw, contextReader{ctx, io.NewSectionReader(c.f, file.at.offset, file.at.size)}); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}
