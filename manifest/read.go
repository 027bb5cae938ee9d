package manifest

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/template"

	"github.com/mayfly-run/mayfly"
)

// topKeys are the keys that may stand at the top. Those that are false are
// Compose's, and understood, but what they ask for cannot be done yet.
var topKeys = map[string]bool{
	"name": true, "version": true, "include": true, "functions": true, "services": true, "stacks": true,
	"volumes": true, "networks": true, "configs": true, "secrets": true, "models": false, "jobs": false,
}

// reader reads one manifest with all that it includes.
type reader struct {
	opts  Options
	root  *os.Root // of the manifest's folder; nil when only text is read
	dir   string
	files int
	out   Manifest

	list     []*service
	declared map[string]map[string]declaration // by kind and key
	stacks   map[string]*mayfly.StackSpec      // of the manifest's own
	off      map[string]bool                   // services whose profile is not on
	checks   []pending
	refused  []refusal

	allRoutes []mayfly.Route // that were read so far
}

// file is one file of a manifest while it is read.
type file struct {
	*source
	dir     string            // relative to the manifest's, where its own paths begin
	env     map[string]string // values for ${NAME}
	compose bool              // it is Compose's
}

func (r *reader) read(name string, data []byte) (*Manifest, error) {
	env := maps.Clone(r.opts.Env)
	if env == nil {
		env = map[string]string{}
	}
	if r.opts.Space == "" {
		r.opts.Space = mayfly.DefaultSpace
	}
	if err := mayfly.CheckName("space", r.opts.Space); err != nil {
		return nil, err
	}
	r.declared, r.stacks, r.off = newDeclared(), map[string]*mayfly.StackSpec{}, map[string]bool{}
	if profiles := env["COMPOSE_PROFILES"]; profiles != "" && r.opts.Profiles == nil {
		r.opts.Profiles = strings.Split(profiles, ",")
	}
	err := r.file(name, data, ".", env, nil)
	if err == nil {
		err = r.finish()
	}
	if refused := r.refusal(); refused != nil {
		err = refused // what else is wrong may follow from it
	}
	if err != nil {
		return nil, err
	}
	return &r.out, nil
}

// file reads one file and then those that it includes. The folder dir, relative
// to the manifest's, is where the file's own paths begin; stack holds the files
// that led here.
func (r *reader) file(name string, data []byte, dir string, env map[string]string, stack []string) error {
	if r.files++; r.files > maxFiles {
		return mayfly.Errorf(mayfly.Invalid, "%s: more than %d files are included", name, maxFiles)
	}
	s, err := parse(name, data)
	if err != nil {
		return err
	}
	if err := s.checkTop(); err != nil {
		return err
	}
	if env, err = r.dotenv(dir, env); err != nil {
		return err
	}
	if err := r.checkVariables(s, env); err != nil {
		return err
	}
	if len(stack) == 0 {
		if r.out.Name, err = r.projectName(s, env); err != nil {
			return err
		}
	}
	model, err := r.interpolate(s, env)
	if err != nil {
		return err
	}
	if s.top["version"] != nil {
		r.out.Warnings = append(r.out.Warnings, s.errorf(place("version").key(), "version is ignored: every file is read as the newest").Text)
	}
	stack = append(stack, filepath.Clean(name))
	if err := r.sections(file{s, dir, env, inCompose(stack)}, model); err != nil {
		return err
	}
	return r.include(s, dir, env, stack)
}

// sections reads what stands under each key at the top.
func (r *reader) sections(f file, model map[string]any) error {
	for _, section := range []struct {
		key  string
		read func(file, any) error
	}{
		{"volumes", r.topVolumes}, {"secrets", r.topSecrets}, {"configs", r.topConfigs}, {"networks", r.topNetworks}, {"stacks", r.topStacks},
		{"functions", r.functions}, {"services", r.services},
	} {
		if err := section.read(f, model[section.key]); err != nil {
			return err
		}
	}
	return nil
}

// checkTop refuses every key at the top that is unknown or cannot be honoured.
func (s *source) checkTop() error {
	for _, key := range slices.Sorted(maps.Keys(s.top)) {
		at := place(key)
		supported, known := topKeys[key]
		switch {
		case strings.HasPrefix(key, "x-"):
		case !known:
			return s.unknownKey(at, "", key, []string{"name", "include", "functions", "services", "volumes", "secrets", "configs", "stacks"}, slices.Collect(maps.Keys(topKeys)))
		case !supported && !isEmpty(s.top[key]):
			return s.errorf(at.key(), "%q is not supported yet", key).WithHint("remove it")
		}
	}
	return nil
}

