package e2e

import (
	"bytes"
	"os"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk/disktest"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestReleaseKeepsItsImage: a release that was deployed just before a power cut
// has its image afterwards, also when another one has got the image's name.
func TestReleaseKeepsItsImage(t *testing.T) {
	d := disktest.New(t)
	if err := os.Mkdir(d.Dir+"/node", 0o700); err != nil {
		t.Fatal(err)
	}
	n := startIn(t, d.Dir+"/node")
	other := tarOf(t, map[string]string{"file": "of another image"})
	if _, err := n.ImportImage(t.Context(), "other", bytes.NewReader(other), 0); err != nil {
		t.Fatal(err)
	}
	n.deploy(mayfly.Workload{Name: "fn"})
	n.serve(mayfly.Workload{Name: "svc"})
	n.one("svc")
	if _, err := n.TagImage(t.Context(), "other", "app"); err != nil {
		t.Fatal(err)
	}
	n.kill()
	d.Commit()
	after := &node{t: t, dir: d.AfterPowerLoss() + "/node"}
	n.up()
	err := n.Down(t.Context(), func(client.Progress) {}) // as the cut ends its containers
	if err != nil {
		t.Fatal(err)
	}
	n.cmd.Wait()
	after.up()
	if after.Client, err = client.New("unix://" + after.dir + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(after.remove)
	if code, body, _ := after.get("fn", "/echo"); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	after.one("svc")
}
