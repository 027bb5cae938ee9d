package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/secret"
	"github.com/mayfly-run/mayfly/store"
)

// materials gives containers their secrets and configs. A secret is never on a
// disk but sealed: its files are on a tmpfs of the node, in a directory for each
// instance, and its variables only in memory and in the programs.
//
//	DATA/material/ID/secrets/   mounted at /run/secrets, files replaced as a whole
//	DATA/material/ID/files/N    mounted at a path of its own, replaced with its mount
//	DATA/material/ID/given      which revisions the instance has
//
// A config's usual place, /run/mayfly/config, is in the sandbox's own files.
type materials struct {
	dir   string
	store *store.Store
	keys  *secret.Keyring
}

const (
	secretsDir = "/run/secrets"
	configsDir = "/run/mayfly/config"
	materialMB = 256 // at most, of all instances
)

func openMaterials(data string, s *store.Store) (*materials, error) {
	m := &materials{dir: data + "/material", store: s, keys: secret.NewKeyring(data + "/secret.key")}
	return m, os.MkdirAll(m.dir, 0o700)
}

// mount makes the directory a tmpfs, unless it is one. It is done when the first
// instance needs it: most nodes start without.
func (m *materials) mount() error {
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: m.dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC && m.mounted() {
		return nil
	}
	options := "mode=700,size=" + strconv.Itoa(materialMB) + "m"
	err := unix.Mount("mayfly", m.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options+",noswap")
	if errors.Is(err, unix.EINVAL) { // Linux 6.4 brought noswap
		err = unix.Mount("mayfly", m.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: m.dir, Err: err}
	}
	return nil
}

func (m *materials) mounted() bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, m.dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// close gives the memory back if no instance has anything in it.
func (m *materials) close() error {
	left, err := os.ReadDir(m.dir)
	if err != nil || len(left) > 0 || !m.mounted() {
		return err
	}
	return unix.Unmount(m.dir, unix.MNT_DETACH)
}

// material is what a workload is given of secrets and configs.
type material struct {
	env     map[string]string // of configs
	private []string          // NAME=VALUE of secrets
	files   []materialFile
	given   given
}

type materialFile struct {
	target string
	value  []byte
	mode   fs.FileMode
}

// given is what an instance has: revisions of records, by "secret NAME" and
// "config NAME".
type given map[string]uint64

// resolve reads what a workload names. What is not there is a NotFound error
// that says how to set it.
func (m *materials) resolve(space string, secrets []mayfly.SecretMount, configs []mayfly.ConfigMount) (*material, error) {
	all := &material{env: make(map[string]string), given: make(given)}
	for _, s := range secrets {
		rec, found := m.store.Secrets.Find(space, s.Secret)
		if !found {
			return nil, errUnset("secret", s.Secret)
		}
		value, err := m.keys.Open(sealName(space, s.Secret), rec.Value.Sealed)
		if err != nil {
			return nil, err
		}
		all.given["secret "+s.Secret] = rec.Revision
		if s.Env != "" {
			if slices.Contains(value, 0) {
				return nil, mayfly.Errorf(mayfly.Invalid, "secret %s has a zero byte, which no variable can hold", s.Secret).WithHint("take it as a file")
			}
			all.private = append(all.private, s.Env+"="+string(value))
			continue
		}
		all.add(s.Target, secretsDir+"/"+s.Secret, value, s.Mode, 0o400)
	}
	for _, c := range configs {
		rec, found := m.store.Configs.Find(space, c.Config)
		if !found {
			return nil, errUnset("config", c.Config)
		}
		all.given["config "+c.Config] = rec.Revision
		if c.Env != "" {
			all.env[c.Env] = string(rec.Value.Value)
			continue
		}
		all.add(c.Target, configsDir+"/"+c.Config, rec.Value.Value, c.Mode, 0o444)
	}
	return all, nil
}

func (a *material) add(target, usual string, value []byte, mode uint32, usualMode fs.FileMode) {
	f := materialFile{target: usual, value: value, mode: usualMode}
	if target != "" {
		f.target = path.Clean(target)
	}
	if mode != 0 {
		f.mode = fs.FileMode(mode) & 0o777
	}
	a.files = append(a.files, f)
}

func sealName(space, name string) string { return space + "/" + name }

func errUnset(what, name string) error {
	return mayfly.Errorf(mayfly.NotFound, "%s %s was not set", what, name).WithHint("mayfly %s set %s", what, name)
}

// missing names what is not set of what a workload names, "" if all is.
func (m *materials) missing(w *mayfly.Workload) string {
	for _, s := range w.Secrets {
		if _, found := m.store.Secrets.Find(w.Space, s.Secret); !found {
			return fmt.Sprintf("it needs secret %s, which was not set", s.Secret)
		}
	}
	for _, c := range w.Configs {
		if _, found := m.store.Configs.Find(w.Space, c.Config); !found {
			return fmt.Sprintf("it needs config %s, which was not set", c.Config)
		}
	}
	return ""
}

