package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/mayfly-run/mayfly"
)

// The files that say what Pack leaves out. The first, in the syntax of
// .dockerignore, stands in the folder of the code, and where it is nothing else
// counts; the second stand in any folder, and are read as git reads them.
const (
	IgnoreFile = ".mayflyignore"
	gitIgnore  = ".gitignore"

	maxIgnore = 1 << 20 // bytes of one
)

// unneeded is what is left out besides unless a .gitignore brings it back: what is
// made anew, or is for another machine.
const unneeded = `__pycache__/
*.py[co]
.venv
.tox/
.nox/
.mypy_cache/
.pytest_cache/
.ruff_cache/
.DS_Store
`

// LeftOut is what Pack left out. A folder counts as one, whatever is in it, and
// folders of version control are not counted.
type LeftOut struct {
	Listed   int // by an IgnoreFile
	Git      int // by files .gitignore
	Unneeded int // as nothing that runs needs it
}

// String says it for a person; it is empty where nothing was left out.
func (l LeftOut) String() string {
	var by []string
	for _, p := range []struct {
		n  int
		by string
	}{{l.Listed, "by " + IgnoreFile}, {l.Git, "by " + gitIgnore}, {l.Unneeded, "of no use where it runs"}} {
		if p.n > 0 {
			by = append(by, fmt.Sprintf("%d %s", p.n, p.by))
		}
	}
	if len(by) == 0 {
		return ""
	}
	return "files and folders left out: " + strings.Join(by, ", ")
}

// ignorer knows what of a folder is left out.
type ignorer struct {
	fsys  fs.FS
	own   *patternmatcher.PatternMatcher // of an IgnoreFile; nil without one
	rules map[string][]pattern           // of .gitignore, by folder
	out   map[string]bool                // folders that were asked for, and whether they are left out
	left  *LeftOut
	plain []pattern // unneeded
}

// readIgnore reads the IgnoreFile of a folder, or begins to read its .gitignore. A
// build that installs node_modules has no use for what is there.
func readIgnore(fsys fs.FS, b *mayfly.Build) (*ignorer, error) {
	i := &ignorer{fsys: fsys, rules: map[string][]pattern{}, out: map[string]bool{}, left: &LeftOut{}}
	f, err := fsys.Open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		text := unneeded
		if b != nil && b.Recipe == recipeNpm {
			text += "/node_modules/\n"
		}
		i.plain = parseGitignore([]byte(text))
		return i, nil
	}
	if err != nil {
		return i, mayfly.Errorf(mayfly.Invalid, "read %s: %w", IgnoreFile, err)
	}
	defer f.Close()
	lines, err := ignorefile.ReadAll(io.LimitReader(f, maxIgnore))
	if err != nil {
		return i, mayfly.Errorf(mayfly.Invalid, "read %s: %w", IgnoreFile, err)
	}
	if i.own, err = patternmatcher.New(lines); err != nil {
		return i, mayfly.Errorf(mayfly.Invalid, "%s: %w", IgnoreFile, err)
	}
	return i, nil
}

// skips tells whether an entry is left out, and counts it; for a folder with all
// that is in it, the error is fs.SkipDir. Nothing asks for what is in such a folder.
func (i *ignorer) skips(name string, isDir bool) (bool, error) {
	count, err := i.why(name, isDir)
	if err != nil || count == nil {
		return false, err
	}
	*count++
	if !isDir || i.own != nil && i.own.Exclusions() && count == &i.left.Listed { // a "!" may bring back something within
		return true, nil
	}
	return true, fs.SkipDir
}

// leavesOut is skips for those who only ask, for any entry.
func (i *ignorer) leavesOut(name string, isDir bool) bool {
	if dir := path.Dir(name); i.own == nil && dir != "." {
		out, asked := i.out[dir]
		if !asked {
			out = i.leavesOut(dir, true)
			i.out[dir] = out
		}
		if out {
			return true
		}
	}
	count, err := i.why(name, isDir)
	return count != nil || err != nil
}

// why returns what an entry that is left out counts as, and nil for others. The
// folder that it is in must not be left out.
func (i *ignorer) why(name string, isDir bool) (*int, error) {
	switch path.Base(name) {
	case ".git", ".hg", ".svn":
		return new(int), nil
	}
	if i.own != nil {
		out, err := i.own.MatchesOrParentMatches(name)
		if err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "%s: %w", IgnoreFile, err)
		}
		if out {
			return &i.left.Listed, nil
		}
		return nil, nil
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		rules, err := i.rulesOf(dir)
		if err != nil {
			return nil, err
		}
		below := strings.TrimPrefix(name, dir+"/")
		if out, said := last(rules, below, isDir); said {
			return ifOut(out, &i.left.Git), nil
		}
		if dir == "." {
			break
		}
	}
	if out, _ := last(i.plain, name, isDir); out || isDir && i.isVirtual(name) {
		return &i.left.Unneeded, nil
	}
	return nil, nil
}

func ifOut(out bool, count *int) *int {
	if out {
		return count
	}
	return nil
}

// last tells whether the last of the lines that are about a name leaves it out, and
// whether there is one.
func last(rules []pattern, name string, isDir bool) (out, said bool) {
	for n := len(rules) - 1; n >= 0; n-- {
		if rules[n].matches(name, isDir) {
			return !rules[n].negated, true
		}
	}
	return false, false
}

// rulesOf reads a folder's .gitignore, once.
func (i *ignorer) rulesOf(dir string) ([]pattern, error) {
	rules, read := i.rules[dir]
	if read {
		return rules, nil
	}
	name := path.Join(dir, gitIgnore)
	info, err := fs.Lstat(i.fsys, name)
	if err == nil && info.Mode().IsRegular() { // git does not follow a link here either
		if info.Size() > maxIgnore {
			return nil, mayfly.Errorf(mayfly.TooLarge, "%s has more than %d bytes", name, maxIgnore)
		}
		var text []byte
		if text, err = fs.ReadFile(i.fsys, name); err != nil {
			return nil, mayfly.Errorf(mayfly.Invalid, "read %s: %w", name, err)
		}
		rules = parseGitignore(text)
	}
	i.rules[dir] = rules
	return rules, nil
}

// isVirtual tells whether a folder is a virtual environment of Python, which is full
// of links to the interpreter that it was made for.
func (i *ignorer) isVirtual(dir string) bool {
	_, err := fs.Lstat(i.fsys, path.Join(dir, "pyvenv.cfg"))
	return err == nil
}
