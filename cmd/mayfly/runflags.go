package main

import (
	"bufio"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
)

// runFlags are the flags of run, as they were given.
type runFlags struct {
	detach, rm, interactive, tty, readOnly bool
	name, user, workdir, network, hostname string
	memory, entrypoint, pull               string
	env, envFiles, volumes, ports          []string
	tmpfs, ulimits, labels                 []string
	cpus                                   float64
	pids                                   int64
	timeout                                time.Duration
	entrypointSet                          func() bool
}

func (f *runFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.BoolVarP(&f.detach, "detach", "d", false, "leave it running and print its id")
	fs.BoolVar(&f.rm, "rm", false, "forget it when it has ended")
	fs.BoolVarP(&f.interactive, "interactive", "i", false, "pass our stdin on")
	fs.BoolVarP(&f.tty, "tty", "t", false, "")
	_ = fs.MarkHidden("tty")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE, or NAME to pass ours on; again for more")
	fs.StringArrayVar(&f.envFiles, "env-file", nil, "file with a NAME=VALUE on each line")
	fs.StringArrayVarP(&f.volumes, "volume", "v", nil, "HOSTPATH:PATH[:ro], or VOLUME:PATH[:ro]; again for more")
	fs.StringArrayVar(&f.tmpfs, "tmpfs", nil, "PATH[:size=64m][,ro], held in memory; again for more")
	fs.StringArrayVarP(&f.ports, "publish", "p", nil, "[[IP:]HOSTPORT:]PORT[/udp]; again for more. Without a host port the system picks one")
	fs.StringVarP(&f.memory, "memory", "m", "", "limit, such as 256m or 1g")
	fs.Float64Var(&f.cpus, "cpus", 0, "limit in cores, such as 0.5")
	fs.Int64Var(&f.pids, "pids-limit", 0, "most processes and threads")
	fs.StringArrayVar(&f.ulimits, "ulimit", nil, "nofile=N, most open files")
	fs.DurationVar(&f.timeout, "timeout", 0, "kill it after this long, such as 30s")
	fs.BoolVar(&f.readOnly, "read-only", false, "its root cannot be written to")
	fs.StringVarP(&f.user, "user", "u", "", "USER[:GROUP], names or numbers")
	fs.StringVarP(&f.workdir, "workdir", "w", "", "directory that it starts in")
	fs.StringVar(&f.network, "network", "bridge", "bridge, none or host")
	fs.StringVar(&f.hostname, "hostname", "", "its host name")
	fs.StringVar(&f.name, "name", "", "name to refer to it by")
	fs.StringVar(&f.entrypoint, "entrypoint", "", "program to run instead of the image's; empty for none: the command is all")
	fs.StringArrayVarP(&f.labels, "label", "l", nil, "NAME=VALUE; again for more")
	fs.StringVar(&f.pull, "pull", "missing", "fetch the image: missing, always or never")
	f.entrypointSet = func() bool { return fs.Changed("entrypoint") }
}

