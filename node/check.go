package node

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/material"
)

// The least that init and the kernel can do with.
const (
	leastMemory = 1 << 20 // bytes
	leastCPUs   = 0.01    // a millisecond of each tenth of a second
	leastPids   = 2       // init and the program
	leastFiles  = 16
)

// checkBase checks the description of the stack of a workload, and of its build.
func checkBase(w *mayfly.Workload) error {
	if err := w.Build.Check(); err != nil {
		return err
	}
	if w.Build != nil && w.Code == "" {
		return mayfly.Errorf(mayfly.Invalid, "%s says how to build its code, and has none", w.Name)
	}
	if w.Base == nil {
		return nil
	}
	if err := mayfly.CheckName("stack", w.Stack); err != nil {
		return err
	}
	if err := w.Base.Check(); err != nil {
		return mayfly.Errorf(mayfly.Invalid, "stack %s: %w", w.Stack, err)
	}
	return nil
}

func checkWorkload(w *mayfly.Workload) error {
	if err := cmp.Or(mayfly.CheckName("function", w.Name), checkRoutes(w)); err != nil {
		return err
	}
	if (w.Image == "") == (w.Stack == "") {
		return mayfly.Errorf(mayfly.Invalid, "function %s needs either an image or a stack", w.Name)
	}
	if err := checkBase(w); err != nil {
		return err
	}
	if w.Protocol == "" {
		w.Protocol = mayfly.HTTP
		if w.Handler != "" {
			w.Protocol = mayfly.Handler
		}
	}
	switch w.Protocol {
	case mayfly.HTTP, mayfly.CGI, mayfly.Stdio:
	case mayfly.Handler:
		if w.Stack == "" || w.Handler == "" {
			return mayfly.Errorf(mayfly.Invalid, "function %s has protocol handler, which needs stack, code and handler", w.Name)
		}
	default:
		return mayfly.Errorf(mayfly.Invalid, "function %s: protocol %q is not known", w.Name, w.Protocol).
			WithHint("use http, handler, stdio or cgi")
	}
	switch w.Isolation {
	case "":
		w.Isolation = mayfly.IsolationRun
	case mayfly.IsolationRun:
	case mayfly.IsolationInstance:
		if !listens(w.Protocol) {
			return mayfly.Errorf(mayfly.Invalid, "function %s: isolation instance needs a program that listens", w.Name).
				WithHint("use protocol http or handler, or isolation: run")
		}
	default:
		return mayfly.Errorf(mayfly.Invalid, "function %s: isolation %q is not known", w.Name, w.Isolation).
			WithHint("use run or instance")
	}
	switch w.Network {
	case "", "bridge", "none", "host":
	default:
		return mayfly.Errorf(mayfly.Invalid, "function %s: network %q is not known", w.Name, w.Network).
			WithHint("use bridge, none or host")
	}
	w.Resources = functionResources(w.Resources)
	return cmp.Or(checkResources(w.Resources), checkMounts(w.Mounts), checkVolumes(w.Volumes), checkMaterial(w))
}

// functionResources sets what a function gets where nobody says.
func functionResources(r mayfly.Resources) mayfly.Resources {
	r.Memory = cmp.Or(r.Memory, functionMemory)
	r.Pids = cmp.Or(r.Pids, functionPids)
	return r
}

func checkSpec(spec *mayfly.InstanceSpec) error {
	if spec.Image == "" {
		return mayfly.Errorf(mayfly.Invalid, "an instance needs an image")
	}
	if spec.Name != "" {
		if err := mayfly.CheckName("instance", spec.Name); err != nil {
			return err
		}
	}
	if err := checkHostname(spec.Hostname); err != nil {
		return err
	}
	switch spec.Network {
	case "", "bridge":
	case "none", "host":
		if len(spec.Ports) > 0 {
			return mayfly.Errorf(mayfly.Invalid, "ports cannot be published with network %q", spec.Network)
		}
	default:
		return mayfly.Errorf(mayfly.Invalid, "network %q is not known", spec.Network).WithHint("use bridge, none or host")
	}
	return cmp.Or(checkResources(spec.Resources), checkMounts(spec.Mounts), checkVolumes(spec.Volumes))
}

// hostname is RFC 1123's, with dots.
var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func checkHostname(name string) error {
	const most = 64 // sethostname(2)
	if name == "" || len(name) <= most && hostname.MatchString(name) {
		return nil
	}
	return mayfly.Errorf(mayfly.Invalid, "%.80q is not a host name", name).
		WithHint("use at most %d of a-z, 0-9, '-' and '.'", most)
}

