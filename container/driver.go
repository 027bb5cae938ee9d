package container

import (
	"context"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Driver makes containers out of OCI runtime-spec configs. The drivers differ
// in how they build the wall, never in what is seen from the inside:
// containertest holds them to that.
type Driver interface {
	// Name is the driver's, as a user chooses it: "native", "crun", "runc".
	Name() string

	// Create builds the container and returns once its first process,
	// Spec.Process.Args, has been executed in it, confined as the Spec says.
	// On an error nothing is left over.
	Create(ctx context.Context, b *Bundle) (*Child, error)

	// Delete removes what Create left outside the container's processes:
	// mounts, cgroups, the runtime's own state. The processes are dead. What
	// is already gone is not an error, so it may be repeated, and it works on
	// what a daemon that was killed had half made.
	Delete(ctx context.Context, id, dir string) error
}

// Bundle is what a Driver makes a container of.
type Bundle struct {
	ID     string
	Dir    string      // a directory of the container's own, for the driver's files
	Spec   *specs.Spec // Root.Path is set by the driver; Linux.CgroupsPath names the cgroup
	Rootfs Rootfs
	NetNS  *os.File   // the network namespace to join; nil leaves it to the Spec
	Files  []*os.File // descriptors 3, 4, ... of the first process
}

// Rootfs is an overlay: read-only layers, and on top a directory that takes
// what the container writes.
type Rootfs struct {
	Lower    []string // topmost first, at least one
	Upper    string   // empty when the root is read-only for good
	Work     string   // overlayfs's own, on the filesystem of Upper
	Volatile bool     // what is written need not survive a power cut
}

// Child is a container's first process.
type Child struct {
	PID int

	// Wait blocks until the process has ended and returns its status as
	// wait4(2) gives it. It is nil when the process is not our child; then
	// the end is seen by pidfd and the status is in the file of statuses.
	Wait func() (uint32, error)
}
