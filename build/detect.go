package build

import (
	"cmp"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// maxLook is how much of a file is read to find out what it is, in bytes.
const maxLook = 1 << 20

// Found is what a folder of code was found to be, and how it becomes a function.
type Found struct {
	Text     string // what it is, for a person: "a Python file with a handler, main.py"
	Stack    string // that it runs on; empty when only its start command is known
	Handler  string // FILE.FUNCTION; protocol handler
	Command  []string
	Protocol mayfly.Protocol
	Build    *mayfly.Build // nil: it runs as it is
}

// Detect finds out what the code in a folder is. What comes first counts: a Go
// module, package.json, requirements.txt or pyproject.toml, a file of Python,
// JavaScript or Go with a handler or a program, index.html. A Procfile says how
// whatever it is is started.
//
// Files that Tar leaves out are not looked at. It fails with kind Invalid, and a
// line on what was looked for, when it cannot tell.
func Detect(dir string) (Found, error) { return look(dir, false) }

// look is Detect for code of which it may be known how it is started: then nothing
// has to be found that could be.
func look(dir string, started bool) (Found, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Found{}, codeFolder(dir, err)
	}
	defer root.Close()
	ignore, err := readIgnore(root.FS(), nil)
	if err != nil {
		return Found{}, err
	}
	f, err := detect(root.FS(), ignore.leavesOut, started)
	if err != nil {
		return f, wrap(err, "look at %s", dir)
	}
	return f, nil
}

// detect is Detect for any tree of files.
func detect(fsys fs.FS, skip func(name string, isDir bool) bool, started bool) (Found, error) {
	l := looker{fsys: fsys, skip: skip}
	if err := l.list(); err != nil {
		return Found{}, err
	}
	web, err := l.procfile()
	if err != nil {
		return Found{}, err
	}
	f, err := l.kind(web != "" || started)
	if err != nil {
		return f, err
	}
	if web == "" {
		if f.Stack == "" {
			return f, unknown()
		}
		return f, nil
	}
	if f.Stack == "" {
		if f.Stack = stackOf(web); f.Stack == "" {
			return f, mayfly.Errorf(mayfly.Invalid, "the Procfile starts %q, and nothing tells what that runs on", short(web)).
				WithHint("say --stack, see mayfly stack ls")
		}
		f.Text = "a Procfile"
	} else {
		f.Text += ", started as its Procfile says"
	}
	f.Handler, f.Command, f.Protocol = "", Shell(web), mayfly.HTTP
	if f.Build != nil && f.Build.Wrap != "" {
		f.Build.Wrap = "" // it is a program then
	}
	return f, nil
}

// kind finds what the code is, without regard to a Procfile but that there is one.
func (l *looker) kind(started bool) (Found, error) {
	for _, look := range []func(started bool) (Found, bool, error){l.goModule, l.packageJSON, l.pythonProject, l.pythonFile, l.scriptFile, l.goFile, l.site} {
		f, ok, err := look(started)
		if err != nil || ok {
			return f, err
		}
	}
	if started {
		return Found{}, nil
	}
	return Found{}, unknown()
}

func unknown() error {
	return mayfly.Errorf(mayfly.Invalid, "cannot tell what this code is: there is no Procfile, go.mod, package.json, requirements.txt, "+
		"pyproject.toml, index.html, nor a file of Python, JavaScript or Go with a handler or a program").
		WithHint("add one of them, or say --stack and --command; see mayfly stack ls")
}

// looker looks at the files of one folder.
type looker struct {
	fsys  fs.FS
	skip  func(name string, isDir bool) bool
	files []string // in the folder itself, sorted
}

func (l *looker) list() error {
	entries, err := fs.ReadDir(l.fsys, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() && !l.skip(e.Name(), false) {
			l.files = append(l.files, e.Name())
		}
	}
	return nil
}

func (l *looker) has(name string) bool { return slices.Contains(l.files, name) }

// read returns the beginning of a file, "" if there is none that may be read.
func (l *looker) read(name string) string {
	if !fs.ValidPath(name) {
		return ""
	}
	f, err := l.fsys.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLook))
	if err != nil {
		return ""
	}
	return string(data)
}

