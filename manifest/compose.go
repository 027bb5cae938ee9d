package manifest

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/mayfly-run/mayfly"
)

// functionsKey is what our functions are called on their way through
// compose-go, which carries extensions along untouched but interpolated.
const functionsKey = "x-mayfly-functions"

// topKeys are the keys that may stand at the top. Those that are false are
// Compose's, and understood, but what they ask for cannot be done yet.
var topKeys = map[string]bool{
	"name": true, "version": true, "include": true, "functions": true, "services": true,
	"volumes": false, "networks": false, "configs": false, "secrets": false, "models": false, "jobs": false,
}

// reader reads one manifest with all that it includes.
type reader struct {
	opts  Options
	root  *os.Root // of the manifest's folder; nil when only text is read
	dir   string
	files int
	out   Manifest
}

func (r *reader) read(ctx context.Context, name string, data []byte) (*Manifest, error) {
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
	if err := r.file(ctx, name, data, ".", env, nil); err != nil {
		return nil, err
	}
	slices.SortFunc(r.out.Functions, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	return &r.out, nil
}

// file reads one file and then those that it includes. The folder dir, relative
// to the manifest's, is where the file's own paths begin; stack holds the files
// that led here.
func (r *reader) file(ctx context.Context, name string, data []byte, dir string, env map[string]string, stack []string) error {
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
	model, err := r.compose(ctx, s, dir, env)
	if err != nil {
		return err
	}
	if len(stack) == 0 {
		r.out.Name, _ = model["name"].(string)
	}
	if err := r.functions(s, model[functionsKey], dir, env); err != nil {
		return err
	}
	return r.include(ctx, s, dir, env, append(stack, filepath.Clean(name)))
}

// checkTop refuses every key at the top that is unknown or cannot be honoured.
func (s *source) checkTop() error {
	for _, key := range slices.Sorted(maps.Keys(s.top)) {
		at := place(key)
		supported, known := topKeys[key]
		switch {
		case key == functionsKey:
			return s.errorf(at.key(), "the key %q is reserved", key).WithHint("write functions:")
		case strings.HasPrefix(key, "x-"):
		case !known:
			return s.unknownKey(at, "", key, []string{"name", "include", "functions"}, slices.Collect(maps.Keys(topKeys)))
		case !supported && !isEmpty(s.top[key]):
			return s.errorf(at.key(), "%q is not supported yet", key).WithHint("remove it")
		}
	}
	services, ok := s.top["services"].(map[string]any)
	if !ok && !isEmpty(s.top["services"]) {
		return s.errorf("services", "services must be a mapping of names")
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		return s.errorf(place("services").child(name).key(), "service %q: services are not supported yet", name).
			WithHint("run it as a function, or leave it out")
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

// compose passes the file through compose-go and returns its model.
func (r *reader) compose(ctx context.Context, s *source, dir string, env map[string]string) (map[string]any, error) {
	model := maps.Clone(s.top)
	delete(model, "include") // ours to follow: compose-go would not know our keys there
	delete(model, "version")
	if functions, ok := model["functions"]; ok {
		model[functionsKey] = functions
		delete(model, "functions")
	}
	name, err := r.projectName(s, env)
	if err != nil {
		return nil, err
	}
	model["name"] = name
	workDir, err := filepath.Abs(filepath.Join(r.dir, dir))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s: %w", s.name, err)
	}
	details := types.ConfigDetails{
		WorkingDir:  workDir,
		ConfigFiles: []types.ConfigFile{{Filename: s.name, Content: []byte{}, Config: model}},
		Environment: env,
	}
	out, err := loader.LoadModelWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName(name, true)
		o.SkipInclude = true
		o.Profiles = r.opts.Profiles
		o.Interpolate.Substitute = substitute
	})
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s: %s", s.name, excerpt(err.Error()))
	}
	return out, nil
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
		if text != loader.NormalizeProjectName(text) || text == "" {
			return "", s.errorf("name", "name %q is not a valid project name", text).
				WithHint("use a-z, 0-9, '-' and '_', starting with a letter or digit")
		}
		return text, nil
	}
	abs, err := filepath.Abs(r.dir)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Invalid, "%s: %w", s.name, err)
	}
	if name := loader.NormalizeProjectName(filepath.Base(abs)); name != "" {
		return name, nil
	}
	return "mayfly", nil
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
			r.out.Warnings = append(r.out.Warnings, s.errorf(p, "the variable %s is not set, so it is empty", name).Text)
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