// spec turns the flags and arguments into what is asked of the node.
func (f *runFlags) spec(args []string) (mayfly.InstanceSpec, error) {
	s := mayfly.InstanceSpec{
		Name: f.name, Image: args[0], Hostname: f.hostname, ReadOnly: f.readOnly, Network: f.network,
		Stdin: f.interactive && !f.detach, Timeout: f.timeout, AutoRemove: f.rm,
	}
	s.Command, s.User, s.WorkDir, s.CPUs, s.Pids = args[1:], f.user, f.workdir, f.cpus, f.pids
	if f.entrypointSet() {
		s.Entrypoint = []string{}
		if f.entrypoint != "" {
			s.Entrypoint = append(s.Entrypoint, f.entrypoint)
		}
	}
	steps := []func(*mayfly.InstanceSpec) error{f.check, f.limits, f.environment, f.mounts, f.publish}
	for _, step := range steps {
		if err := step(&s); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (f *runFlags) check(s *mayfly.InstanceSpec) error {
	switch {
	case s.Image == "":
		return usagef("the image's name is empty")
	case f.tty:
		return mayfly.Errorf(mayfly.Invalid, "there are no terminals yet").WithHint("leave out -t")
	case !(f.cpus >= 0) || math.IsInf(f.cpus, 0): // NaN is neither
		return usagef("--cpus %v is not a number of cores, such as 0.5", f.cpus)
	case f.pids < 0:
		return usagef("--pids-limit %d is negative", f.pids)
	case f.timeout < 0:
		return usagef("--timeout %s is negative", f.timeout)
	case f.network != "bridge" && f.network != "none" && f.network != "host":
		return usagef("--network is bridge, none or host, not %q", f.network)
	case f.pull != "missing" && f.pull != "always" && f.pull != "never":
		return usagef("--pull is missing, always or never, not %q", f.pull)
	case s.WorkDir != "" && !path.IsAbs(s.WorkDir):
		return usagef("--workdir %q is not absolute", s.WorkDir)
	}
	if s.Name != "" {
		return mayfly.CheckName("container", s.Name)
	}
	return nil
}

func (f *runFlags) limits(s *mayfly.InstanceSpec) error {
	if f.memory != "" {
		n, err := parseSize(f.memory)
		if err != nil {
			return usagef("--memory: %w", err)
		}
		s.Memory = n
	}
	for _, u := range f.ulimits {
		name, value, _ := strings.Cut(u, "=")
		if name != "nofile" {
			return usagef("--ulimit %s: only nofile can be set", name)
		}
		soft, hard, both := strings.Cut(value, ":")
		n, err := strconv.ParseUint(soft, 10, 63)
		if err != nil || n == 0 || both && hard != soft {
			return usagef("--ulimit nofile=%s: give one number", value)
		}
		s.Files = n
	}
	for _, l := range f.labels {
		name, value, _ := strings.Cut(l, "=")
		if name == "" {
			return usagef("--label %q has no name", l)
		}
		if s.Labels == nil {
			s.Labels = map[string]string{}
		}
		s.Labels[name] = value
	}
	return nil
}

// parseSize reads a number of bytes with a unit of 1024: 64m, 1.5g, 256MB, 4096.
func parseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "bBiIkKmMgGtT ")
	unit := strings.ToLower(strings.TrimSpace(s[len(number):]))
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i")
	scale := strings.Index("kmgt", unit)
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || len(unit) > 1 || scale < 0 || !(v > 0) {
		return 0, fmt.Errorf("%q is not a size, such as 256m or 1g", s)
	}
	if unit != "" {
		v *= float64(int64(1) << (10 * (scale + 1)))
	}
	if v < 1 || v >= 1<<62 {
		return 0, fmt.Errorf("%q is not a size that can be had", s)
	}
	return int64(v), nil
}

// environment merges files and flags; the last word counts.
func (f *runFlags) environment(s *mayfly.InstanceSpec) error {
	s.Env = map[string]string{}
	for _, name := range f.envFiles {
		if err := readEnvFile(name, s.Env); err != nil {
			return err
		}
	}
	for _, e := range f.env {
		if err := setEnv(s.Env, e); err != nil {
			return usagef("--env: %w", err)
		}
	}
	return nil
}

// setEnv sets NAME=VALUE, or NAME to what it is here, if it is set.
func setEnv(env map[string]string, e string) error {
	name, value, given := strings.Cut(e, "=")
	if name == "" || strings.ContainsRune(e, 0) {
		return fmt.Errorf("%q is not NAME=VALUE", e)
	}
	if !given {
		var ok bool
		if value, ok = os.LookupEnv(name); !ok {
			return nil
		}
	}
	env[name] = value
	return nil
}

func readEnvFile(name string, env map[string]string) error {
	file, err := os.Open(name)
	if err != nil {
		return mayfly.Errorf(mayfly.Invalid, "read --env-file: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if key, _, _ := strings.Cut(line, "="); strings.ContainsAny(key, " \t") {
			return mayfly.Errorf(mayfly.Invalid, "%s:%d: %q is not a variable's name", name, n, key)
		}
		if err := setEnv(env, line); err != nil {
			return mayfly.Errorf(mayfly.Invalid, "%s:%d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "read --env-file %s: %w", name, err)
	}
	return nil
}

func (f *runFlags) mounts(s *mayfly.InstanceSpec) error {
	for _, v := range f.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return err
		}
		if m.Type == "volume" {
			s.Volumes = append(s.Volumes, mayfly.VolumeMount{Volume: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Copy: !m.ReadOnly})
			continue
		}
		s.Mounts = append(s.Mounts, m)
	}
	for _, t := range f.tmpfs {
		m, err := parseTmpfs(t)
		if err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, m)
	}
	return nil
}

