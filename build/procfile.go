package build

import (
	"path"
	"regexp"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// procfile returns the command of a Procfile's process "web", or of its only
// process; "" without a Procfile.
func (l *looker) procfile() (string, error) {
	if !l.has("Procfile") {
		return "", nil
	}
	list, err := parseProcfile(l.read("Procfile"))
	if err != nil {
		return "", err
	}
	for _, p := range list {
		if p.name == "web" || len(list) == 1 {
			return p.command, nil
		}
	}
	return "", mayfly.Errorf(mayfly.Invalid, "the Procfile has several processes, and none is web").WithHint("write web: COMMAND")
}

// process is a line of a Procfile.
type process struct{ name, command string }

var processLine = regexp.MustCompile(`^([A-Za-z0-9_-]+):\s*(\S.*)$`)

// parseProcfile reads lines of NAME: COMMAND.
func parseProcfile(text string) (list []process, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		m := processLine.FindStringSubmatch(line)
		if m == nil || strings.ContainsRune(line, 0) {
			return nil, mayfly.Errorf(mayfly.Invalid, "the Procfile has a line %q, which is not NAME: COMMAND", short(line))
		}
		list = append(list, process{m[1], m[2]})
	}
	if len(list) == 0 {
		return nil, mayfly.Errorf(mayfly.Invalid, "the Procfile is empty").WithHint("write web: COMMAND")
	}
	return list, nil
}

var oneCommand = regexp.MustCompile(`^[^\s=;&|<>()` + "`" + `]+(\s[^;&|<>()` + "`" + `]*)?$`)

// Shell is a command line as what is executed. A plain one takes the shell's
// place, so that it is the one that gets the signals.
func Shell(line string) []string {
	if oneCommand.MatchString(line) {
		line = "exec " + line
	}
	return []string{"/bin/sh", "-c", line}
}

// stackOf is the stack that has the program with which a command line begins; ""
// if that is not known.
func stackOf(line string) string {
	words := strings.Fields(line)
	for len(words) > 0 && (strings.Contains(words[0], "=") || words[0] == "exec" || words[0] == "env") {
		words = words[1:]
	}
	if len(words) == 0 {
		return ""
	}
	name := path.Base(words[0])
	switch name {
	case "python", "python3", "gunicorn", "uvicorn", "flask", "waitress-serve":
		return "python"
	case "node", "npm", "npx":
		return "node"
	case "go":
		return "go"
	case "ruby", "rackup", "bundle", "puma":
		return "ruby"
	case "php", "php-cgi":
		return "php"
	case "perl", "plackup":
		return "perl"
	case "java", "javac":
		return "java"
	case "mono", "mcs":
		return "mono"
	case "lua", "lua5.4":
		return "lua"
	case "R", "Rscript":
		return "r"
	case "tclsh", "tclsh8.6":
		return "tcl"
	case "elixir", "iex", "mix", "erl":
		return "elixir"
	case "ffmpeg", "ffprobe":
		return "ffmpeg"
	case "bash", "sh", "curl", "jq":
		return "bash"
	case "lighttpd":
		return "static"
	}
	return ""
}
