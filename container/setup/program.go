package setup

import (
	"encoding/binary"
	"errors"
	"strings"
)

// Program is a list of steps. Paths of the container are absolute. The zero
// value is an empty program.
type Program struct {
	b   []byte
	bad bool // a string had a NUL byte, at which the kernel would end it
}

var errNUL = errors.New("a string holds a NUL byte")

// Err returns an error when a string cannot be given to the kernel.
func (p *Program) Err() error {
	if p.bad {
		return errNUL
	}
	return nil
}

// Bytes returns the encoded program. It stays valid until the next step is added.
func (p *Program) Bytes() []byte { return p.b }

// Reset empties the program and keeps its memory.
func (p *Program) Reset() { p.b, p.bad = p.b[:0], false }

func (p *Program) op(o op) *Program {
	if len(p.b) == 0 {
		p.b = append(p.b, Working)
	}
	p.b = append(p.b, byte(o))
	return p
}

func (p *Program) u32(v uint32) *Program {
	p.b = binary.LittleEndian.AppendUint32(p.b, v)
	return p
}

func (p *Program) u64(v uint64) *Program {
	p.b = binary.LittleEndian.AppendUint64(p.b, v)
	return p
}

// str appends a string with the NUL that system calls want, so that the stage
// hands it to the kernel as it stands.
func (p *Program) str(s string) *Program {
	p.bad = p.bad || strings.IndexByte(s, 0) >= 0
	p.u32(uint32(len(s)))
	p.b = append(p.b, s...)
	p.b = append(p.b, 0)
	return p
}

func (p *Program) list(l []string) *Program {
	p.u32(uint32(len(l)))
	for _, s := range l {
		p.str(s)
	}
	return p
}

func (p *Program) flag(v bool) *Program {
	if v {
		return p.u32(1)
	}
	return p.u32(0)
}

// Write writes data into the existing file at a path, in one call. With
// optional set, a refusal (EPERM, EACCES) is a warning.
func (p *Program) Write(path, data string, optional bool) {
	p.op(opWrite).str(path).str(data).flag(optional)
}

// Setns joins the namespace behind descriptor n of those that came for steps,
// counted from 0; kind is its CLONE_NEW flag.
func (p *Program) Setns(n int, kind uint32) { p.op(opSetns).u32(uint32(n)).u32(kind) }

// Unshare leaves the namespaces of the CLONE_NEW flags.
func (p *Program) Unshare(kinds uint32) { p.op(opUnshare).u32(kinds) }

// Keyring joins the session keyring of that name and adds to its permissions.
func (p *Program) Keyring(name string, permissions uint32) {
	p.op(opKeyring).str(name).u32(permissions)
}

// Loopback brings the interface lo up.
func (p *Program) Loopback() { p.op(opLoopback) }

// Propagate sets the propagation flags (MS_SLAVE and so on) of the host's root.
func (p *Program) Propagate(flags uint64) { p.op(opPropagate).u64(flags) }

// Overlay mounts the container's root at an existing directory of the host,
// with data for mount(2), whose relative paths start at dir. Paths of later
// steps are beneath it.
func (p *Program) Overlay(at, dir, data string) { p.op(opOverlay).str(at).str(dir).str(data) }

// Enter makes a directory of the container current. With plain set it must
// be reached without any symbolic link.
func (p *Program) Enter(path string, plain bool) { p.op(opEnter).str(path).flag(plain) }

// Mount mounts a filesystem over the current directory. With keep set, and
// if Enter found the directory there, the new one gets its mode.
func (p *Program) Mount(source, fstype string, flags uint64, data string, keep bool) {
	p.op(opMount).str(source).str(fstype).u64(flags).str(data).flag(keep)
}

// Bind is a bind mount. Set and Clear are MOUNT_ATTR flags (mount_setattr(2)).
type Bind struct {
	Source           string // of the host
	Target           string
	Recursive        bool
	Set, Clear       uint64   // of the topmost mount
	RecSet, RecClear uint64   // of all of them
	Propagation      []uint64 // MS_PRIVATE and so on, applied in order
	Proc             bool     // the target may be a file of procfs
}

