package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/queue"
)

// attempt is one execution of a task by a program that was started for it.
type attempt struct {
	runner   *Runner
	grant    *queue.Grant
	release  *mayfly.Release // nil when it was adopted
	sandbox  *container.Sandbox
	payload  *os.File      // a large one, until the program has it
	deadline time.Time     // zero: none
	giveUp   func()        // takes the sandbox down; nil when it was adopted
	leave    func()        // leaves it to the next daemon
	recorded chan struct{} // closed when nobody attends to it any more
}

// attemptNote is what a later daemon needs to take an attempt over, left in its
// sandbox before the program starts.
type attemptNote struct {
	Space    string         `json:"space"`
	Task     string         `json:"task"`
	Attempt  mayfly.Attempt `json:"attempt"`
	Deadline time.Time      `json:"deadline,omitzero"`
	Due      time.Duration  `json:"due,omitempty"` // the same since the machine started, in ns
}

// sinceStart is how long this machine has run, however often its clock was set.
func sinceStart() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// deadline is when the attempt is to end. It is the same attempt, so the machine
// has not started anew since the note was written.
func (n attemptNote) deadline() time.Time {
	if n.Due == 0 {
		return n.Deadline
	}
	return time.Now().Add(n.Due - sinceStart())
}

// beginUnlessDown is begin, which ends with an error when the node goes down.
func (a *attempt) beginUnlessDown(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(a.runner.down, cancel)
	defer stop()
	return a.begin(ctx)
}

// begin takes a sandbox and starts the program in it.
func (a *attempt) begin(ctx context.Context) error {
	n := a.runner.node
	f, ready, err := n.get(ctx, a.release)
	if err != nil {
		return err
	}
	key := keyOf(a.release)
	a.sandbox = ready.Sandbox
	a.giveUp = func() {
		f.pool.Gone()
		n.retire(a.sandbox, func() { n.done(key) })
	}
	a.leave = func() {
		f.pool.Gone()
		n.done(key)
	}
	if err := a.start(ctx, f.template, ready); err != nil {
		a.giveUp()
		return err
	}
	a.runner.queue.Started(a.grant, a.sandbox.ID)
	return nil
}

// start hands the task over.
func (a *attempt) start(ctx context.Context, t *template, r *ready) error {
	s, g := a.sandbox, a.grant
	if err := s.SetRun(a.identity()); err != nil {
		return err
	}
	defer a.closePayload()
	if err := a.putPayload(ctx); err != nil {
		return err
	}
	if err := s.PutResults(g.Results); err != nil {
		return err
	}
	if g.Task.Memory > 0 {
		if err := s.SetMemory(g.Task.Memory); err != nil {
			return err
		}
	}
	started := g.Attempt // the grant's own belongs to the queue
	started.Instance, started.Started = s.ID, time.Now()
	left := attemptNote{Space: g.Task.Space, Task: g.Task.ID, Attempt: started, Deadline: a.deadline}
	if !a.deadline.IsZero() {
		left.Due = sinceStart() + time.Until(a.deadline)
	}
	note, err := json.Marshal(left)
	if err != nil {
		return err
	}
	if r.port != 0 {
		// Without the note the next daemon throws the sandbox away: it cannot
		// know whether the handler was called.
		if err := a.call(ctx, r); err != nil {
			return err
		}
		return s.SetNote(note)
	}
	if err := s.SetNote(note); err != nil {
		return err
	}
	return a.execute(ctx, t)
}

// execute starts the program. One that cannot be executed ends the sandbox as
// a shell would say it.
func (a *attempt) execute(ctx context.Context, t *template) error {
	s := a.sandbox
	in, err := a.stdin()
	if err != nil {
		return err
	}
	defer in.Close()
	p := container.Program{Argv: t.argv, Env: append(s.Env()[:len(s.Env()):len(s.Env())], a.identity().Environment()...), Dir: t.config.WorkDir, Stdin: in}
	_, err = s.Start(ctx, p)
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s.Fail(container.ExecFailure(p.Argv[0], errno))
		return nil
	}
	return err
}

// callTime is how long a handler's loader may take to accept a task.
const callTime = 10 * time.Second

// call gives the task to a handler that waits for it. Its loader answers before
// it calls the handler, and writes what that returns to the standard output.
func (a *attempt) call(ctx context.Context, r *ready) error {
	conn := r.conn
	r.conn = nil
	if conn == nil {
		var err error
		if conn, err = r.Dial(ctx, r.port, time.Second); err != nil {
			return err
		}
	}
	defer conn.Close()
	req, patience, err := a.post(ctx)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	req.Header.Set("X-Mayfly-Detached", "1")
	a.identity().Headers(req.Header.Set)
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("hand over to the handler: %w", err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return fmt.Errorf("hand over to the handler: %w", err)
	}
	if resp.StatusCode != http.StatusAccepted {
		return mayfly.Errorf(mayfly.Failed, "the handler's loader answered with status %d; deploy the function again", resp.StatusCode)
	}
	return nil
}

