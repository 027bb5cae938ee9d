package node

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/probe"
	"github.com/mayfly-run/mayfly/store"
	"golang.org/x/sys/unix"
)

// order says what the container of a replica is made of: what the release says,
// and what there is at this moment of what it requires.
func (l *life) order(ctx context.Context) (order, error) {
	w := &l.k.rel.Workload
	ports, err := pickPorts(w)
	if err != nil {
		return order{}, err
	}
	sets, revisions := l.req.now()
	wires, err := l.wiring(ctx, sets)
	if err != nil {
		return order{}, err
	}
	endpoints := wires.endpoints()
	l.wired = string(endpoints)
	l.req.ack(revisions)
	process := w.Process
	process.Env = ports
	maps.Copy(process.Env, wires.env)
	maps.Copy(process.Env, w.Env)
	hostname := w.Service.Hostname
	if hostname == "" {
		hostname = fmt.Sprintf("%s-%d", shortened(w.Name), l.k.a.Replica)
	}
	o := order{
		asked: asked{
			Process: process, Resources: w.Resources, mounts: w.Mounts, ports: w.Service.Ports,
			readOnly: w.ReadOnly, network: w.Network, meets: w.Service.Networks, files: map[string][]byte{endpointsName: endpoints, envName: container.EnvFile(wires.env)},
		},
		hostname: hostname, volumes: w.Volumes, secrets: w.Secrets, configs: w.Configs,
		several: len(w.Service.Processes) > 0,
		self:    self{Space: w.Space, App: w.App, Workload: w.Name, Release: l.k.a.Release, Replica: l.k.a.Replica, Labels: w.Labels},
	}
	return o, nil
}

