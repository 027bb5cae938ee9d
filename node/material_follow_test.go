package node

import (
	"reflect"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestWhatAChangeOfMaterialAsksFor(t *testing.T) {
	exec, restart := mayfly.OnChange{Exec: []string{"reload"}}, mayfly.OnChange{Restart: true}
	file := mayfly.ConfigMount{Config: "motd"}
	variable := mayfly.ConfigMount{Config: "motd", Env: "MOTD"}
	asks := mayfly.ConfigMount{Config: "motd", Target: "/etc/motd", OnChange: exec}
	for _, c := range []struct {
		name   string
		mounts []mayfly.ConfigMount
		want   mayfly.OnChange
	}{
		{"secret motd", []mayfly.ConfigMount{file}, restart},
		{"config motd", []mayfly.ConfigMount{file}, mayfly.OnChange{}},
		{"config motd", []mayfly.ConfigMount{variable}, restart},
		{"config motd", []mayfly.ConfigMount{file, asks}, exec},
		{"config motd", []mayfly.ConfigMount{asks, variable}, restart},
		{"config motd", []mayfly.ConfigMount{file, {Config: "other", OnChange: restart}}, mayfly.OnChange{}},
		{"config motd", []mayfly.ConfigMount{{Config: "motd", Env: "MOTD", OnChange: exec}}, exec},
	} {
		if got := onMaterial(&mayfly.Workload{Configs: c.mounts}, c.name); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s of %+v asks for %+v, want %+v", c.name, c.mounts, got, c.want)
		}
	}
}
