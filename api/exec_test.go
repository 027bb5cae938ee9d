package api_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func TestExecCarriesWhatIsAskedAndHowItEnded(t *testing.T) {
	want := mayfly.ExecSpec{Command: []string{"cat", "ü x"}, Env: map[string]string{"A": "1"}, WorkDir: "/w", User: "ann", Stdin: true}
	up := serve(t, &stub{exec: func(_ context.Context, ref string, spec mayfly.ExecSpec, stdin io.Reader, stdout io.Writer, ready func()) (mayfly.Exit, error) {
		if ref != "web/2" || !reflect.DeepEqual(spec, want) {
			t.Errorf("asked of %s: %+v", ref, spec)
		}
		ready()
		_, err := io.Copy(stdout, stdin)
		return mayfly.Exit{Code: 7, Reason: mayfly.ExitedNonZero}, err
	}})
	e, err := up.client.Exec(t.Context(), "web/2", want)
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("as it is\x00\n"), 100_000)
	var stdout bytes.Buffer
	exit, err := e.Stream(t.Context(), bytes.NewReader(sent), &stdout, io.Discard)
	if err != nil || exit.Code != 7 || !bytes.Equal(stdout.Bytes(), sent) {
		t.Errorf("%+v, %v, %d bytes", exit, err, stdout.Len())
	}
}

// A program that cannot be executed never begins, and has an exit all the same.
func TestExecThatNeverBegan(t *testing.T) {
	up := serve(t, &stub{exec: func(context.Context, string, mayfly.ExecSpec, io.Reader, io.Writer, func()) (mayfly.Exit, error) {
		return mayfly.Exit{Code: 127, Reason: mayfly.ExitedNonZero, Detail: "not there"}, nil
	}})
	e, err := up.client.Exec(t.Context(), "x", mayfly.ExecSpec{Command: []string{"nosuch"}})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := e.Stream(t.Context(), nil, io.Discard, io.Discard); err != nil || exit.Code != 127 || exit.Detail != "not there" {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestExecRefused(t *testing.T) {
	up := serve(t, &stub{exec: func(context.Context, string, mayfly.ExecSpec, io.Reader, io.Writer, func()) (mayfly.Exit, error) {
		return mayfly.Exit{}, mayfly.Errorf(mayfly.Conflict, "it has ended")
	}})
	if _, err := up.client.Exec(t.Context(), "x", mayfly.ExecSpec{Command: []string{"a"}}); mayfly.KindOf(err) != mayfly.Conflict {
		t.Errorf("got %v", err)
	}
	for body, status := range map[string]int{"{": 400, `{"command":["` + strings.Repeat("x", 5<<20) + `"]}`: 413} {
		req, err := http.NewRequest(http.MethodPost, up.tcp+"/v1/instances/x/exec", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", client.AttachProtocol)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%.20s: %s", body, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestExecEndsWithItsClient(t *testing.T) {
	left := make(chan struct{})
	up := serve(t, &stub{exec: func(ctx context.Context, _ string, _ mayfly.ExecSpec, _ io.Reader, _ io.Writer, ready func()) (mayfly.Exit, error) {
		ready()
		<-ctx.Done()
		close(left)
		return mayfly.Exit{}, ctx.Err()
	}})
	e, err := up.client.Exec(t.Context(), "x", mayfly.ExecSpec{Command: []string{"sleep"}})
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	<-left
}
