package manifest

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-run/mayfly"
)

// What a service may say, in our own words, and what becomes of it.
func TestService(t *testing.T) {
	const text = `
name: blog
services:
  web:
    stack: wordpress
    code: ./web
    command: [/usr/sbin/apache2, -DFOREGROUND]
    env: {LANG: C.UTF-8}
    user: www-data
    workdir: /app
    readOnly: true
    memory: 512MB
    cpus: 1.5
    pids: 200
    files: 4096
    labels: {tier: front}
    hostname: www
    provides:
      http: {port: 80, role: frontend, tags: {version: 2, zone: a}, ready: {http: {path: /health, headers: {Host: blog.example.org}}, every: 2s, timeout: 1s, grace: 5s, failures: 2, successes: 3}}
      metrics: 9100
      syslog: 514/udp
    requires:
      mysql:
        service: db
        port: mysql
        tags: {role: primary, zone: [a, b], version: {regex: "10\\..*"}}
        prefer: same-zone
        on_change: {exec: [/usr/local/bin/rewire], timeout: 60s}
      replicas: {role: replica, space: other, all: true, optional: true, on_change: SIGHUP}
      cache: {via: proxy, on_change: restart}
    volumes: ["uploads:/var/www/uploads", {source: data, target: /data, readOnly: true, subpath: a/b}, "/etc/localtime:/etc/localtime:ro", {type: tmpfs, target: /tmp, tmpfs: {size: 64m}}]
    secrets: [password, {source: key, target: /etc/key, mode: "0440"}, {source: key, env: KEY}]
    configs: [{source: ini, target: /etc/app.ini, on_change: {signal: USR1}}]
    ports: ["8080:80", {target: 9100, published: 9100, host_ip: 127.0.0.1}]
    scale: {min: 1, max: 4, active: 1}
    startup: {exec: [/bin/true]}
    ready: {tcp: 80}
    live: {grpc: {port: 9100, service: web}}
    restart: {policy: on-failure, max: 5}
    update: {surge: 2, timeout: 1m, healthy: 10s, rollback: false}
    stop: {signal: WINCH, grace: 30s}
    drain: 5s
    processes: {apache: {command: apache2, restart: on-failure:3}, cron: cron -f}
    sidecars: {proxy: {image: envoy, volumes: ["data:/data:ro"], ready: {tcp: 80}}}
    network: bridge
  db: {image: mariadb, provides: {mysql: 3306}, volumes: ["data:/var/lib/mysql"], replicas: 0}
  cache: {image: redis, provides: {redis: 6379}}
volumes:
  data: {size: 1GB, owner: "999:999", mode: "0750"}
  uploads: {shared: true, autopurge: true, events: {type: photo.uploaded, match: "*.jpg", depth: 2}}
  spare: {name: kept, autocreate: false}
secrets: {password: {environment: PASSWORD}, key: {external: true}, random: {generate: true}}
configs: {ini: {content: "a=${A}"}}
stacks: {wordpress: {description: it, packages: [wordpress, apache2], env: {A: b}}}
`
	text2 := strings.Replace(text, "    command: [/usr/sbin/apache2, -DFOREGROUND]\n", "", 1)
	got, err := Parse("dir/mayfly.yaml", []byte(text2), Options{Env: map[string]string{"PASSWORD": "s3cret", "A": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	web := got.Services[2]
	want := Workload{CodeDir: "dir/web", Workload: mayfly.Workload{
		Space: "default", Name: "web", App: "blog", Stack: "wordpress",
		Base:      &mayfly.StackSpec{Description: "it", Packages: []string{"wordpress", "apache2"}, Env: map[string]string{"A": "b"}},
		Process:   mayfly.Process{Env: map[string]string{"LANG": "C.UTF-8"}, User: "www-data", WorkDir: "/app"},
		Resources: mayfly.Resources{Memory: 512 << 20, CPUs: 1.5, Pids: 200, Files: 4096},
		ReadOnly:  true, Network: "bridge", Labels: map[string]string{"tier": "front"},
		Provides: []mayfly.Provide{
			{Name: "http", Port: 80, Protocol: "http", Role: "frontend", Tags: map[string]string{"version": "2", "zone": "a"}, Ready: &mayfly.Probe{
				HTTP:  &mayfly.HTTPProbe{Path: "/health", Headers: map[string]string{"Host": "blog.example.org"}},
				Every: 2 * time.Second, Timeout: time.Second, Grace: 5 * time.Second, Failures: 2, Successes: 3,
			}},
			{Name: "metrics", Port: 9100}, {Name: "syslog", Port: 514, Protocol: "udp"},
		},
		Requires: []mayfly.Require{
			{Name: "cache", Service: "cache", Proxy: true, OnChange: mayfly.OnChange{Restart: true}},
			{Name: "mysql", Service: "db", Port: "mysql", SameZone: true,
				Tags:     map[string]mayfly.Match{"role": {Value: "primary"}, "zone": {In: []string{"a", "b"}}, "version": {Pattern: `10\..*`}},
				OnChange: mayfly.OnChange{Exec: []string{"/usr/local/bin/rewire"}, Timeout: time.Minute}},
			{Name: "replicas", Role: "replica", Space: "other", All: true, Optional: true, OnChange: mayfly.OnChange{Signal: "HUP"}},
		},
		Volumes: []mayfly.VolumeMount{{Volume: "blog-uploads", Target: "/var/www/uploads", Copy: true}, {Volume: "blog-data", Target: "/data", ReadOnly: true, Subpath: "a/b"}},
		Mounts:  []mayfly.Mount{{Type: "bind", Source: "/etc/localtime", Target: "/etc/localtime", ReadOnly: true}, {Type: "tmpfs", Target: "/tmp", Size: 64 << 20}},
		Secrets: []mayfly.SecretMount{{Secret: "blog-password", Target: "/run/secrets/password"}, {Secret: "key", Target: "/etc/key", Mode: 0o440}, {Secret: "key", Env: "KEY"}},
		Configs: []mayfly.ConfigMount{{Config: "blog-ini", Target: "/etc/app.ini", OnChange: mayfly.OnChange{Signal: "USR1"}}},
		Scale:   mayfly.Scale{Min: 1, Max: 4, Active: 1},
		Service: &mayfly.Service{
			Restart: mayfly.Restart{Policy: "on-failure", Max: 5},
			Update:  mayfly.Update{Surge: 2, Timeout: time.Minute, Healthy: 10 * time.Second, NoRollback: true},
			Startup: &mayfly.Probe{Exec: []string{"/bin/true"}}, Ready: &mayfly.Probe{TCP: &mayfly.TCPProbe{Port: 80}},
			Live:       &mayfly.Probe{GRPC: &mayfly.GRPCProbe{Port: 9100, Service: "web"}},
			StopSignal: "WINCH", StopGrace: 30 * time.Second, DrainWait: 5 * time.Second, Hostname: "www",
			Ports: []mayfly.Port{{Container: 80, Host: 8080}, {Container: 9100, Host: 9100, HostIP: "127.0.0.1"}},
			Processes: []mayfly.NamedProcess{
				{Name: "apache", Process: mayfly.Process{Command: []string{"apache2"}}, Restart: mayfly.Restart{Policy: "on-failure", Max: 3}},
				{Name: "cron", Process: mayfly.Process{Command: []string{"cron", "-f"}}},
			},
			Sidecars: []mayfly.Sidecar{{Name: "proxy", Image: "envoy", Volumes: []mayfly.VolumeMount{{Volume: "blog-data", Target: "/data", ReadOnly: true}},
				Ready: &mayfly.Probe{TCP: &mayfly.TCPProbe{Port: 80}}}},
		},
	}}
	if diff := cmp.Diff(want, web); diff != "" {
		t.Error("web (-want +got):\n" + diff)
	}
	db := got.Services[1]
	if db.Name != "db" || !db.Scale.None || db.Service.Update.Unavailable != 1 {
		t.Errorf("db: %+v", db.Service)
	}
	storage := &Manifest{Volumes: got.Volumes, Secrets: got.Secrets, Configs: got.Configs}
	wantStorage := &Manifest{
		Volumes: []Volume{
			{Volume: mayfly.Volume{Space: "default", Name: "blog-data", App: "blog", Size: 1 << 30, Owner: "999:999", Mode: 0o750}},
			{Volume: mayfly.Volume{Space: "default", Name: "blog-uploads", App: "blog", Shared: true, Purge: true,
				Events: mayfly.VolumeEvents{Type: "photo.uploaded", Match: []string{"*.jpg"}, Depth: 2}}},
			{Volume: mayfly.Volume{Space: "default", Name: "kept", App: "blog"}, External: true},
		},
		Secrets: []Secret{{Name: "blog-password", Value: []byte("s3cret")}, {Name: "blog-random", Generate: true}, {Name: "key", External: true}},
		Configs: []Config{{Name: "blog-ini", Value: []byte("a=1")}},
	}
	if diff := cmp.Diff(wantStorage, storage); diff != "" {
		t.Error("storage (-want +got):\n" + diff)
	}
	if len(got.Warnings) != 0 {
		t.Errorf("warnings %q", got.Warnings)
	}
}

// svc is a manifest with a service of the given lines, and one to need.
func svc(lines ...string) string {
	return "name: app\nservices:\n  db: {image: i, provides: {mysql: 3306}}\n  s:\n    image: i\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestServiceErrors(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", svc("provide: {}"), `m.yaml:6:5: service "s": unknown key "provide" (provide: {}); did you mean "provides"?`},
		{"unknown in provides", svc("provides: {http: {prot: 80}}"),
			`m.yaml:6:23: service "s": provides: http: unknown key "prot" (provides: {http: {prot: 80}}); did you mean "port"?`},
		{"port", svc("provides: {http: 80000}"),
			`m.yaml:6:22: service "s": provides: port "80000" is not a port (provides: {http: 80000}); use 1 to 65535, or 0 for one that is picked`},
		{"port twice", svc("provides: {a: 80, b: 80}"), `m.yaml:6:26: service "s": provides: a and b are the same port 80 (provides: {a: 80, b: 80})`},
		{"tag", svc("requires: {db: {tags: {v: {regex: '('}}}}"),
			`m.yaml:6:39: service "s": requires: db: tags: v: regex "(" is not a regular expression (requires: {db: {tags: {v: {regex: '('}}}}); see github.com/google/re2/wiki/Syntax`},
		{"on_change twice", svc("requires: {db: {on_change: {exec: a, restart: true}}}"),
			`m.yaml:6:21: service "s": requires: db: on_change: exec, signal and restart exclude each other (requires: {db: {on_change: {exec: a, restart: true}}}); keep one of them`},
		{"signal", svc("requires: {db: {on_change: SIGFOO}}"),
			`m.yaml:6:32: service "s": requires: db: on_change cannot be "SIGFOO" (requires: {db: {on_change: SIGFOO}}); write on_change: restart, none, {signal: HUP} or {exec: [PROGRAM]}`},
		{"variables collide", svc("requires: {my-db: db, my_db: db}"),
			`m.yaml:6:34: service "s": requires: my-db and my_db would both be MY_DB_HOST (requires: {my-db: db, my_db: db}); rename one`},
		{"no such port", svc("requires: {db: {port: http}}"),
			`m.yaml:6:27: service "s": service "db" provides no port "http" (requires: {db: {port: http}}); it provides mysql`},
		{"provides nothing", svc("requires: {me: s}"),
			`m.yaml:6:16: service "s": service "s" provides nothing (requires: {me: s}); add provides: {NAME: PORT} to it`},
		{"volume", svc("volumes: ['data:/data']"),
			`m.yaml:6:15: service "s": the volume "data" is not declared (volumes: ['data:/data']); add it at the top: volumes: {data: {}}`},
		{"near volume", svc("volumes: ['dta:/data']") + "volumes: {data: {}}\n",
			`m.yaml:6:15: service "s": the volume "dta" is not declared (volumes: ['dta:/data']); did you mean "data"?`},
		{"two writers", svc("volumes: ['data:/data']") + "  t: {image: i, volumes: ['data:/d']}\nvolumes: {data: {}}\n",
			`m.yaml:7:26: services "s" and "t" both write to the volume "data", which has one writer at a time (t: {image: i, volumes: ['data:/d']}); mount it with :ro in one, or declare it with shared: true`},
		{"volume on root", svc("volumes: ['data:/']"), `m.yaml:6:15: service "s": "/" is not an absolute path below / (volumes: ['data:/']); write the path in the container, as in data:/var/lib/data`},
		{"subpath", svc("volumes: [{source: data, target: /d, subpath: ../x}]"),
			`m.yaml:6:15: service "s": subpath "../x" leaves the volume (volumes: [{source: data, target: /d, subpath: ../x}]); use a relative path without ..`},
		{"type of events", svc() + "volumes: {data: {events: photo uploaded}}\n",
			`m.yaml:7:26: volume "data": "photo uploaded" is no type of events (volumes: {data: {events: photo uploaded}}); write a word such as photo.uploaded`},
		{"platform's events", svc() + "volumes: {data: {events: {type: mayfly.x}}}\n",
			`m.yaml:7:18: volume "data": events: types of events that begin with mayfly. are the platform's own (volumes: {data: {events: {type: mayfly.x}}}); write a word such as photo.uploaded`},
		{"events of no type", svc() + "volumes: {data: {events: {match: ['*']}}}\n",
			`m.yaml:7:18: volume "data": events: events have no type (volumes: {data: {events: {match: ['*']}}}); write events: photo.uploaded, or events: {type: photo.uploaded, match: '*.jpg'}`},
		{"pattern of events", svc() + "volumes: {data: {events: {type: x, match: '[a'}}}\n",
			`m.yaml:7:18: volume "data": events: "[a" is not a pattern of names (volumes: {data: {events: {type: x, match: '[a'}}}); write one such as *.jpg or incoming/*`},
		{"depth of events", svc() + "volumes: {data: {events: {type: x, depth: 33}}}\n",
			`m.yaml:7:43: volume "data": events: depth must be a whole number from 1 to 32 (volumes: {data: {events: {type: x, depth: 33}}})`},
		{"same target", svc("volumes: ['aa:/d', 'bb:/d/']"), `m.yaml:6:24: service "s": two things are mounted at /d (volumes: ['aa:/d', 'bb:/d/']); remove one`},
		{"secret", svc("secrets: [pw]"), `m.yaml:6:15: service "s": the secret "pw" is not declared (secrets: [pw]); add it at the top: secrets: {pw: {file: ./FILE}}`},
		{"probe port", svc("provides: {http: 80}", "ready: {http: {path: /, port: 81}}"),
			`m.yaml:7:19: service "s": ready: the port 81 that ready probes is not provided (ready: {http: {path: /, port: 81}}); add it to provides, or leave the port out`},
		{"probe no port", svc("live: {tcp: true}"), `m.yaml:6:17: service "s": live: nothing says which port to probe (live: {tcp: true}); add provides: {http: PORT}, or name the port`},
		{"probe kinds", svc("live: {tcp: 80, exec: a}"),
			`m.yaml:6:5: service "s": live: exactly one of http, tcp, grpc and exec is needed (live: {tcp: 80, exec: a}); write {http: /path}, {tcp: true}, {grpc: true} or {exec: [PROGRAM]}`},
		{"host port", "services: {a: {image: i, ports: ['80:80']}, b: {image: i, ports: ['127.0.0.1:80:8080']}}",
			`m.yaml:1:67: services "a" and "b" both want the host port 127.0.0.1:80 (services: {a: {image: i, ports: ['80:80']}, b: {image: i, po...); give one another port, or none for one that is picked`},
		{"host port of many", svc("ports: ['80:80']", "replicas: 2"),
			`m.yaml:6:13: service "s": 2 instances cannot all have the host port 80 (ports: ['80:80']); leave the host port out, so that one is picked for each`},
		{"cycle", "services:\n  web: {image: i, provides: {http: 80}, requires: [db]}\n  db: {image: i, provides: {x: 1}, requires: {www: web}}\n",
			`m.yaml:3:52: services wait for each other: db -> web -> db (db: {image: i, provides: {x: 1}, requires: {www: web}}); remove one of these, or make a requirement optional: true`},
		{"itself", "services:\n  a: {image: i, provides: {http: 80}, requires: [a]}\n",
			`m.yaml:2:49: services wait for each other: a -> a (a: {image: i, provides: {http: 80}, requires: [a]}); remove one of these, or make a requirement optional: true`},
		{"function and service", "functions: {a: {image: i}}\nservices: {a: {image: i}}\n",
			`m.yaml:2:12: service "a": there is a function of that name (services: {a: {image: i}}); rename one`},
		{"nothing to run", "services: {a: {provides: {http: 80}}}", `m.yaml:1:12: service "a": nothing says what to run (services: {a: {provides: {http: 80}}}); add image: NAME, or stack: NAME`},
		{"stack without command", "services: {a: {stack: host, code: c}}",
			`m.yaml:1:12: service "a": nothing says what to run on stack host (services: {a: {stack: host, code: c}}); add command: [PROGRAM]`},
		{"scale by", svc("scale: {max: 2, by: A_B}"), `m.yaml:6:25: service "s": scale: by: "A_B" is not a valid name (scale: {max: 2, by: A_B}); name a function or service of this manifest`},
		{"scale unknown", svc("scale: {most: 2}"), `m.yaml:6:13: service "s": scale: unknown key "most" (scale: {most: 2}); known here: active, by, concurrency, cooldown, idle, max, min, queue`},
		{"scale idle of a fixed number", svc("scale: {min: 2, idle: 1m}"), `m.yaml:6:27: service "s": scale: idle is for what is scaled, and the number of instances is fixed (scale: {min: 2, idle: 1m}); set max above min`},
		{"scale cooldown with active", svc("scale: {min: 2, max: 3, active: 1, cooldown: 1m}"), `m.yaml:6:50: service "s": scale: cooldown is for what is scaled, and the number of instances is fixed (scale: {min: 2, max: 3, active: 1, cooldown: 1m}); set max above min`},
		{"scale queue alone", svc("scale: {min: 2, queue: 5}"), `m.yaml:6:28: service "s": scale: queue bounds what waits beyond concurrency, which has no limit (scale: {min: 2, queue: 5}); set concurrency too`},
		{"scale", svc("scale: {min: 3, max: 2}"), `m.yaml:6:26: service "s": scale: max is less than min (scale: {min: 3, max: 2})`},
		{"update", svc("update: {surge: 0, unavailable: 0}"),
			`m.yaml:6:5: service "s": update: with surge 0 and unavailable 0 nothing could ever be updated (update: {surge: 0, unavailable: 0}); make one of them 1`},
		{"restart", svc("restart: sometimes"), `m.yaml:6:14: service "s": restart cannot be "sometimes" (restart: sometimes); use no, always, on-failure, on-failure:5 or unless-stopped`},
		{"twice", svc("env: {A: b}", "environment: {A: c}"), `m.yaml:6:10: service "s": environment and env are the same (env: {A: b}); keep one of them`},
		{"process", svc("processes: {a: {restart: always}}"),
			`m.yaml:6:17: service "s": processes: a: nothing says what to run (processes: {a: {restart: always}}); add command: [PROGRAM]`},
		{"secret without value", "secrets: {a: {}}", `m.yaml:1:11: secret "a": it needs exactly one of file, environment, external or generate (secrets: {a: {}}); write generate: true, file: ./FILE, environment: VARIABLE or external: true`},
		{"secret from two", "secrets: {a: {generate: true, file: x}}", `m.yaml:1:11: secret "a": it needs exactly one of file, environment, external or generate (secrets: {a: {generate: true, file: x}}); write generate: true, file: ./FILE, environment: VARIABLE or external: true`},
		{"secret outside", "secrets: {a: {file: ../x}}", `m.yaml:1:21: secret "a": file "../x" is not beneath the manifest's folder (secrets: {a: {file: ../x}}); use a relative path without ..`},
		{"package", "stacks: {a: {packages: [-rf]}}", `m.yaml:1:10: stack "a": packages: "-rf" is not the name of a Debian package (stacks: {a: {packages: [-rf]}}); write it as apt lists it, or NAME=VERSION`},
		{"docker socket", svc("volumes: ['/var/run/docker.sock:/var/run/docker.sock']"),
			`m.yaml:6:15: service "s": there is no Docker here, and so no /var/run/docker.sock (volumes: ['/var/run/docker.sock:/var/run/docker.sock']); remove it; containers find Mayfly's API at /run/mayfly/api.sock`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("m.yaml", []byte(tt.text), Options{})
			if err == nil {
				t.Fatal("no error")
			}
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Errorf("kind %s, want invalid", mayfly.KindOf(err))
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A service that requires one that is not here waits for it, and one that is
// not a must makes no circle.
func TestServiceWarnings(t *testing.T) {
	m, err := Parse("m.yaml", []byte("services:\n  a: {image: i, requires: {x: elsewhere, y: {service: b, optional: true}}, provides: {p: 1}}\n  b: {image: i, requires: [a], provides: {p: 1}}\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`m.yaml:2:31: service "a" requires "elsewhere", which is not in this manifest: it waits until that is there (a: {image: i, requires: {x: elsewhere, y: {service: b, optio...)`}
	if diff := cmp.Diff(want, m.Warnings); diff != "" {
		t.Error("warnings (-want +got):\n" + diff)
	}
	if m.Services[0].Name != "a" || m.Services[1].Name != "b" {
		t.Errorf("order %s, %s", m.Services[0].Name, m.Services[1].Name)
	}
}

// The manifests that the documentation shows are taken.
func TestDocumentedManifests(t *testing.T) {
	text, err := os.ReadFile("../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, block := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		switch {
		case strings.Contains(block, "\nservices:") || strings.HasPrefix(block, "services:"):
		case strings.HasPrefix(block, "ready:"):
			for line := range strings.Lines(block) {
				one := svc("provides: {pg: 5432, grpc: 50051, http: 80}", strings.TrimSpace(line))
				if _, err := Parse("services.md", []byte(one), Options{}); err != nil {
					t.Error(err)
				}
			}
			continue
		default: // a part of a service
			block = svc(strings.Split(strings.TrimSpace(block), "\n")...)
		}
		shown++
		m, err := Parse("services.md", []byte(block), Options{})
		if err != nil {
			t.Errorf("%v\n%s", err, block)
		} else if len(m.Services) == 0 {
			t.Errorf("no service in\n%s", block)
		}
	}
	if shown < 5 {
		t.Errorf("only %d", shown)
	}
}

// A secret's value is in no text that anything prints.
func TestSecretHidden(t *testing.T) {
	s := Secret{Name: "pw", Value: []byte("s3cret")}
	for _, format := range []string{s.String(), s.GoString()} {
		if strings.Contains(format, "s3cret") {
			t.Error(format)
		}
	}
}

func TestScale(t *testing.T) {
	functions := "functions:\n  f: {image: i, isolation: instance, scale: {min: 1, max: 5, concurrency: 10, queue: 50, idle: 1m, cooldown: 10s}}\n"
	got, err := Parse("m.yaml", []byte(functions+"services:\n  a: {image: i, scale: {min: 0, max: 3}}\n  b: {image: i, scale: 0}\n  c: {image: i, scale: {max: 4, concurrency: 2}}\n"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := mayfly.Scale{Min: 1, Max: 5, Concurrency: 10, Queue: 50, Idle: time.Minute, Cooldown: 10 * time.Second}
	if got.Functions[0].Scale != want {
		t.Errorf("function: %+v", got.Functions[0].Scale)
	}
	for i, test := range []struct {
		name        string
		count, most int
		scaled      bool
		each        int
	}{
		{"a", 0, 3, true, mayfly.DefaultPerInstance},
		{"b", 0, 0, false, 0},
		{"c", 1, 4, true, 2},
	} {
		s := got.Services[i]
		if s.Name != test.name || s.Scale.Count() != test.count || s.Scale.Most() != test.most || s.Scale.Scaled() != test.scaled || s.PerInstance() != test.each {
			t.Errorf("%s: %+v", test.name, s.Scale)
		}
	}
}
