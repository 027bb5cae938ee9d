package arrivals

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Rules say which files count. Names that begin with a dot never do, nor do files
// below a directory of such a name, nor names that are not printable text.
type Rules struct {
	// Match are patterns of path.Match, for the name, or with a slash for the whole
	// path below the directory. Empty: all files but those with a name that
	// programs give to what is not done: x~, x.tmp, x.part and the like.
	Match []string
	Depth int // levels of directories at which files lie, 1 for the top only; 0: 32, which is the most
}

// maxDepth bounds how deep directories are watched.
const maxDepth = 32

// unfinished are the ends of names that programs give to what they still write.
var unfinished = []string{"~", ".tmp", ".temp", ".part", ".partial", ".crdownload", ".download", ".filepart", ".swp"}

// dir reports whether a directory is watched.
func (r *Rules) dir(p string) bool {
	depth := maxDepth
	if r.Depth > 0 {
		depth = min(depth, r.Depth)
	}
	return strings.Count(p, "/")+1 < depth && visible(path.Base(p))
}

// file reports whether a file in a directory that is watched counts.
func (r *Rules) file(p string) bool {
	name := path.Base(p)
	if !visible(name) {
		return false
	}
	if len(r.Match) == 0 {
		return !slices.ContainsFunc(unfinished, func(end string) bool { return strings.HasSuffix(strings.ToLower(name), end) })
	}
	return slices.ContainsFunc(r.Match, func(pattern string) bool {
		of := name
		if strings.Contains(pattern, "/") {
			of = p
		}
		ok, err := path.Match(strings.TrimPrefix(pattern, "/"), of)
		return ok && err == nil
	})
}

// whole reports whether a file counts of which nothing but its path is known.
func (r *Rules) whole(p string) bool {
	for i, c := range p {
		if c == '/' && !r.dir(p[:i]) {
			return false
		}
	}
	return r.file(p)
}

func visible(name string) bool { return !strings.HasPrefix(name, ".") && printable(name) }

// printable reports whether a name can be said in an event: others cannot be told
// apart by whoever reads JSON.
func printable(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(c rune) bool { return unicode.IsControl(c) || c == utf8.RuneError })
}
