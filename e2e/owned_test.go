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

// startOnDisk starts a node on a disk of its own.
func startOnDisk(t *testing.T) (*node, *disktest.Disk) {
	t.Helper()
	d := disktest.New(t)
	if err := os.Mkdir(d.Dir+"/node", 0o700); err != nil {
		t.Fatal(err)
	}
	return startIn(t, d.Dir+"/node"), d
}

// losesPower ends the node and its containers at once, and starts it from what is on
// the disk.
func (n *node) losesPower(d *disktest.Disk) (after *node) {
	n.t.Helper()
	n.kill()
	d.Commit()
	after = &node{t: n.t, dir: d.AfterPowerLoss() + "/node"}
	n.up()
	if err := n.Down(n.t.Context(), func(client.Progress) {}); err != nil { // as the cut ends its containers
		n.t.Fatal(err)
	}
	n.cmd.Wait()
	after.comes()
	return after
}

// comes starts a node from what is on a disk after a power loss.
func (n *node) comes() {
	n.t.Helper()
	n.up()
	var err error
	if n.Client, err = client.New("unix://" + n.dir + "/api.sock"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(n.remove)
}

// TestReleaseKeepsItsImage: a release that was deployed just before a power cut
// has its image afterwards, also when another one has got the image's name.
func TestReleaseKeepsItsImage(t *testing.T) {
	n, d := startOnDisk(t)
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
	after := n.losesPower(d)
	if code, body, _ := after.get("fn", "/echo"); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	after.one("svc")
}

// TestAnotherSubnetAfterPowerLoss: a node whose machine was started again comes up
// though the addresses of the containers that it had are another network's by now.
func TestAnotherSubnetAfterPowerLoss(t *testing.T) {
	n, d := startOnDisk(t)
	n.serve(mayfly.Workload{Name: "svc"})
	had := n.one("svc")
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
	n.until("its container is gone", func() bool {
		in, err := n.GetInstance(t.Context(), had.ID)
		return mayfly.KindOf(err) == mayfly.NotFound || err == nil && in.Exit != nil
	})
	after.comes()
	after.one("svc")
}
