package container

import (
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestLookupUser(t *testing.T) {
	top, base := t.TempDir(), t.TempDir()
	os.Mkdir(base+"/etc", 0o755)
	os.WriteFile(base+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\nodd:x:nan:1\n"), 0o644)
	os.WriteFile(base+"/etc/group", []byte("root:x:0:\nann:x:1001:\nvideo:x:44:bob,ann\naudio:x:29:ann\n"), 0o644)
	lower := []string{top, base}
	tests := []struct {
		in   string
		want User
		err  string
	}{
		{"", User{Home: "/root"}, ""},
		{"ann", User{UID: 1000, GID: 1001, Groups: []uint32{44, 29}, Home: "/home/ann"}, ""},
		{"1000", User{UID: 1000, GID: 1001, Groups: []uint32{44, 29}, Home: "/home/ann"}, ""},
		{"ann:video", User{UID: 1000, GID: 44, Home: "/home/ann"}, ""},
		{"ann:7", User{UID: 1000, GID: 7, Home: "/home/ann"}, ""},
		{"4242", User{UID: 4242, Home: "/"}, ""},
		{"4242:4343", User{UID: 4242, GID: 4343, Home: "/"}, ""},
		{"bob", User{}, `user "bob" is not in the image's /etc/passwd`},
		{"ann:none", User{}, `group "none" is not in the image's /etc/group`},
		{"4294967295", User{}, `user "4294967295" is not`},
		{"-1", User{}, `user "-1" is not`},
		{"odd", User{}, `user "odd" is not`},
	}
	for _, tt := range tests {
		got, err := LookupUser(lower, tt.in)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestLookupUserDoesNotLeaveTheImage(t *testing.T) {
	dir := t.TempDir()
	os.Mkdir(dir+"/etc", 0o755)
	os.Symlink("/etc/passwd", dir+"/etc/passwd")
	if u, err := LookupUser([]string{dir}, "root"); err == nil && u.Home != "/" {
		t.Errorf("the host's /etc/passwd was read: %+v", u)
	}
}

func TestLookupUserWithoutPasswd(t *testing.T) {
	u, err := LookupUser([]string{t.TempDir()}, "0")
	if err != nil || u.UID != 0 || u.Home != "/root" {
		t.Errorf("%+v, %v", u, err)
	}
}
