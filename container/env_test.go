package container

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func putEnv(t testing.TB, vars map[string]string) (text string, s *Sandbox) {
	t.Helper()
	s = &Sandbox{files: t.TempDir()}
	if err := os.MkdirAll(s.files, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.PutFile(EnvName, EnvFile(vars)); err != nil {
		t.Fatal(err)
	}
	data, err := s.ReadFile(EnvName)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), s
}

// A shell, and we, read what was put.
func TestEnvFileIsReadByAShell(t *testing.T) {
	vars := map[string]string{
		"DB_HOST": "10.0.0.7", "DB_URL": "mysql://10.0.0.7:3306/a?b=c&d", "EMPTY": "", "SPACE": "a b", "QUOTE": "it's \"so\"",
		"LINES": "one\ntwo\n'three'=3", "DOLLAR": "$HOME `id` \\n", "UTF": "ü", "not a name": "x", "": "x", "1X": "x",
	}
	text, s := putEnv(t, vars)
	var want []string
	for _, name := range []string{"DB_HOST", "DB_URL", "DOLLAR", "EMPTY", "LINES", "QUOTE", "SPACE", "UTF"} {
		want = append(want, name+"="+vars[name])
	}
	if got := ParseEnv(text); !slices.Equal(got, want) {
		t.Errorf("read again: %q", got)
	}
	s.env = []string{"PATH=/bin", "DB_HOST=old"}
	env, err := s.CurrentEnv()
	if err != nil || env[0] != "PATH=/bin" || env[1] != "DB_HOST=10.0.0.7" || len(env) != len(want)+1 {
		t.Errorf("%q, %v", env, err)
	}
	for _, v := range want {
		name, value, _ := strings.Cut(v, "=")
		out, err := exec.Command("sh", "-c", `. "$0"; printf %s "$`+name+`"`, s.files+"/env").Output()
		if err != nil || string(out) != value {
			t.Errorf("%s: %q, %v; want %q", name, out, err, value)
		}
	}
}

func TestEnvWithoutAFileIsTheContainers(t *testing.T) {
	s := &Sandbox{files: t.TempDir(), env: []string{"A=1"}}
	if env, err := s.CurrentEnv(); err != nil || !slices.Equal(env, s.env) {
		t.Errorf("%q, %v", env, err)
	}
}

func FuzzEnv(f *testing.F) {
	f.Add("plain", "it's")
	f.Add("'", "\n\\")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.Contains(a+b, "\x00") {
			return // no variable can have it
		}
		vars := []string{"A=" + a, "B=" + b}
		if got := ParseEnv(string(EnvFile(map[string]string{"A": a, "B": b}))); !slices.Equal(got, vars) {
			t.Fatalf("%q came back as %q", vars, got)
		}
		ParseEnv(a)
	})
}
