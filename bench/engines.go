package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// engineRun is the part of the command line that podman and docker share.
func engineRun(run []string, p program) []string {
	argv := append(run[:len(run):len(run)], "--memory", strconv.Itoa(memoryLimit), "--pids-limit", strconv.Itoa(pidsLimit))
	image := "bench-static:1"
	if p.host {
		image = "bench-host:1"
		argv = append(argv, "-v", "/usr:/usr:ro")
	}
	return append(append(argv, image), p.argv...)
}

// importImages gives an engine the images.
func (b *bench) importImages(ctx context.Context, engine []string) error {
	for image, file := range map[string]string{"bench-static:1": b.material.staticTar, "bench-host:1": b.material.hostTar} {
		argv := append(engine[:len(engine):len(engine)], "import", file, image)
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s import: %w: %s", argv[0], err, lastLine(string(out)))
		}
	}
	return nil
}

// openPodman uses a store of its own and runc, without a network: its default
// needs programs that a minimal installation lacks.
func (b *bench) openPodman(ctx context.Context) (*rival, error) {
	path, err := exec.LookPath("podman")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "p") // it refuses longer ones
	engine := []string{
		path, "--root", dir + "/root", "--runroot", dir + "/run", "--tmpdir", dir + "/tmp",
		"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
	}
	b.onClose(func() {
		unmountBelow(dir)
	})
	if err := b.importImages(ctx, engine); err != nil {
		return nil, err
	}
	// Its default limits are higher than root may set everywhere.
	run := append(engine[:len(engine):len(engine)], "run", "--rm", "--network", "none",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
	return &rival{slow: true, argv: func(p program, _ string) []string { return engineRun(run, p) }}, nil
}

func (b *bench) openDocker(ctx context.Context) (*rival, error) {
	engine, err := b.dockerd(ctx)
	if err != nil {
		return nil, err
	}
	run := append(engine[:len(engine):len(engine)], "run", "--rm")
	return &rival{slow: true, argv: func(p program, _ string) []string { return engineRun(run, p) }}, nil
}

// dockerd starts one of its own, once, in a network namespace of its own, so that
// its rules of iptables stay away from the machine's, and returns the beginning of
// its command lines.
func (b *bench) dockerd(ctx context.Context) ([]string, error) {
	if b.docker != nil {
		return b.docker, nil
	}
	cli, err := exec.LookPath("docker")
	if err != nil {
		return nil, err
	}
	server, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "docker")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	host := "unix://" + dir + "/docker.sock"
	log, err := os.Create(dir + "/log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(server, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-H", host, "--pidfile", dir+"/pid")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	b.onClose(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		unmountBelow(dir)
	})
	engine := []string{cli, "-H", host}
	if err := dockerReady(ctx, engine, ended); err != nil {
		return nil, err
	}
	if err := b.importImages(ctx, engine); err != nil {
		return nil, err
	}
	b.docker, b.dockerPID = engine, cmd.Process.Pid
	return engine, nil
}

func dockerReady(ctx context.Context, engine []string, ended <-chan struct{}) error {
	limit := time.After(30 * time.Second)
	for {
		if exec.CommandContext(ctx, engine[0], append(engine[1:len(engine):len(engine)], "version")...).Run() == nil {
			return nil
		}
		select {
		case <-ended:
			return errors.New("dockerd ended")
		case <-limit:
			return errors.New("dockerd did not answer within 30 s")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond): // it has no news to wait for
		}
	}
}

// unmountBelow unmounts what lies in dir, the deepest first.
func unmountBelow(dir string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if f := strings.Fields(lines[i]); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
}
