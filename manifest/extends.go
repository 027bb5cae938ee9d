package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/override"
)

// extended is a service with what it extends beneath it, as Compose merges the
// two.
func (r *reader) extended(f file, all map[string]any, key string, m map[string]any, chain []string) (map[string]any, error) {
	if m["extends"] == nil {
		return m, nil
	}
	d := &decoder{source: f.source, at: place("services").child(key).child("extends"), what: "service " + quote(key)}
	id := f.name + "\x00" + key
	if slices.Contains(chain, id) {
		d.fail("", "", "extends leads back to itself")
		return nil, d.err
	}
	name, from := "", ""
	switch v := m["extends"].(type) {
	case string:
		name = v
	case map[string]any:
		if err := d.keys(v, []string{"service", "file"}, nil); err != nil {
			return nil, err
		}
		name, from = d.text(v, "service"), d.text(v, "file")
	}
	if name == "" {
		d.fail("", "write extends: {service: NAME}", "nothing says what it extends")
	}
	other, services := f, all
	if d.err == nil && from != "" {
		other, services = r.extendsFile(d, f, from)
	}
	base, ok := services[name].(map[string]any)
	if !ok && d.err == nil {
		d.fail("", "", "extends: there is no service %q", name)
	}
	if d.err != nil {
		return nil, d.err
	}
	base, err := r.extended(other, services, name, base, append(chain, id))
	if err != nil {
		return nil, err
	}
	if from != "" {
		base = rebase(base, filepath.Dir(from))
	}
	return d.merge(base, m)
}

// extendsFile reads the services of another file beneath the manifest's folder.
func (r *reader) extendsFile(d *decoder, f file, name string) (file, map[string]any) {
	if r.root == nil {
		d.fail("", "", "extends with a file needs a manifest that is a file")
		return f, nil
	}
	beneath := filepath.Join(f.dir, filepath.FromSlash(name))
	if filepath.IsAbs(name) || !filepath.IsLocal(beneath) {
		d.fail("file", "use a relative path without ..", "file %q is not beneath the manifest's folder", name)
		return f, nil
	}
	if r.files++; r.files > maxFiles {
		d.fail("file", "", "more than %d files are read", maxFiles)
		return f, nil
	}
	data, err := r.readBeneath(beneath)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			d.fail("file", "", "file %q does not exist", name)
		} else if d.err == nil {
			d.err = err
		}
		return f, nil
	}
	s, err := parse(filepath.Join(r.dir, beneath), data)
	if err != nil {
		d.err = err
		return f, nil
	}
	other := f
	other.source, other.dir = s, filepath.Dir(beneath)
	model, err := r.interpolate(s, f.env)
	if err != nil {
		d.err = err
	}
	services, _ := model["services"].(map[string]any)
	return other, services
}

// merge lays what a service says over what it extends.
func (d *decoder) merge(base, over map[string]any) (merged map[string]any, err error) {
	defer func() { // the library trusts that a schema was looked at before
		if p := recover(); p != nil {
			merged, err = nil, d.errorf(d.at, "%s: extends cannot be merged: %s", d.what, excerpt(fmt.Sprint(p)))
		}
	}()
	base, over = maps.Clone(base), maps.Clone(over)
	delete(base, "extends")
	delete(over, "extends")
	merged, err = override.ExtendService(clone(base).(map[string]any), clone(over).(map[string]any))
	if err != nil {
		return nil, d.errorf(d.at, "%s: extends cannot be merged: %s", d.what, excerpt(err.Error()))
	}
	return merged, nil
}

// clone copies mappings and lists, as the library changes what it is given.
func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, item := range v {
			m[k] = clone(item)
		}
		return m
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = clone(item)
		}
		return list
	}
	return v
}

// rebase makes the relative paths of a service those of a file in another
// folder.
func rebase(m map[string]any, dir string) map[string]any {
	if dir == "." {
		return m
	}
	m = clone(m).(map[string]any)
	path := func(v any) any {
		if s, ok := v.(string); ok && s != "" && !filepath.IsAbs(s) && !strings.HasPrefix(s, "~") {
			return filepath.Join(dir, s)
		}
		return v
	}
	for _, key := range []string{"env_file", "label_file"} {
		m[key] = path(m[key])
		list, _ := m[key].([]any)
		for i, item := range list {
			if long, ok := item.(map[string]any); ok {
				long["path"] = path(long["path"])
			} else {
				list[i] = path(item)
			}
		}
		if m[key] == nil {
			delete(m, key)
		}
	}
	if m["code"] != nil {
		m["code"] = path(m["code"])
	}
	volumes, _ := m["volumes"].([]any)
	for i, item := range volumes {
		switch v := item.(type) {
		case string:
			if strings.HasPrefix(v, ".") {
				source, rest, _ := strings.Cut(v, ":")
				volumes[i] = "./" + filepath.Join(dir, source) + ":" + rest
			}
		case map[string]any:
			if s, _ := v["source"].(string); strings.HasPrefix(s, ".") || v["type"] == "bind" {
				v["source"] = path(v["source"])
			}
		}
	}
	return m
}