func parseVolume(v string) (m mayfly.Mount, err error) {
	parts := strings.Split(v, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return m, usagef("--volume %q is not HOSTPATH:PATH[:ro] or NAME:PATH[:ro]", v)
	}
	m = mayfly.Mount{Type: "bind", Source: parts[0], Target: parts[1]}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			m.ReadOnly = true
		case "rw":
		default:
			return m, usagef("--volume %q: the mode is ro or rw, not %q", v, parts[2])
		}
	}
	if !strings.HasPrefix(m.Source, "/") && !strings.HasPrefix(m.Source, ".") {
		m.Type = "volume"
		if mayfly.CheckName("volume", m.Source) != nil {
			return m, usagef("--volume %q: %q is no name of a volume; for a directory here give ./%s", v, m.Source, m.Source)
		}
		if !path.IsAbs(m.Target) {
			return m, usagef("--volume %q: the path in the container is not absolute", v)
		}
		return m, nil
	}
	if m.Source, err = filepath.Abs(m.Source); err != nil {
		return m, err
	}
	if !path.IsAbs(m.Target) {
		return m, usagef("--volume %q: the path in the container is not absolute", v)
	}
	return m, nil
}

func parseTmpfs(t string) (m mayfly.Mount, err error) {
	target, options, _ := strings.Cut(t, ":")
	m = mayfly.Mount{Type: "tmpfs", Target: target}
	if !path.IsAbs(target) {
		return m, usagef("--tmpfs %q: the path is not absolute", t)
	}
	for _, o := range strings.FieldsFunc(options, func(r rune) bool { return r == ',' }) {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "ro":
			m.ReadOnly = true
		case "rw":
		case "size":
			if m.Size, err = parseSize(value); err != nil {
				return m, usagef("--tmpfs %q: %w", t, err)
			}
		default:
			return m, usagef("--tmpfs %q: unknown option %q; there are size, ro and rw", t, o)
		}
	}
	return m, nil
}

func (f *runFlags) publish(s *mayfly.InstanceSpec) error {
	for _, p := range f.ports {
		port, err := parsePort(p)
		if err != nil {
			return usagef("--publish %q: %w", p, err)
		}
		s.Ports = append(s.Ports, port)
	}
	if len(s.Ports) > 0 && s.Network != "bridge" {
		return usagef("--publish needs --network bridge, not %s", s.Network)
	}
	return nil
}

// parsePort reads [[IP:]HOSTPORT:]PORT[/PROTOCOL]; IPv6 stands in brackets.
func parsePort(p string) (port mayfly.Port, err error) {
	rest, protocol, _ := strings.Cut(p, "/")
	switch protocol {
	case "", "tcp", "udp":
		port.Protocol = protocol
	default:
		return port, fmt.Errorf("the protocol is tcp or udp, not %q", protocol)
	}
	i := strings.LastIndexByte(rest, ':')
	if port.Container, err = portNumber(rest[i+1:]); err != nil {
		return port, err
	}
	if i < 0 {
		return port, nil
	}
	rest = rest[:i]
	i = strings.LastIndexByte(rest, ':')
	if strings.HasSuffix(rest, "]") {
		return port, fmt.Errorf("the host's port is missing; for one that the system picks write %s::%d", rest, port.Container)
	}
	if text := rest[i+1:]; text != "" && text != "0" {
		if port.Host, err = portNumber(text); err != nil {
			return port, err
		}
	}
	if i < 0 {
		return port, nil
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(rest[:i], "["), "]"))
	if err != nil {
		return port, fmt.Errorf("%q is not an IP address", rest[:i])
	}
	port.HostIP = ip.String()
	return port, nil
}

func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		if strings.Contains(s, "-") {
			return 0, fmt.Errorf("ranges such as %s are not supported; publish each port", s)
		}
		return 0, fmt.Errorf("%q is not a port", s)
	}
	return uint16(n), nil
}
