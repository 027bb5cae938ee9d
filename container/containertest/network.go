package containertest

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly/container"
	"golang.org/x/sys/unix"
)

// netNS makes a network namespace in which lo is up, and in which any user may
// use any port and ping, as in those of package network.
func netNS(t testing.TB) *os.File {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	result := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		f, err := newNetNS()
		result <- made{f, err}
	}()
	m := <-result
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(func() { m.file.Close() })
	return m.file
}

func newNetNS() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return nil, err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return nil, fmt.Errorf("bring up lo: %w", err)
	}
	for name, value := range map[string]string{"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return nil, err
		}
	}
	return os.Open("/proc/thread-self/ns/net")
}

func namespace(t testing.TB, f *os.File) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("net:[%d]", st.Ino)
}

// networks: a container is in the namespace that it is given, with what there
// is and nothing else, or in the host's.
func networks(t *testing.T, b *Bed) {
	const script = "ls -l /proc/self/ns/net | grep -o 'net:.*'; grep : /proc/net/dev | grep -o '[a-z0-9]*:'"
	c := b.Config
	c.NetNS = netNS(t)
	b.says(t, c, script, namespace(t, c.NetNS)+"\nlo:\n")
	c.User = container.User{UID: 1000, GID: 1000}
	b.says(t, c, "nc -l -p 80 </dev/null >/dev/null & until grep -q ':0050 .* 0A ' /proc/net/tcp /proc/net/tcp6; do true; done; echo bound", "bound\n")
	host, err := os.Readlink("/proc/thread-self/ns/net") // the first thread may be in another
	if err != nil {
		t.Fatal(err)
	}
	if r := b.shell(t, b.Config, "ls -l /proc/self/ns/net"); !strings.HasSuffix(r.out, "-> "+host+"\n") {
		t.Errorf("the host's network: %+v", r)
	}
}

// dial reaches ports of the container, opened before, later or never.
func dial(t *testing.T, b *Bed) {
	c := b.Config
	c.NetNS = netNS(t)
	s := b.create(t, c)
	if _, err := s.Dial(t.Context(), 1, time.Millisecond); err == nil {
		t.Error("there is an answer where nobody listens")
	}
	begin(t, s, "sh", "-c", "sleep 0.2; /inside listen 127.0.0.1:8080 hi; /inside listen [::1]:8081 six; sleep 1000")
	for _, p := range []struct {
		port uint16
		want string
	}{{8080, "hi"}, {8081, "six"}} {
		conn, err := s.Dial(t.Context(), p.port, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got, err := io.ReadAll(conn); string(got) != p.want {
			t.Errorf("port %d: %q, %v", p.port, got, err)
		}
	}
}
