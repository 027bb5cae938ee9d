package cgroup

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The ways to use a device, as the kernel numbers them.
const (
	mknod = unix.BPF_DEVCG_ACC_MKNOD
	rwm   = mknod | unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE
)

// A device names devices of a kind; -1 stands for all numbers.
type device struct {
	kind         byte // 'c' or 'b'
	major, minor int64
}

// deviceList is a list of devices and what is done to everything else: the
// kernel's own form of it on v1.
type deviceList struct {
	allow      bool // everything but the exceptions
	exceptions []exception
}

type exception struct {
	device
	access uint8
}

// newDeviceList applies the rules in their order to a list that allows
// nothing, and then those that every OCI runtime adds.
func newDeviceList(rules []specs.LinuxDeviceCgroup) (deviceList, error) {
	var list deviceList
	for i, rule := range rules {
		access, err := parseAccess(rule.Access)
		if err != nil {
			return list, fmt.Errorf("devices[%d]: %w", i, err)
		}
		d := device{major: -1, minor: -1}
		if rule.Major != nil {
			d.major = *rule.Major
		}
		if rule.Minor != nil {
			d.minor = *rule.Minor
		}
		if d.major < -1 || d.minor < -1 || d.major >= 1<<31 || d.minor >= 1<<31 {
			return list, fmt.Errorf("devices[%d]: device %d:%d is out of range", i, d.major, d.minor)
		}
		switch rule.Type {
		case "", "a":
			if d.major != -1 || d.minor != -1 || access != rwm {
				return list, fmt.Errorf("devices[%d]: a rule for all kinds of devices takes no numbers and all of rwm", i)
			}
			list = deviceList{allow: rule.Allow}
			continue
		case "c", "u":
			d.kind = 'c'
		case "b":
			d.kind = 'b'
		default:
			return list, fmt.Errorf("devices[%d]: type %q is not known", i, rule.Type)
		}
		list.apply(rule.Allow, exception{d, access})
	}
	for _, d := range []device{{'c', 1, 3}, {'c', 1, 5}, {'c', 1, 7}, {'c', 1, 8}, {'c', 1, 9}, {'c', 5, 0}, {'c', 5, 2}, {'c', 136, -1}, {'c', 10, 200}} {
		list.apply(true, exception{d, rwm})
	}
	list.apply(true, exception{device{'c', -1, -1}, mknod})
	list.apply(true, exception{device{'b', -1, -1}, mknod})
	slices.SortFunc(list.exceptions, func(a, b exception) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(b.major, a.major), cmp.Compare(b.minor, a.minor))
	})
	return list, nil
}

func parseAccess(s string) (access uint8, err error) {
	for _, c := range s {
		switch c {
		case 'r':
			access |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			access |= unix.BPF_DEVCG_ACC_WRITE
		case 'm':
			access |= mknod
		default:
			return 0, fmt.Errorf("access %q: want letters of rwm", s)
		}
	}
	return access, nil
}

// apply adds to the exceptions what differs from the rest, and takes from
// them what does not.
func (l *deviceList) apply(allow bool, e exception) {
	i := slices.IndexFunc(l.exceptions, func(have exception) bool { return have.device == e.device })
	switch {
	case allow != l.allow && i < 0:
		l.exceptions = append(l.exceptions, e)
	case allow != l.allow:
		l.exceptions[i].access |= e.access
	case i >= 0:
		if l.exceptions[i].access &^= e.access; l.exceptions[i].access == 0 {
			l.exceptions = slices.Delete(l.exceptions, i, i+1)
		}
	}
}

// write sets the list on v1.
func (l deviceList) write(w *writer, dir string) {
	w.dir = dir
	all, each := "devices.deny", "devices.allow"
	if l.allow {
		all, each = each, all
	}
	w.write(all, "a")
	values := make([]string, len(l.exceptions))
	for i, e := range l.exceptions {
		values[i] = e.String()
	}
	w.write(each, values...)
}

