package container

import (
	"os"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Config is what a sandbox is made of: all that is the same for every run of
// a release, and what was made for this one sandbox. What differs by run is in
// a Start.
type Config struct {
	Hostname  string
	Lower     []string // image layers, topmost first
	Volatile  bool     // what the container writes need not survive a power cut
	ReadOnly  bool     // the root cannot be written to
	User      User
	WorkDir   string // made if missing; "/" if empty
	Env       []string
	Resources mayfly.Resources
	Mounts    []mayfly.Mount

	NetNS   *os.File // with its settings made; nil: the host's network
	Address string   // of the container in NetNS; kept for whoever adopts it
	Ports   []mayfly.Port
	Groups  []string          // of the network; kept likewise
	Resolv  []byte            // /etc/resolv.conf
	Hosts   []byte            // /etc/hosts
	Files   map[string][]byte // in /run/mayfly
	LogMax  int64             // bytes of log kept; 16 MiB if zero
}

// User is whom the container's processes run as.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Home     string // HOME, unless the environment says otherwise
}

const (
	runDir      = "/run/mayfly"
	initPath    = runDir + "/init"
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// specVersion is the one that all runtimes in use take: crun before 1.9 refuses
// newer ones, though it knows what is in them, and nothing newer is used.
const specVersion = "1.0.2"

// Capabilities that a container's root keeps: Docker's default list.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// Docker's default masked and read-only paths.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// spec writes the OCI runtime-spec config of a sandbox that lives in dir and shows
// its programs files.
func (c *Config) spec(dir, files, cgroup string, filter *specs.LinuxSeccomp) *specs.Spec {
	caps := &specs.LinuxCapabilities{Bounding: capabilities}
	if c.User.UID == 0 {
		caps.Effective, caps.Permitted = capabilities, capabilities
	}
	wd := c.WorkDir
	if wd == "" {
		wd = "/"
	}
	s := &specs.Spec{
		Version:  specVersion,
		Hostname: c.Hostname,
		Root:     &specs.Root{Readonly: c.ReadOnly},
		Process: &specs.Process{
			Args:            []string{initPath},
			Cwd:             wd,
			User:            specs.User{UID: c.User.UID, GID: c.User.GID, AdditionalGids: c.User.Groups},
			Capabilities:    caps,
			NoNewPrivileges: true,
		},
		Mounts: c.mounts(dir, files),
		Linux: &specs.Linux{
			CgroupsPath:   cgroup,
			Resources:     c.limits(),
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
			Seccomp:       filter,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
	if n := c.Resources.Files; n > 0 {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: n, Hard: n}}
	}
	if c.NetNS != nil {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fdPath(c.NetNS)})
	}
	return s
}

// etcFiles are a sandbox's own files of /etc.
var etcFiles = [...]string{"resolv.conf", "hosts", "hostname"}

// environment is the programs' environment, with what every program expects.
func (c *Config) environment() []string {
	have := make(map[string]bool, len(c.Env))
	for _, e := range c.Env {
		name, _, _ := strings.Cut(e, "=")
		have[name] = true
	}
	env := c.Env
	for _, d := range [][2]string{{"PATH", defaultPath}, {"HOME", c.User.Home}, {"HOSTNAME", c.Hostname}} {
		if !have[d[0]] && d[1] != "" {
			env = append(env[:len(env):len(env)], d[0]+"="+d[1])
		}
	}
	return env
}

func (c *Config) limits() *specs.LinuxResources {
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if m := c.Resources.Memory; m > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &m, Swap: &m} // the sum: no swap
	}
	if c.Resources.CPUs > 0 {
		period := uint64(100_000)
		quota := int64(c.Resources.CPUs * float64(period))
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if p := c.Resources.Pids; p > 0 {
		r.Pids = &specs.LinuxPids{Limit: &p}
	}
	return r
}

// mounts are Docker's, and then Mayfly's own.
func (c *Config) mounts(dir, files string) []specs.Mount {
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		bind(files, runDir, "ro", "nosuid", "nodev"),
	}
	for _, f := range etcFiles {
		m = append(m, bind(dir+"/"+f, "/etc/"+f))
	}
	for _, v := range c.Mounts {
		switch {
		case v.Type == "tmpfs":
			o := []string{"nosuid", "nodev", "mode=1777"}
			if v.Size > 0 {
				o = append(o, "size="+strconv.FormatInt(v.Size, 10))
			}
			m = append(m, specs.Mount{Destination: v.Target, Type: "tmpfs", Source: "tmpfs", Options: o})
		case v.ReadOnly:
			m = append(m, bind(v.Source, v.Target, "ro"))
		default:
			m = append(m, bind(v.Source, v.Target))
		}
	}
	return m
}

func bind(from, to string, options ...string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: append([]string{"rbind", "rprivate"}, options...)}
}
