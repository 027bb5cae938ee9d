package manifest

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// declaration is something that the manifest declares at its top.
type declaration struct {
	at     *decoder
	name   string // in the space
	shared bool   // a volume that says so itself
}

// newDeclared has a map for each kind.
func newDeclared() map[string]map[string]declaration {
	all := map[string]map[string]declaration{}
	for _, kind := range []string{"volumes", "secrets", "configs", "networks"} {
		all[kind] = map[string]declaration{}
	}
	return all
}

// topMapping is the mapping under a key at the top.
func (f file) topMapping(key string, v any) (map[string]any, error) {
	if isEmpty(v) {
		return nil, nil
	}
	all, ok := v.(map[string]any)
	if !ok {
		return nil, f.errorf(place(key), "%s must be a mapping of names", key)
	}
	if len(all) > maxConnections {
		return nil, f.errorf(place(key), "%s: more than %d entries", key, maxConnections)
	}
	return all, nil
}

// declare reads the entries under a key at the top. do gets the mapping, which
// is nil where an entry has only its name, and the name in the space.
func (r *reader) declare(f file, kind, what string, v any, do func(d *decoder, m map[string]any, name string) declaration) error {
	all, err := f.topMapping(kind, v)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(key, "x-") {
			continue
		}
		d := &decoder{source: f.source, at: place(kind).child(key), what: what + " " + quote(key)}
		m, ok := all[key].(map[string]any)
		if !ok && all[key] != nil {
			d.fail("", "write {}", "it must be a mapping")
			return d.err
		}
		if other, ok := r.declared[kind][key]; ok && other.at.source != f.source {
			return f.errorf(d.at.key(), "%s is declared in another file too", d.what).WithHint("rename one")
		}
		made := do(d, m, r.nameInSpace(d, key, m))
		if d.err != nil {
			return d.err
		}
		for _, o := range slices.Sorted(maps.Keys(r.declared[kind])) {
			if o := r.declared[kind][o]; o.name == made.name {
				d.fail("", "rename one, or give one a name:", "it is called %s in the space, as is %s", made.name, o.at.what)
				return d.err
			}
		}
		made.at = d
		r.declared[kind][key] = made
	}
	return nil
}

// nameInSpace is APP-KEY, unless the entry says a name or is not ours.
func (r *reader) nameInSpace(d *decoder, key string, m map[string]any) string {
	name := d.text(m, "name")
	external, isMap := m["external"].(map[string]any)
	if isMap {
		if d.err = (&decoder{source: d.source, at: d.at.child("external"), what: d.what}).keys(external, []string{"name"}, nil); d.err != nil {
			return ""
		}
		name = d.text(external, "name")
	}
	switch {
	case name != "":
	case d.external(m):
		name = nameOf(key)
	default:
		name = nameOf(r.out.Name + "-" + key)
	}
	if mayfly.CheckName(d.what, name) != nil {
		d.fail("", "give it a name: of 1 to 63 of a-z, 0-9 and '-'", "%q is not a valid name in the space", name)
	}
	return name
}

func (d *decoder) external(m map[string]any) bool {
	if _, ok := m["external"].(map[string]any); ok {
		return true
	}
	return d.boolean(m, "external")
}

var ownerPattern = regexp.MustCompile(`^[0-9]{1,10}(:[0-9]{1,10})?$`)