func isEmpty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

// interpolate has compose-go put the variables in, and returns what stands at
// the top. Its loader, which would do that too, is not asked: it looks for what
// is its own at every value, which takes a hundred services a tenth of a second,
// and compiles JSON schemas whenever the program starts.
func (r *reader) interpolate(s *source, env map[string]string) (map[string]any, error) {
	model, err := interpolation.Interpolate(s.top, interpolation.Options{
		LookupValue: interpolation.LookupValue(lookupIn(env)), Substitute: substitute,
	})
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s: %s", s.name, excerpt(err.Error()))
	}
	return model, nil
}

// substitute is compose-go's, without its warnings: checkVariables has said
// what is missing, and where.
func substitute(text string, lookup template.Mapping) (string, error) {
	return template.SubstituteWithOptions(text, lookup, template.WithoutLogging)
}

// projectName is what the file says, or the name of its folder.
func (r *reader) projectName(s *source, env map[string]string) (string, error) {
	if v, ok := s.top["name"]; ok && v != nil {
		text, ok := v.(string)
		if !ok {
			return "", s.errorf("name", "name must be a word")
		}
		text, err := substitute(text, lookupIn(env))
		if err != nil {
			return "", s.errorf("name", "%s", err)
		}
		if text != normalName(text) || text == "" {
			return "", s.errorf("name", "name %q is not a valid project name", text).
				WithHint("use a-z, 0-9, '-' and '_', starting with a letter or digit")
		}
		return text, nil
	}
	abs, err := filepath.Abs(r.dir)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Invalid, "%s: %w", s.name, err)
	}
	if name := normalName(filepath.Base(abs)); name != "" {
		return name, nil
	}
	return "mayfly", nil
}

// normalName makes a project's name of a text as Compose does: what may not be in
// one is left out.
func normalName(text string) string {
	text = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			return c
		}
		return -1
	}, strings.ToLower(text))
	return strings.TrimLeft(text, "_-")
}

func lookupIn(env map[string]string) template.Mapping {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

// dotenv adds what a .env file in the folder says to env, which wins.
func (r *reader) dotenv(dir string, env map[string]string) (map[string]string, error) {
	if r.root == nil {
		return env, nil
	}
	name := filepath.Join(dir, ".env")
	data, err := r.readBeneath(name)
	if errors.Is(err, os.ErrNotExist) {
		return env, nil
	}
	if err != nil {
		return nil, err
	}
	found, err := dotenv.ParseWithLookup(strings.NewReader(string(data)), dotenv.LookupFn(lookupIn(env)))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s: %s", filepath.Join(r.dir, name), excerpt(err.Error()))
	}
	maps.Copy(found, env)
	return found, nil
}

// checkVariables tries every ${...} of the file, so that an error has a place,
// and warns of those that are not set and have no default.
func (r *reader) checkVariables(s *source, env map[string]string) error {
	return walk(s.top, "", func(p place, text string) error {
		if !strings.ContainsRune(text, '$') {
			return nil
		}
		if _, err := substitute(text, lookupIn(env)); err != nil {
			return s.errorf(p, "%s", excerpt(err.Error())).WithHint("write $$ for a plain $")
		}
		for _, name := range unset(text, env) {
			r.out.Warnings = append(r.out.Warnings, s.errorf(p, "the variable %s is not set, so it is empty; write $$ if the container's own is meant", name).Text)
		}
		return nil
	})
}

// unset returns the variables that text takes and that have neither a value
// nor a default, be it an empty one.
func unset(text string, env map[string]string) []string {
	var names []string
	for name, v := range template.ExtractVariables(map[string]any{"": text}, template.DefaultPattern) {
		if _, set := env[name]; set || v.DefaultValue != "" || v.PresenceValue != "" {
			continue
		}
		if strings.Contains(text, "${"+name+"-") || strings.Contains(text, "${"+name+":-") {
			continue // compose-go does not tell an empty default from none
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// walk calls do for every text in v, in order.
func walk(v any, p place, do func(place, string) error) error {
	switch v := v.(type) {
	case string:
		return do(p, v)
	case []any:
		for i, item := range v {
			if err := walk(item, p.item(i), do); err != nil {
				return err
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if err := walk(v[k], p.child(k), do); err != nil {
				return err
			}
		}
	}
	return nil
}