func checkResources(r mayfly.Resources) error {
	low := func(what string, have, least any) error {
		return mayfly.Errorf(mayfly.Invalid, "%s %v is too little to make a container", what, have).WithHint("give at least %v", least)
	}
	switch {
	case r.Memory != 0 && r.Memory < leastMemory:
		return low("memory", strconv.FormatInt(r.Memory, 10)+" bytes", "1 MB")
	case r.CPUs != 0 && r.CPUs < leastCPUs:
		return low("cpus", r.CPUs, leastCPUs)
	case r.Pids != 0 && r.Pids < leastPids:
		return low("a limit of processes of", r.Pids, leastPids)
	case r.Files != 0 && r.Files < leastFiles:
		return low("a limit of open files of", r.Files, leastFiles)
	}
	return nil
}

func checkTarget(target string) error {
	if !strings.HasPrefix(target, "/") || path.Clean(target) == "/" {
		return mayfly.Errorf(mayfly.Invalid, "mount target %q is not an absolute path below /", target)
	}
	if ours(path.Clean(target)) {
		return mayfly.Errorf(mayfly.Invalid, "mount target %s is the container's own", target).WithHint("choose another")
	}
	return nil
}

func checkVolumes(mounts []mayfly.VolumeMount) error {
	for _, m := range mounts {
		if err := cmp.Or(mayfly.CheckName("volume", m.Volume), checkTarget(m.Target)); err != nil {
			return err
		}
	}
	return nil
}

// checkMaterial refuses places for secrets and configs that are the container's
// own. What is in /run/mayfly is on the disk, which no secret may be.
func checkMaterial(w *mayfly.Workload) error {
	for _, m := range w.Secrets {
		if m.Target != "" {
			if err := checkTarget(m.Target); err != nil {
				return err
			}
		}
	}
	for _, m := range w.Configs {
		if m.Target != "" && !strings.HasPrefix(path.Clean(m.Target), material.ConfigsDir+"/") {
			if err := checkTarget(m.Target); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkMounts(mounts []mayfly.Mount) error {
	for _, m := range mounts {
		if err := checkTarget(m.Target); err != nil {
			return err
		}
		switch m.Type {
		case "tmpfs":
		case "bind":
			if !strings.HasPrefix(m.Source, "/") {
				return mayfly.Errorf(mayfly.Invalid, "mount source %q is not an absolute path", m.Source)
			}
			if _, err := os.Stat(m.Source); err != nil {
				var errno syscall.Errno
				errors.As(err, &errno)
				return mayfly.Errorf(mayfly.Invalid, "mount source %s: %w", m.Source, errno)
			}
		default:
			return mayfly.Errorf(mayfly.Invalid, "mount type %q is not known", m.Type).WithHint("use bind or tmpfs")
		}
	}
	return nil
}

// ours reports whether a container does not work with something else there.
func ours(target string) bool {
	switch target {
	case "/dev", "/proc", "/run", "/run/mayfly":
		return true
	}
	return strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "/run/mayfly/")
}

// explain says in a user's words why no container could be made, where the
// user can do something about it. The rest keeps the driver's words, once.
func (t *template) explain(id string, err error) error {
	var said *mayfly.Error
	if errors.As(err, &said) {
		return said
	}
	text := err.Error()
	for _, prefix := range []string{"create container: ", "create container " + id + ": "} {
		text = strings.TrimPrefix(text, prefix)
	}
	var errno syscall.Errno
	errors.As(err, &errno)
	for _, m := range t.config.Mounts {
		if strings.HasPrefix(text, fmt.Sprintf("bind %s on %s: ", m.Source, m.Target)) {
			if errno == syscall.EINVAL {
				return mayfly.Errorf(mayfly.Invalid, "cannot mount %s on %s: only one of them is a folder", m.Source, m.Target)
			}
			return mayfly.Errorf(mayfly.Invalid, "cannot mount %s on %s: %w", m.Source, m.Target, errno)
		}
	}
	switch {
	case errno != 0 && strings.HasPrefix(text, "find "+t.config.WorkDir+": "):
		return mayfly.Errorf(mayfly.Invalid, "the working directory %s: %w", t.config.WorkDir, errno)
	case strings.Contains(text, "memory limit may be too low"):
		return mayfly.Errorf(mayfly.Invalid, "memory %d bytes is too little to make a container", t.config.Resources.Memory).
			WithHint("give more")
	}
	return &makeError{"make container " + id + ": " + text, err}
}

// makeError is why a container could not be made, without repetitions.
type makeError struct {
	text  string
	cause error
}

func (e *makeError) Error() string { return e.text }
func (e *makeError) Unwrap() error { return e.cause }

// checkRoutes writes routes in the way in which they are kept, and refuses those
// that cannot lead to the workload.
func checkRoutes(w *mayfly.Workload) error {
	for i, r := range w.Routes {
		clean, _, err := r.Clean()
		if err != nil {
			return err
		}
		if err := w.CheckRoute(clean); err != nil {
			return err
		}
		if w.Routes[i] != clean {
			w.Routes = slices.Clone(w.Routes)
			w.Routes[i] = clean
		}
	}
	return nil
}
