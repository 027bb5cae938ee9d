package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

// composeFile is the Compose file of a folder of testdata.
func composeFile(dir string) string {
	for _, name := range []string{"compose.yaml", "docker-compose.yml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return ""
}

func composeEnv() map[string]string {
	return map[string]string{"API_TOKEN": "t0ken", "HOME": "/home/me"}
}

// What becomes of whole Compose files is written beside them, in want.json, or
// in want.txt where they are refused.
func TestComposeFiles(t *testing.T) {
	update := os.Getenv("MAYFLY_UPDATE") != ""
	dirs, _ := filepath.Glob("testdata/compose/*")
	if len(dirs) < 12 {
		t.Fatal("the files are not there")
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, err := Load(composeFile(dir), Options{Env: composeEnv()})
			name, got := filepath.Join(dir, "want.json"), ""
			if err != nil {
				name, got = filepath.Join(dir, "want.txt"), err.Error()+"\n"
			} else {
				text, _ := json.MarshalIndent(m, "", " ")
				got = string(text) + "\n"
			}
			got = strings.ReplaceAll(got, here, "HERE")
			if update {
				os.WriteFile(name, []byte(got), 0o644)
			}
			want, _ := os.ReadFile(name)
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		})
	}
}

// Whatever we take is what compose-go, which others read Compose files with,
// takes for the same.
func TestComposeAgrees(t *testing.T) {
	dirs, _ := filepath.Glob("testdata/compose/*")
	for _, dir := range dirs {
		file := composeFile(dir)
		m, err := Load(file, Options{Env: composeEnv()})
		if err != nil {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) {
			abs, _ := filepath.Abs(dir)
			project, err := loader.LoadWithContext(context.Background(), types.ConfigDetails{
				WorkingDir: abs, ConfigFiles: []types.ConfigFile{{Filename: file}}, Environment: composeEnv(),
			}, func(o *loader.Options) { o.SetProjectName(m.Name, true) })
			if err != nil {
				t.Fatal(err)
			}
			if project, err = project.WithServicesEnvironmentResolved(true); err != nil {
				t.Fatal(err)
			}
			for _, theirs := range project.Services {
				i := slices.IndexFunc(m.Services, func(s Workload) bool { return s.Name == serviceName(theirs.Name) })
				if i < 0 {
					t.Errorf("%s is missing", theirs.Name)
					continue
				}
				sameService(t, theirs, m.Services[i])
			}
			if len(project.Services) != len(m.Services) {
				t.Errorf("%d services, want %d", len(m.Services), len(project.Services))
			}
		})
	}
}

