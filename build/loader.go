package build

import (
	_ "embed"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/sdk"
)

//go:embed loader/mayfly_loader.py
var pythonLoader []byte

//go:embed loader/mayfly_loader.mjs
var nodeLoader []byte

// language is one that handlers can be written in.
type language struct {
	name       string
	loader     []byte
	at         string   // path of the loader in the image
	flags      []string // of the interpreter
	extensions []string // of the handler's file, in the order of preference
	sdk        fs.FS    // the client of the API in this language
	sdkAt      string   // its folder in the image, where imports find it last
}

// languages are the ones with a loader. The loaders lie outside /usr, which
// the host stack covers with the machine's own.
func languages() []language {
	return []language{
		{"python", pythonLoader, "/opt/mayfly/loader.py", []string{"-u", "-B"}, []string{".py", "/__init__.py"}, sdk.Python(), "/opt/mayfly/sdk/mayfly"},
		{"node", nodeLoader, "/opt/mayfly/loader.mjs", nil, []string{".mjs", ".js", ".cjs"}, sdk.JavaScript(), "/node_modules/mayfly"},
	}
}

// interpreter is a language with the path of its program in a stack.
type interpreter struct {
	language
	program string
}

// pick finds out which of the stack's languages a handler is written in, by
// the files that its code has.
func pick(handler string, files map[string]bool, labels map[string]string) (interpreter, error) {
	file, _, _ := cutLast(handler, ".")
	var candidates, has []string
	for _, l := range languages() {
		program := labels[LabelLoader+l.name]
		for _, ext := range l.extensions {
			if !files[file+ext] {
				continue
			}
			if program != "" {
				return interpreter{l, program}, nil
			}
			return interpreter{}, mayfly.Errorf(mayfly.Invalid, "handler %s: the stack has no %s for %s", handler, l.name, file+ext).
				WithHint("choose a stack that has it")
		}
		if program != "" {
			has = append(has, l.name)
			candidates = append(candidates, file+l.extensions[0])
		}
	}
	if len(has) == 0 {
		return interpreter{}, mayfly.Errorf(mayfly.Invalid, "handler %s: the stack has no language with a loader", handler).
			WithHint("use the stack python, node or host, or protocol http with a command")
	}
	return interpreter{}, mayfly.Errorf(mayfly.Invalid, "handler %s: the code has no %s", handler, strings.Join(candidates, " or "))
}

// command starts the loader for a handler.
func (i interpreter) command(handler string) []string {
	return slices.Concat([]string{i.program}, i.flags, []string{i.at, handler, AppDir})
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// clean returns a tar entry's name as a relative slash path, or "" when it
// leaves the root or cannot be a name.
func clean(name string) string {
	if path.IsAbs(name) || strings.ContainsRune(name, 0) {
		return ""
	}
	name = path.Clean(name)
	if name == ".." || strings.HasPrefix(name, "../") {
		return ""
	}
	return name
}