// topVolumes reads the volumes of the app.
func (r *reader) topVolumes(f file, v any) error {
	return r.declare(f, "volumes", "volume", v, func(d *decoder, m map[string]any, name string) declaration {
		vol := Volume{Volume: mayfly.Volume{Space: r.opts.Space, Name: name, App: r.out.Name, Shared: f.compose}}
		known := []string{
			"name", "provider", "source", "size", "owner", "mode", "shared", "autocreate", "autopurge", "external", "labels", "driver", "driver_opts", "events",
		}
		if d.err = d.keys(m, known, []string{"backup"}); d.err != nil {
			return declaration{}
		}
		if vol.External = d.external(m); vol.External {
			vol.App = ""
			for _, key := range slices.Sorted(maps.Keys(m)) {
				if key != "external" && key != "name" && !isEmpty(m[key]) && !strings.HasPrefix(key, "x-") {
					d.fail(key, "remove it", "%s and external exclude each other", key)
				}
			}
		}
		if m["autocreate"] != nil && !d.boolean(m, "autocreate") {
			vol.External = true // it must be there already
		}
		vol.Provider = d.oneOf(m, "provider", mayfly.VolumeLocal, mayfly.VolumeTmpfs, mayfly.VolumeBind)
		vol.Source, vol.Size = d.text(m, "source"), d.size(m, "size", 1, maxMemory)
		if vol.Owner = d.text(m, "owner"); vol.Owner != "" && !ownerPattern.MatchString(vol.Owner) {
			d.fail("owner", "write numbers, as in 33:33", "owner %q is not UID:GID", vol.Owner)
		}
		vol.Mode, vol.Purge, vol.Labels = d.mode(m, "mode"), d.boolean(m, "autopurge"), d.labelList(m)
		if m["shared"] != nil {
			vol.Shared = d.boolean(m, "shared")
		}
		vol.Events = d.volumeEvents(m)
		d.driver(m, &vol.Volume)
		if (vol.Source != "") != (vol.Provider == mayfly.VolumeBind) {
			d.fail("", "write provider: bind and source: /FOLDER", "source and provider: bind belong together")
		}
		if vol.Source != "" && !filepath.IsAbs(vol.Source) {
			d.fail("source", "begin it with /", "source %q is not absolute", vol.Source)
		}
		r.out.Volumes = append(r.out.Volumes, vol)
		return declaration{name: name, shared: vol.Shared && !f.compose}
	})
}

// volumeEvents reads what is told of files that come into a volume: a type, or a
// mapping.
func (d *decoder) volumeEvents(m map[string]any) (e mayfly.VolumeEvents) {
	const hint = "write events: photo.uploaded, or events: {type: photo.uploaded, match: '*.jpg'}"
	at := d
	if _, ok := m["events"].(string); ok {
		e.Type = d.text(m, "events")
	} else {
		sub, under := d.mapping(m, "events", hint)
		if sub == nil {
			return e
		}
		defer d.done(sub)
		if sub.err = sub.keys(under, []string{"type", "match", "depth"}, nil); sub.err != nil {
			return e
		}
		at, e.Type, e.Depth = sub, sub.text(under, "type"), int(sub.integer(under, "depth", 1, 32))
		if _, one := under["match"].(string); one {
			e.Match = []string{sub.text(under, "match")}
		} else {
			e.Match = sub.texts(under, "match", "write match: '*.jpg', or a list of such patterns")
		}
	}
	if e.Type == "" {
		at.fail("", hint, "events have no type")
	}
	if err := e.Check(); err != nil && at == d {
		at.failAs("events", err)
	} else if err != nil {
		at.failAs("", err)
	}
	return e
}

// driver reads Compose's way to say what provides a volume.
func (d *decoder) driver(m map[string]any, vol *mayfly.Volume) {
	if driver := d.text(m, "driver"); driver != "" && driver != "local" && driver != "default" {
		d.fail("driver", "leave it out", "driver %q is not supported yet", driver)
	}
	sub, under := d.mapping(m, "driver_opts", "")
	if sub == nil {
		return
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"type", "o", "device"}, nil); sub.err != nil {
		return
	}
	options := strings.Split(sub.text(under, "o"), ",")
	switch kind := sub.text(under, "type"); {
	case (kind == "none" || kind == "bind") && slices.Contains(options, "bind"):
		vol.Provider, vol.Source = mayfly.VolumeBind, filepath.Clean(sub.text(under, "device"))
	case kind == "tmpfs":
		vol.Provider = mayfly.VolumeTmpfs
		for _, o := range options {
			name, value, _ := strings.Cut(o, "=")
			switch name {
			case "size":
				vol.Size = sub.size(map[string]any{"size": value}, "size", 1, maxMemory)
			case "", "rw":
			default:
				sub.fail("o", "remove it", "the option %q is not supported yet", o)
			}
		}
	default:
		sub.fail("type", "use a local volume", "volumes of type %q are not supported yet", kind)
	}
}

// topSecrets reads the secrets of the app. Their values come from files or
// variables, or are made at random; they never stand in the manifest.
func (r *reader) topSecrets(f file, v any) error {
	return r.declare(f, "secrets", "secret", v, func(d *decoder, m map[string]any, name string) declaration {
		s := Secret{Name: name}
		s.Value, s.External = r.content(d, m, f, "generate")
		s.Generate = d.boolean(m, "generate")
		r.out.Secrets = append(r.out.Secrets, s)
		return declaration{name: name}
	})
}

