package bus

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// Format is the version of what the data directory holds, in all its parts. It
// is raised when an older Mayfly would misread the data.
const Format = 1

// The files of the data directory that belong to the bus.
const (
	lockFile   = "lock"      // held with flock by the process that has the directory open
	formatFile = "format"    // Format, then the version that wrote it first
	storeDir   = "jetstream" // named by the server
)

// lockDir takes the lock on dir, or says who has it. The kernel lets go of it
// when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		return nil, mayfly.Errorf(mayfly.Conflict, "data directory %s is in use by %s", dir, holder(f)).
			WithHint("stop that one, or choose another directory")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := writePID(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock: %w", err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func holder(f *os.File) string {
	data, err := io.ReadAll(io.LimitReader(f, 32))
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || convErr != nil {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}

// checkFormat refuses data that a newer Mayfly wrote. Format 1 is the first, so
// there is nothing older to upgrade.
func checkFormat(dir string) error {
	path := filepath.Join(dir, formatFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	number, version, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 {
		return mayfly.Errorf(mayfly.Invalid, "%s does not hold a format number but %.40q", path, data).
			WithHint("restore the data directory from a backup, or choose another one")
	}
	if n > Format {
		return mayfly.Errorf(mayfly.Invalid, "the data in %s has format %d, and this mayfly reads up to %d", dir, n, Format).
			WithHint("use the mayfly that wrote it (version %s) or a newer one", cmp.Or(version, "unknown"))
	}
	return nil
}

// writeFormat records the format, once.
func writeFormat(dir, version string) error {
	_, err := os.Stat(filepath.Join(dir, formatFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return replaceFile(dir, formatFile, fmt.Sprintf("%d %s\n", Format, version))
}

// replaceFile writes a file of dir whole or not at all, and durably.
func replaceFile(dir, name, text string) error {
	tmp, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write %s: %w", name, err)
	}
	return disk.SyncDir(dir)
}
