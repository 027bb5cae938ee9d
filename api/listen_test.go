package api

import (
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func open(t *testing.T, address, group string) (listener, error) {
	t.Helper()
	l, err := listen(address, group, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Cleanup(func() { l.Close() })
	}
	return l, err
}

// socketPath is short enough for a socket, whatever the test is called.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "deep", "s")
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		address string
		kind    mayfly.Kind // empty: it can be served
		text    string
	}{
		{"unix:///run/mayfly/mayfly.sock", "", ""},
		{"http://127.0.0.1:0", "", ""},
		{"http://localhost:8080/", "", ""},
		{"http://[::1]:8080", "", ""},
		{"http://127.8.8.8:1", "", ""},
		{"http://0.0.0.0:8080", mayfly.Denied, "use 127.0.0.1:8080"},
		{"http://[::]:8080", mayfly.Denied, "which others can reach"},
		{"http://:8080", mayfly.Denied, "which others can reach"},
		{"http://192.168.1.2:8080", mayfly.Denied, "192.168.1.2:8080"},
		{"http://localhost.example.com:8080", mayfly.Denied, "which others can reach"},
		{"http://127.0.0.1", mayfly.Invalid, "cannot serve"},
		{"http://127.0.0.1:80/v1", mayfly.Invalid, "cannot serve"},
		{"https://127.0.0.1:80", mayfly.Invalid, "cannot serve"},
		{"unix://run/s", mayfly.Invalid, "cannot serve"},
		{"unix:s", mayfly.Invalid, "cannot serve"},
		{"/run/s", mayfly.Invalid, "cannot serve"},
		{"", mayfly.Invalid, "cannot serve"},
		{"unix:///" + strings.Repeat("x", maxSocketPath), mayfly.Invalid, "longer than 107 bytes"},
	} {
		err := CheckAddress(c.address)
		if mayfly.KindOf(err) != c.kind {
			t.Errorf("%q: %v", c.address, err)
		}
		if err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%q: %v lacks %q", c.address, err, c.text)
		}
	}
}

func TestSocketsArePrivate(t *testing.T) {
	me, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Skip("needs a name for our group")
	}
	groups := map[string]int{me.Name: os.Getgid(), "no-such-group": os.Getgid()}
	if other, err := user.LookupGroup("daemon"); err == nil && os.Geteuid() == 0 {
		groups["daemon"], _ = strconv.Atoi(other.Gid)
	}
	for group, gid := range groups {
		path := socketPath(t)
		l, err := open(t, "unix://"+path, group)
		if err != nil {
			t.Fatal(err)
		}
		if l.address != "unix://"+path || l.tcp {
			t.Errorf("it calls itself %+v", l)
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Mode != syscall.S_IFSOCK|0o660 || int(st.Gid) != gid {
			t.Errorf("group %s: mode %o, gid %d", group, st.Mode, st.Gid)
		}
	}
}

func TestSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := socketPath(t)
	first, err := open(t, "unix://"+path, "x")
	if err != nil {
		t.Fatal(err)
	}
	first.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal("the stale socket is gone already: ", err)
	}
	if _, err := open(t, "unix://"+path, "x"); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestSocketInUseIsLeftAlone(t *testing.T) {
	path := socketPath(t)
	if _, err := open(t, "unix://"+path, "x"); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, "unix://"+path, "x")
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "already listens on "+path) {
		t.Errorf("%v", err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal("the first one is lost: ", err)
	}
	conn.Close()
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, "unix://"+path, "x")
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "is not a socket") {
		t.Errorf("%v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "x" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestPortInUse(t *testing.T) {
	first, err := open(t, "http://127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	if !first.tcp || !strings.HasPrefix(first.address, "http://127.0.0.1:") {
		t.Errorf("it calls itself %+v", first)
	}
	_, err = open(t, first.address, "")
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("%v", err)
	}
}
