package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
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

// TestSubnetOfChoice: containers have addresses from where the operator says, and
// a daemon that would give its containers others does not start.
func TestSubnetOfChoice(t *testing.T) {
	dir := t.TempDir()
	n := startIn(t, dir, "--subnet", "10.221.16.0/24")
	n.serve(mayfly.Workload{Name: "svc"})
	in, err := n.GetInstance(t.Context(), n.one("svc").ID)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(in.Address, "10.221.16.") {
		t.Errorf("its address is %s", in.Address)
	}
	n.stop()
	for args, want := range map[string]string{
		"--subnet 10.221.32.0/24":                            "has the subnet 10.221.16.0/24, not 10.221.32.0/24; stop all containers and remove the bridge with: mayfly down",
		"--subnet 10.221.16.0/28":                            "has the subnet 10.221.16.0/24, not 10.221.16.0/28; stop all containers and remove the bridge with: mayfly down",
		"--subnet 10.221.16.128/25 --data " + dir + "/other": "subnet 10.221.16.128/25 overlaps 10.221.16.0/24, which this machine has already; choose another, or none to have one picked",
	} {
		up := append([]string{"up", "--data", dir + "/data", "--api", "unix://" + dir + "/api.sock", "--http", ""}, strings.Fields(args)...)
		out, err := exec.Command(binary, up...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v: %s", args, err, out)
		}
	}
	n.up()
	n.one("svc")
}
