package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mayfly-run/mayfly"
	nodes "github.com/mayfly-run/mayfly/node"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (n *node) runDetached(name string, command ...string) mayfly.Instance {
	n.t.Helper()
	in, err := n.CreateInstance(n.t.Context(), mayfly.InstanceSpec{Name: name, Image: "app", Process: mayfly.Process{Command: command}}, "")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.StartInstance(n.t.Context(), in.ID); err != nil {
		n.t.Fatal(err)
	}
	return in
}

func (n *node) log(ref string) string {
	n.t.Helper()
	var b strings.Builder
	err := n.InstanceLogs(n.t.Context(), ref, mayfly.LogOptions{Tail: -1}, func(e mayfly.LogEntry) error {
		b.Write(e.Data)
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return b.String()
}

// TestDaemonKilled: what ran goes on, with its log whole and its exit known,
// whether it ended before, while or after there was no daemon.
func TestDaemonKilled(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web"})
	n.runDetached("before", "sh", "-c", "echo first; exit 3")
	if in, err := n.WaitInstance(t.Context(), "before"); err != nil || in.Exit.Code != 3 {
		t.Fatalf("%+v, %v", in, err)
	}
	while := n.runDetached("while", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.1; done; exit 4")
	n.runDetached("after", "sh", "-c", "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; sleep 0.05; [ $i = 60 ] && exit 5; done")
	n.kill()
	n.until("one ends while nobody watches", func() bool { return n.programs(while.ID) == 0 })
	n.up()
	for name, code := range map[string]int{"before": 3, "while": 4, "after": 5} {
		in, err := n.WaitInstance(t.Context(), name)
		if err != nil || in.Exit == nil || in.Exit.Code != code || in.Exit.Reason != mayfly.ExitedNonZero {
			t.Errorf("%s: %+v, %v", name, in.Exit, err)
		}
	}
	if got, want := n.log("while"), "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\nline 7\nline 8\n"; got != want {
		t.Errorf("log %q", got)
	}
	var want strings.Builder
	for i := range 60 {
		fmt.Fprintln(&want, i+1)
	}
	if got := n.log("after"); got != want.String() {
		t.Errorf("log %q", got)
	}
	if status, _, _ := n.get("web", "/touch"); status != 200 {
		t.Errorf("the function answers %d", status)
	}
}

// TestDaemonUpgraded: SIGTERM ends calls and waiting sandboxes, and nothing
// else.
func TestDaemonUpgraded(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "web"})
	n.runDetached("on", "sleep", "1000")
	type answer struct {
		status int
		run    string
	}
	called := make(chan answer, 1)
	go func() {
		resp, err := n.request(t.Context(), "GET", "web", "/sleep?for=1m", nil)
		if err != nil {
			t.Error(err)
			close(called)
			return
		}
		resp.Body.Close()
		called <- answer{resp.StatusCode, resp.Header.Get("X-Mayfly-Run")}
	}()
	n.until("the call has a container", func() bool {
		runs, err := n.ListRuns(t.Context(), "web", 1)
		return err == nil && len(runs) > 0 && runs[0].Instance != ""
	})
	n.stop()
	told := <-called
	if told.status != 503 {
		t.Errorf("the call was answered with %d", told.status)
	}
	if left := n.sandboxes(); len(left) != 1 {
		t.Errorf("sandboxes left: %v", left)
	}
	n.up()
	if r := n.runOf(told.run); r.Status != 503 || r.Exit.Reason != mayfly.Cancelled || r.Exit.Detail != "the daemon is stopping" {
		t.Errorf("the call is on record with status %d as %+v", r.Status, r.Exit)
	}
	in, err := n.GetInstance(t.Context(), "on")
	if err != nil || in.State != mayfly.Running {
		t.Errorf("%+v, %v", in, err)
	}
	if err := n.StopInstance(t.Context(), "on", 0); err != nil {
		t.Error(err)
	}
}

func (n *node) sandboxes() []string {
	entries, err := os.ReadDir(n.dir + "/data/sandboxes")
	if err != nil {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestNothingIsLeftOver: after many runs, and a kill -9 among them, the kernel
// and the disk hold what they held before.
func TestNothingIsLeftOver(t *testing.T) {
	n := start(t)
	n.deploy(mayfly.Workload{Name: "cat", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"cat"}}})
	n.get("cat", "/")
	n.stop()
	n.up()
	before := n.leftovers()
	for round := range 3 {
		for range 100 {
			if status, body, _ := n.post("cat", "/", strings.NewReader("x")); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
		}
		if round == 1 {
			n.kill()
		} else {
			n.stop()
		}
		n.up()
	}
	n.stop()
	n.up()
	n.until("it has again "+before, func() bool { return n.leftovers() == before })
	n.stop()
	n.nothingLeft()
}

// TestDownRightAfterStart: what runs for services is ended also by a daemon that
// has not come to take it over.
func TestDownRightAfterStart(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{Name: "svc"})
	for range 8 {
		in := n.one("svc")
		if len(n.tables()) == 0 {
			t.Error("a node that runs has no tables")
		}
		n.kill()
		n.up()
		if err := n.Down(t.Context(), func(client.Progress) {}); err != nil {
			t.Fatal(err)
		}
		n.cmd.Wait()
		n.until("its processes have ended", func() bool { return n.programs(in.ID) == 0 })
		n.nothingLeft()
		n.up()
	}
}

