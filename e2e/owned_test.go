package e2e

import (
	"bytes"
	"os"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
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

// TestAnotherSubnetAfterPowerLoss: a node whose machine was started again comes up
// though the addresses of the containers that it had are another network's by now.
func TestAnotherSubnetAfterPowerLoss(t *testing.T) {
	d := disktest.New(t)
	if err := os.Mkdir(d.Dir+"/node", 0o700); err != nil {
		t.Fatal(err)
	}
	n := startIn(t, d.Dir+"/node")
	n.serve(mayfly.Workload{Name: "svc"})
	n.one("svc")
	n.kill()
	if err := disk.SyncFS(d.Dir); err != nil {
		t.Fatal(err)
	}
	after := &node{t: t, dir: d.AfterPowerLoss() + "/node"}
	n.up() // it has the addresses, and no container any more
	none := 0
	if _, err := n.ScaleService(t.Context(), "svc", &none); err != nil {
		t.Fatal(err)
	}
	n.until("its container is gone", func() bool { return len(n.instancesOf("svc")) == 0 })
	after.up()
	var err error
	if after.Client, err = client.New("unix://" + after.dir + "/api.sock"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(after.remove)
	after.one("svc")
}
