package node

import (
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestServicesAreChecked: what the API takes is checked, not only what a manifest
// says.
func TestServicesAreChecked(t *testing.T) {
	side := func(target string) mayfly.Sidecar {
		return mayfly.Sidecar{Name: "side", Image: "x", Volumes: []mayfly.VolumeMount{{Volume: "v", Target: target}}}
	}
	for name, c := range map[string]struct {
		change func(*mayfly.Workload)
		good   bool
	}{
		"nothing":                   {func(*mayfly.Workload) {}, true},
		"secret as a file":          {func(w *mayfly.Workload) { w.Secrets = []mayfly.SecretMount{{Secret: "s", Target: "/etc/s"}} }, true},
		"secret at its usual place": {func(w *mayfly.Workload) { w.Secrets = []mayfly.SecretMount{{Secret: "s"}} }, true},
		"secret on the disk": {func(w *mayfly.Workload) {
			w.Secrets = []mayfly.SecretMount{{Secret: "s", Target: "/run/mayfly/config/s"}}
		}, false},
		"secret over /proc": {func(w *mayfly.Workload) { w.Secrets = []mayfly.SecretMount{{Secret: "s", Target: "/tmp/../proc/s"}} }, false},
		"secret at no path": {func(w *mayfly.Workload) { w.Secrets = []mayfly.SecretMount{{Secret: "s", Target: "s"}} }, false},
		"config among configs": {func(w *mayfly.Workload) {
			w.Configs = []mayfly.ConfigMount{{Config: "c", Target: "/run/mayfly/config/c"}}
		}, true},
		"config over the API": {func(w *mayfly.Workload) {
			w.Configs = []mayfly.ConfigMount{{Config: "c", Target: "/run/mayfly/config/../api.sock"}}
		}, false},
		"volume over the API":        {func(w *mayfly.Workload) { w.Volumes = []mayfly.VolumeMount{{Volume: "v", Target: "/run/mayfly"}} }, false},
		"a sidecar's volume":         {func(w *mayfly.Workload) { w.Service.Sidecars = []mayfly.Sidecar{side("/data")} }, true},
		"a sidecar's over /proc":     {func(w *mayfly.Workload) { w.Service.Sidecars = []mayfly.Sidecar{side("/proc/sys")} }, false},
		"packages that are options":  {func(w *mayfly.Workload) { w.Base = &mayfly.StackSpec{Packages: []string{"-o=Dir::Etc=/x"}} }, false},
		"packages that are packages": {func(w *mayfly.Workload) { w.Base = &mayfly.StackSpec{Packages: []string{"mariadb-server"}} }, true},
	} {
		w := mayfly.Workload{Name: "db", Stack: "own", Service: &mayfly.Service{}}
		w.Service.Hostname = "db"
		c.change(&w)
		if err := checkService(&w); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
