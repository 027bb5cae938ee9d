package api

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mayfly-run/mayfly"
)

// maxSocketPath is what a sockaddr_un takes, less its final zero.
const maxSocketPath = 107

// listener is one address that the server answers on.
type listener struct {
	net.Listener
	address string
	tcp     bool
}

func listen(address, group string, log *slog.Logger) (listener, error) {
	u, err := parseAddress(address)
	if err != nil {
		return listener{}, err
	}
	if u.Scheme == "unix" {
		return listenUnix(u.Path, group, log)
	}
	return listenTCP(u.Hostname(), u.Port())
}

// CheckAddress says whether Open could serve at an address: unix:///path, or
// http:// with a loopback host and a port. It looks at nothing but the text.
func CheckAddress(address string) error {
	_, err := parseAddress(address)
	return err
}

func parseAddress(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
	case u.Scheme == "unix" && u.Host == "" && filepath.IsAbs(u.Path):
		if len(u.Path) > maxSocketPath {
			return nil, mayfly.Errorf(mayfly.Invalid, "the socket path %s is longer than %d bytes", u.Path, maxSocketPath)
		}
		return u, nil
	case u.Scheme == "http" && u.Port() != "" && strings.Trim(u.Path, "/") == "":
		return u, CheckLoopback(net.JoinHostPort(u.Hostname(), u.Port()))
	}
	return nil, mayfly.Errorf(mayfly.Invalid, "cannot serve the API at %q", address).
		WithHint("use unix:///path/of/the.sock or http://127.0.0.1:port")
}

// CheckLoopback refuses, with kind Denied, to serve at host:port unless only
// this machine can reach it: callers have no identity yet.
func CheckLoopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "%q is not host:port", address)
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return mayfly.Errorf(mayfly.Denied, "will not serve on %s, which others can reach, because callers have no identity yet", address).
			WithHint("use 127.0.0.1:%s, and an SSH tunnel or a proxy from elsewhere", port)
	}
	return nil
}

func listenTCP(host, port string) (listener, error) {
	if host == "localhost" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return listener{}, mayfly.Errorf(mayfly.Conflict, "port %s of %s is taken", port, host).WithHint("choose another with --api")
	}
	if err != nil {
		return listener{}, mayfly.Errorf(mayfly.Unavailable, "serve the API: %w", err)
	}
	return listener{Listener: l, address: "http://" + l.Addr().String(), tcp: true}, nil
}

// listenUnix makes a socket that root and the group may use. Until its mode is
// set nobody but root can connect: that takes write permission, which no usual
// umask leaves to others.
func listenUnix(path, group string, log *slog.Logger) (listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return listener{}, mayfly.Errorf(mayfly.Invalid, "make the socket's directory: %w", err)
	}
	if err := clearStale(path); err != nil {
		return listener{}, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return listener{}, mayfly.Errorf(mayfly.Unavailable, "serve the API: %w", err)
	}
	if err := allowGroup(path, group, log); err != nil {
		l.Close()
		return listener{}, mayfly.Errorf(mayfly.Internal, "set the socket's mode: %w", err)
	}
	return listener{Listener: l, address: "unix://" + path}, nil
}

// clearStale removes a socket that nobody listens on any more.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "serve the API: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return mayfly.Errorf(mayfly.Conflict, "%s is there and is not a socket", path).WithHint("choose another with --api")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return mayfly.Errorf(mayfly.Conflict, "a daemon already listens on %s", path).
			WithHint("stop it with `mayfly down`, or choose another socket with --api")
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return mayfly.Errorf(mayfly.Invalid, "remove the stale socket: %w", err)
	}
	return nil
}

func allowGroup(path, group string, log *slog.Logger) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		log.Info("only root may use the socket; the group does not exist", "socket", path, "group", group)
		return nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	return os.Chown(path, -1, gid)
}
