package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// realClient is a client of the daemon that all share.
func realClient(t *testing.T) *client.Client {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	d, err := shared.get()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(d.host())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// labelled is what tells the containers of a test from others.
func labelled(t *testing.T) client.RunOptions {
	return client.RunOptions{Spec: mayfly.InstanceSpec{Labels: map[string]string{"test": strings.ReplaceAll(t.Name(), "/", "-")}}}
}

// noneLeft fails when a container of the test is there.
func noneLeft(t *testing.T, c *client.Client) {
	t.Helper()
	all, err := c.ListInstances(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Labels["test"] == strings.ReplaceAll(t.Name(), "/", "-") {
			t.Errorf("%s is left over, %s", i.ID, i.State)
		}
	}
}

func TestRunReturnsWhatAProgramWrites(t *testing.T) {
	c := realClient(t)
	o := labelled(t)
	o.Spec.Env = map[string]string{"WHO": "me"}
	o.Stdin = strings.NewReader("in")
	out, err := c.Run(t.Context(), "bb", []string{"sh", "-c", `cat; echo " $WHO"; echo no >&2`}, o)
	if err != nil || string(out) != "in me\n" {
		t.Errorf("got %q, %v", out, err)
	}
	var stdout, stderr bytes.Buffer
	o.Stdin, o.Stdout, o.Stderr = nil, &stdout, &stderr
	out, err = c.Run(t.Context(), "bb", []string{"sh", "-c", `cat; echo a; echo b >&2`}, o)
	if err != nil || len(out) > 0 || stdout.String() != "a\n" || stderr.String() != "b\n" {
		t.Errorf("got %q, %q and %q, %v", out, &stdout, &stderr, err)
	}
	noneLeft(t, c)
}

func TestRunSaysHowAProgramFailed(t *testing.T) {
	c := realClient(t)
	cases := []struct {
		argv   []string
		limit  time.Duration
		status int
		kind   mayfly.Kind
		stderr string
		text   string
	}{
		{[]string{"sh", "-c", "echo part; echo why >&2; exit 3"}, 0, 3, mayfly.Failed, "why\n", `sh -c 'echo part; echo why >&2; exit 3' in bb ended with exit status 3: why`},
		{[]string{"nosuch"}, 0, 127, mayfly.Failed, "", "nosuch in bb ended with exit status 127 ("},
		{[]string{"sh", "-c", "kill -9 $$"}, 0, 137, mayfly.Failed, "", "exit status 137 (killed by SIGKILL)"},
		{[]string{"sleep", "1000"}, 50 * time.Millisecond, 137, mayfly.TimedOut, "", "sleep 1000 in bb"},
	}
	for _, test := range cases {
		o := labelled(t)
		o.Spec.Timeout = test.limit
		_, err := c.Run(t.Context(), "bb", test.argv, o)
		var failed *client.RunError
		if !errors.As(err, &failed) {
			t.Errorf("%q: got %v", test.argv, err)
			continue
		}
		if failed.ExitStatus() != test.status && test.limit == 0 || failed.Image != "bb" || strings.Join(failed.Command, " ") != strings.Join(test.argv, " ") ||
			string(failed.Stderr) != test.stderr || failed.Instance == "" || mayfly.KindOf(err) != test.kind || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%q: got %+v, %v, %s", test.argv, failed, err, mayfly.KindOf(err))
		}
	}
	o := labelled(t)
	o.NoPull = true
	if _, err := c.Run(t.Context(), "nosuch", nil, o); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("no image: got %v", err)
	}
	noneLeft(t, c)
}

// firstWrite closes seen at the first write.
type firstWrite struct {
	seen chan struct{}
	done bool
}

func (s *firstWrite) Write(p []byte) (int, error) {
	if !s.done {
		s.done = true
		close(s.seen)
	}
	return len(p), nil
}

func TestRunEndsWithItsContext(t *testing.T) {
	c := realClient(t)
	ctx, cancel := context.WithCancel(t.Context())
	o := labelled(t)
	began := &firstWrite{seen: make(chan struct{})}
	o.Stdout = began
	go func() { <-began.seen; cancel() }()
	if _, err := c.Run(ctx, "bb", []string{"sh", "-c", "echo; sleep 1000"}, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Run(ctx, "bb", []string{"true"}, o); !errors.Is(err, context.Canceled) {
		t.Errorf("when it is over: got %v", err)
	}
	noneLeft(t, c)
}

func TestRunDetached(t *testing.T) {
	c := realClient(t)
	i, err := c.RunDetached(t.Context(), "bb", []string{"sh", "-c", "echo hello; exit 4"}, labelled(t))
	if err != nil {
		t.Fatal(err)
	}
	ended, err := c.WaitInstance(t.Context(), i.ID)
	if err != nil || ended.Exit == nil || ended.Exit.Code != 4 {
		t.Errorf("got %+v, %v", ended, err)
	}
	var text string
	err = c.InstanceLogs(t.Context(), i.ID, mayfly.LogOptions{Tail: -1}, func(e mayfly.LogEntry) error { text += string(e.Data); return nil })
	if err != nil || text != "hello\n" {
		t.Errorf("got %q, %v", text, err)
	}
	if err := c.RemoveInstance(t.Context(), i.ID, false); err != nil {
		t.Error(err)
	}
	if _, err := c.RunDetached(t.Context(), "nosuch", nil, client.RunOptions{NoPull: true}); mayfly.KindOf(err) != mayfly.NotFound {
		t.Errorf("got %v", err)
	}
	noneLeft(t, c)
}
