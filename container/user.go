package container

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// LookupUser finds out who user[:group] is in an image: names are looked up in
// its /etc/passwd and /etc/group, numbers need not be there (OCI image spec,
// "Config.User"). An empty user is root. Lower are the image's layers, topmost
// first.
func LookupUser(lower []string, user string) (User, error) {
	passwd, err := readEtc(lower, "passwd")
	if err != nil {
		return User{}, err
	}
	groups, err := readEtc(lower, "group")
	if err != nil {
		return User{}, err
	}
	return lookupUser(passwd, groups, user, "the image's")
}

// lookupUser is LookupUser, given what is in the two files of whose.
func lookupUser(passwd, groups [][]string, user, whose string) (User, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" {
		name = "0"
	}
	u := User{Home: "/"}
	uid, numeric := number(name)
	found := false
	for _, f := range passwd {
		if len(f) >= 6 && (f[0] == name || numeric && f[2] == name) {
			id, ok1 := number(f[2])
			gid, ok2 := number(f[3])
			if !ok1 || !ok2 {
				continue
			}
			u.UID, u.GID, u.Home, name, found = id, gid, f[5], f[0], true
			break
		}
	}
	if !found {
		if !numeric {
			return User{}, mayfly.Errorf(mayfly.Invalid, "user %q is not in %s /etc/passwd", name, whose).
				WithHint("name one that is, or use a number")
		}
		u.UID = uid
		if uid == 0 {
			u.Home = "/root"
		}
	}
	if hasGroup {
		var err error
		u.GID, err = lookupGroup(groups, group, whose)
		return u, err
	}
	for _, f := range groups {
		if gid, ok := number(field(f, 2)); ok && gid != u.GID && found && contains(field(f, 3), name) {
			u.Groups = append(u.Groups, gid)
		}
	}
	return u, nil
}

func lookupGroup(groups [][]string, name, whose string) (uint32, error) {
	for _, f := range groups {
		if gid, ok := number(field(f, 2)); ok && f[0] == name {
			return gid, nil
		}
	}
	if gid, ok := number(name); ok {
		return gid, nil
	}
	return 0, mayfly.Errorf(mayfly.Invalid, "group %q is not in %s /etc/group", name, whose).
		WithHint("name one that is, or use a number")
}

func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}

func field(f []string, i int) string {
	if i < len(f) {
		return f[i]
	}
	return ""
}

func contains(list, name string) bool {
	for m := range strings.SplitSeq(list, ",") {
		if m == name {
			return true
		}
	}
	return false
}

// maxEtc bounds what is read of an image's passwd and group, in bytes.
const maxEtc = 1 << 20

// readEtc returns the fields of each line of a file in /etc, taken from the
// topmost layer that has it. A link that leads out of its layer is not
// followed. A missing file is empty.
func readEtc(lower []string, name string) ([][]string, error) {
	for _, dir := range lower {
		lines, err := readLines(dir, "etc/"+name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return lines, err
	}
	return nil, nil
}

func readLines(dir, name string) ([][]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	st, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fs.ErrNotExist // a whiteout, or nothing to read
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return fieldsOf(f)
}

// fieldsOf splits lines at colons.
func fieldsOf(r io.Reader) (lines [][]string, err error) {
	s := bufio.NewScanner(io.LimitReader(r, maxEtc))
	s.Buffer(nil, maxEtc)
	for s.Scan() {
		lines = append(lines, strings.Split(s.Text(), ":"))
	}
	return lines, s.Err()
}
