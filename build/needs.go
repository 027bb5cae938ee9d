package build

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// lockFile says what npm installs; npm writes it where there is none.
const lockFile = "package-lock.json"

// maxNeeds bounds a file that says what is installed, in bytes.
const maxNeeds = 8 << 20

// Needs writes to out, as a tar, those files of code that decide what its build
// installs. Where that depends on more of the code, it returns false, and all of the
// code is to be built in one. What it cannot
// read is left for the build to complain of.
func Needs(b *mayfly.Build, code io.ReadSeeker, out io.Writer) (apart bool, err error) {
	names := lists(b)
	if names == nil {
		return false, nil
	}
	files, err := contents(code, func(name string) bool { return slices.Contains(names, name) || name == "binding.gyp" })
	if err != nil || files == nil {
		return false, err
	}
	var local []string
	switch b.Recipe {
	case recipePip:
		local, apart = pipNeeds(b.Target, files[b.Target])
	case recipeNpm:
		local, apart = npmNeeds(files, b.Target)
	}
	if !apart {
		return false, nil
	}
	names = append(names, local...)
	if files, err = contents(code, func(name string) bool { return slices.Contains(names, name) }); err != nil || files == nil {
		return false, err
	}
	for _, name := range local {
		if _, there := files[name]; !there {
			return false, nil
		}
	}
	w := tar.NewWriter(out)
	for _, name := range sortedKeys(files) {
		if err := writeFile(w, name, 0o644, []byte(files[name])); err != nil {
			return false, internal(err)
		}
	}
	return true, internal(w.Close())
}

// lists are the files that say what a build installs; nil where it installs nothing.
func lists(b *mayfly.Build) []string {
	switch {
	case b.Recipe == recipePip:
		return []string{b.Target}
	case b.Recipe == recipeNpm:
		return []string{"package.json", lockFile, "npm-shrinkwrap.json", ".npmrc"}
	}
	return nil
}

// contents reads some files of a tar. It returns nil where one of them is not a plain
// file, is there twice, or is large.
func contents(code io.ReadSeeker, wanted func(name string) bool) (map[string]string, error) {
	if _, err := code.Seek(0, io.SeekStart); err != nil {
		return nil, internal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(code); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "the code is not a tar: %w", err)
		}
		name := clean(h.Name)
		if !wanted(name) {
			continue
		}
		_, twice := files[name]
		if twice || h.Typeflag != tar.TypeReg || h.Size > maxNeeds {
			return nil, nil
		}
		text, err := io.ReadAll(r)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "code: %q is cut short: %w", short(name), err)
		}
		files[name] = string(text)
	}
}

var (
	requirement = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*[ \t]*(\[[A-Za-z0-9._, \t-]*\])?[ \t]*((===?|!=|~=|<=?|>=?)[^/@]*)?(;.*)?$`)
	localFile   = regexp.MustCompile(`^(\./)?[A-Za-z0-9][A-Za-z0-9._/+-]*\.(whl|tar\.gz|tgz|zip)$`)
	indexOption = regexp.MustCompile(`^(-i|--index-url|--extra-index-url|--trusted-host|--prefer-binary|--pre|--require-hashes|--no-index)([ =]\S+)?$`)
)

// pipNeeds returns the files that a list of requirements names, and whether it is
// of a kind that names all that it needs.
func pipNeeds(name, text string) (local []string, ok bool) {
	if name == "pyproject.toml" {
		return nil, !strings.Contains(text, "file:") && text != ""
	}
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		line, _, _ = strings.Cut(line, " --hash=")
		line = strings.TrimSpace(line)
		switch {
		case line == "", line[0] == '#', indexOption.MatchString(line):
		case localFile.MatchString(line) && clean(line) != "":
			local = append(local, clean(line))
		case !requirement.MatchString(line):
			return nil, false // another list, a folder, a place of its own
		}
	}
	return local, text != ""
}

// npmNeeds is likewise for package.json and its lock.
func npmNeeds(files map[string]string, script string) (local []string, ok bool) {
	var p struct {
		Scripts    map[string]string `json:"scripts"`
		Workspaces json.RawMessage   `json:"workspaces"`
		Bundle     json.RawMessage   `json:"bundleDependencies"`
		Bundled    json.RawMessage   `json:"bundledDependencies"`
		Needs      map[string]string `json:"dependencies"`
		Dev        map[string]string `json:"devDependencies"`
		Optional   map[string]string `json:"optionalDependencies"`
		Peer       map[string]string `json:"peerDependencies"`
	}
	if json.Unmarshal([]byte(files["package.json"]), &p) != nil || p.Workspaces != nil || p.Bundle != nil || p.Bundled != nil {
		return nil, false
	}
	if _, native := files["binding.gyp"]; native || script != "" && len(p.Needs)+len(p.Dev)+len(p.Optional) == 0 {
		return nil, false
	}
	for _, during := range []string{"preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"} {
		if p.Scripts[during] != "" {
			return nil, false
		}
	}
	for _, list := range []map[string]string{p.Needs, p.Dev, p.Optional, p.Peer} {
		for _, version := range list {
			file, isFile := strings.CutPrefix(version, "file:")
			switch {
			case isFile && localFile.MatchString(file) && clean(file) != "":
				local = append(local, clean(file))
			case isFile, strings.HasPrefix(version, "link:"), strings.HasPrefix(version, "."), strings.HasPrefix(version, "/"), strings.HasPrefix(version, "~/"):
				return nil, false
			}
		}
	}
	slices.Sort(local)
	return slices.Compact(local), true
}

// Join writes to out the code with what was installed for it, as the build of all of
// it would have.
func Join(b *mayfly.Build, code, installed io.Reader, out io.Writer) error {
	ours := ".mayfly"
	if b.Recipe == recipeNpm {
		ours = "node_modules"
	}
	within := func(name, dir string) bool { return name == dir || strings.HasPrefix(name, dir+"/") }
	w := tar.NewWriter(out)
	locked := false
	for _, part := range []struct {
		from io.Reader
		keep func(name string) bool
	}{
		{code, func(name string) bool { return !within(name, ours) && !within(name, ".mayfly") }},
		{installed, func(name string) bool {
			return within(name, ours) || name == lockFile && !locked && b.Target != "" && b.Recipe == recipeNpm
		}},
	} {
		for r := tar.NewReader(part.from); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return mayfly.Errorf(mayfly.Invalid, "the code is not a tar: %w", err)
			}
			if !part.keep(clean(h.Name)) {
				continue
			}
			locked = locked || clean(h.Name) == lockFile
			if err := w.WriteHeader(h); err != nil {
				return internal(err)
			}
			if _, err := io.Copy(w, r); err != nil {
				return internal(err)
			}
		}
	}
	return internal(w.Close())
}