// topConfigs reads the configs of the app.
func (r *reader) topConfigs(f file, v any) error {
	return r.declare(f, "configs", "config", v, func(d *decoder, m map[string]any, name string) declaration {
		c := Config{Name: name}
		c.Value, c.External = r.content(d, m, f, "content")
		r.out.Configs = append(r.out.Configs, c)
		return declaration{name: name}
	})
}

// content is what a secret or config is: a file's, a variable's, or not ours.
func (r *reader) content(d *decoder, m map[string]any, f file, more ...string) (value []byte, external bool) {
	sources := append([]string{"file", "environment", "external"}, more...)
	known := append([]string{"name", "labels"}, sources...)
	if d.err = d.keys(m, known, []string{"driver", "driver_opts", "template_driver", "content"}); d.err != nil {
		return nil, false
	}
	external = d.external(m)
	var from []string
	for _, key := range sources {
		if m[key] != nil && (key != "external" || external) && (key != "generate" || d.boolean(m, key)) {
			from = append(from, key)
		}
	}
	if len(from) != 1 {
		hint := "write file: ./FILE, environment: VARIABLE or external: true"
		if slices.Contains(more, "generate") {
			hint = "write generate: true, file: ./FILE, environment: VARIABLE or external: true"
		}
		d.fail("", hint, "it needs exactly one of %s", join(sources))
		return nil, false
	}
	switch from[0] {
	case "content":
		value = []byte(d.text(m, "content"))
	case "environment":
		name := d.text(m, "environment")
		text, ok := f.env[name]
		if !ok {
			d.fail("environment", "set it where you deploy", "the variable %s is not set", name)
		}
		value = []byte(text)
	case "file":
		value = r.fileContent(d, "file", d.text(m, "file"), f.dir)
	}
	return value, external
}

// fileContent reads a file beneath the manifest's folder; nil where only text
// is read.
func (r *reader) fileContent(d *decoder, key, name, dir string) []byte {
	beneath := filepath.Join(dir, filepath.FromSlash(name))
	if name == "" || filepath.IsAbs(name) || !filepath.IsLocal(beneath) {
		d.fail(key, "use a relative path without ..", "file %q is not beneath the manifest's folder", name)
		return nil
	}
	if r.root == nil {
		return nil
	}
	data, err := r.readBeneath(beneath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.fail(key, "", "file %q does not exist", name)
	case err != nil:
		d.fail(key, "", "file %q cannot be read: %s", name, cause(err))
	}
	return data
}

// topStacks reads the stacks of the manifest's own. What they are made of goes
// with the workloads that use them.
func (r *reader) topStacks(f file, v any) error {
	all, err := f.topMapping("stacks", v)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		d := &decoder{source: f.source, at: place("stacks").child(key), what: "stack " + quote(key)}
		m, ok := all[key].(map[string]any)
		if !ok {
			d.fail("", "write {packages: [NAME]}", "it must be a mapping")
		}
		if mayfly.CheckName("stack", key) != nil || key == "host" {
			d.fail("", "use another of a-z, 0-9 and '-'", "it is not a valid name for a stack")
		}
		if r.stacks[key] != nil {
			d.fail("", "rename one", "it is declared in another file too")
		}
		if d.err == nil {
			d.err = d.keys(m, []string{"description", "base", "variant", "packages", "env", "loaders"}, nil)
		}
		if d.err != nil {
			return d.err
		}
		spec := d.stack(m, f)
		if err := spec.Check(); err != nil {
			d.failAs("", err)
		}
		if d.err != nil {
			return d.err
		}
		r.stacks[key] = &spec
	}
	return nil
}

func (d *decoder) stack(m map[string]any, f file) mayfly.StackSpec {
	d.oneOf(m, "base", "debian")
	spec := mayfly.StackSpec{Description: d.text(m, "description"), Variant: d.text(m, "variant"), Env: d.environment(m, "env", f.env)}
	if !isEmpty(m["packages"]) {
		spec.Packages = d.texts(m, "packages", "write packages: [mariadb-server]")
	}
	if sub, under := d.mapping(m, "loaders", "write loaders: {python: /usr/bin/python3}"); sub != nil {
		spec.Loaders = map[string]string{}
		for _, language := range sub.each(under) {
			spec.Loaders[language] = sub.text(under, language)
		}
		d.done(sub)
	}
	return spec
}
