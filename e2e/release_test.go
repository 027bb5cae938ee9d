package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestDeployUnderLoad: no call fails because another release becomes active.
func TestDeployUnderLoad(t *testing.T) {
	n := start(t)
	deploy := func(value int) {
		n.deploy(mayfly.Workload{Name: "web", Process: mayfly.Process{Env: map[string]string{"VALUE": strconv.Itoa(value)}}})
	}
	deploy(0)
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for ctx.Err() == nil {
				resp, err := n.request(t.Context(), "GET", "web", "/touch", nil)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK || err != nil {
					t.Errorf("%d %s, %v", resp.StatusCode, body, err)
				}
			}
		})
	}
	for i := range 12 {
		deploy(i + 1)
	}
	stop()
	callers.Wait()
}

// deployCode deploys a function of the host stack whose code is one script.
func (n *node) deployCode(name, script string) mayfly.Release {
	n.t.Helper()
	digest, err := n.PutCode(n.t.Context(), bytes.NewReader(tarOf(n.t, map[string]string{"run.sh": script})))
	if err != nil {
		n.t.Fatal(err)
	}
	rel, err := n.Deploy(n.t.Context(), mayfly.Workload{
		Name: name, Stack: "host", Code: digest, Protocol: mayfly.Stdio,
		Process: mayfly.Process{Command: []string{"sh", "/app/run.sh"}},
		Routes:  []mayfly.Route{{Host: name + ".test", Path: "/"}},
	}, "", func(client.Progress) {})
	if err != nil {
		n.t.Fatal(err)
	}
	return rel
}

func tarOf(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg})
		io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestOldReleasesGo: the newest ten keep their images, those before go, and
// what is deployed survives a prune of everything.
func TestOldReleasesGo(t *testing.T) {
	n := start(t)
	var digests []string
	for i := range 13 {
		digests = append(digests, n.deployCode("hello", "echo hello "+strconv.Itoa(i)).Image)
	}
	check := func() {
		t.Helper()
		for i, digest := range digests {
			_, err := n.GetImage(t.Context(), digest)
			if kept := err == nil; kept != (i >= 3) {
				t.Errorf("the image of release %d: %v", i+1, err)
			}
		}
	}
	check()
	n.stop()
	n.up()
	pruned, err := n.PruneImages(t.Context(), true)
	if err != nil || strings.Join(pruned.Images, " ") != "app:latest" {
		t.Errorf("a prune of all took %v, %v", pruned, err)
	}
	check()
	if status, body, _ := n.get("hello", "/"); status != 200 || body != "hello 12\n" {
		t.Errorf("%d %s", status, body)
	}

	// A deploy that fails leaves nothing, and the name of the code where it was.
	digest, err := n.PutCode(t.Context(), bytes.NewReader(tarOf(t, map[string]string{"other": "code"})))
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Deploy(t.Context(), mayfly.Workload{
		Name: "hello", Stack: "host", Code: digest, Process: mayfly.Process{Command: []string{"false"}},
	}, "", func(client.Progress) {})
	if mayfly.KindOf(err) != mayfly.Failed {
		t.Errorf("the deploy ended with %v", err)
	}
	if img, err := n.GetImage(t.Context(), "code/default/hello"); err != nil || img.Digest != digests[12] {
		t.Errorf("the code's name is on %s, %v", img.Digest, err)
	}
	check()

	if err := n.DeleteWorkload(t.Context(), "hello"); err != nil {
		t.Fatal(err)
	}
	for _, digest := range digests {
		n.until("its image is gone", func() bool { // the last call's container is on its way out
			_, err := n.GetImage(t.Context(), digest)
			return mayfly.KindOf(err) == mayfly.NotFound
		})
	}
}
