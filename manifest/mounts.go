package manifest

import (
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/format"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/mayfly-run/mayfly"
)

const mountHint = "write volumes: [NAME:/path], or [./FOLDER:/path:ro]"

// mounted is what a workload has mounted. Names are those of the manifest
// until the whole of it is read.
type mounted struct {
	volumes []mayfly.VolumeMount
	mounts  []mayfly.Mount
}

// volumes reads what is mounted where.
func (r *reader) volumes(d *decoder, m map[string]any, dir string) (all mounted) {
	if m["volumes"] == nil {
		return all
	}
	list, ok := m["volumes"].([]any)
	if !ok || len(list) > maxConnections {
		d.fail("volumes", mountHint, "volumes must be a list")
		return all
	}
	targets := map[string]bool{}
	for i, item := range list {
		sub := d.item("volumes", i)
		v := sub.volume(item)
		if sub.err == nil {
			r.mount(sub, v, dir, &all)
		}
		if sub.err == nil && targets[v.Target] {
			sub.fail("", "remove one", "two things are mounted at %s", v.Target)
		}
		targets[v.Target] = true
		d.done(sub)
	}
	return all
}

// volume reads one mount of either syntax.
func (d *decoder) volume(item any) (v types.ServiceVolumeConfig) {
	switch item := item.(type) {
	case string:
		parsed, err := parseVolume(item)
		if err != nil {
			d.fail("", mountHint, "%q is not a mount", excerpt(item))
			return v
		}
		if parts := strings.Split(item, ":"); len(parts) > 2 {
			d.mountOptions(parts[len(parts)-1])
		}
		v = parsed
	case map[string]any:
		v = d.longVolume(item)
	default:
		d.fail("", mountHint, "a mount must be a text or a mapping")
		return v
	}
	if clean := path.Clean(v.Target); !path.IsAbs(v.Target) || clean == "/" || strings.ContainsRune(clean, 0) {
		d.fail("", "write the path in the container, as in data:/var/lib/data", "%q is not an absolute path below /", v.Target)
	} else {
		v.Target = clean
	}
	return v
}

// parseVolume reads the short syntax. A single letter is a volume here, and no
// drive.
func parseVolume(item string) (types.ServiceVolumeConfig, error) {
	if len(item) < 2 || item[1] != ':' {
		return format.ParseVolume(item)
	}
	v, err := format.ParseVolume("x" + item)
	v.Source = strings.TrimPrefix(v.Source, "x")
	return v, err
}

func (d *decoder) mountOptions(text string) {
	for _, option := range strings.Split(text, ",") {
		switch option {
		case "ro", "rw", "z", "Z", "nocopy", "cached", "delegated", "consistent", "rprivate", "private":
		default:
			d.fail("", "use ro or rw", "the mount option %q is not supported", option)
		}
	}
}