func sameService(t *testing.T, theirs types.ServiceConfig, ours Workload) {
	t.Helper()
	same := func(what string, want, got any) {
		t.Helper()
		if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); diff != "" {
			t.Errorf("%s: %s (-compose-go +ours):\n%s", theirs.Name, what, diff)
		}
	}
	same("image", theirs.Image, ours.Image)
	same("command", []string(theirs.Command), ours.Command)
	same("entrypoint", []string(theirs.Entrypoint), ours.Entrypoint)
	env := map[string]string{}
	for name, value := range theirs.Environment {
		if value != nil {
			env[name] = *value
		}
	}
	same("environment", env, ours.Env)
	same("scale", theirs.GetScale(), ours.Scale.Count())
	var ports, ourPorts []string
	for _, p := range theirs.Ports {
		host := p.Published
		if host == "" {
			host = "0"
		}
		ports = append(ports, fmt.Sprintf("%s:%s:%d/%s", p.HostIP, host, p.Target, strings.TrimPrefix(p.Protocol, "tcp")))
	}
	for _, p := range ours.Service.Ports {
		ourPorts = append(ourPorts, fmt.Sprintf("%s:%d:%d/%s", p.HostIP, p.Host, p.Container, p.Protocol))
	}
	slices.Sort(ports)
	slices.Sort(ourPorts)
	same("ports", ports, ourPorts)
	var mounts, ourMounts []string
	for _, v := range theirs.Volumes {
		if v.Type == types.VolumeTypeVolume && v.Source == "" {
			continue
		}
		mounts = append(mounts, fmt.Sprint(v.Target, v.ReadOnly))
	}
	for _, path := range theirs.Tmpfs {
		mounts = append(mounts, fmt.Sprint(path, false))
	}
	if theirs.ShmSize != 0 {
		mounts = append(mounts, fmt.Sprint("/dev/shm", false))
	}
	for _, v := range ours.Volumes {
		ourMounts = append(ourMounts, fmt.Sprint(v.Target, v.ReadOnly))
	}
	for _, v := range ours.Mounts {
		ourMounts = append(ourMounts, fmt.Sprint(v.Target, v.ReadOnly))
	}
	slices.Sort(mounts)
	slices.Sort(ourMounts)
	same("mounts", mounts, ourMounts)
	var after, ourAfter []string
	for name, d := range theirs.DependsOn {
		after = append(after, fmt.Sprint(serviceName(name), strings.NewReplacer("service_", "", "healthy", "ready", "_successfully", "").Replace(d.Condition), !d.Required))
	}
	for _, a := range ours.Service.After {
		ourAfter = append(ourAfter, fmt.Sprint(a.Workload, a.Condition, a.Optional))
	}
	slices.Sort(after)
	slices.Sort(ourAfter)
	same("depends_on", after, ourAfter)
	same("memory", max(int64(theirs.MemLimit), limitOf(theirs)), ours.Resources.Memory)
	same("labels", map[string]string(theirs.Labels), withoutNil(ours.Labels, theirs))
}

func limitOf(s types.ServiceConfig) int64 {
	if s.Deploy == nil || s.Deploy.Resources.Limits == nil {
		return 0
	}
	return int64(s.Deploy.Resources.Limits.MemoryBytes)
}

// withoutNil takes the labels of deploy away, which compose-go keeps apart.
func withoutNil(labels map[string]string, s types.ServiceConfig) map[string]string {
	out := map[string]string{}
	for name, value := range labels {
		if s.Deploy == nil || s.Deploy.Labels[name] == "" {
			out[name] = value
		}
	}
	return out
}

// fields are the YAML keys of a Compose type, those of what is inline included.
func fields(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || name == "#extensions":
		case f.Anonymous && strings.Contains(rest, "inline"):
			keys = append(keys, fields(f.Type)...)
		default:
			keys = append(keys, name)
		}
	}
	return keys
}

// Each key that Compose has for a service is honoured, warned of or refused.
func TestComposeServiceKeys(t *testing.T) {
	all := fields(reflect.TypeFor[types.ServiceConfig]())
	if len(all) < 90 {
		t.Fatalf("only %d keys", len(all))
	}
	for _, key := range all {
		if key == "name" { // never written
			continue
		}
		n := 0
		if slices.Contains(serviceKeys, key) {
			n++
			if composeSays[key] == "" {
				t.Errorf("%s: no example shows that it is honoured", key)
			}
		}
		if harmlessKeys[key] != "" {
			n++
		}
		if refusedKeys[key] != "" {
			n++
		}
		if n != 1 {
			t.Errorf("%s: %d treatments", key, n)
		}
	}
}

// composeSays has an example for each key of Compose that is honoured.
var composeSays = map[string]string{
	"command": "x", "configs": "[c]", "container_name": "x", "cpu_count": "2", "cpu_period": "{cpu_quota}", "cpu_quota": "5000", "cpus": "2",
	"depends_on": "[other]", "deploy": "{replicas: 2}", "entrypoint": "x", "env_file": "x.env", "environment": "{A: b}", "expose": "['80']",
	"extends": "other", "healthcheck": "{test: x}", "hostname": "x", "image": "x", "init": "false", "label_file": "x.env", "labels": "{A: b}",
	"links": "[other]", "mem_limit": "5m", "net": "none", "network_mode": "host", "networks": "[n]", "pids_limit": "5", "ports": "['80']",
	"profiles": "[p]", "read_only": "true", "restart": "always", "scale": "2", "secrets": "[s]", "security_opt": "[label:disable]", "shm_size": "5m",
	"stop_grace_period": "5s", "stop_signal": "INT", "tmpfs": "/x", "ulimits": "{nofile: 5}", "user": "x", "volumes": "['v:/v']", "working_dir": "/x",
}

