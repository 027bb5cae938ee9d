package material

import (
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// ConfigsDir is where configs are in a container unless it is said otherwise, and
// nothing else may be.
const ConfigsDir = "/run/mayfly/config"

const secretsDir = "/run/secrets"

// Values are what a workload is given of secrets and configs.
type Values struct {
	Env     map[string]string // of configs
	Private []string          // NAME=VALUE of secrets, to be written down nowhere

	files []file
	given given
}

type file struct {
	target string
	value  []byte
	mode   fs.FileMode
}

// given is what an instance has: revisions of records, by "secret NAME" and
// "config NAME".
type given map[string]uint64

// Resolve reads what a workload names. What is not there is a NotFound error
// that says how to set it.
func (s *Store) Resolve(space string, secrets []mayfly.SecretMount, configs []mayfly.ConfigMount) (*Values, error) {
	all := &Values{Env: make(map[string]string), given: make(given)}
	for _, m := range secrets {
		rec, found := s.record.Secrets.Find(space, m.Secret)
		if !found {
			return nil, errUnset("secret", m.Secret)
		}
		value, err := s.keys.Open(sealName(space, m.Secret), rec.Value.Sealed)
		if err != nil {
			return nil, err
		}
		all.given["secret "+m.Secret] = rec.Revision
		if m.Env != "" {
			if slices.Contains(value, 0) {
				return nil, mayfly.Errorf(mayfly.Invalid, "secret %s has a zero byte, which no variable can hold", m.Secret).WithHint("take it as a file")
			}
			all.Private = append(all.Private, m.Env+"="+string(value))
			continue
		}
		all.add(m.Target, secretsDir+"/"+m.Secret, value, m.Mode, 0o400)
	}
	for _, m := range configs {
		rec, found := s.record.Configs.Find(space, m.Config)
		if !found {
			return nil, errUnset("config", m.Config)
		}
		all.given["config "+m.Config] = rec.Revision
		if m.Env != "" {
			all.Env[m.Env] = string(rec.Value.Value)
			continue
		}
		all.add(m.Target, ConfigsDir+"/"+m.Config, rec.Value.Value, m.Mode, 0o444)
	}
	return all, nil
}

func (v *Values) add(target, usual string, value []byte, mode uint32, usualMode fs.FileMode) {
	f := file{target: usual, value: value, mode: usualMode}
	if target != "" {
		f.target = path.Clean(target)
	}
	if mode != 0 {
		f.mode = fs.FileMode(mode) & 0o777
	}
	v.files = append(v.files, f)
}

func errUnset(what, name string) error {
	return mayfly.Errorf(mayfly.NotFound, "%s %s was not set", what, name).WithHint("mayfly %s set %s", what, name)
}

// Missing names what is not set of what a workload names, "" if all is.
func (s *Store) Missing(w *mayfly.Workload) string {
	for _, m := range w.Secrets {
		if _, found := s.record.Secrets.Find(w.Space, m.Secret); !found {
			return fmt.Sprintf("it needs secret %s, which was not set", m.Secret)
		}
	}
	for _, m := range w.Configs {
		if _, found := s.record.Configs.Find(w.Space, m.Config); !found {
			return fmt.Sprintf("it needs config %s, which was not set", m.Config)
		}
	}
	return ""
}

// Outdated reports whether a workload would be given something else than the values
// by now. What was removed counts as the same: who has it keeps it.
func (s *Store) Outdated(v *Values, w *mayfly.Workload) bool {
	return len(s.changedSince(v.given, w)) > 0
}

// Changed lists what of a workload's secrets and configs is another one than an
// instance of it was given last, each once, as "secret NAME" and "config NAME". What
// was removed counts as the same: the container keeps it.
func (s *Store) Changed(id string, w *mayfly.Workload) []string {
	return s.changedSince(s.has(id), w)
}

func (s *Store) changedSince(g given, w *mayfly.Workload) (names []string) {
	note := func(name string, revision uint64, found bool) {
		if found && g[name] != revision && !slices.Contains(names, name) { // it may be mounted twice
			names = append(names, name)
		}
	}
	for _, m := range w.Secrets {
		rec, found := s.record.Secrets.Find(w.Space, m.Secret)
		note("secret "+m.Secret, rec.Revision, found)
	}
	for _, m := range w.Configs {
		rec, found := s.record.Configs.Find(w.Space, m.Config)
		note("config "+m.Config, rec.Revision, found)
	}
	return names
}
