package container

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// A mount needs something to be mounted on. What an image has not got of it
// would be made in every container's writable layer, with a copy of each
// directory on the way: dearer than the mounts. So there is one layer below all
// images that has it. An image's own files, links and removals are above it and
// count as ever.

// makePoints fills the layer at dir.
func makePoints(dir string) error {
	for _, d := range []string{"", "/proc", "/sys", "/dev", "/etc", filepath.Dir(runDir), runDir} {
		if err := os.Mkdir(dir+d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(dir+d, 0o755); err != nil { // whatever our umask
			return err
		}
	}
	for _, f := range etcFiles {
		if err := os.WriteFile(dir+"/etc/"+f, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// layers adds the mount points to the layers of an image, where that is not
// seen: on the same filesystem, for with two of them the numbers of devices and
// files that programs see are others.
func (h *Host) layers(image []string) []string {
	if len(image) == 0 || len(image) >= maxLayers || filesystem(image[0]) != h.pointsOn {
		return image
	}
	return append(slices.Clip(image), h.points)
}

// filesystem is the device number of what a path is on, 0 if it is not there.
func filesystem(path string) uint64 {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return 0
	}
	return st.Dev
}