func (e exception) String() string {
	text := string(e.kind) + " " + orAll(e.major) + ":" + orAll(e.minor) + " "
	for i, letter := range []byte("mrw") {
		if e.access&(1<<i) != 0 {
			text += string(letter)
		}
	}
	return text
}

func orAll(n int64) string {
	if n < 0 {
		return "*"
	}
	return strconv.FormatInt(n, 10)
}

// program returns eBPF for the list: one block for each exception, which the
// next one follows when anything differs. A use that needs more than an
// allowing exception gives falls through; one that touches a denying one is
// caught.
func (l deviceList) program() []byte {
	const r0, r1, r2, r3, r4, r5 = 0, 1, 2, 3, 4, 5
	var p []byte
	op := func(code, dst, src byte, off int16, imm int32) {
		p = append(p, code, dst|src<<4)
		p = binary.NativeEndian.AppendUint16(p, uint16(off))
		p = binary.NativeEndian.AppendUint32(p, uint32(imm))
	}
	const ldxW, and32, rsh32, mov32, mov32imm, jne, jneReg, jeq, exit = 0x61, 0x54, 0x74, 0xbc, 0xb4, 0x55, 0x5d, 0x15, 0x95
	op(ldxW, r2, r1, 0, 0) // struct bpf_cgroup_dev_ctx: access_type, major, minor
	op(mov32, r3, r2, 0, 0)
	op(and32, r2, 0, 0, 0xffff) // kind
	op(rsh32, r3, 0, 0, 16)     // use
	op(ldxW, r4, r1, 4, 0)
	op(ldxW, r5, r1, 8, 0)
	verdict := map[bool]int32{false: 0, true: 1}
	for _, e := range l.exceptions {
		rest := int16(5) // instructions of the block behind the test
		if e.major >= 0 {
			rest++
		}
		if e.minor >= 0 {
			rest++
		}
		kind := map[byte]int32{'c': unix.BPF_DEVCG_DEV_CHAR, 'b': unix.BPF_DEVCG_DEV_BLOCK}[e.kind]
		op(jne, r2, 0, rest, kind)
		if e.major >= 0 {
			rest--
			op(jne, r4, 0, rest, int32(e.major))
		}
		if e.minor >= 0 {
			rest--
			op(jne, r5, 0, rest, int32(e.minor))
		}
		op(mov32, r1, r3, 0, 0)
		op(and32, r1, 0, 0, int32(e.access))
		if l.allow {
			op(jeq, r1, 0, 2, 0)
		} else {
			op(jneReg, r1, r3, 2, 0)
		}
		op(mov32imm, r0, 0, 0, verdict[!l.allow])
		op(exit, 0, 0, 0, 0)
	}
	op(mov32imm, r0, 0, 0, verdict[l.allow])
	op(exit, 0, 0, 0, 0)
	return p
}

// attach puts the list's program on a group of the unified tree.
func (ps *programs) attach(l deviceList, cgroup int) error {
	text := l.program()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	program, ok := ps.loaded[string(text)]
	if !ok {
		var err error
		if program, err = load(text); err != nil {
			return err
		}
		ps.loaded[string(text)] = program
	}
	attr := struct{ target, program, kind, flags uint32 }{uint32(cgroup), uint32(program), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return fmt.Errorf("attach device program: %w", errno)
	}
	return nil
}

func load(text []byte) (int, error) {
	license := []byte("Apache-2.0\x00")
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&text[0])
	pin.Pin(&license[0])
	attr := struct {
		kind, count    uint32
		text, license  uint64
		level, logSize uint32
		log            uint64
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(text) / 8),
		text: uint64(uintptr(unsafe.Pointer(&text[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0])))}
	for { // EAGAIN: a signal came while the kernel checked the program
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno == 0 {
			return int(fd), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return -1, fmt.Errorf("load device program: %w", errno)
		}
	}
}