// Each honoured key changes what comes out, each harmless one is warned of with
// its line, and each other one is refused with its line.
func TestComposeKeyTreatment(t *testing.T) {
	dir := write(t, "x.env", "X=y\n", "compose.yaml", "")
	load := func(lines string) (*Manifest, error) {
		t.Helper()
		text := "services:\n  other: {image: o, user: extended}\n  s:\n    x-nothing: 1\n" + lines +
			"volumes: {v: }\nsecrets: {s: {external: true}}\nconfigs: {c: {external: true}}\nnetworks: {n: }\n"
		if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return Load(filepath.Join(dir, "compose.yaml"), Options{})
	}
	plain, err := load("    image: i\n")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range composeSays {
		line := "    image: i\n    " + key + ": " + value + "\n"
		switch key {
		case "image":
			line = "    image: x\n"
		case "cpu_period":
			line = "    image: i\n    cpu_quota: 5000\n    cpu_period: 50000\n"
		}
		m, err := load(line)
		if key == "security_opt" { // only what is so anyway is taken
			if err == nil {
				t.Error("security_opt: label:disable is taken")
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
		} else if cmp.Equal(plain, m) {
			t.Errorf("%s changes nothing", key)
		}
	}
	for key := range harmlessKeys {
		m, err := load("    image: i\n    " + key + ": {driver: x}\n")
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		if want := `compose.yaml:6:5: service "s": "`; len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], want) || !strings.Contains(m.Warnings[0], key) {
			t.Errorf("%s: warnings %q, want %q", key, m.Warnings, want)
		}
	}
	for key := range refusedKeys {
		_, err := load("    image: i\n    " + key + ": [x]\n")
		if want := `compose.yaml:6:5: service "s": "` + key + `" is not supported yet`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", key, err, want)
		}
	}
}

