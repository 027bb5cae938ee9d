package build

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// packageFile is what a package.json says that matters here.
type packageFile struct {
	Main         string            `json:"main"`
	Scripts      map[string]string `json:"scripts"`
	Dependencies map[string]string `json:"dependencies"`
	Development  map[string]string `json:"devDependencies"`
	Optional     map[string]string `json:"optionalDependencies"`
}

// parsePackage reads a package.json. Of a key that is of another kind than it
// should be, npm says what is wrong, if it minds.
func parsePackage(text string) (p packageFile, err error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return p, mayfly.Errorf(mayfly.Invalid, "package.json is no JSON: %w", err)
	}
	for key, into := range map[string]any{
		"main": &p.Main, "scripts": &p.Scripts, "dependencies": &p.Dependencies, "devDependencies": &p.Development, "optionalDependencies": &p.Optional,
	} {
		if raw[key] != nil {
			_ = json.Unmarshal(raw[key], into)
		}
	}
	return p, nil
}

// packageJSON is a package of Node.js. Its script "start" says how it is started,
// else it is the file that "main" names, or one of the usual names.
func (l *looker) packageJSON(started bool) (Found, bool, error) {
	if !l.has("package.json") {
		return Found{}, false, nil
	}
	p, err := parsePackage(l.read("package.json"))
	if err != nil {
		return Found{}, false, err
	}
	f := Found{Text: "Node.js with package.json", Stack: "node", Protocol: mayfly.HTTP}
	built := p.Scripts["build"] != ""
	if len(p.Dependencies)+len(p.Optional) > 0 || built {
		f.Build = &mayfly.Build{Recipe: recipeNpm, Fetch: len(p.Dependencies)+len(p.Optional)+len(p.Development) > 0}
		if built {
			f.Build.Target = "build"
		}
	}
	start := strings.TrimSpace(p.Scripts["start"])
	if started {
		return f, true, nil
	}
	if start != "" {
		f.Text += ", started as its script start says"
		f.Command = Shell(start)
		return f, true, nil
	}
	main := strings.TrimPrefix(path.Clean(p.Main), "./")
	if p.Main == "" || !l.isFile(main) && !built {
		main = ""
	}
	g, ok, err := l.script(main)
	if err != nil {
		return f, false, err
	}
	if !ok {
		if l.has("index.html") {
			return f, false, nil // a site, whose package.json is for other tools
		}
		return f, false, mayfly.Errorf(mayfly.Invalid, "the package.json has no script start, its main is no file, and there is none of %s", strings.Join(scripts(), ", ")).
			WithHint(`add "scripts": {"start": "node FILE"}, or say --command`)
	}
	f.Text += ": " + strings.TrimPrefix(g.Text, "a JavaScript ")
	f.Handler, f.Command, f.Protocol = g.Handler, g.Command, g.Protocol
	return f, true, nil
}

// scriptFile is JavaScript that needs nothing but Node.js.
func (l *looker) scriptFile(started bool) (Found, bool, error) {
	all := l.ending(".mjs", ".js", ".cjs")
	if len(all) == 0 || l.has("index.html") { // then it is a page's
		return Found{}, false, nil
	}
	if started {
		return Found{Text: "JavaScript", Stack: "node"}, true, nil
	}
	main := ""
	if len(all) == 1 {
		main = all[0]
	}
	f, ok, err := l.script(main)
	f.Stack = "node"
	return f, ok, err
}

// scripts are looked for in this order.
func scripts() (names []string) {
	for _, base := range []string{"index", "main", "server", "app"} {
		for _, ext := range []string{".mjs", ".js", ".cjs"} {
			names = append(names, base+ext)
		}
	}
	return names
}

var scriptHandler = regexp.MustCompile(`(?m)(?:^|;)[ \t]*(?:export[ \t]+(?:async[ \t]+)?function[ \t*]+handle\b` +
	`|export[ \t]+(?:const|let|var)[ \t]+handle\b|export[ \t]*\{[^}]*\bhandle\b[^}]*\}` +
	`|(?:module\.)?exports\.handle[ \t]*=|module\.exports[ \t]*=[ \t]*\{[^}]*\bhandle\b)`)

// script finds the handler or the program: main, or one of the usual names.
func (l *looker) script(main string) (f Found, ok bool, err error) {
	if main == "" {
		var with []string
		for _, name := range l.ending(".mjs", ".js", ".cjs") {
			if scriptHandler.MatchString(l.read(name)) {
				with = append(with, name)
			}
		}
		main = first(scripts(), l.has)
		if main == "" && len(with) == 1 {
			main = with[0]
		}
		if len(with) > 1 && !slices.Contains(with, main) {
			return f, false, severalHandlers(with, "index.mjs")
		}
	}
	if main == "" {
		return f, false, nil
	}
	if scriptHandler.MatchString(l.read(main)) {
		f.Text, f.Handler, f.Protocol = "a JavaScript file with a handler, "+main, strings.TrimSuffix(main, path.Ext(main))+".handle", mayfly.Handler
		return f, true, nil
	}
	f.Text, f.Command, f.Protocol = "a JavaScript program, "+main, []string{"/usr/bin/node", main}, mayfly.HTTP
	return f, true, nil
}
