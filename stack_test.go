package mayfly_test

import (
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestStackSpecCheck(t *testing.T) {
	with := func(packages ...string) mayfly.StackSpec { return mayfly.StackSpec{Packages: packages} }
	good := map[string]mayfly.StackSpec{
		"names":   with("wordpress", "g++", "libstdc++6", "php8.2-mysql", "0ad", "libc6=2.36-9+deb12u10", "aa=1:2~rc1"),
		"variant": {Packages: []string{"hello"}, Variant: "minbase"},
		"all": {Packages: []string{"hello"}, Env: map[string]string{"LANG": "C.UTF-8", "_x": ""},
			Loaders: map[string]string{"python": "/usr/bin/python3"}, Description: "says hello"},
	}
	for name, s := range good {
		if err := s.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	bad := map[string]mayfly.StackSpec{
		"nothing": {}, "empty": with(""), "one letter": with("a"), "option": with("--allow-unauthenticated"), "short option": with("-o"),
		"setting": with("-oDpkg::Pre-Invoke::=id"), "removal": with("apt-"), "list": with("a1,b1"), "space": with("aa bb"), "line": with("aa\nbb"),
		"pattern": with("?essential"), "all of": with("~n."), "path": with("./x.deb"), "root path": with("/etc/x.deb"), "suite": with("aa/sid"),
		"upper case": with("Hello"), "task": with("web-server^"), "version option": with("aa=-o"), "version space": with("aa=1 bb"),
		"many": with(strings.Split(strings.Repeat("aa ", 257), " ")...), "long": with(strings.Repeat("a", 200)),
		"variant":   {Packages: []string{"aa"}, Variant: "--help"},
		"env name":  {Packages: []string{"aa"}, Env: map[string]string{"A=B": ""}},
		"env value": {Packages: []string{"aa"}, Env: map[string]string{"A": "x\x00y"}},
		"loader":    {Packages: []string{"aa"}, Loaders: map[string]string{"python": "python3"}},
		"two lines": {Packages: []string{"aa"}, Description: "a\nb"},
	}
	for name, s := range bad {
		err := s.Check()
		if mayfly.KindOf(err) != mayfly.Invalid || strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzStackSpecCheck(f *testing.F) {
	for _, p := range []string{"wordpress", "g++", "-o", "a-", "a=1:2", "a b", "a,b", "./a", "?x"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if (mayfly.StackSpec{Packages: []string{name}}).Check() != nil {
			return
		}
		if strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") && !strings.Contains(name, "=") ||
			strings.ContainsAny(name, " ,/?*^$[]()|\\\n\t\x00") {
			t.Errorf("%q passes", name)
		}
	})
}