// Bind mounts a file or directory of the host beneath the root.
func (p *Program) Bind(b Bind) {
	p.op(opBind).str(b.Source).str(b.Target).flag(b.Recursive)
	p.u64(b.Set).u64(b.Clear).u64(b.RecSet).u64(b.RecClear).flag(b.Proc)
	p.u32(uint32(len(b.Propagation)))
	for _, f := range b.Propagation {
		p.u64(f)
	}
}

// PropagateMount sets the propagation flags of the mount at a path of the container.
func (p *Program) PropagateMount(path string, flags uint64) {
	p.Enter(path, false)
	p.Mount("", "", flags, "", false)
}

// Mknod makes a device in the current directory unless the name is taken.
func (p *Program) Mknod(name string, mode uint32, dev uint64, uid, gid uint32) {
	p.op(opMknod).str(name).u32(mode).u64(dev).u32(uid).u32(gid)
}

// Symlink makes a link in the current directory unless the name is taken.
func (p *Program) Symlink(target, name string) { p.op(opSymlink).str(target).str(name) }

// Unlink removes a file of the current directory, if there.
func (p *Program) Unlink(name string) { p.op(opUnlink).str(name) }

// Pivot makes the root that Overlay mounted the root and lets the host's go.
func (p *Program) Pivot() { p.op(opPivot) }

// Null connects the standard streams to the container's /dev/null.
func (p *Program) Null() { p.op(opNull) }

// Remount changes the flags of the mount at a path, after Pivot.
func (p *Program) Remount(path string, flags uint64) { p.op(opRemount).str(path).u64(flags) }

// Readonly makes what is at a path read-only, if there, after Pivot.
func (p *Program) Readonly(path string) { p.op(opReadonly).str(path) }

// Mask hides what is at a path, if there, after Pivot.
func (p *Program) Mask(path string) { p.op(opMask).str(path) }

// Umask sets the umask.
func (p *Program) Umask(mask uint32) { p.op(opUmask).u32(mask) }

// Hostname sets the host name.
func (p *Program) Hostname(name string) { p.op(opHostname).str(name) }

// Domainname sets the NIS domain name.
func (p *Program) Domainname(name string) { p.op(opDomainname).str(name) }

// Personality sets the execution domain (personality(2)).
func (p *Program) Personality(domain uint32) { p.op(opPersonality).u32(domain) }

// Rlimit sets a resource limit. One above what this process may set is cut to
// that, with a warning.
func (p *Program) Rlimit(resource uint32, soft, hard uint64) {
	p.op(opRlimit).u32(resource).u64(soft).u64(hard)
}

// NoNewPrivs sets no_new_privs.
func (p *Program) NoNewPrivs() { p.op(opNoNewPrivs) }

// Seccomp installs a filter (struct sock_filter in memory) with flags for
// seccomp(2): here or, with last set, as the last thing before Exec executes.
func (p *Program) Seccomp(filter []byte, flags uint32, last bool) {
	p.op(opSeccomp).u32(flags).flag(last)
	p.u32(uint32(len(filter)))
	p.b = append(append(p.b, filter...), 0)
}

// Chdir makes a directory of the container current and, unless forbidden to
// root as well, is done before the user changes.
func (p *Program) Chdir(path string) { p.op(opChdir).str(path) }

// Bounding drops every capability from the bounding set but those of the mask.
func (p *Program) Bounding(keep uint64) { p.op(opBounding).u64(keep) }

// User changes groups, gid and uid, and keeps the permitted capabilities.
func (p *Program) User(uid, gid uint32, groups []uint32) {
	p.op(opUser).u32(uid).u32(gid).u32(uint32(len(groups)))
	for _, g := range groups {
		p.u32(g)
	}
}

// Caps sets the capability sets.
func (p *Program) Caps(effective, permitted, inheritable, ambient uint64) {
	p.op(opCaps).u64(effective).u64(permitted).u64(inheritable).u64(ambient)
}

// Home puts HOME=, as the container's /etc/passwd has it for the uid, in the
// place of the environment's entry number index.
func (p *Program) Home(uid, index uint32) { p.op(opHome).u32(uid).u32(index) }

// Exec executes the first of the paths that is an executable file.
func (p *Program) Exec(paths, argv, env []string) { p.op(opExec).list(paths).list(argv).list(env) }
