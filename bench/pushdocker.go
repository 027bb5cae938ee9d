package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly/build"
)

// dockerPort is where Docker publishes what it runs, on its bridge.
const dockerPort = "8080"

// dockerWays are how Docker does what a push does: an image is built on the very
// stack, and a container of it run with a port published. That the container before
// would have to go first is not counted against it.
func (b *bench) dockerWays(ctx context.Context, d *daemon, l *pushLanguage) []*contender {
	if b.alone || l.stack == "host" {
		return nil
	}
	all, err := b.openDockerWays(ctx, d, l)
	if err != nil {
		b.say("without docker build: %v", err)
		b.results.Notes = append(b.results.Notes, fmt.Sprintf("docker build and run of %s was left out: %v", l.name, err))
	}
	return all
}

func (b *bench) openDockerWays(ctx context.Context, d *daemon, l *pushLanguage) ([]*contender, error) {
	engine, err := b.dockerd(ctx)
	if err != nil {
		return nil, err
	}
	base, tools := "stack-"+l.name+":1", "tools-"+l.name+":1"
	for name, stack := range map[string]string{base: build.StackImage(l.stack), tools: build.ToolsImage(l.stack, nil)} {
		if err := b.dockerStack(ctx, d, engine, stack, name); err != nil {
			return nil, err
		}
	}
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: b.dialDocker}}
	files := strings.Join(slices.Sorted(maps.Keys(l.needs)), " ")
	var all []*contender
	for _, way := range []struct {
		what, name, dockerfile, use string
		needs                       map[string]string
	}{
		{dockerPush, l.name + "-docker", "FROM " + base + "\nWORKDIR /app\nCOPY . .\n", "", nil},
		{dockerNeed, l.name + "-docker-needs", "FROM " + tools + "\nWORKDIR /app\nCOPY " + files + " ./\nRUN " + l.install + "\nCOPY . .\n", l.use, l.needs},
	} {
		code, err := b.pushFolder(way.name, l.program, way.use+l.programText, way.needs)
		if err != nil {
			return all, err
		}
		if err := os.WriteFile(filepath.Join(code.dir, "Dockerfile"), []byte(way.dockerfile), 0o644); err != nil {
			return all, err
		}
		c := &dockerWay{engine: engine, name: way.name, code: code, run: l.run, web: web}
		if err := errors.Join(c.once(ctx), c.remove(ctx)); err != nil {
			return all, err
		}
		all = append(all, &contender{what: way.what, slow: true, once: c.once, settle: c.remove})
	}
	return all, nil
}

// dockerStack gives the engine a stack's files as an image.
func (b *bench) dockerStack(ctx context.Context, d *daemon, engine []string, stack, name string) error {
	from := exec.CommandContext(ctx, b.binary, "run", "--rm", "--network", "none", stack, "tar", "-c", "-C", "/", "--one-file-system", ".")
	from.Env = append(os.Environ(), "MAYFLY_HOST="+d.api.Host())
	into := exec.CommandContext(ctx, engine[0], append(engine[1:len(engine):len(engine)], "import", "-", name)...)
	pipe, err := from.StdoutPipe()
	if err != nil {
		return err
	}
	var own, said strings.Builder
	into.Stdin, from.Stderr, into.Stderr = pipe, &own, &said
	if err := from.Start(); err != nil {
		return err
	}
	err = into.Run()
	pipe.Close() // so that the former does not wait for a reader
	if err = errors.Join(err, from.Wait()); err != nil {
		return fmt.Errorf("give docker %s: %w: %s %s", stack, err, lastLine(own.String()), lastLine(said.String()))
	}
	return nil
}

// dockerWay is a folder of code that Docker builds and runs.
type dockerWay struct {
	engine []string
	name   string
	code   *pushed
	run    []string
	web    *http.Client
}

// once changes the code, builds it, runs it and asks until the answer is the new one.
func (c *dockerWay) once(ctx context.Context) error {
	want, err := c.code.change()
	if err != nil {
		return err
	}
	if _, err := output(ctx, c.engine, "build", "-q", "-t", c.name, c.code.dir); err != nil {
		return err
	}
	if _, err := output(ctx, c.engine, append([]string{
		"run", "-d", "--name", c.name, "-p", dockerPort + ":8080", "--memory", strconv.Itoa(memoryLimit), "--pids-limit", strconv.Itoa(pidsLimit), c.name,
	}, c.run...)...); err != nil {
		return err
	}
	return asks(ctx, c.web, "http://"+bridge+":"+dockerPort+"/", want)
}

// remove removes the container, if there is one.
func (c *dockerWay) remove(ctx context.Context) error {
	id, err := output(ctx, c.engine, "ps", "-aq", "--filter", "name=^/"+c.name+"$")
	if err != nil || id == "" {
		return err
	}
	_, err = output(ctx, c.engine, "rm", "-f", id)
	return err
}

// dialDocker connects from the namespace that the engine is in. The thread that
// went there is not used again.
func (b *bench) dialDocker(ctx context.Context, network, address string) (net.Conn, error) {
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends here
		ns, err := os.Open(filepath.Join("/proc", strconv.Itoa(b.dockerPID), "ns/net"))
		if err != nil {
			done <- dialed{err: err}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- dialed{err: err}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		done <- dialed{conn, err}
	}()
	d := <-done
	return d.conn, d.err
}
