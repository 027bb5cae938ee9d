package mayfly

import (
	"regexp"
	"strings"
)

// Build says how the code of a workload is made ready to run on its stack: on the
// node, in a container of its own, by one of a few recipes.
type Build struct {
	Recipe  string `json:"recipe"`            // go, npm or pip
	Target  string `json:"target,omitempty"`  // go: the program's folder, as ./cmd/web; npm: a script to run; pip: the file that lists what is needed
	Program string `json:"program,omitempty"` // go: what the program is called
	Wrap    string `json:"wrap,omitempty"`    // go: how the package's Handle is called, http or event; empty: it is a program
	Fetch   bool   `json:"fetch,omitempty"`   // it needs a network, to fetch what the code needs
	Fresh   bool   `json:"fresh,omitempty"`   // this time, do it though it was done before; not kept
}

var (
	programPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	targetPattern  = regexp.MustCompile(`^[A-Za-z0-9._][A-Za-z0-9._/@+-]{0,255}$`)
)

// IsProgramName reports whether a program that is compiled can have the name.
func IsProgramName(name string) bool { return programPattern.MatchString(name) }

// Check returns an Invalid error unless the build can be handed to its recipe.
func (b *Build) Check() error {
	switch {
	case b == nil:
		return nil
	case b.Recipe != "go" && b.Recipe != "npm" && b.Recipe != "pip":
		return Errorf(Invalid, "there is no recipe %.40q to build code", b.Recipe).WithHint("use go, npm or pip")
	case b.Target != "" && (!targetPattern.MatchString(b.Target) || strings.Contains("/"+b.Target+"/", "/../")):
		return Errorf(Invalid, "the build's target %.80q is not a name beneath the code", b.Target)
	case b.Recipe == "go" && !IsProgramName(b.Program):
		return Errorf(Invalid, "the build's program %.80q is not a name", b.Program)
	case b.Wrap != "" && (b.Recipe != "go" || b.Wrap != "http" && b.Wrap != "event"):
		return Errorf(Invalid, "the build cannot wrap %.40q", b.Wrap).WithHint("use http or event, with recipe go")
	case b.Recipe == "pip" && b.Target != "requirements.txt" && b.Target != "pyproject.toml":
		return Errorf(Invalid, "pip installs what requirements.txt or pyproject.toml lists, not %.80q", b.Target)
	}
	return nil
}

// ReleaseDiff is what differs between two releases of a workload.
type ReleaseDiff struct {
	From     int           `json:"from"`
	To       int           `json:"to"`
	Settings []SettingDiff `json:"settings"`
	Files    []FileDiff    `json:"files"` // of the code, as it runs

	// Unread says why the files could not be compared; empty where they were.
	Unread string `json:"unread,omitempty"`
}

// SettingDiff is a setting that two releases say differently, or one of them does
// not say.
type SettingDiff struct {
	Name string `json:"name"` // such as env.DEBUG or routes
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// FileDiff is a file that differs.
type FileDiff struct {
	Name   string `json:"name"`
	Change string `json:"change"` // added, removed or changed
}
