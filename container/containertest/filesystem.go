package containertest

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// says runs a script and compares what it says.
func (b *Bed) says(t testing.TB, c container.Config, script, want string) {
	t.Helper()
	r := b.shell(t, c, script)
	if d := cmp.Diff(want, r.out); d != "" || r.exit.Code != 0 {
		t.Errorf("%s: exit %d (-want +got)\n%s%s", script, r.exit.Code, d, r.err)
	}
}

func readOnly(t *testing.T, b *Bed) {
	c := b.Config
	c.ReadOnly = true
	c.Mounts = []mayfly.Mount{{Type: "tmpfs", Target: "/tmp"}}
	r := b.shell(t, c, "for d in / /etc /root /bin; do touch $d/x; done; touch /tmp/x /dev/shm/x && echo fine")
	if r.out != "fine\n" || strings.Count(r.err, "Read-only file system") != 4 {
		t.Errorf("%+v", r)
	}
}

func binds(t *testing.T, b *Bed) {
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/file", []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := b.Config
	c.Mounts = []mayfly.Mount{
		{Type: "bind", Source: dir, Target: "/data"},
		{Type: "bind", Source: dir, Target: "/readonly", ReadOnly: true},
		{Type: "bind", Source: dir + "/file", Target: "/etc/deep/file"},
	}
	r := b.shell(t, c, "cat /data/file /etc/deep/file /readonly/file; echo in >/data/new; touch /readonly/x; rm /readonly/file; mount -o remount,rw /readonly")
	if r.out != strings.Repeat("of the host\n", 3) || strings.Count(r.err, "Read-only file system") < 1 {
		t.Errorf("%+v", r)
	}
	if got, err := os.ReadFile(dir + "/new"); string(got) != "in\n" {
		t.Errorf("written inside: %q, %v", got, err)
	}
	if _, err := os.Stat(dir + "/file"); err != nil {
		t.Error("a file was deleted through a read-only bind")
	}
}

func users(t *testing.T, b *Bed) {
	for _, c := range []struct {
		user container.User
		want string
	}{
		{container.User{}, "uid=0(root) gid=0(root)\n\n"},
		{container.User{Home: "/root"}, "uid=0(root) gid=0(root)\n/root\n"},
		{container.User{UID: 1000, GID: 1000, Groups: []uint32{44, 7}, Home: "/home/ann"}, "uid=1000(ann) gid=1000(ann) groups=7,44(video)\n/home/ann\n"},
		{container.User{UID: 4242, GID: 17, Home: "/"}, "uid=4242 gid=17\n/\n"},
	} {
		config := b.Config
		config.User = c.user
		r := b.shell(t, config, "id; echo $HOME; exec 3>/run/mayfly/x")
		got := strings.NewReplacer(" groups=0(root)\n", "\n", " groups=17\n", "\n", " groups=1000(ann),", " groups=").Replace(r.out)
		if got != c.want || r.exit.Code == 0 {
			t.Errorf("%+v: %+v", c.user, r)
		}
	}
}

func workDir(t *testing.T, b *Bed) {
	c := b.Config
	c.WorkDir = "/new/work/place"
	s := b.create(t, c)
	p, err := s.Start(t.Context(), container.Program{Argv: []string{"pwd"}, Dir: c.WorkDir})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := readLog(t, s.Dir(), mayfly.LogOptions{Tail: -1}, nil)["stdout"]; got != c.WorkDir+"\n" {
		t.Errorf("started in %q", got)
	}
	b.says(t, b.Config, "pwd", "/\n")
}

func environment(t *testing.T, b *Bed) {
	c := b.Config
	c.Env = []string{"A=1", "EMPTY=", "SPACE=a b\nc", "PATH=/bin"}
	c.User.Home = "/root"
	b.says(t, c, `echo "$A|$EMPTY|$SPACE|$PATH|$HOME|$HOSTNAME"; hostname`, "1||a b\nc|/bin|/root|box\nbox\n")
	s := b.create(t, c)
	p, err := s.Start(t.Context(), container.Program{Argv: []string{"/bin/env"}, Env: []string{"ONLY=this"}})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if got := readLog(t, s.Dir(), mayfly.LogOptions{Tail: -1}, nil)["stdout"]; got != "ONLY=this\n" {
		t.Errorf("an environment of its own: %q", got)
	}
}

func hostFiles(t *testing.T, b *Bed) {
	c := b.Config
	c.Resolv, c.Hosts = []byte("nameserver 10.0.0.1\n"), []byte("127.0.0.1 localhost box\n")
	c.Files = map[string][]byte{"self.json": []byte("{}\n")}
	s := b.create(t, c)
	if err := s.PutFile("run.json", []byte("later\n")); err != nil {
		t.Fatal(err)
	}
	r := start(t, s, "sh", "-c", "cat /etc/resolv.conf /etc/hosts /etc/hostname /run/mayfly/self.json /run/mayfly/run.json; touch /run/mayfly/x")
	out, err := r.output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "nameserver 10.0.0.1\n127.0.0.1 localhost box\nbox\n{}\nlater\n"; out.out != want || !strings.Contains(out.err, "Read-only") {
		t.Errorf("%+v", out)
	}
}

// layers: the topmost layer wins, and what one container writes no other sees.
func layers(t *testing.T, b *Bed) {
	top := t.TempDir()
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(top+"/plain", []byte("of the top\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := b.Config
	c.Lower = append([]string{top}, c.Lower...)
	b.says(t, c, "cat /plain; echo mine >/plain; cat /plain; stat -c %a /", "of the top\nmine\n755\n")
	b.says(t, c, "cat /plain; ls /proc/self/fd | grep -c '[3-9]'", "of the top\n1\n")
}
