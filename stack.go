package mayfly

import (
	"regexp"
	"slices"
	"strings"
)

// The bounds of a stack's description.
const (
	maxStackPackages = 256
	maxStackEnv      = 64
	maxStackText     = 4096 // bytes of one value
)

// StackSpec says what a stack is made of that does not come with Mayfly. It
// travels with the workloads that use it, so that a release says all that it is
// made of, and what one space calls a stack is nothing to another.
type StackSpec struct {
	Description string            `json:"description,omitempty"` // one line for a person
	Variant     string            `json:"variant,omitempty"`     // of mmdebstrap; "essential" if empty
	Packages    []string          `json:"packages,omitempty"`    // of Debian
	Env         map[string]string `json:"env,omitempty"`         // of what runs in it
	Loaders     map[string]string `json:"loaders,omitempty"`     // language to the absolute path of its interpreter
}

// StackVariants are those of mmdebstrap that leave a system behind, the smallest
// first.
func StackVariants() []string {
	return []string{"essential", "apt", "required", "minbase", "important", "standard"}
}

var (
	// A name as Debian's policy (5.6.1) has it, and perhaps a version. A name that
	// ends in "-" would tell apt to remove the package.
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,98}[a-z0-9+.](=[0-9][0-9A-Za-z.+~:-]{0,98})?$`)
	envPattern     = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
)

// Check returns an Invalid error that names the key and what is wrong, unless a
// stack can be made of the description. Nothing that passes is read as an option
// by apt or mmdebstrap.
func (s StackSpec) Check() error {
	if s.Variant != "" && !slices.Contains(StackVariants(), s.Variant) {
		return Errorf(Invalid, "variant %.40q is none", s.Variant).WithHint("use %s", strings.Join(StackVariants(), ", "))
	}
	if len(s.Packages) == 0 || len(s.Packages) > maxStackPackages {
		return Errorf(Invalid, "packages has %d names", len(s.Packages)).WithHint("name 1 to %d of Debian's packages", maxStackPackages)
	}
	for _, p := range s.Packages {
		if !packagePattern.MatchString(p) {
			return Errorf(Invalid, "packages: %.120q is not the name of a Debian package", p).WithHint("write it as apt lists it, or NAME=VERSION")
		}
	}
	if len(s.Env) > maxStackEnv || len(s.Loaders) > maxStackEnv {
		return Errorf(Invalid, "env or loaders has more than %d entries", maxStackEnv)
	}
	for name, value := range s.Env {
		if !envPattern.MatchString(name) || len(value) > maxStackText || strings.ContainsRune(value, 0) {
			return Errorf(Invalid, "env: %.120q is not the name of a variable, or its value is longer than %d bytes", name, maxStackText)
		}
	}
	for language, program := range s.Loaders {
		if CheckName("language", language) != nil || !strings.HasPrefix(program, "/") || len(program) > maxStackText || strings.ContainsRune(program, 0) {
			return Errorf(Invalid, "loaders: %.40q needs the absolute path of its interpreter", language)
		}
	}
	if len(s.Description) > maxStackText || strings.ContainsAny(s.Description, "\n\r\x00") {
		return Errorf(Invalid, "description is not one line of at most %d bytes", maxStackText)
	}
	return nil
}