func (d *decoder) longVolume(m map[string]any) (v types.ServiceVolumeConfig) {
	known := []string{"type", "source", "target", "read_only", "readOnly", "subpath", "consistency", "bind", "volume", "tmpfs"}
	if d.err = d.keys(m, known, []string{"image"}); d.err != nil {
		return v
	}
	v.Source, v.Target = d.text(m, "source"), d.text(m, "target")
	v.ReadOnly = d.boolean(m, d.either(m, "read_only", "readOnly"))
	if v.Type = d.oneOf(m, "type", types.VolumeTypeVolume, types.VolumeTypeBind, types.VolumeTypeTmpfs); v.Type == "" {
		v.Type = types.VolumeTypeVolume
		if strings.HasPrefix(v.Source, ".") || strings.HasPrefix(v.Source, "/") || strings.HasPrefix(v.Source, "~") {
			v.Type = types.VolumeTypeBind
		}
	}
	for _, kind := range []string{"bind", "volume", "tmpfs"} {
		if kind != v.Type && !isEmpty(m[kind]) {
			d.fail(kind, "remove it", "%s is not for a mount of type %s", kind, v.Type)
		}
	}
	if sub, under := d.mapping(m, "bind", ""); sub != nil {
		sub.err = sub.keys(under, []string{"create_host_path", "selinux"}, []string{"propagation", "recursive"})
		v.Bind = &types.ServiceVolumeBind{CreateHostPath: types.OptOut(sub.boolean(under, "create_host_path"))}
		d.done(sub)
	}
	v.Volume = &types.ServiceVolumeVolume{Subpath: d.text(m, "subpath")}
	if sub, under := d.mapping(m, "volume", ""); sub != nil {
		sub.err = sub.keys(under, []string{"nocopy", "subpath"}, []string{"labels"})
		v.Volume.NoCopy = sub.boolean(under, "nocopy")
		if under["subpath"] != nil {
			v.Volume.Subpath = sub.text(under, "subpath")
		}
		d.done(sub)
	}
	if s := v.Volume.Subpath; s != "" && !filepath.IsLocal(s) {
		d.fail("", "use a relative path without ..", "subpath %q leaves the volume", s)
	}
	if sub, under := d.mapping(m, "tmpfs", ""); sub != nil {
		sub.err = sub.keys(under, []string{"size"}, []string{"mode"})
		v.Tmpfs = &types.ServiceVolumeTmpfs{Size: types.UnitBytes(sub.size(under, "size", 0, maxMemory))}
		d.done(sub)
	}
	return v
}

// mount sorts one mount to its kind.
func (r *reader) mount(d *decoder, v types.ServiceVolumeConfig, dir string, all *mounted) {
	switch {
	case v.Type == types.VolumeTypeTmpfs:
		t := mayfly.Mount{Type: "tmpfs", Target: v.Target, ReadOnly: v.ReadOnly}
		if v.Tmpfs != nil {
			t.Size = int64(v.Tmpfs.Size)
		}
		all.mounts = append(all.mounts, t)
	case v.Type == types.VolumeTypeBind:
		source := r.hostPath(d, v.Source, dir)
		all.mounts = append(all.mounts, mayfly.Mount{Type: "bind", Source: source, Target: v.Target, ReadOnly: v.ReadOnly})
	case v.Source == "":
		r.warn(d, "", "%s is on no named volume, so it is new with each container; write NAME:%s to keep it", v.Target, v.Target)
	default:
		mount := mayfly.VolumeMount{Volume: v.Source, Target: v.Target, ReadOnly: v.ReadOnly}
		copies := !v.ReadOnly
		if v.Volume != nil {
			mount.Subpath = v.Volume.Subpath
			copies = copies && !v.Volume.NoCopy
		}
		mount.Copy = copies && mount.Subpath == ""
		all.volumes = append(all.volumes, mount)
		r.later(d, func(d *decoder) { r.checkMounted(d, v.Source, v.ReadOnly) })
	}
}

// hostPath is the absolute path of what a bind mount brings in. Whether it may
// be mounted is the node's to say.
func (r *reader) hostPath(d *decoder, source, dir string) string {
	switch {
	case source == "" || strings.ContainsRune(source, 0):
		d.fail("", mountHint, "a bind mount needs a source")
		return ""
	case path.Base(source) == "docker.sock":
		d.fail("", "remove it; containers find Mayfly's API at /run/mayfly/api.sock", "there is no Docker here, and so no %s", source)
		return ""
	case source == "~" || strings.HasPrefix(source, "~/"):
		home := r.opts.Env["HOME"]
		if home == "" {
			d.fail("", "write the whole path", "%s needs HOME", source)
			return ""
		}
		return filepath.Join(home, source[1:])
	case filepath.IsAbs(source):
		return filepath.Clean(source)
	}
	abs, err := filepath.Abs(filepath.Join(r.dir, dir, filepath.FromSlash(source)))
	if err != nil {
		d.fail("", "", "%s: %s", source, err)
	}
	return abs
}

