package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// A container goes on writing files into a volume while the daemon is killed and
// comes back. Each file has one event, when it is complete, with what is in it then;
// one that is open all the time has its event when it is closed.
func TestFilesTellThoughTheDaemonIsKilled(t *testing.T) {
	t.Parallel()
	n := start(t)
	in := mayfly.Volume{Name: "in", Shared: true, Events: mayfly.VolumeEvents{Type: "file.came"}}
	if _, err := n.CreateVolume(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	n.serve(mayfly.Workload{
		Name: "writer", Volumes: []mayfly.VolumeMount{{Volume: "in", Target: "/in"}}, Service: &mayfly.Service{},
		Process: mayfly.Process{Command: []string{"sh", "-c", `
exec 3>/in/slow; echo half >&3
i=0; until [ -e /in/.enough ]; do
  i=$((i+1)); mkdir -p /in/d$((i%5))
  echo $i >/in/d$((i%5))/$i.txt; echo $i >/in/.part; mv /in/.part /in/$i.moved
  if [ $i -lt 1000 ]; then sleep 0.01; else sleep 1; fi
done
echo $i >/in/.last; echo and half >&3; exec 3>&-; mv /in/.last /in/last; while true; do sleep 1; done`}},
	})
	came := func(subject string) mayfly.AcceptedEvent {
		t.Helper()
		return n.untilEvent(client.EventFilter{Type: "file.came", Filter: map[string]string{"subject": subject}})
	}
	came("5.moved")
	n.kill()
	n.up()
	came("20.moved")
	n.kill()
	n.up()
	n.putFile("in", "copied.jpg", "photo")
	if ev := came("copied.jpg"); ev.Event.Source != "/volumes/in" || string(ev.Event.Data) == "" {
		t.Errorf("got %+v", ev)
	}
	if early, err := n.ListEvents(t.Context(), client.EventFilter{Filter: map[string]string{"subject": "slow"}}); err != nil || len(early) > 0 {
		t.Errorf("a file that is open was told of: %+v, %v", early, err)
	}
	n.putFile("in", ".enough", "")
	came("last")
	var slow struct{ Size int }
	if err := json.Unmarshal(came("slow").Event.Data, &slow); err != nil || slow.Size != len("half\nand half\n") {
		t.Errorf("slow: %+v, %v", slow, err)
	}
	var wrote int
	fmt.Sscan(n.output("writer/1", "cat", "/in/last"), &wrote)
	times := map[string]int{}
	count := func() int {
		list, err := n.ListEvents(t.Context(), client.EventFilter{Type: "file.came", Limit: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		clear(times)
		for _, ev := range list {
			times[ev.Event.Subject]++
		}
		return len(times)
	}
	n.until(fmt.Sprintf("%d files are told of", 2*wrote+3), func() bool { return count() == 2*wrote+3 })
	for subject, n := range times {
		if n != 1 {
			t.Errorf("%s was told of %d times", subject, n)
		}
	}
	t.Logf("%d files, each told of once, while the daemon was killed twice", len(times))
}

// putFile copies a file into a volume.
func (n *node) putFile(volume, name, text string) {
	n.t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
		n.t.Fatal(err)
	}
	w.Write([]byte(text))
	w.Close()
	if _, err := n.WriteVolumeFiles(n.t.Context(), volume, "/", &buf, client.CopyOptions{}); err != nil {
		n.t.Fatal(err)
	}
}