// startSidecars makes and starts the containers beside the main one, which waits,
// each when the one before is ready.
func (l *life) startSidecars(ctx context.Context) error {
	for i := range l.k.rel.Workload.Service.Sidecars {
		c := &l.k.rel.Workload.Service.Sidecars[i]
		in, err := l.makeSidecar(ctx, c)
		if err != nil {
			return fmt.Errorf("sidecar %s: %w", c.Name, err)
		}
		l.side = append(l.side, in)
		if err := l.k.node.start(ctx, in); err != nil {
			return fmt.Errorf("sidecar %s: %w", c.Name, err)
		}
		if c.Ready != nil {
			if err := l.awaitSidecar(ctx, in, *c.Ready); err != nil {
				return fmt.Errorf("sidecar %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

func (l *life) makeSidecar(ctx context.Context, c *mayfly.Sidecar) (*instance, error) {
	n, main := l.k.node, l.in
	id := mayfly.NewID()
	rec := main.Instance.Instance
	rec.ID, rec.Name, rec.Sidecar, rec.Beside = id, shortened(main.Name)+"-"+shortSidecar(c.Name), c.Name, main.ID
	rec.Image, rec.Digest, rec.Resources = c.Image, c.Digest, c.Resources
	rec.State, rec.Created, rec.Started, rec.Ports, rec.StopSignal = mayfly.Starting, time.Now(), time.Time{}, nil, ""
	in := newInstance(store.Instance{Instance: rec})
	o := order{
		asked:    asked{Process: c.Process, Resources: c.Resources, readOnly: c.ReadOnly, beside: main.sandbox},
		hostname: c.Name, volumes: c.Volumes,
		self: self{
			Space: rec.Space, App: rec.App, Workload: rec.Workload, Release: rec.Release, Replica: rec.Replica, Sidecar: c.Name, Labels: rec.Labels,
		},
	}
	return in, n.make(ctx, in, o)
}

// shortSidecar leaves room for it in an instance's name.
func shortSidecar(name string) string { return name[:min(len(name), 12)] }

// awaitSidecar waits until a sidecar is ready for the first time.
func (l *life) awaitSidecar(ctx context.Context, in *instance, p mayfly.Probe) error {
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-in.sandbox.Ended():
			cancel()
		case <-l.k.stop:
			cancel()
		case <-l.k.r.down:
			cancel()
		case <-up.Done():
		}
	}()
	var failed error
	well := false
	probe.Watch(up, probe.Target{Dial: l.dial, Exec: execIn(in)}, p, probe.Options{Began: in.Started}, func(is bool, reason error) {
		well, failed = is, reason
		cancel()
	})
	switch {
	case well:
		return nil
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("it ended before it was ready")
}

// watchSidecar has the container end when a sidecar has.
func (l *life) watchSidecar(ctx context.Context, in *instance) {
	select {
	case <-in.sandbox.Ended():
		l.ask(ending{reason: fmt.Sprintf("its sidecar %s %s", in.Sidecar, ended(in.sandbox.Exit())), failure: true})
	case <-ctx.Done():
	}
}

// stopSidecars ends them, the last that was started first.
func (l *life) stopSidecars(ctx context.Context) {
	for _, in := range slices.Backward(l.side) {
		l.k.node.stopInstance(ctx, in, "what it was beside has ended", stopGrace)
		l.awaitRecord(in)
	}
}

// startPrograms starts the program of the container, or its programs.
func (l *life) startPrograms(ctx context.Context) error {
	if len(l.k.rel.Workload.Service.Processes) == 0 {
		if err := l.k.node.start(ctx, l.in); err != nil {
			return err
		}
		if l.in.state() != mayfly.Running { // it could not be executed, and so has never run
			<-l.in.sandbox.Ended()
			return &neverRan{l.in.sandbox.Exit()}
		}
		return nil
	}
	for i := range l.k.rel.Workload.Service.Processes {
		if err := l.spawn(ctx, &l.k.rel.Workload.Service.Processes[i]); err != nil {
			return err
		}
	}
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.in.State, l.in.Started = mayfly.Running, time.Now()
	return l.k.node.update(ctx, l.in)
}

// neverRan is the end of a container whose program could not be executed.
type neverRan struct{ exit mayfly.Exit }

func (e *neverRan) Error() string { return ended(e.exit) }

// spawn starts one of the programs of a container.
func (l *life) spawn(ctx context.Context, p *mayfly.NamedProcess) error {
	argv := slices.Concat(p.Entrypoint, p.Command)
	if len(argv) == 0 {
		return mayfly.Errorf(mayfly.Invalid, "process %s says no command", p.Name)
	}
	program := container.Program{Name: p.Name, Argv: argv, Dir: p.WorkDir}
	if program.Dir == "" {
		program.Dir = "." // the container's
	}
	env, err := l.in.sandbox.CurrentEnv()
	if err != nil {
		return err
	}
	if p.User != "" {
		u, err := l.in.sandbox.LookupUser(p.User)
		if err != nil {
			return fmt.Errorf("process %s: %w", p.Name, err)
		}
		program.User = &u
		env = container.WithEnv(env, []string{"HOME=" + u.Home})
	}
	program.Env = environment(env, p.Env)
	_, err = l.in.sandbox.Spawn(ctx, program)
	if kind := mayfly.KindOf(err); kind == mayfly.Denied || kind == mayfly.Invalid {
		return fmt.Errorf("process %s: %w", p.Name, err)
	}
	if err != nil {
		_, detail := container.ExecFailure(argv[0], err)
		return mayfly.Errorf(mayfly.Invalid, "process %s: %s", p.Name, detail)
	}
	return nil
}

// watchProcesses restarts the programs of a container by their rules, until one
// is given up or all have completed: then the container ends.
func (l *life) watchProcesses(ctx context.Context) {
	all := l.k.rel.Workload.Service.Processes
	over := make(chan bool, len(all))
	for i := range all {
		l.tasks.Go(func() { over <- l.watchProcess(ctx, &all[i]) })
	}
	for range all {
		select {
		case completed := <-over:
			if !completed {
				return
			}
		case <-ctx.Done():
			return
		}
	}
	l.ask(ending{reason: "all its processes have completed", completed: true})
}

// watchProcess keeps one program running. It reports whether it has completed.
func (l *life) watchProcess(ctx context.Context, p *mayfly.NamedProcess) bool {
	failures := 0
	for {
		running := l.process(p.Name)
		began := time.Now()
		if running != nil {
			select {
			case <-running.Done():
			case <-ctx.Done():
				return false
			}
		}
		e := mayfly.Exit{Reason: mayfly.Lost, Detail: "no trace of it is left"}
		if running != nil {
			e = running.Exit()
		}
		if time.Since(began) >= goodHealth {
			failures = 0
		}
		failures++
		switch after(p.Restart, e, failures) {
		case completed:
			return true
		case givenUp:
			l.ask(ending{reason: fmt.Sprintf("its process %s %s", p.Name, ended(e)), failure: true})
			return false
		}
		if isClosed(l.in.sandbox.Ended()) || ctx.Err() != nil {
			return false
		}
		wait := backoff(failures)
		l.k.news("process.crashed", fmt.Sprintf("its process %s %s; it is started again%s", p.Name, ended(e), inTime(wait)))
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return false
		}
		if err := l.spawn(ctx, p); err != nil {
			if ctx.Err() == nil {
				l.ask(ending{reason: err.Error(), failure: true})
			}
			return false
		}
	}
}

func inTime(wait time.Duration) string {
	if wait == 0 {
		return " at once"
	}
	return " in " + wait.String()
}

// process is the program of that name that runs, or the last that did.
func (l *life) process(name string) *container.Process {
	for _, p := range l.in.sandbox.Spawned() {
		if p.Name() == name {
			return p
		}
	}
	return nil
}

// exec runs a command in the container and returns its exit code and the end of
// what it wrote. It ends with ctx. A nil env is the container's.
func (l *life) exec(ctx context.Context, argv, env []string) (code int, tail string, err error) {
	return execute(ctx, l.in, argv, env)
}

func execIn(in *instance) func(ctx context.Context, argv []string) (int, string, error) {
	return func(ctx context.Context, argv []string) (int, string, error) { return execute(ctx, in, argv, nil) }
}

// maxTail is how much of a command's output is kept, in bytes.
const maxTail = 2 << 10

func execute(ctx context.Context, in *instance, argv, env []string) (code int, tail string, err error) {
	s := in.sandbox
	ours, theirs, err := s.Pipe(false)
	if err != nil {
		return 0, "", err
	}
	defer ours.Close()
	p, err := s.Spawn(ctx, container.Program{Argv: argv, Env: env, Dir: ".", Stdout: theirs, Stderr: theirs})
	theirs.Close()
	if err != nil {
		if ctx.Err() != nil {
			return 0, "", ctx.Err()
		}
		code, detail := container.ExecFailure(argv[0], err)
		return code, detail, nil
	}
	read := make(chan string, 1)
	go func() { read <- lastOf(ours) }()
	defer func() { ours.SetReadDeadline(time.Unix(1, 0)) }() // a child of it may hold the other end
	select {
	case <-p.Done():
	case <-ctx.Done():
		s.Signal(context.WithoutCancel(ctx), p, unix.SIGKILL)
		select {
		case <-p.Done():
		case <-s.Ended():
		}
		ours.SetReadDeadline(time.Unix(1, 0))
		return 0, <-read, ctx.Err()
	}
	ours.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	return p.Exit().Code, <-read, nil
}

// lastOf reads to the end and returns the last maxTail bytes.
func lastOf(f *os.File) string {
	var tail []byte
	buf := make([]byte, 4<<10)
	for {
		n, err := f.Read(buf)
		tail = append(tail, buf[:n]...)
		if over := len(tail) - maxTail; over > 0 {
			tail = append(tail[:0], tail[over:]...)
		}
		if err != nil {
			return string(tail)
		}
	}
}

// lastWords is the last line of an output, for the end of a sentence.
func lastWords(tail string) string {
	tail = strings.TrimSpace(tail)
	if tail == "" {
		return ""
	}
	return ": " + tail[strings.LastIndexByte(tail, '\n')+1:]
}

// signalMain sends a signal to the main program, or to all programs.
func (l *life) signalMain(ctx context.Context, name string) error {
	sig, ok := mayfly.ParseSignal(name)
	if !ok {
		return fmt.Errorf("there is no signal %s", name)
	}
	if l.in.sandbox.Main() != nil {
		return l.in.sandbox.Signal(ctx, nil, sig)
	}
	return signalProcesses(ctx, l.in.sandbox, sig)
}