func (a *attempt) identity() container.Run {
	g := a.grant
	run := container.Run{
		ID: g.Task.ID, Attempt: g.Attempt.Number, Workload: g.Task.Workload, Space: g.Task.Space, Release: g.Task.Release, Task: true,
	}
	run.CloudEvent = queue.CloudEventOf(&g.Task)
	run.SetDeadline(a.deadline)
	return run
}

// attend waits for the program's end and has it recorded, before anything of
// the sandbox goes. When ctx ends first, all is left to the next daemon.
func (a *attempt) attend(ctx context.Context) {
	r := a.runner
	if !a.await(ctx) || !r.done(ctx, a.grant, a.result(ctx)) {
		r.node.noteLeft()
		if a.leave != nil {
			a.leave()
		}
		return
	}
	if a.giveUp == nil {
		r.node.retire(a.sandbox, func() {})
		return
	}
	a.giveUp()
}

// await sees to it that the program ends in time. It reports false when ctx
// ended before.
func (a *attempt) await(ctx context.Context) bool {
	s := a.sandbox
	var late <-chan time.Time
	if !a.deadline.IsZero() {
		t := time.NewTimer(time.Until(a.deadline))
		defer t.Stop()
		late = t.C
	}
	select {
	case <-s.Ended():
		return true
	case <-late:
		s.Blame(mayfly.DeadlinePassed, "its timeout of "+a.grant.Task.Timeout.String()+" passed")
	case <-a.grant.Cancelled():
		s.Blame(mayfly.Cancelled, "it was cancelled")
	case <-a.runner.down.Done():
		s.Blame(mayfly.Lost, "the node was taken down")
		s.Kill()
	case <-ctx.Done():
		return false
	}
	if !s.Stop(ctx, syscall.SIGTERM, stopGrace) {
		s.Kill()
	}
	<-s.Ended()
	return true
}

// result is how the program ended and what it wrote to its standard output. A
// failure that nothing else explains is explained by the last line that the
// program wrote to its standard error.
func (a *attempt) result(ctx context.Context) mayfly.Result {
	s := a.sandbox
	res := mayfly.Result{Exit: s.Exit(), Instance: s.ID}
	if !container.HasLog(s.Dir()) {
		return res
	}
	var complaint []byte
	err := container.ReadLog(ctx, s.Dir(), mayfly.LogOptions{Tail: -1}, nil, func(e mayfly.LogEntry) error {
		if e.Stream == "stdout" {
			res.Output = append(res.Output, e.Data[:min(len(e.Data), queue.MaxResult+1-len(res.Output))]...)
		} else if text := bytes.TrimSpace(e.Data); len(text) > 0 {
			complaint = text
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.runner.opts.Log.Error("read the result of a task", "task", a.grant.Task.ID, "err", err)
	}
	if res.Exit.Reason == mayfly.ExitedNonZero && res.Exit.Detail == "" {
		res.Exit.Detail = lastComplaint(complaint)
	}
	return res
}

// lastComplaint is the last line that is not indented: what was raised, rather
// than where.
func lastComplaint(text []byte) string {
	var last []byte
	for line := range bytes.Lines(text) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 && line[0] != ' ' && line[0] != '\t' {
			last = line
		}
	}
	return string(bytes.ToValidUTF8(last[:min(len(last), detailMax)], nil))
}

// detailMax is how much of a line explains a failure, in bytes.
const detailMax = 200

// leftAttempts returns the sandboxes that tasks ran in, once.
func (n *Node) leftAttempts() []leftAttempt {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := n.left
	n.left = nil
	return left
}

// recoverAttempt adopts a sandbox that a task was started in. It reports false
// when the sandbox is something else. Where the daemon died before it knew that
// the program was started, nobody knows whether it was: that attempt is lost.
func (n *Node) recoverAttempt(id string) (left leftAttempt, ok bool) {
	data, err := n.host.Note(id)
	if err != nil || data == nil || json.Unmarshal(data, &left.note) != nil {
		return left, false
	}
	if left.sandbox, err = n.adopt(id); err != nil {
		return left, false
	}
	if left.sandbox.Main() == nil {
		left.sandbox.Blame(mayfly.Lost, "the daemon died as its program was started")
		left.sandbox.Kill()
	}
	return left, true
}

// noteLeft says that an attempt goes on without this daemon.
func (n *Node) noteLeft() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leaving = true
}

func (n *Node) isStopped() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopped
}