// give puts what an instance gets where its container finds it, and returns what
// is to be mounted and what goes into /run/mayfly. release takes it back.
func (m *materials) give(id string, a *material, u container.User) (mounts []mayfly.Mount, own map[string][]byte, err error) {
	if len(a.given) == 0 {
		return nil, nil, nil
	}
	if err := m.mount(); err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(m.dir, id)
	for _, d := range []string{dir, dir + "/secrets", dir + "/files"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	own = make(map[string][]byte)
	for i, f := range a.files {
		at, in := m.place(dir, i, f)
		if name, ok := ownFile(f.target); ok {
			own[name] = f.value
			continue
		}
		if err := putMaterial(at, f, u); err != nil {
			return nil, nil, err
		}
		mount := mayfly.Mount{Type: "bind", Source: at, Target: f.target, ReadOnly: true}
		if in == secretsDir {
			mount = mayfly.Mount{Type: "bind", Source: dir + "/secrets", Target: secretsDir, ReadOnly: true}
		}
		if !slices.Contains(mounts, mount) {
			mounts = append(mounts, mount)
		}
	}
	return mounts, own, m.note(id, a.given)
}

// place is where a file of an instance is on the node.
func (m *materials) place(dir string, i int, f materialFile) (at, in string) {
	if in = path.Dir(f.target); in == secretsDir {
		return dir + "/secrets/" + path.Base(f.target), in
	}
	return dir + "/files/" + strconv.Itoa(i), in
}

// ownFile is the name of a file among those of the sandbox.
func ownFile(target string) (string, bool) {
	return strings.TrimPrefix(target, "/run/mayfly/"), path.Dir(target) == configsDir
}

// putMaterial writes a file of a container's user, in place of another as a whole.
func putMaterial(at string, f materialFile, u container.User) error {
	name := filepath.Dir(filepath.Dir(at)) + "/new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = out.WriteAt(f.value, 0)
	err = errors.Join(err, out.Truncate(int64(len(f.value))), out.Chown(int(u.UID), int(u.GID)), out.Chmod(f.mode), out.Close())
	if err == nil {
		err = os.Rename(name, at)
	}
	return err
}

// renew gives an instance that runs what there is now. It is for the caller to
// note, once the instance knows.
func (m *materials) renew(s *container.Sandbox, a *material) error {
	dir := filepath.Join(m.dir, s.ID)
	for i, f := range a.files {
		if name, ok := ownFile(f.target); ok {
			if err := s.PutFile(name, f.value); err != nil {
				return err
			}
			continue
		}
		at, in := m.place(dir, i, f)
		put := func() error { return putMaterial(at, f, s.User) }
		var err error
		if in == secretsDir {
			err = put()
		} else {
			err = s.ReplaceMounted(f.target, at, put)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *materials) note(id string, g given) error {
	text, err := json.Marshal(g)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(m.dir, id, "given"), text, 0o600)
}

// has is what an instance was given last; nothing if that is not known.
func (m *materials) has(id string) given {
	g := make(given)
	if text, err := os.ReadFile(filepath.Join(m.dir, id, "given")); err == nil {
		json.Unmarshal(text, &g)
	}
	return g
}

// release takes back what an instance was given.
func (m *materials) release(id string) error { return os.RemoveAll(filepath.Join(m.dir, id)) }

// recover takes back what instances were given that do not live.
func (m *materials) recover(lives func(id string) bool) error {
	entries, err := os.ReadDir(m.dir)
	for _, e := range entries {
		if !lives(e.Name()) {
			err = errors.Join(err, m.release(e.Name()))
		}
	}
	return err
}

// changedSince lists what of a workload's secrets and configs is another one than
// was given, as "secret NAME" and "config NAME". What was removed counts as the
// same: the container keeps it.
func (m *materials) changedSince(g given, w *mayfly.Workload) (names []string) {
	for _, s := range w.Secrets {
		if rec, found := m.store.Secrets.Find(w.Space, s.Secret); found && g["secret "+s.Secret] != rec.Revision {
			names = append(names, "secret "+s.Secret)
		}
	}
	for _, c := range w.Configs {
		if rec, found := m.store.Configs.Find(w.Space, c.Config); found && g["config "+c.Config] != rec.Revision {
			names = append(names, "config "+c.Config)
		}
	}
	return names
}

// refreshFunctions has the sandboxes of functions made anew whose secrets or
// configs change, until ctx ends. Runs under way go on with what they have.
func (n *Node) refreshFunctions(ctx context.Context) error {
	for {
		secrets, configs := n.store.Secrets.Changed(), n.store.Configs.Changed()
		n.mu.Lock()
		var stale []functionKey
		for key, f := range n.functions {
			if len(n.materials.changedSince(f.material.given, &f.release.Workload)) > 0 {
				stale = append(stale, key)
			}
		}
		n.mu.Unlock()
		for _, key := range stale {
			n.drop(ctx, key)
		}
		select {
		case <-secrets:
		case <-configs:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
