package container

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// process adds the steps from limits to execve.
func (n *Native) process(t *translation, s *specs.Spec) error {
	p, proc := &t.program, s.Process
	if !slices.ContainsFunc(proc.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == "RLIMIT_NOFILE" }) {
		files := n.server.limit()
		p.Rlimit(unix.RLIMIT_NOFILE, files.Cur, files.Max)
	}
	for _, l := range proc.Rlimits {
		resource, ok := rlimit(l.Type)
		if !ok {
			return mayfly.Errorf(mayfly.Invalid, "unknown limit %q", l.Type)
		}
		p.Rlimit(resource, l.Soft, l.Hard)
	}
	var filter filter
	if s.Linux.Seccomp != nil {
		var err error
		if filter, err = n.filters.get(s.Linux.Seccomp); err != nil {
			return err
		}
	}
	if proc.NoNewPrivileges {
		p.NoNewPrivs()
	} else if filter.program != nil {
		p.Seccomp(filter.program, filter.flags, false) // needs CAP_SYS_ADMIN
	}
	if proc.Cwd != "" {
		p.Chdir(path.Clean(proc.Cwd))
	}
	if err := t.credentials(proc); err != nil {
		return err
	}
	if proc.NoNewPrivileges && filter.program != nil {
		p.Seccomp(filter.program, filter.flags, true)
	}
	env, home, err := environ(proc.Env)
	if err != nil {
		return err
	}
	if home >= 0 {
		p.Home(proc.User.UID, uint32(home))
	}
	p.Exec(executables(proc.Args[0], env), proc.Args, env)
	return nil
}

// credentials adds the steps that change user and capabilities.
func (t *translation) credentials(proc *specs.Process) error {
	var c specs.LinuxCapabilities
	if proc.Capabilities != nil {
		c = *proc.Capabilities
	}
	var masks [5]uint64
	for i, names := range [][]string{c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient} {
		for _, name := range names {
			// A capability that nobody knows is one that nobody has.
			if bit, ok := capability(name); ok && bit <= t.host.lastCap {
				masks[i] |= 1 << bit
			}
		}
	}
	t.program.Bounding(masks[0])
	t.program.User(proc.User.UID, proc.User.GID, proc.User.AdditionalGids)
	t.program.Caps(masks[1], masks[2], masks[3], masks[4])
	return nil
}

// environ returns the environment with each name once, the last value in the
// first place, and where HOME is to be filled in, or -1.
func environ(env []string) (out []string, home int, err error) {
	at := make(map[string]int, len(env))
	out = make([]string, 0, len(env)+1)
	for _, e := range env {
		name, _, ok := strings.Cut(e, "=")
		if !ok || name == "" {
			return nil, 0, mayfly.Errorf(mayfly.Invalid, "environment entry %q is not NAME=VALUE", e)
		}
		if i, ok := at[name]; ok {
			out[i] = e
			continue
		}
		at[name] = len(out)
		out = append(out, e)
	}
	i, ok := at["HOME"]
	switch {
	case !ok:
		return append(out, "HOME=/"), len(out), nil
	case out[i] == "HOME=":
		return out, i, nil
	}
	return out, -1, nil
}

// executables returns where a program may be, by the PATH of its environment.
func executables(name string, env []string) []string {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var l []string
	for _, e := range env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(list, ":") {
			if path.IsAbs(dir) {
				l = append(l, path.Join(dir, name))
			}
		}
	}
	return l
}

func rlimit(name string) (uint32, bool) {
	switch name {
	case "RLIMIT_AS":
		return unix.RLIMIT_AS, true
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE, true
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU, true
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA, true
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE, true
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS, true
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK, true
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE, true
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE, true
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE, true
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC, true
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS, true
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO, true
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME, true
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING, true
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK, true
	}
	return 0, false
}

// capability returns the number of a capability (capabilities(7)).
func capability(name string) (uint, bool) {
	const names = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE " +
		"NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE " +
		"SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL " +
		"SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
	i := uint(0)
	for n := range strings.SplitSeq(names, " ") {
		if strings.TrimPrefix(name, "CAP_") == n {
			return i, true
		}
		i++
	}
	return 0, false
}

// filter is a compiled seccomp profile.
type filter struct {
	program []byte // struct sock_filter in memory
	flags   uint32
}

// maxFilters is how many compiled profiles are kept.
const maxFilters = 64

// filterCache keeps compiled profiles by identity: a profile is not changed
// once it has been used.
type filterCache struct {
	mu      sync.Mutex
	filters map[*specs.LinuxSeccomp]filter
}

func (c *filterCache) get(profile *specs.LinuxSeccomp) (filter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.filters[profile]; ok {
		return f, nil
	}
	f, err := compile(profile)
	if err != nil {
		return filter{}, err
	}
	if c.filters == nil || len(c.filters) >= maxFilters {
		c.filters = make(map[*specs.LinuxSeccomp]filter)
	}
	c.filters[profile] = f
	return f, nil
}

func compile(profile *specs.LinuxSeccomp) (filter, error) {
	program, err := seccomp.Compile(profile)
	if err != nil {
		return filter{}, mayfly.Errorf(mayfly.Invalid, "%w", err)
	}
	flags, err := seccomp.Flags(profile)
	if err != nil {
		return filter{}, fmt.Errorf("seccomp flags: %w", err)
	}
	b := make([]byte, 0, 8*len(program))
	for _, i := range program {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return filter{program: b, flags: uint32(flags)}, nil
}
