package node

import (
	"maps"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// TestSettingsAreSaidAsInAManifest: times and sizes with their units, wherever they
// are.
func TestSettingsAreSaidAsInAManifest(t *testing.T) {
	w := mayfly.Workload{
		Name: "web", Timeout: 90 * time.Second, MaxBody: 1 << 20,
		Resources: mayfly.Resources{Memory: 64 << 20, Pids: 2048, CPUs: 0.5},
		Process:   mayfly.Process{Env: map[string]string{"memory": "1048576"}, Command: []string{"sh", "-c", "a && b >c"}},
		Mounts:    []mayfly.Mount{{Type: "tmpfs", Target: "/tmp", Size: 1000}},
		Retries:   mayfly.Retries{Max: 2, Delays: []time.Duration{time.Second, time.Hour}},
		Service:   &mayfly.Service{StopGrace: 2 * time.Hour},
	}
	got, err := settings(&w)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(got, func(_, text string) bool { return text == "0" || text == `""` || text == "" || text == "false" })
	want := map[string]string{
		"timeout": "1m30s", "maxBody": "1MB", "memory": "64MB", "pids": "2048", "cpus": "0.5", "env.memory": "1048576", "command": `["sh","-c","a && b >c"]`,
		"mounts": `[{"size":"1000B","target":"/tmp","type":"tmpfs"}]`, "retries.max": "2", "retries.delays": `["1s","1h"]`,
		"service.stopGrace": "2h",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
