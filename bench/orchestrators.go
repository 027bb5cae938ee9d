package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bridge is the address of docker0, the one that the engine's namespace has.
const bridge = "172.17.0.1"

// fewConsumers is how many there are where they have to ask all the time.
const fewConsumers = 10

// orchestrators compares the news of a crash, and deploys, with those of Docker
// Swarm and docker-compose, on a dockerd of our own. Nobody tells a program there
// that a provider has gone: consumers ask the engine's DNS every 2 ms.
func (b *bench) orchestrators(ctx context.Context) error {
	at, err := listenBeneath(filepath.Join(b.dir, "ear"))
	if err != nil {
		return err
	}
	defer at.close()
	if err := b.ownFew(ctx); err != nil {
		return err
	}
	if b.alone {
		return nil
	}
	engine, err := b.dockerd(ctx)
	if err != nil {
		b.results.Notes = append(b.results.Notes, "no Docker to compare services with: "+err.Error())
		return nil
	}
	tar, err := b.appliance(ctx)
	if err != nil {
		return err
	}
	if err := b.deny(ctx, tar); err != nil {
		return err
	}
	if _, err := output(ctx, engine, "import", "--change", `ENTRYPOINT ["/appliance"]`, tar, "appliance:1"); err != nil {
		return err
	}
	for _, peer := range []struct {
		name string
		run  func(ctx context.Context, engine []string, at *ear) error
	}{{"Docker Swarm", b.swarm}, {"docker-compose", b.compose}} {
		if err := peer.run(ctx, engine, at); err != nil {
			if ctx.Err() != nil {
				return err
			}
			b.results.Notes = append(b.results.Notes, fmt.Sprintf("%s was not measured: %v", peer.name, err))
		}
	}
	return nil
}

// deny runs a name server beside the engine that knows nothing: the engine's own
// asks it for what has gone, and would wait for an answer without it.
func (b *bench) deny(ctx context.Context, tar string) error {
	cmd := exec.Command("nsenter", "-t", strconv.Itoa(b.dockerPID), "-n", strings.TrimSuffix(tar, ".tar")+"/appliance", "deny", bridge+":53")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	b.onClose(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return nil
}

// ownFew measures Mayfly with as few consumers.
func (b *bench) ownFew(ctx context.Context) error {
	d, err := b.serviceDaemon(ctx)
	if err != nil {
		return err
	}
	ear, err := listen()
	if err != nil {
		return err
	}
	defer ear.close()
	manifest := filepath.Join(b.dir, "few.yaml")
	text := fmt.Sprintf(`name: few
services:
  db: {image: appliance, command: [/appliance, provide], provides: {db: {}}, env: {REPORT: %q}}
  web:
    image: appliance
    command: [/appliance, watch]
    requires: {db: {on_change: {signal: USR1}}}
    scale: {min: %d}
    env: {REPORT: %q}
`, ear.address, fewConsumers, ear.address)
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		return err
	}
	took, err := b.deploy(ctx, d, manifest)
	if err != nil {
		return err
	}
	same, err := b.deploy(ctx, d, manifest)
	if err != nil {
		return err
	}
	b.deployed("mayfly deploy", took, same)
	crash, ready := newNews("Mayfly: crash of a provider, until consumers are told", fewConsumers), newNews("Mayfly: ready, until told", fewConsumers)
	if err := d.crashes(ctx, ear, fewConsumers, pick(b, 15, 2), crash, ready); err != nil {
		return err
	}
	b.results.Told = append(b.results.Told, crash.row())
	return errors.Join(d.api.DeleteWorkload(ctx, "web"), d.api.DeleteWorkload(ctx, "db"))
}

func (b *bench) deployed(what string, fresh, same time.Duration) {
	for _, l := range []struct {
		what string
		took time.Duration
	}{{what + ", one provider and its consumers", fresh}, {what + ", the same again", same}} {
		b.results.Deploys = append(b.results.Deploys, DeployRow{What: l.what, Services: 1 + fewConsumers, Times: 1, P50: ms(l.took), P99: ms(l.took)})
	}
}

// swarm makes the engine a swarm of one.
func (b *bench) swarm(ctx context.Context, engine []string, ear *ear) error {
	if _, err := output(ctx, engine, "swarm", "init", "--advertise-addr", bridge, "--listen-addr", bridge+":2377"); err != nil {
		return err
	}
	defer output(context.WithoutCancel(ctx), engine, "swarm", "leave", "--force")
	file := filepath.Join(b.dir, "stack.yaml")
	// Without IPVS in the kernel only dnsrr leads anywhere; it also is what tells most.
	text := fmt.Sprintf(`version: "3.8"
services:
  db:
    image: appliance:1
    command: [provide]
    environment: {PORT: "5432", REPORT: /ear/sock}
    volumes: [%q]
    deploy: {endpoint_mode: dnsrr, restart_policy: {condition: any, delay: 0s}}
  web:
    image: appliance:1
    command: [resolve, db]
    dns: [%s]
    environment: {REPORT: /ear/sock}
    volumes: [%q]
    deploy: {replicas: %d, endpoint_mode: dnsrr}
`, ear.dir()+":/ear", bridge, ear.dir()+":/ear", fewConsumers)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	defer output(context.WithoutCancel(ctx), engine, "stack", "rm", "bench")
	return b.dockerPeer(ctx, engine, ear, dockerPeer{
		name: "Docker Swarm", verb: "docker stack deploy", label: "com.docker.swarm.service.name=bench_db",
		deploy: append(engine[:len(engine):len(engine)], "stack", "deploy", "--resolve-image", "never", "-c", file, "bench"),
	})
}