// isFile reports whether there is a file of that name, in the folder or below.
func (l *looker) isFile(name string) bool {
	if !fs.ValidPath(name) {
		return false
	}
	info, err := fs.Stat(l.fsys, name)
	return err == nil && info.Mode().IsRegular() && !l.skip(name, false)
}

// ending returns the files in the folder whose names end in one of these.
func (l *looker) ending(extensions ...string) (names []string) {
	for _, name := range l.files {
		if slices.Contains(extensions, path.Ext(name)) {
			names = append(names, name)
		}
	}
	return names
}

// site is a page with what belongs to it.
func (l *looker) site(bool) (Found, bool, error) {
	if !l.has("index.html") {
		return Found{}, false, nil
	}
	return Found{
		Text: "a static site, index.html", Stack: "static", Protocol: mayfly.HTTP,
		Command: []string{"lighttpd", "-D", "-f", "/etc/mayfly/site.conf"},
	}, true, nil
}

// Complete fills in what a workload leaves open, and notes in its Detected what
// that was. What it says already stays.
func (f Found) Complete(w *mayfly.Workload) {
	note := func(what string) { w.Detected = append(w.Detected, what) }
	own := w.Stack != ""
	starts := w.Handler != "" || w.Command != nil || w.Entrypoint != nil
	if !own {
		w.Stack = f.Stack
		note("stack")
	}
	if !starts {
		w.Handler, w.Command = f.Handler, f.Command
		note("start")
	}
	if w.Protocol == "" {
		w.Protocol = f.Protocol
		if starts {
			w.Protocol = mayfly.HTTP
			if w.Handler != "" {
				w.Protocol = mayfly.Handler
			}
		}
		note("protocol")
	}
	if w.Isolation == "" {
		w.Isolation = mayfly.IsolationRun
		if w.Protocol == mayfly.HTTP || w.Protocol == mayfly.Handler && (w.Scale.Concurrency > 1 || w.Scale.Cooldown > 0) {
			w.Isolation = mayfly.IsolationInstance
		}
		note("isolation")
	}
	if w.Build == nil && f.Build != nil && (!own || f.Stack == w.Stack || f.Build.Recipe == recipeGo && !starts) {
		w.Build = f.Build
		note("build")
	}
}

// Forget takes out of a workload what was detected, so that it can be detected
// again in other code.
func Forget(w *mayfly.Workload) {
	for _, what := range w.Detected {
		switch what {
		case "stack":
			w.Stack, w.Base = "", nil
		case "start":
			w.Handler, w.Command = "", nil
		case "protocol":
			w.Protocol = ""
		case "isolation":
			w.Isolation = ""
		case "build":
			w.Build = nil
		}
	}
	w.Detected = nil
}

// Fill has a workload's code looked at, unless it says all by itself: it knows
// its stack and how it is started, and says nothing of a build. It returns what
// was found, with an empty Text where nobody looked.
func Fill(w *mayfly.Workload, dir string) (Found, error) {
	starts := w.Handler != "" || w.Command != nil || w.Entrypoint != nil
	said := w.Stack != "" && starts
	f, err := Detect(dir)
	if err != nil && starts { // it may be plain what it is, though not how it is started
		runs := cmp.Or(w.Stack, commandStack(w))
		if g, gErr := look(dir, true); gErr == nil && (runs == "" || runs == g.Stack) {
			f, err = g, nil
		}
	}
	if err != nil {
		if said {
			Found{}.Complete(w)
			w.Detected = slices.DeleteFunc(w.Detected, func(what string) bool { return what == "build" })
			return Found{}, nil
		}
		if stack := commandStack(w); w.Stack == "" && stack != "" && mayfly.KindOf(err) == mayfly.Invalid {
			f, err = Found{Text: "a program", Stack: stack, Protocol: mayfly.HTTP}, nil
		}
	}
	if err != nil {
		return f, err
	}
	f.Complete(w)
	if said && w.Build == nil {
		f.Text = ""
	}
	return f, nil
}

func commandStack(w *mayfly.Workload) string {
	words := slices.Concat(w.Entrypoint, w.Command)
	if len(words) == 3 && words[0] == "/bin/sh" && words[1] == "-c" { // as Shell makes it
		words = words[2:]
	}
	return stackOf(strings.Join(words, " "))
}
