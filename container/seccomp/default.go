package seccomp

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultProfile is seccomp/default.json of github.com/moby/profiles at commit
// cd3bed8061c7b7378b61fc6827c7885779417a75, unchanged (Apache-2.0, the Moby
// authors). TestDefaultIsUpstream holds its hash.
//
//go:embed default.json
var defaultProfile []byte

// conditional is a profile as Docker writes them: rules that apply by
// capability, architecture and kernel.
type conditional struct {
	specs.LinuxSeccomp
	ArchMap []struct {
		Architecture     specs.Arch   `json:"architecture"`
		SubArchitectures []specs.Arch `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []struct { // the tag hides LinuxSeccomp's own
		specs.LinuxSyscall
		Includes condition `json:"includes"`
		Excludes condition `json:"excludes"`
	} `json:"syscalls"`
}

type condition struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"` // "4.8"
}

// Default returns Docker's default profile as it is for a container with the
// bounding capabilities caps ("CAP_CHOWN", ...) on a machine of architecture
// goarch and on the running kernel. The result is the caller's own. For an
// architecture outside Docker's list Architectures is empty.
func Default(caps []string, goarch string) *specs.LinuxSeccomp {
	var from conditional
	if err := json.Unmarshal(defaultProfile, &from); err != nil {
		panic("seccomp: the embedded profile is broken: " + err.Error())
	}
	profile := from.LinuxSeccomp
	for _, m := range from.ArchMap {
		if family, ok := families(goarch); ok && m.Architecture == family.native {
			profile.Architectures = append([]specs.Arch{m.Architecture}, m.SubArchitectures...)
		}
	}
	kernel := runningKernel()
	for _, call := range from.Syscalls {
		if call.Includes.holds(caps, goarch, kernel) && !call.Excludes.any(caps, goarch, kernel) {
			profile.Syscalls = append(profile.Syscalls, call.LinuxSyscall)
		}
	}
	return &profile
}

// holds reports whether everything that c asks for is there.
func (c condition) holds(caps []string, goarch string, kernel [2]int) bool {
	for _, want := range c.Caps {
		if !slices.Contains(caps, want) {
			return false
		}
	}
	return (len(c.Arches) == 0 || slices.Contains(c.Arches, goarch)) && (c.MinKernel == "" || atLeast(kernel, c.MinKernel))
}

// any reports whether anything that c names is there.
func (c condition) any(caps []string, goarch string, kernel [2]int) bool {
	for _, unwanted := range c.Caps {
		if slices.Contains(caps, unwanted) {
			return true
		}
	}
	return slices.Contains(c.Arches, goarch) || c.MinKernel != "" && atLeast(kernel, c.MinKernel)
}

func runningKernel() [2]int {
	var uts unix.Utsname
	if unix.Uname(&uts) != nil {
		return [2]int{}
	}
	return kernelVersion(unix.ByteSliceToString(uts.Release[:]))
}

func atLeast(kernel [2]int, least string) bool {
	want := kernelVersion(least)
	return slices.Compare(kernel[:], want[:]) >= 0
}

// kernelVersion reads the two leading numbers of "6.1.0-28-amd64"; what it
// cannot read is zero.
func kernelVersion(release string) (version [2]int) {
	fmt.Sscanf(release, "%d.%d", &version[0], &version[1])
	return version
}
