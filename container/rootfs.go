package container

import (
	"fmt"
	"strings"
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