// secretMounts reads which secrets a workload gets, and where.
func (r *reader) secretMounts(d *decoder, m map[string]any) (all []mayfly.SecretMount) {
	for i, item := range d.list(m, "secrets", maxConnections, "write secrets: [NAME]") {
		sub := d.item("secrets", i)
		key, under := sub.mountedFile(item, "env")
		mount := mayfly.SecretMount{Secret: key, Target: "/run/secrets/" + key}
		if under != nil {
			mount.Mode = sub.mode(under, "mode")
			if mount.Env = sub.variable(under, "env"); mount.Env != "" {
				mount.Target = ""
			}
			if t := sub.text(under, "target"); t != "" {
				mount.Target = path.Join("/run/secrets", t)
				if path.IsAbs(t) {
					mount.Target = path.Clean(t)
				}
			}
			r.ignoredOwner(sub, under)
		}
		if sub.err == nil {
			r.later(sub, func(d *decoder) { r.checkDeclared(d, "secrets", key) })
		}
		d.done(sub)
		all = append(all, mount)
	}
	return all
}

// configMounts reads which configs a workload gets, and where.
func (r *reader) configMounts(d *decoder, m map[string]any, compose bool) (all []mayfly.ConfigMount) {
	for i, item := range d.list(m, "configs", maxConnections, "write configs: [NAME]") {
		sub := d.item("configs", i)
		key, under := sub.mountedFile(item, "env", "on_change")
		mount := mayfly.ConfigMount{Config: key, Target: "/run/mayfly/config/" + key, OnChange: mayfly.OnChange{Restart: true}}
		if compose {
			mount.Target = "/" + key
		}
		if under != nil {
			mount.Mode = sub.mode(under, "mode")
			if mount.Env = sub.variable(under, "env"); mount.Env != "" {
				mount.Target = ""
			}
			if t := sub.text(under, "target"); t != "" {
				mount.Target = path.Join("/", t)
			}
			if under["on_change"] != nil {
				mount.OnChange = sub.onChange(under)
			}
			r.ignoredOwner(sub, under)
		}
		if sub.err == nil {
			r.later(sub, func(d *decoder) { r.checkDeclared(d, "configs", key) })
		}
		d.done(sub)
		all = append(all, mount)
	}
	return all
}

// mountedFile reads a name, or a mapping with one.
func (d *decoder) mountedFile(item any, more ...string) (key string, m map[string]any) {
	switch item := item.(type) {
	case string:
		key = item
	case map[string]any:
		m = item
		if d.err = d.keys(m, append(more, "source", "target", "mode", "uid", "gid"), nil); d.err != nil {
			return "", m
		}
		key = d.text(m, "source")
		if t := d.text(m, "target"); strings.ContainsRune(t, 0) || strings.Contains("/"+t+"/", "/../") {
			d.fail("target", "", "target %q is not a path", t)
		}
	}
	if key == "" || strings.ContainsAny(key, "/\x00") {
		d.fail("", "write its name, or {source: NAME}", "nothing says which one")
	}
	return key, m
}

func (r *reader) ignoredOwner(d *decoder, m map[string]any) {
	for _, key := range []string{"uid", "gid"} {
		if m[key] != nil {
			r.warn(d, key, "%s is ignored: the file is of the container's user", key)
		}
	}
}

func (d *decoder) variable(m map[string]any, key string) string {
	name := d.text(m, key)
	if strings.ContainsAny(name, "=\x00") {
		d.fail(key, "", "%s %q is not a variable's name", key, name)
	}
	return name
}

// mode reads permission bits. YAML has read 0440 as a number already, and 440
// as another one.
func (d *decoder) mode(m map[string]any, key string) uint32 {
	switch v := m[key].(type) {
	case nil:
		return 0
	case string:
		n, err := strconv.ParseUint(strings.TrimPrefix(v, "0o"), 8, 32)
		if err == nil && n <= 0o7777 {
			return uint32(n)
		}
	case int64:
		if v > 0 && v <= 0o7777 {
			return uint32(v)
		}
	case int:
		if v > 0 && v <= 0o7777 {
			return uint32(v)
		}
	}
	d.fail(key, `write it like "0440"`, "%s is not a mode", key)
	return 0
}