// TestDownAsTasksBegin: also the attempts are ended that the node has just taken over,
// or is about to start.
func TestDownAsTasksBegin(t *testing.T) {
	n := start(t)
	n.shell("long", "sleep 1000", nil)
	for range 32 {
		n.submit(mayfly.Submission{Workload: "long"})
	}
	for round := range 8 {
		if round%2 == 1 { // with attempts to take over
			n.until("they run", func() bool {
				l, err := n.Load(t.Context(), "long")
				return err == nil && l.InFlight > 8
			})
			n.kill()
			n.up()
		}
		if err := n.Down(t.Context(), func(client.Progress) {}); err != nil {
			t.Fatal(err)
		}
		n.cmd.Wait()
		n.nothingLeft()
		if left := n.sandboxes(); len(left) > 0 {
			t.Errorf("sandboxes left: %v", left)
		}
		n.up()
	}
}

// TestNothingStartsAsItGoesDown: what is asked for by then is refused, else it would be
// left running.
func TestNothingStartsAsItGoesDown(t *testing.T) {
	n := start(t)
	n.runDetached("slow", "sh", "-c", "trap 'until [ -e /over ]; do sleep 0.05; done; exit' TERM; echo begun; while true; do sleep 0.05; done")
	n.until("it heeds signals", func() bool { return n.log("slow") == "begun\n" })
	stopping, down := make(chan struct{}, 1), make(chan error, 1)
	go func() { down <- n.Down(context.Background(), func(client.Progress) { stopping <- struct{}{} }) }()
	<-stopping
	in, err := n.CreateInstance(t.Context(), mayfly.InstanceSpec{Name: "late", Image: "app", Process: mayfly.Process{Command: []string{"sleep", "1000"}}}, "")
	if mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("it was made as %+v, %v", in, err)
	}
	n.inside(mayfly.Instance{ID: "slow"}, "sh", "-c", "echo >/over")
	if err := <-down; err != nil {
		t.Error(err)
	}
	n.cmd.Wait()
	n.nothingLeft()
}

// TestStopRightAfterStart: a service's container is ended as its service says also
// where no keeper has taken it over yet, and that is no crash.
func TestStopRightAfterStart(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{Name: "svc", Service: &mayfly.Service{Restart: mayfly.Restart{Policy: mayfly.RestartNever}}})
	for round := range 8 {
		in := n.one("svc")
		n.kill()
		n.up()
		if err := n.StopInstance(t.Context(), "svc/1", 0); err != nil {
			t.Fatal(err)
		}
		n.until("another one follows", func() bool {
			l := n.instancesOf("svc")
			return len(l) == 1 && l[0].ID != in.ID
		})
		if news := n.newsOf("svc"); strings.Count(news, "it was stopped by hand") != round+1 {
			t.Fatalf("the news says %s", news)
		}
	}
}

// TestDownSaysWhatItStops: nobody waits before an empty screen.
func TestDownSaysWhatItStops(t *testing.T) {
	n := start(t)
	n.serve(mayfly.Workload{Name: "svc", Scale: mayfly.Scale{Min: 2}})
	n.until("both are there", func() bool { return len(n.instancesOf("svc")) == 2 })
	n.runDetached("one", "sleep", "1000")
	var said []string
	if err := n.Down(t.Context(), func(p client.Progress) { said = append(said, p.Text) }); err != nil {
		t.Fatal(err)
	}
	n.cmd.Wait()
	if want := []string{"stopping one", "stopping svc/1", "stopping svc/2"}; !slices.Equal(said, want) {
		t.Errorf("it said %q, want %q", said, want)
	}
}

// nothingLeft looks for what a node without containers leaves when it has ended.
func (n *node) nothingLeft() {
	n.t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/mayfly-", "/sys/fs/cgroup/*/mayfly-", "/sys/class/net/mf-"} {
		if left, _ := filepath.Glob(pattern + nodes.Token(n.dir+"/data")); len(left) > 0 {
			n.t.Errorf("without a daemon and without a container there is %v", left)
		}
	}
	if left := n.tables(); len(left) > 0 {
		n.t.Errorf("without a daemon and without a container there are tables of nftables: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir+"/data/") {
			n.t.Errorf("still mounted: %s", line)
		}
	}
}

// tables are the node's in nftables, by family.
func (n *node) tables() (left []string) {
	n.t.Helper()
	conn, err := nftables.New()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyBridge} {
		tables, err := conn.ListTablesOfFamily(family)
		for tries := 1; err != nil && tries < 10; tries++ { // other nodes change theirs meanwhile
			tables, err = conn.ListTablesOfFamily(family)
		}
		if err != nil {
			n.t.Errorf("list the tables of family %d: %v", family, err)
		}
		for _, t := range tables {
			if strings.Contains(t.Name, nodes.Token(n.dir+"/data")) {
				left = append(left, fmt.Sprintf("%s of family %d", t.Name, family))
			}
		}
	}
	return left
}

// leftovers counts what containers are made of.
func (n *node) leftovers() string {
	token := nodes.Token(n.dir + "/data")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	cgroups := 0
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "mayfly-"+token+"/") {
			cgroups++
		}
		return nil
	})
	ports, _ := filepath.Glob("/sys/class/net/mf-" + token + "/brif/*")
	warm := 8 // namespaces that wait hang on the bridge
	return fmt.Sprintf("mounts %d, cgroups %d, cables over those waiting %v, sandboxes %v",
		strings.Count(string(mounts), n.dir), cgroups, len(ports) > warm, n.sandboxes())
}
