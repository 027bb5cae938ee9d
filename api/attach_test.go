package api_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func ended(code int) func(context.Context) (mayfly.Instance, error) {
	return func(context.Context) (mayfly.Instance, error) {
		return mayfly.Instance{ID: "x", State: mayfly.Exited, Exit: &mayfly.Exit{Code: code, Reason: mayfly.ExitedNonZero}}, nil
	}
}

func TestAttachKeepsStreamsApartAndWhole(t *testing.T) {
	for _, where := range []string{"unix", "tcp"} {
		t.Run(where, func(t *testing.T) {
			up := serve(t, &stub{wait: ended(3), attach: func(_ context.Context, stdin io.Reader, stdout, stderr io.Writer, ready func()) error {
				ready()
				ready() // twice is no harm
				errs := make(chan error, 1)
				go func() { _, err := io.Copy(stderr, io.LimitReader(zeros{}, 1<<20)); errs <- err }()
				if _, err := io.Copy(stdout, stdin); err != nil {
					return err
				}
				return <-errs
			}})
			c := up.client
			if where == "tcp" {
				var err error
				if c, err = client.New(up.tcp); err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			a, err := c.Attach(t.Context(), "x", true)
			if err != nil {
				t.Fatal(err)
			}
			sent := bytes.Repeat([]byte("stdin, as it is\x00\n"), 100_000)
			var stdout, stderr bytes.Buffer
			i, err := a.Stream(t.Context(), bytes.NewReader(sent), &stdout, &stderr)
			if err != nil || i.Exit == nil || i.Exit.Code != 3 {
				t.Errorf("got %+v, %v", i, err)
			}
			if !bytes.Equal(stdout.Bytes(), sent) {
				t.Errorf("stdout has %d bytes, want %d", stdout.Len(), len(sent))
			}
			if !bytes.Equal(stderr.Bytes(), make([]byte, 1<<20)) {
				t.Errorf("stderr has %d bytes", stderr.Len())
			}
		})
	}
}

func TestAttachWithoutStdin(t *testing.T) {
	up := serve(t, &stub{wait: ended(0), attach: func(_ context.Context, stdin io.Reader, stdout, _ io.Writer, ready func()) error {
		if stdin != nil {
			t.Error("there is a stdin")
		}
		ready()
		_, err := io.WriteString(stdout, "out")
		return err
	}})
	a, err := up.client.Attach(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if _, err := a.Stream(t.Context(), strings.NewReader("unread"), &stdout, io.Discard); err != nil || stdout.String() != "out" {
		t.Errorf("got %q, %v", &stdout, err)
	}
}

// A program may end without having read its input.
func TestAttachProgramThatDoesNotRead(t *testing.T) {
	up := serve(t, &stub{wait: ended(0), attach: func(_ context.Context, _ io.Reader, stdout, _ io.Writer, ready func()) error {
		ready()
		_, err := io.WriteString(stdout, "bye")
		return err
	}})
	a, err := up.client.Attach(t.Context(), "x", true)
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	if _, err := a.Stream(t.Context(), io.LimitReader(zeros{}, 1<<30), &stdout, io.Discard); err != nil || stdout.String() != "bye" {
		t.Errorf("got %q, %v", &stdout, err)
	}
}

func TestAttachEndsWithItsClient(t *testing.T) {
	left := make(chan error, 1)
	up := serve(t, &stub{
		wait: func(ctx context.Context) (mayfly.Instance, error) { <-ctx.Done(); return mayfly.Instance{}, ctx.Err() },
		attach: func(ctx context.Context, _ io.Reader, _, _ io.Writer, ready func()) error {
			ready()
			<-ctx.Done()
			left <- ctx.Err()
			return ctx.Err()
		},
	})
	a, err := up.client.Attach(t.Context(), "x", true)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := <-left; err == nil {
		t.Error("no error")
	}
}

func TestAttachEndsWithTheServer(t *testing.T) {
	up := serve(t, &stub{
		wait: func(ctx context.Context) (mayfly.Instance, error) { <-ctx.Done(); return mayfly.Instance{}, ctx.Err() },
		attach: func(ctx context.Context, _ io.Reader, _, _ io.Writer, ready func()) error {
			ready()
			<-ctx.Done()
			return ctx.Err()
		},
	})
	a, err := up.client.Attach(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	go up.stop()
	_, err = a.Stream(t.Context(), nil, io.Discard, io.Discard)
	if mayfly.KindOf(err) != mayfly.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("got %v", err)
	}
}

func TestAttachErrorAfterTheUpgrade(t *testing.T) {
	up := serve(t, &stub{wait: ended(0), attach: func(_ context.Context, _ io.Reader, _, _ io.Writer, ready func()) error {
		ready()
		return mayfly.Errorf(mayfly.Unavailable, "lost its init")
	}})
	a, err := up.client.Attach(t.Context(), "x", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = a.Stream(t.Context(), nil, io.Discard, io.Discard); mayfly.KindOf(err) != mayfly.Unavailable || err.Error() != "lost its init" {
		t.Errorf("got %v", err)
	}
}
