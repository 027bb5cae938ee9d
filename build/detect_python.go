package build

import (
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// pythonProject is Python that lists what it needs.
func (l *looker) pythonProject(started bool) (Found, bool, error) {
	list, text := "", ""
	needs := false
	switch {
	case l.has("requirements.txt"):
		list, text = "requirements.txt", "Python with requirements.txt"
		needs = hasRequirements(l.read(list))
	case l.has("pyproject.toml"):
		list, text = "pyproject.toml", "Python with pyproject.toml"
		var err error
		if needs, err = hasDependencies(l.read(list)); err != nil {
			return Found{}, false, err
		}
	default:
		return Found{}, false, nil
	}
	f, ok, err := l.python(started)
	if err != nil {
		return f, false, err
	}
	if !ok {
		return f, false, mayfly.Errorf(mayfly.Invalid, "there is a %s, but no Python file with def handle(event, context), and none of %s", list, strings.Join(pythonPrograms(), ", ")).
			WithHint("add one, or a Procfile with web: COMMAND, or say --command")
	}
	if f.Text != "" {
		text += ": " + strings.TrimPrefix(f.Text, "a Python ")
	}
	f.Text = text
	if needs {
		f.Build = &mayfly.Build{Recipe: recipePip, Target: list, Fetch: true}
	}
	return f, true, nil
}

// pythonFile is Python that needs nothing but its standard library.
func (l *looker) pythonFile(started bool) (Found, bool, error) {
	if len(l.ending(".py")) == 0 {
		return Found{}, false, nil
	}
	f, ok, err := l.python(started)
	if ok && f.Text == "" {
		f.Text = "Python"
	}
	return f, ok, err
}

// pythonPrograms are looked for in this order.
func pythonPrograms() []string { return []string{"main.py", "app.py", "server.py", "__main__.py"} }

var pythonHandler = regexp.MustCompile(`(?m)^(?:async[ \t]+)?def[ \t]+handle[ \t]*\(`)

// python finds the handler or the program. What a Procfile starts needs neither.
func (l *looker) python(started bool) (Found, bool, error) {
	f := Found{Stack: "python"}
	if started {
		return f, true, nil
	}
	all := l.ending(".py")
	var with []string
	for _, name := range all {
		if pythonHandler.MatchString(l.read(name)) {
			with = append(with, name)
		}
	}
	if slices.Contains(with, "main.py") {
		with = []string{"main.py"}
	}
	switch {
	case len(with) > 1:
		return f, false, severalHandlers(with, "main.py")
	case len(with) == 1:
		f.Text, f.Handler, f.Protocol = "a Python file with a handler, "+with[0], strings.TrimSuffix(with[0], ".py")+".handle", mayfly.Handler
		return f, true, nil
	}
	program := first(pythonPrograms(), l.has)
	if program == "" && len(all) == 1 {
		program = all[0]
	}
	if program == "" {
		return f, false, nil
	}
	f.Text, f.Command, f.Protocol = "a Python program, "+program, []string{"/usr/bin/python3", "-u", program}, mayfly.HTTP
	return f, true, nil
}

func severalHandlers(with []string, first string) error {
	return mayfly.Errorf(mayfly.Invalid, "several files have a handler: %s", strings.Join(with, ", ")).
		WithHint("call one %s, or say --handler FILE.FUNCTION", first)
}

// first returns the first of the names for which ok holds, "" if none.
func first(names []string, ok func(string) bool) string {
	for _, name := range names {
		if ok(name) {
			return name
		}
	}
	return ""
}

// hasRequirements reports whether a requirements.txt asks for anything.
func hasRequirements(text string) bool {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return true
		}
	}
	return false
}

// hasDependencies reports whether a pyproject.toml's project has dependencies. It
// reads no more of TOML than that takes; pip reads the rest.
func hasDependencies(text string) (bool, error) {
	section, within := "", false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if within {
			if i := strings.IndexAny(line, `"'`); i >= 0 && !strings.HasPrefix(line, "#") {
				return true, nil
			}
			if strings.HasPrefix(line, "]") {
				return false, nil
			}
			continue
		}
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(strings.TrimSpace(strings.SplitN(line, "#", 2)[0]), "[] ")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		key = strings.Trim(strings.TrimSpace(key), `"'`)
		if section == "tool.poetry.dependencies" && key != "python" {
			return false, mayfly.Errorf(mayfly.Invalid, "the pyproject.toml lists dependencies for Poetry alone").
				WithHint("list them in [project] dependencies, or in requirements.txt")
		}
		if section != "project" || key != "dependencies" {
			continue
		}
		value = strings.TrimSpace(value)
		if strings.ContainsAny(value, `"'`) {
			return true, nil
		}
		within = !strings.Contains(value, "]")
	}
	return false, nil
}