// No key of a part of a Compose file is unknown, and none is dropped silently:
// it is read, or the file is refused with the key's place.
func TestComposePartKeys(t *testing.T) {
	parts := []struct {
		form string // in which KEY stands for the key
		of   reflect.Type
	}{
		{"services: {s: {image: i, healthcheck: {KEY: [CMD, x]}}}", reflect.TypeFor[types.HealthCheckConfig]()},
		{"services: {s: {image: i, deploy: {KEY: {}}}}", reflect.TypeFor[types.DeployConfig]()},
		{"services: {s: {image: i, deploy: {resources: {KEY: {}}}}}", reflect.TypeFor[types.Resources]()},
		{"services: {s: {image: i, deploy: {resources: {limits: {KEY: 1}}}}}", reflect.TypeFor[types.Resource]()},
		{"services: {s: {image: i, deploy: {resources: {reservations: {KEY: 1}}}}}", reflect.TypeFor[types.Resource]()},
		{"services: {s: {image: i, deploy: {update_config: {KEY: 1}}}}", reflect.TypeFor[types.UpdateConfig]()},
		{"services: {s: {image: i, deploy: {restart_policy: {KEY: 1}}}}", reflect.TypeFor[types.RestartPolicy]()},
		{"services: {s: {image: i, deploy: {placement: {KEY: 1}}}}", reflect.TypeFor[types.Placement]()},
		{"services: {s: {image: i, ports: [{KEY: 1}]}}", reflect.TypeFor[types.ServicePortConfig]()},
		{"services: {s: {image: i, volumes: [{KEY: 1}]}}", reflect.TypeFor[types.ServiceVolumeConfig]()},
		{"services: {s: {image: i, volumes: [{type: bind, source: /a, target: /b, bind: {KEY: true}}]}}", reflect.TypeFor[types.ServiceVolumeBind]()},
		{"services: {s: {image: i, volumes: [{source: v, target: /b, volume: {KEY: x}}]}}\nvolumes: {v: }", reflect.TypeFor[types.ServiceVolumeVolume]()},
		{"services: {s: {image: i, volumes: [{type: tmpfs, target: /b, tmpfs: {KEY: 1}}]}}", reflect.TypeFor[types.ServiceVolumeTmpfs]()},
		{"services: {s: {image: i, secrets: [{KEY: 1}]}}\nsecrets: {1: {external: true}}", reflect.TypeFor[types.ServiceSecretConfig]()},
		{"services: {s: {image: i, configs: [{KEY: 1}]}}\nconfigs: {1: {external: true}}", reflect.TypeFor[types.ServiceConfigObjConfig]()},
		{"services: {s: {image: i, networks: {n: {KEY: 1}}}}\nnetworks: {n: }", reflect.TypeFor[types.ServiceNetworkConfig]()},
		{"services: {s: {image: i, depends_on: {t: {KEY: true}}}, t: {image: i}}", reflect.TypeFor[types.ServiceDependency]()},
		{"services: {s: {image: i, env_file: [{KEY: x}]}}", reflect.TypeFor[types.EnvFile]()},
		{"services: {s: {image: i, extends: {KEY: t}}, t: {image: i}}", reflect.TypeFor[types.ExtendsConfig]()},
		{"networks: {n: {KEY: 1}}", reflect.TypeFor[types.NetworkConfig]()},
		{"volumes: {v: {KEY: 1}}", reflect.TypeFor[types.VolumeConfig]()},
		{"secrets: {s: {KEY: 1}}", reflect.TypeFor[types.SecretConfig]()},
		{"configs: {c: {KEY: 1}}", reflect.TypeFor[types.ConfigObjConfig]()},
		{"KEY: {}", reflect.TypeFor[types.Config]()},
	}
	for _, part := range parts {
		keys := fields(part.of)
		if len(keys) == 0 {
			t.Errorf("%s has no keys", part.of)
		}
		for _, key := range keys {
			if key == "" || key == "filename" {
				continue
			}
			_, err := Parse("compose.yaml", []byte(strings.ReplaceAll(part.form, "KEY", key)), Options{})
			if err != nil && strings.Contains(err.Error(), "unknown key") {
				t.Errorf("%s: %s: %v", part.of, key, err)
			}
		}
		_, err := Parse("compose.yaml", []byte(strings.ReplaceAll(part.form, "KEY", "zzz")), Options{})
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(fmt.Sprint(err), "unknown key") {
			t.Errorf("%s: a key that nobody knows: %v", part.form, err)
		}
	}
}

// The name of a project is made of a text as compose-go makes it.
func FuzzNormalName(f *testing.F) {
	for _, text := range []string{"", "Blog", "_a-b_", "--x", "a b.c", "ÄÖ", "K8s", "x\x00y\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if want, got := loader.NormalizeProjectName(text), normalName(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	})
}

// TestIncludedIsAsTheFile: what Compose leaves open is as Compose has it in what a
// Compose file includes, whatever that is called, but for a mayfly.yaml.
func TestIncludedIsAsTheFile(t *testing.T) {
	const service = "services: {%s: {image: i}}"
	dir := write(t,
		"compose.yaml", "include: [db.yaml, mayfly.yaml]\n"+fmt.Sprintf(service, "web"),
		"db.yaml", "include: [cache.yaml]\n"+fmt.Sprintf(service, "db"),
		"cache.yaml", fmt.Sprintf(service, "cache"),
		"mayfly.yaml", "include: [queue.yaml]\n"+fmt.Sprintf(service, "own"),
		"queue.yaml", fmt.Sprintf(service, "queue"),
	)
	m, err := Load(filepath.Join(dir, "compose.yaml"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range m.Services {
		got[s.Name] = fmt.Sprint(s.Service.Restart.Policy, len(s.Provides))
	}
	want := map[string]string{"web": "no1", "db": "no1", "cache": "no1", "own": "0", "queue": "0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
