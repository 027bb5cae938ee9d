// Package material keeps secrets and configs on record, and gives them to
// containers: as variables, and as files that are renewed while a container runs.
//
// A secret is never on a disk but sealed (package secret): its files are on a tmpfs
// of the machine, in a directory for each instance, and its variables only in memory
// and in the programs. A config is a value with a history. Whether what a workload
// names is set and is what it was given can be asked; what follows when it is not,
// such as a restart, is the caller's.
package material

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/secret"
	"github.com/mayfly-run/mayfly/store"
)

// Store keeps secrets and configs, and what of them the containers of this machine
// were given:
//
//	DATA/secret.key             opens the secrets
//	DATA/material/ID/secrets/   mounted at /run/secrets, files replaced as a whole
//	DATA/material/ID/files/N    mounted at a path of its own, replaced with its mount
//	DATA/material/ID/given      which revisions the instance has
//
// A config's usual place, /run/mayfly/config, is in the sandbox's own files.
type Store struct {
	dir    string
	record *store.Store
	keys   *secret.Keyring
	node   string
}

// mostMB is what all instances together may have been given, in MB.
const mostMB = 256

// Open opens what there is beneath data, which must be there. node is the name of
// this machine's node. Recover has to be called before anything is given.
func Open(data string, record *store.Store, node string) (*Store, error) {
	data, err := filepath.Abs(data) // what is mounted from there
	if err != nil {
		return nil, err
	}
	s := &Store{dir: data + "/material", record: record, keys: secret.NewKeyring(data + "/secret.key"), node: node}
	return s, os.MkdirAll(s.dir, 0o700)
}

// mount makes the directory a tmpfs, unless it is one. It is done when the first
// instance needs it: most nodes start without.
func (s *Store) mount() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.dir, Err: err}
	}
	if st.Type == unix.TMPFS_MAGIC && s.mounted() {
		return nil
	}
	options := "mode=700,size=" + strconv.Itoa(mostMB) + "m"
	err := unix.Mount("mayfly", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options+",noswap")
	if errors.Is(err, unix.EINVAL) { // Linux 6.4 brought noswap
		err = unix.Mount("mayfly", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)
	}
	if err != nil {
		return &fs.PathError{Op: "mount", Path: s.dir, Err: err}
	}
	return nil
}

func (s *Store) mounted() bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, s.dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Close gives the memory back if no instance has anything in it.
func (s *Store) Close() error {
	left, err := os.ReadDir(s.dir)
	if err != nil || len(left) > 0 || !s.mounted() {
		return err
	}
	return unix.Unmount(s.dir, unix.MNT_DETACH)
}

// unnamed refuses what a workload names that is deployed.
func (s *Store) unnamed(what, space, name string, names func(*mayfly.Workload) bool) error {
	for _, w := range s.record.Snapshot().WorkloadsIn(space) {
		if names(&w.Workload) {
			return mayfly.Errorf(mayfly.Conflict, "%s %s is named by workload %s", what, name, w.Workload.Name).
				WithHint("delete that first, or remove the %s with --force: the workload cannot be started then", what)
		}
	}
	return nil
}

func (s *Store) news(kind, space, subject, text string) {
	s.record.RecordNews(mayfly.News{Space: space, Type: kind, Subject: subject, Node: s.node, Text: text})
}
