package manifest

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// include reads the files that a file includes, as Compose has it: a path, or
// a mapping with path and project_directory.
func (r *reader) include(s *source, dir string, env map[string]string, stack []string) error {
	v := s.top["include"]
	if isEmpty(v) {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		return s.errorf("include", "include must be a list of files")
	}
	for i, item := range list {
		at := place("include").item(i)
		d := decoder{source: s, at: at, what: "include"}
		var path, project string
		switch item := item.(type) {
		case string:
			path = item
		case map[string]any:
			if err := d.keys(item, []string{"path", "project_directory"}, []string{"env_file"}); err != nil {
				return err
			}
			path = d.text(item, "path")
			project = d.text(item, "project_directory")
		default:
			return s.errorf(at, "include takes paths")
		}
		if d.err != nil {
			return d.err
		}
		if err := r.includeFile(s, at, dir, path, project, env, stack); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) includeFile(s *source, at place, dir, path, project string, env map[string]string, stack []string) error {
	if r.root == nil {
		return s.errorf(at, "include needs a manifest that is a file")
	}
	path, err := substitute(path, lookupIn(env))
	if err != nil {
		return s.errorf(at, "%s", excerpt(err.Error()))
	}
	name := filepath.Join(dir, path)
	if path == "" || filepath.IsAbs(path) || !filepath.IsLocal(name) {
		return s.errorf(at, "included file %q is not beneath the manifest's folder", path).
			WithHint("use a relative path without ..")
	}
	full := filepath.Join(r.dir, name)
	if slices.Contains(stack, full) {
		return s.errorf(at, "%q includes itself", path)
	}
	data, err := r.readBeneath(name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.errorf(at, "included file %q does not exist", path)
	}
	if err != nil {
		return err
	}
	into := filepath.Dir(name)
	if project != "" {
		if into = filepath.Join(dir, project); !filepath.IsLocal(into) {
			return s.errorf(at, "project_directory %q is not beneath the manifest's folder", project)
		}
	}
	return r.file(full, data, into, env, stack)
}

// readBeneath reads a file beneath the manifest's folder, whatever links it
// passes. It returns fs.ErrNotExist as it is.
func (r *reader) readBeneath(name string) ([]byte, error) {
	f, err := r.root.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, mayfly.Errorf(mayfly.Invalid, "read %s: %w", filepath.Join(r.dir, name), err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "read %s: %w", filepath.Join(r.dir, name), err)
	}
	if len(data) > MaxSize {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is larger than %d bytes", filepath.Join(r.dir, name), MaxSize)
	}
	return data, nil
}

// cause is what the system said, without the path that it said it of.
func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