// compose has docker-compose do the same, on one host and with its restart policy.
func (b *bench) compose(ctx context.Context, engine []string, ear *ear) error {
	program, err := exec.LookPath("docker-compose")
	if err != nil {
		return err
	}
	file := filepath.Join(b.dir, "compose.yaml")
	text := fmt.Sprintf(`version: "2.4"
services:
  db:
    image: appliance:1
    command: [provide]
    environment: {PORT: "5432", REPORT: /ear/sock}
    volumes: [%q]
    restart: always
  web:
    image: appliance:1
    command: [resolve, db]
    dns: [%s]
    environment: {REPORT: /ear/sock}
    volumes: [%q]
    depends_on: [db]
    scale: %d
`, ear.dir()+":/ear", bridge, ear.dir()+":/ear", fewConsumers)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	tool := []string{program, "-H", engine[2], "-p", "bench", "-f", file}
	defer output(context.WithoutCancel(ctx), tool, "down", "-t", "1")
	return b.dockerPeer(ctx, engine, ear, dockerPeer{
		name: "docker-compose", verb: "docker-compose up", label: "com.docker.compose.service=db", deploy: append(tool, "up", "-d"),
	})
}

// dockerPeer is an orchestrator on a Docker engine.
type dockerPeer struct {
	name, verb string   // for people
	label      string   // that the provider's container has
	deploy     []string // command that deploys, and does nothing the second time
}

// dockerPeer deploys twice, and then kills the provider again and again. The first
// deploy has ended when all consumers know the provider.
func (b *bench) dockerPeer(ctx context.Context, engine []string, ear *ear, p dockerPeer) error {
	begin := time.Now()
	if _, err := output(ctx, p.deploy); err != nil {
		return err
	}
	if err := ear.known(ctx, fewConsumers); err != nil {
		return err
	}
	fresh := time.Since(begin)
	begin = time.Now()
	if _, err := output(ctx, p.deploy); err != nil {
		return err
	}
	b.deployed(p.verb, fresh, time.Since(begin))
	return b.dockerCrashes(ctx, engine, p, ear)
}

// dockerCrashes kills the provider's process and waits until the consumers find
// no address any more.
func (b *bench) dockerCrashes(ctx context.Context, engine []string, p dockerPeer, ear *ear) error {
	crash := newNews(p.name+": crash of a provider, until consumers that ask every 2 ms find none", fewConsumers)
	for range pick(b, 15, 1) {
		id, err := output(ctx, engine, "ps", "-q", "--filter", "label="+p.label)
		if err != nil || id == "" {
			return fmt.Errorf("find the provider: %w", errors.Join(err, errors.New("none runs")))
		}
		if err := ear.quiet(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		pid, err := output(ctx, engine, "inspect", "-f", "{{.State.Pid}}", strings.Fields(id)[0])
		if err != nil {
			return err
		}
		number, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := syscall.Kill(number, syscall.SIGKILL); err != nil { // not by the engine, which would not start it again
			return err
		}
		h := hearing{gone: map[string]time.Time{}, back: map[string]time.Time{}}
		for len(h.gone) < fewConsumers || len(h.back) < fewConsumers {
			r, err := ear.next(ctx)
			if err != nil {
				return fmt.Errorf("%w: %d found none, %d found another", err, len(h.gone), len(h.back))
			}
			h.take(r)
		}
		crash.add(began, values(h.gone))
	}
	b.results.Told = append(b.results.Told, crash.row())
	return nil
}

// listenBeneath hears reports by a socket in a directory that can be mounted.
func listenBeneath(dir string) (*ear, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	conn, err := net.ListenPacket("unixgram", dir+"/sock")
	if err != nil {
		return nil, err
	}
	return &ear{conn, dir + "/sock"}, os.Chmod(dir+"/sock", 0o777)
}

func (e *ear) dir() string { return filepath.Dir(e.address) }

// known waits until so many consumers know of one endpoint.
func (e *ear) known(ctx context.Context, many int) error {
	know := map[string]bool{}
	for len(know) < many {
		r, err := e.next(ctx)
		if err != nil {
			return fmt.Errorf("%w: %d consumers found the provider", err, len(know))
		}
		if r.word == "told" && r.known == 1 {
			know[r.name] = true
		}
	}
	return nil
}

// output runs a command and returns what it wrote, without the white space around
// it.
func output(ctx context.Context, argv []string, more ...string) (string, error) {
	argv = append(argv[:len(argv):len(argv)], more...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv[1:], " "), err, lastLine(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
