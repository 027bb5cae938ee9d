package manifest

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
)

// envFiles reads the variables of the files that env_file names; a later one
// wins.
func (r *reader) envFiles(d *decoder, m map[string]any, f file) map[string]string {
	return r.variableFiles(d, m, "env_file", f)
}

// labels are what the files say, and over it what is written here.
func (r *reader) labels(d *decoder, m map[string]any, f file) map[string]string {
	all := r.variableFiles(d, m, "label_file", f)
	for name, value := range d.labelList(m) {
		labelsInto(&all)[name] = value
	}
	return all
}

func (r *reader) variableFiles(d *decoder, m map[string]any, key string, f file) map[string]string {
	const hint = "write env_file: [./FILE]"
	var list []any
	switch v := m[key].(type) {
	case nil:
		return nil
	case string:
		list = []any{v}
	case []any:
		list = v
	default:
		d.fail(key, hint, "%s must be a text or a list", key)
	}
	out := map[string]string{}
	for i, item := range list {
		at := d.at.child(key).item(i)
		if _, single := m[key].(string); single {
			at = d.at.child(key)
		}
		sub := &decoder{source: d.source, at: at, what: d.what}
		maps.Copy(out, r.variableFile(sub, item, key, f, out))
		d.done(sub)
	}
	return out
}

// variableFile reads one file in the form of .env, or with format: raw line by
// line as it is.
func (r *reader) variableFile(d *decoder, item any, key string, f file, before map[string]string) map[string]string {
	name, required, raw := "", true, false
	switch item := item.(type) {
	case string:
		name = item
	case map[string]any:
		if d.err = d.keys(item, []string{"path", "required", "format"}, nil); d.err != nil {
			return nil
		}
		name, raw = d.text(item, "path"), d.oneOf(item, "format", "raw") == "raw"
		required = item["required"] == nil || d.boolean(item, "required")
	}
	beneath := filepath.Join(f.dir, filepath.FromSlash(name))
	if name == "" || filepath.IsAbs(name) || !filepath.IsLocal(beneath) {
		d.fail("", "use a relative path without ..", "%s %q is not beneath the manifest's folder", key, name)
		return nil
	}
	if r.root == nil {
		return nil
	}
	data, err := r.readBeneath(beneath)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		d.fail("", "", "%s %q cannot be read: %s", key, name, cause(err))
		return nil
	}
	if raw {
		return rawVariables(string(data))
	}
	found, err := dotenv.ParseWithLookup(strings.NewReader(string(data)), func(name string) (string, bool) {
		if v, ok := f.env[name]; ok {
			return v, true
		}
		v, ok := before[name]
		return v, ok
	})
	if err != nil {
		d.fail("", "", "%s %q: %s", key, name, excerpt(err.Error()))
	}
	return found
}

func rawVariables(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			out[strings.TrimSpace(name)] = value
		}
	}
	return out
}

// labelList reads a mapping or a list of NAME=VALUE; a name alone is empty.
func (d *decoder) labelList(m map[string]any) map[string]string {
	switch v := m["labels"].(type) {
	case nil:
		return nil
	case map[string]any:
		out := map[string]string{}
		sub := d.under("labels")
		for _, name := range sub.each(v) {
			out[name] = sub.text(v, name)
		}
		d.done(sub)
		return out
	case []any:
		out := map[string]string{}
		for i, item := range v {
			text, ok := item.(string)
			if !ok {
				d.fail("labels", "write NAME=VALUE", "labels: item %d must be a text", i+1)
			}
			name, value, _ := strings.Cut(text, "=")
			out[name] = value
		}
		return out
	}
	d.fail("labels", "write labels: {NAME: VALUE}", "labels must be a mapping or a list")
	return nil
}
