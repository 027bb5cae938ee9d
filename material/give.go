package material

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// Give puts the files that an instance gets where its container finds them, and
// returns what is to be mounted and what goes into /run/mayfly. The variables are
// the caller's to give. Release takes the files back.
func (s *Store) Give(id string, v *Values, u container.User) (mounts []mayfly.Mount, own map[string][]byte, err error) {
	if len(v.given) == 0 {
		return nil, nil, nil
	}
	if err := s.mount(); err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(s.dir, id)
	for _, d := range []string{dir, dir + "/secrets", dir + "/files"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	own = make(map[string][]byte)
	for i, f := range v.files {
		at, in := place(dir, i, f)
		if name, ok := ownFile(f.target); ok {
			own[name] = f.value
			continue
		}
		if err := put(at, f, u); err != nil {
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
	return mounts, own, s.Note(id, v)
}

// place is where a file of an instance is on the node.
func place(dir string, i int, f file) (at, in string) {
	if in = path.Dir(f.target); in == secretsDir {
		return dir + "/secrets/" + path.Base(f.target), in
	}
	return dir + "/files/" + strconv.Itoa(i), in
}

// ownFile is the name of a file among those of the sandbox.
func ownFile(target string) (string, bool) {
	return strings.TrimPrefix(target, "/run/mayfly/"), path.Dir(target) == ConfigsDir
}

// put writes a file of a container's user, in place of another as a whole.
func put(at string, f file, u container.User) error {
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

// Renew gives an instance that runs the files that there are now. It is for the
// caller to Note, once the instance knows.
func (s *Store) Renew(box *container.Sandbox, v *Values) error {
	dir := filepath.Join(s.dir, box.ID)
	for i, f := range v.files {
		if name, ok := ownFile(f.target); ok {
			if err := box.PutFile(name, f.value); err != nil {
				return err
			}
			continue
		}
		at, in := place(dir, i, f)
		change := func() error { return put(at, f, box.User) }
		var err error
		if in == secretsDir {
			err = change()
		} else {
			err = box.ReplaceMounted(f.target, at, change)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Note writes down that an instance has the values, from which Changed tells.
func (s *Store) Note(id string, v *Values) error {
	text, err := json.Marshal(v.given)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, id, "given"), text, 0o600)
}

// has is what an instance was given last; nothing if that is not known.
func (s *Store) has(id string) given {
	g := make(given)
	if text, err := os.ReadFile(filepath.Join(s.dir, id, "given")); err == nil {
		json.Unmarshal(text, &g)
	}
	return g
}

// Release takes back what an instance was given.
func (s *Store) Release(id string) error { return os.RemoveAll(filepath.Join(s.dir, id)) }

// Recover takes back what instances were given that do not live.
func (s *Store) Recover(lives func(id string) bool) error {
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if !lives(e.Name()) {
			err = errors.Join(err, s.Release(e.Name()))
		}
	}
	return err
}
