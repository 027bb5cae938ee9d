package build

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// goProgramDir is where programs lie that were compiled, beneath AppDir.
const goProgramDir = ".mayfly/bin"

// goModule is a folder with go.mod. Its program is the package main in it, else
// the only one in a folder of cmd/, else what its Handle is wrapped in.
func (l *looker) goModule(started bool) (Found, bool, error) {
	if !l.has("go.mod") {
		return Found{}, false, nil
	}
	mod := parseGoMod(l.read("go.mod"))
	fetch := mod.requires && !l.isFile("vendor/modules.txt")
	pkg := l.goPackage(".")
	name := programName(mod.path)
	found := func(text, target, name, wrap string) (Found, bool, error) {
		return Found{
			Text: text, Stack: "static", Protocol: mayfly.HTTP, Command: []string{name},
			Build: &mayfly.Build{Recipe: recipeGo, Target: target, Program: name, Wrap: wrap, Fetch: fetch},
		}, true, nil
	}
	if pkg.main {
		return found("a Go module, "+mod.path, ".", name, "")
	}
	if pkg.wrap != "" {
		return found("a Go module with a handler, func Handle in "+pkg.handleIn, ".", name, pkg.wrap)
	}
	mains := l.goCommands()
	if len(mains) == 1 {
		return found("a Go module, "+mod.path+"/"+mains[0], "./"+mains[0], programName(mains[0]), "")
	}
	if len(mains) > 1 {
		return Found{}, false, mayfly.Errorf(mayfly.Invalid, "the Go module has several programs: %s", strings.Join(mains, ", ")).
			WithHint("push the folder of one module with one program")
	}
	if pkg.odd != "" {
		return Found{}, false, oddHandle(pkg)
	}
	return Found{}, false, mayfly.Errorf(mayfly.Invalid, "the Go module has no package main, neither here nor beneath cmd/, and no func Handle").
		WithHint("add one of them")
}

// goFile is Go without go.mod: files of one package in the folder, that import
// nothing but the standard library.
func (l *looker) goFile(bool) (Found, bool, error) {
	pkg := l.goPackage(".")
	if !pkg.main && pkg.wrap == "" {
		if pkg.odd != "" {
			return Found{}, false, oddHandle(pkg)
		}
		return Found{}, false, nil
	}
	if pkg.foreign != "" {
		return Found{}, false, mayfly.Errorf(mayfly.Invalid, "%s imports %s, and there is no go.mod", pkg.foreignIn, short(pkg.foreign)).
			WithHint("run go mod init and go mod tidy")
	}
	f := Found{
		Text: "a Go program, " + pkg.mainIn, Stack: "static", Protocol: mayfly.HTTP, Command: []string{"app"},
		Build: &mayfly.Build{Recipe: recipeGo, Target: ".", Program: "app"},
	}
	if !pkg.main {
		f.Text, f.Build.Wrap = "a Go file with a handler, func Handle in "+pkg.handleIn, pkg.wrap
	}
	return f, true, nil
}

func oddHandle(p goPackage) error {
	return mayfly.Errorf(mayfly.Invalid, "func Handle in %s is of no form that can be called", p.odd).
		WithHint("write func Handle(w http.ResponseWriter, r *http.Request) or func Handle(ctx context.Context, event T) (R, error)")
}

// goPackage is what the Go files of a folder say.
type goPackage struct {
	main     bool // package main with func main
	mainIn   string
	wrap     string // how its Handle is called: "http" or "event"
	handleIn string
	odd      string // the file of a Handle that cannot be called

	foreign, foreignIn string // an import that is not of the standard library
}

func (l *looker) goPackage(dir string) (p goPackage) {
	entries, err := fs.ReadDir(l.fsys, dir)
	if err != nil {
		return p
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || e.IsDir() || l.skip(name, false) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, l.read(name), parser.SkipObjectResolution)
		if file == nil || err != nil && file.Name == nil {
			continue // the compiler says what is wrong
		}
		p.look(file, name)
	}
	return p
}

func (p *goPackage) look(file *ast.File, name string) {
	for _, i := range file.Imports {
		at := strings.Trim(i.Path.Value, `"`+"`")
		first, _, _ := strings.Cut(at, "/")
		if strings.Contains(first, ".") {
			p.foreign, p.foreignIn = at, name
		}
	}
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil {
			continue
		}
		switch {
		case f.Name.Name == "main" && file.Name.Name == "main":
			p.main, p.mainIn = true, name
		case f.Name.Name == "Handle":
			if p.wrap = wrapOf(f.Type); p.wrap == "" {
				p.odd = name
			}
			p.handleIn = name
		}
	}
}

// wrapOf says how a func Handle is called.
func wrapOf(f *ast.FuncType) string {
	var in, out []string
	for _, p := range f.Params.List {
		for range max(len(p.Names), 1) {
			in = append(in, typeText(p.Type))
		}
	}
	if f.Results != nil {
		for _, p := range f.Results.List {
			for range max(len(p.Names), 1) {
				out = append(out, typeText(p.Type))
			}
		}
	}
	switch {
	case f.TypeParams != nil:
		return ""
	case slices.Equal(in, []string{"http.ResponseWriter", "*http.Request"}) && len(out) == 0:
		return wrapHTTP
	case len(in) == 2 && in[0] == "context.Context" && len(out) == 2 && out[1] == "error":
		return wrapEvent
	}
	return ""
}

// typeText is a type as it is written, if it is a plain one.
func typeText(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return "*" + typeText(e.X)
	case *ast.SelectorExpr:
		return typeText(e.X) + "." + e.Sel.Name
	}
	return "?"
}

// goCommands returns the folders of cmd/ with a program in them.
func (l *looker) goCommands() (mains []string) {
	entries, _ := fs.ReadDir(l.fsys, "cmd")
	if l.goPackage("cmd").main {
		mains = append(mains, "cmd")
	}
	for _, e := range entries {
		dir := "cmd/" + e.Name()
		if e.IsDir() && !l.skip(dir, true) && l.goPackage(dir).main {
			mains = append(mains, dir)
		}
	}
	return mains
}

// goMod is what go.mod says.
type goMod struct {
	path     string
	requires bool
}

// parseGoMod reads what is needed of a go.mod; the compiler says what is wrong
// with it.
func parseGoMod(text string) (m goMod) {
	block := ""
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		word := strings.Fields(line)
		switch {
		case len(word) == 0:
		case block != "" && word[0] == ")":
			block = ""
		case block == "require":
			m.requires = true
		case block != "":
		case len(word) == 2 && word[1] == "(":
			block = word[0]
		case word[0] == "module" && len(word) == 2:
			m.path = strings.Trim(word[1], "\"`")
		case word[0] == "require" && len(word) > 2:
			m.requires = true
		}
	}
	return m
}

var majorSuffix = regexp.MustCompile(`^v[0-9]+$`)

// programName is what the go command calls the program of a package.
func programName(pkg string) string {
	name := path.Base(pkg)
	if majorSuffix.MatchString(name) && strings.Contains(pkg, "/") {
		name = path.Base(path.Dir(pkg))
	}
	if !mayfly.IsProgramName(name) {
		return "app"
	}
	return name
}
