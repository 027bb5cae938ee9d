package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"golang.org/x/sys/unix"
)

// MountOptions returns the data for mount(2) of type overlay, so that every
// driver mounts the same root.
func (r Rootfs) MountOptions() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lowerdir=%s", strings.Join(r.Lower, ":"))
	if r.Upper != "" {
		fmt.Fprintf(&b, ",upperdir=%s,workdir=%s", r.Upper, r.Work)
		if r.Volatile {
			b.WriteString(",volatile")
		}
	}
	return b.String()
}

const (
	// maxLayers is the kernel's OVL_MAX_STACK.
	maxLayers = 500

	// maxData is what mount(2) takes of data: a page, its NUL included.
	maxData = 4096 - 1

	// layersName is a directory of links in the container's own.
	layersName = "/layers"
)

// mountData is MountOptions in a form that the kernel takes whatever the number
// and the names of the layers are. Where it has to, it makes links with short
// names in a directory beneath own, and returns that directory: the paths are
// relative to it. Newer kernels take layers one by one, but this serves all.
func (r Rootfs) mountData(own string) (data, dir string, err error) {
	switch n := len(r.Lower); {
	case n == 0:
		return "", "", mayfly.Errorf(mayfly.Invalid, "the container has no root filesystem")
	case n > maxLayers:
		return "", "", mayfly.Errorf(mayfly.Invalid, "the image has %d layers and the kernel mounts %d", n, maxLayers).
			WithHint("build the image with fewer layers, or squash it")
	}
	data = r.MountOptions()
	if len(data) <= maxData && !r.ambiguous() {
		return data, "", nil
	}
	dir = own + layersName
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", "", err
	}
	short := Rootfs{Volatile: r.Volatile, Lower: make([]string, len(r.Lower))}
	link := func(to, name string) string {
		if lerr := os.Symlink(to, dir+"/"+name); err == nil {
			err = lerr
		}
		return name
	}
	for i, l := range r.Lower {
		short.Lower[i] = link(l, strconv.FormatInt(int64(i), 36))
	}
	if r.Upper != "" {
		short.Upper, short.Work = link(r.Upper, "upper"), link(r.Work, "work")
	}
	return short.MountOptions(), dir, err
}

// ambiguous says whether a path has a character that means something to overlayfs.
func (r Rootfs) ambiguous() bool {
	const special = `:,\`
	for _, l := range r.Lower {
		if strings.ContainsAny(l, special) {
			return true
		}
	}
	return strings.ContainsAny(r.Upper+r.Work, special)
}

// mount mounts the root on the host.
func (r Rootfs) mount(at, own string) error {
	data, dir, err := r.mountData(own)
	if err != nil {
		return err
	}
	if dir == "" {
		return unix.Mount("overlay", at, "overlay", 0, data)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: a thread with a directory of its own ends here
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Chdir(dir)
		}
		if err == nil {
			err = unix.Mount("overlay", at, "overlay", 0, data)
		}
		result <- err
	}()
	return <-result
}
