package setup

import (
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credentials carries out a step that changes what the thread may do.
func (s *stage) credentials(o op) (text string, e syscall.Errno) {
	switch o {
	case opRlimit:
		return s.rlimit(s.u32(), s.u64(), s.u64())
	case opNoNewPrivs:
		e = prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	case opSeccomp:
		flags, last, filter := s.u32(), s.flag(), s.str()
		if last {
			s.filter, s.flags = filter, flags
		} else {
			e = seccomp(filter, flags)
		}
	case opChdir:
		return s.chdir(s.str())
	case opBounding:
		e = bounding(s.u64())
	case opUser:
		return s.user()
	case opCaps:
		e = caps(s.u64(), s.u64(), s.u64(), s.u64())
	case opHome:
		uid := s.u32()
		s.homeAt = int(s.u32())
		s.home = toC("HOME=" + homeOf(uid))
	default:
		e = syscall.ENOSYS
	}
	return text, e
}

func (s *stage) rlimit(resource uint32, soft, hard uint64) (string, syscall.Errno) {
	set := [2]uint64{soft, hard}
	_, e := do(unix.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(&set)), 0, 0, 0)
	if e != syscall.EPERM {
		return "", e
	}
	s.report(Report{Warning: true, Errno: uint32(e), Text: opRlimit.String()})
	var have [2]uint64
	if _, e = do(unix.SYS_PRLIMIT64, 0, uintptr(resource), 0, uintptr(unsafe.Pointer(&have)), 0, 0); e == 0 {
		set = [2]uint64{min(soft, have[1]), have[1]}
		_, e = do(unix.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(&set)), 0, 0, 0)
	}
	return "", e
}

func seccomp(filter cstr, flags uint32) syscall.Errno {
	const size = 8 // of struct sock_filter
	prog := struct {
		n      uint16
		filter uintptr
	}{uint16((len(filter) - 1) / size), uintptr(ptr(filter))}
	_, e := do(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)), 0, 0, 0)
	return e
}

// chdir makes a directory of the container current and makes it when missing.
// It never follows a magic link, which could lead to the host through a
// descriptor (CVE-2024-21626). The container's user may be able to go where
// root is not, on a network filesystem: user tries again then.
func (s *stage) chdir(path cstr) (string, syscall.Errno) {
	s.last = path
	e := s.enter(false)
	if e == syscall.EACCES || e == syscall.EPERM {
		s.again = true
		e = 0
	}
	return " " + path.String(), e
}

func (s *stage) user() (string, syscall.Errno) {
	uid, gid, n := s.u32(), s.u32(), int(s.u32())
	groups := make([]uint32, 0, 16)
	for range n {
		groups = append(groups, s.u32())
	}
	if e := prctl(unix.PR_SET_KEEPCAPS, 1, 0); e != 0 {
		return "", e
	}
	var list uintptr
	if n > 0 {
		list = uintptr(unsafe.Pointer(&groups[0]))
	}
	if _, e := do(unix.SYS_SETGROUPS, uintptr(n), list, 0, 0, 0, 0); e != 0 {
		return "", e
	}
	if _, e := do(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid), 0, 0, 0); e != 0 {
		return "", e
	}
	if _, e := do(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid), 0, 0, 0); e != 0 {
		return "", e
	}
	if s.again {
		if e := s.enter(false); e != 0 {
			return ": " + opChdir.String() + " " + s.last.String(), e
		}
	}
	return "", prctl(unix.PR_SET_KEEPCAPS, 0, 0)
}

// bounding drops what is not in keep, up to the last capability that the
// kernel knows.
func bounding(keep uint64) syscall.Errno {
	for c := range uint(64) {
		if keep>>c&1 != 0 {
			continue
		}
		if e := prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0); e != 0 {
			if e == syscall.EINVAL {
				break
			}
			return e
		}
	}
	return 0
}

func caps(effective, permitted, inheritable, ambient uint64) syscall.Errno {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	if _, e := do(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0, 0, 0, 0); e != 0 {
		return e
	}
	if e := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); e != 0 {
		return e
	}
	for c := range uint(64) {
		if ambient>>c&1 != 0 {
			if e := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c)); e != 0 {
				return e
			}
		}
	}
	return 0
}

// keyring joins a session keyring, where the kernel has them.
func keyring(name cstr, permissions uint32) syscall.Errno {
	id, e := do(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, uintptr(ptr(name)), 0, 0, 0, 0)
	if e != 0 {
		if e == syscall.ENOSYS {
			return 0
		}
		return e
	}
	buf := make([]byte, 512)
	n, e := do(unix.SYS_KEYCTL, unix.KEYCTL_DESCRIBE, id, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return e
	}
	fields := strings.Split(string(buf[:min(int(n), len(buf))]), ";") // type;uid;gid;perm;name
	if len(fields) < 4 {
		return syscall.EINVAL
	}
	have := uint32(0)
	for _, c := range []byte(fields[3]) {
		d := c - '0'
		if c >= 'a' {
			d = c - 'a' + 10
		}
		have = have<<4 | uint32(d)
	}
	_, e = do(unix.SYS_KEYCTL, unix.KEYCTL_SETPERM, id, uintptr(have|permissions), 0, 0, 0)
	return e
}

// loopback brings lo up.
func loopback() syscall.Errno {
	fd, e := do(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	defer closeFD(int(fd))
	ifreq := struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}{name: [16]byte{'l', 'o'}}
	if _, e = do(unix.SYS_IOCTL, fd, unix.SIOCGIFFLAGS, uintptr(unsafe.Pointer(&ifreq)), 0, 0, 0); e != 0 {
		return e
	}
	ifreq.flags |= unix.IFF_UP
	_, e = do(unix.SYS_IOCTL, fd, unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifreq)), 0, 0, 0)
	return e
}

// null connects the standard streams to the container's /dev/null.
func null() syscall.Errno {
	fd, e := open(devNull, unix.O_RDWR)
	if e != 0 {
		return e
	}
	for std := range uintptr(3) {
		if _, e := do(unix.SYS_DUP3, uintptr(fd), std, 0, 0, 0, 0); e != 0 {
			return e
		}
	}
	closeFD(fd)
	return 0
}

// maxPasswd is how much of /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// homeOf returns the home directory that the container's /etc/passwd has for a
// uid, "/" if none. The file is the image's and may be anything.
func homeOf(uid uint32) string {
	fd, e := open(toC("/etc/passwd"), unix.O_RDONLY|unix.O_NONBLOCK)
	if e != 0 {
		return "/"
	}
	defer closeFD(fd)
	var st syscall.Stat_t
	if e := statAt(fd, empty, &st, unix.AT_EMPTY_PATH); e != 0 || st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return "/"
	}
	buf := make([]byte, min(st.Size, maxPasswd))
	n := 0
	for n < len(buf) {
		r, e := do(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&buf[n])), uintptr(len(buf)-n), 0, 0, 0)
		if e != 0 || r == 0 {
			break
		}
		n += int(r)
	}
	return homeIn(string(buf[:n]), uid)
}

// homeIn finds the home directory of a uid in the text of an /etc/passwd.
func homeIn(passwd string, uid uint32) string {
	for line := range strings.Lines(passwd) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 6 || f[2] != strconv.Itoa(int(uid)) {
			continue
		}
		if f[5] == "" || strings.IndexByte(f[5], 0) >= 0 {
			break
		}
		return f[5]
	}
	return "/"
}
