package build

import (
	"fmt"
	"os"
	"strings"
)

// debianMirror serves every suite of Debian, where the machine's own apt says
// nothing better.
const debianMirror = "http://deb.debian.org/debian"

// withSuites adds to the files of apt's sources one line for each further suite of
// a release, such as bookworm-backports. The mirror is the one that the release
// itself comes from. Files that serve nothing but the release do not name it, and
// mmdebstrap takes both.
func withSuites(sources []string, codename string, suites []string) ([]string, error) {
	if len(suites) == 0 {
		return sources, nil
	}
	from := aptSource{uri: debianMirror}
	for _, file := range sources {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if found, ok := sourceOf(string(data), codename); ok {
			from = found
			break
		}
	}
	all := append([]string(nil), sources...)
	if len(all) == 0 {
		all = append(all, from.line(codename))
	}
	for _, suite := range suites {
		all = append(all, from.line(codename+"-"+suite))
	}
	return all, nil
}

// aptSource is where a release comes from.
type aptSource struct {
	uri      string
	signedBy string // path of a key ring; empty for apt's own
}

func (s aptSource) line(suite string) string {
	options := ""
	if s.signedBy != "" {
		options = "[signed-by=" + s.signedBy + "] "
	}
	return fmt.Sprintf("deb %s%s %s main", options, s.uri, suite)
}

// sourceOf finds in a file of apt's sources, of either form, the one that serves
// the release itself.
func sourceOf(text, codename string) (aptSource, bool) {
	fields := map[string]string{} // of a paragraph
	served := func() (aptSource, bool) {
		uris := strings.Fields(fields["uris"])
		key := fields["signed-by"]
		if !strings.HasPrefix(key, "/") || len(strings.Fields(key)) != 1 {
			key = ""
		}
		for _, suite := range strings.Fields(fields["suites"]) {
			if suite == codename && len(uris) > 0 {
				return aptSource{uris[0], key}, true
			}
		}
		return aptSource{}, false
	}
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimRight(line, " \t\r\n")
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		if line == "" {
			if s, ok := served(); ok {
				return s, true
			}
			clear(fields)
			continue
		}
		if s, ok := oneLine(line, codename); ok {
			return s, true
		}
		if key, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, " ") {
			fields[strings.ToLower(key)] = strings.TrimSpace(value)
		}
	}
	return aptSource{}, false
}

// oneLine reads "deb [OPTIONS] URI SUITE COMPONENT...".
func oneLine(line, codename string) (s aptSource, ok bool) {
	rest, ok := strings.CutPrefix(line, "deb ")
	if !ok {
		return s, false
	}
	if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
		options, after, _ := strings.Cut(rest[1:], "]")
		for _, o := range strings.Fields(options) {
			if key, is := strings.CutPrefix(o, "signed-by="); is && strings.HasPrefix(key, "/") {
				s.signedBy = key
			}
		}
		rest = after
	}
	word := strings.Fields(rest)
	if len(word) < 2 || word[1] != codename {
		return s, false
	}
	s.uri = word[0]
	return s, true
}

// quote makes one word of a text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
