package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// openPostgres starts a PostgreSQL of its own, with what Debian's defaults are:
// fsync and synchronous_commit on. It listens on a socket only. It returns a
// connection string of an empty database, and its process.
func (b *bench) openPostgres(ctx context.Context) (address string, pid int, err error) {
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return "", 0, err
	}
	owner, err := user.Lookup("postgres") // it refuses to run as root
	if err != nil {
		return "", 0, err
	}
	uid, err1 := strconv.Atoi(owner.Uid)
	gid, err2 := strconv.Atoi(owner.Gid)
	dir := filepath.Join(b.dir, "pg")
	if err := errors.Join(err1, err2, os.Chmod(b.dir, 0o711), os.Mkdir(dir, 0o700), os.Chown(dir, uid, gid)); err != nil {
		return "", 0, err
	}
	as := &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	make := exec.CommandContext(ctx, initdb, "-D", dir+"/data", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
	make.Dir, make.SysProcAttr = dir, as
	if out, err := make.CombinedOutput(); err != nil {
		return "", 0, fmt.Errorf("initdb: %w: %s", err, lastLine(string(out)))
	}
	server := exec.Command(filepath.Join(filepath.Dir(initdb), "postgres"),
		"-D", dir+"/data", "-c", "listen_addresses=", "-c", "unix_socket_directories="+dir)
	server.Dir, server.SysProcAttr = dir, as
	// SIGINT is its fast shutdown: it ends what is connected.
	ready := func() error { return dial(dir + "/.s.PGSQL.5432") }
	if err := b.openStore(ctx, server, syscall.SIGINT, ready); err != nil {
		return "", 0, err
	}
	create := exec.CommandContext(ctx, filepath.Join(filepath.Dir(initdb), "createdb"), "-h", dir, "-U", "postgres", "bench")
	for try := 0; ; try++ { // the socket is there a little before it takes connections
		out, err := create.CombinedOutput()
		if err == nil {
			return "host=" + dir + " user=postgres dbname=bench", server.Process.Pid, nil
		}
		if try == 50 || !strings.Contains(string(out), "starting up") {
			return "", 0, fmt.Errorf("createdb: %w: %s", err, lastLine(string(out)))
		}
		time.Sleep(100 * time.Millisecond)
		create = exec.CommandContext(ctx, create.Path, create.Args[1:]...)
	}
}

// postgresProgram finds a program of the server, which Debian keeps out of the
// way, of the newest version that there is.
func postgresProgram(name string) (string, error) {
	paths, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if err == nil && len(paths) > 0 {
		return paths[len(paths)-1], nil
	}
	return exec.LookPath(name)
}

// redisServer finds Redis. In Debian's redis-tools, which bring no service with
// them, redis-check-rdb is the server under another name.
func redisServer() (string, error) {
	if path, err := exec.LookPath("redis-server"); err == nil {
		return path, nil
	}
	return exec.LookPath("redis-check-rdb")
}

// openRedis starts a Redis of its own that syncs each write before it answers,
// and returns its
// socket and its process.
func (b *bench) openRedis(ctx context.Context) (address string, pid int, err error) {
	path, err := redisServer()
	if err != nil {
		return "", 0, err
	}
	dir := filepath.Join(b.dir, "redis")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", 0, err
	}
	socket := dir + "/socket"
	server := exec.Command(path, "--port", "0", "--unixsocket", socket, "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", "")
	server.Args[0] = "redis-server"
	server.Dir, server.SysProcAttr = dir, &syscall.SysProcAttr{Setpgid: true}
	if err := b.openStore(ctx, server, syscall.SIGTERM, func() error { return dial(socket) }); err != nil {
		return "", 0, err
	}
	return socket, server.Process.Pid, nil
}

// openStore starts a server, waits until it is ready, and has it ended by the
// signal when the bench closes.
func (b *bench) openStore(ctx context.Context, server *exec.Cmd, end syscall.Signal, ready func() error) error {
	log, err := os.Create(filepath.Join(server.Dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { server.Wait(); close(ended) }()
	b.onClose(func() {
		server.Process.Signal(end)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			server.Process.Kill()
			<-ended
		}
	})
	limit := time.After(30 * time.Second)
	for ready() != nil {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s ended: %s", server.Args[0], lastLine(string(text)))
		case <-limit:
			return fmt.Errorf("%s did not answer within 30 s", server.Args[0])
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond): // it has no news to wait for
		}
	}
	return nil
}

// dial reports whether somebody listens on a socket.
func dial(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err == nil {
		conn.Close()
	}
	return err
}
