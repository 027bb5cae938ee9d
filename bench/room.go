package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// unified is where a hybrid host mounts cgroup v2 beside v1. crun takes its
// presence for a host that it cannot use.
const unified = "/sys/fs/cgroup/unified"

// rooms are threads that share a mount namespace in which unified is not
// mounted. What is executed on one of them runs there, and pays nothing for it.
// On hosts that are not hybrid they are plain threads.
type rooms struct {
	jobs chan func()
	err  error
}

// mostRooms bounds how many programs run in rooms at once.
const mostRooms = 16

func newRooms() *rooms {
	r := &rooms{jobs: make(chan func())}
	first := make(chan string)
	go r.open("", first)
	ns := <-first
	for range mostRooms - 1 {
		entered := make(chan string)
		go r.open(ns, entered)
		<-entered
	}
	return r
}

// do calls f on a thread in the namespace.
func (r *rooms) do(f func() error) error {
	if r.err != nil {
		return r.err
	}
	done := make(chan error, 1)
	r.jobs <- func() { done <- f() }
	return <-done
}

func (r *rooms) close() { close(r.jobs) }

// open makes a room, in the namespace ns if there is one already, says where
// its namespace is, and works there. The thread ends with it, as it is never
// unlocked.
func (r *rooms) open(ns string, opened chan<- string) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // /proc/self would show the room
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			r.open(ns, opened)
		}()
		<-elsewhere // not here, while we hold this thread
		runtime.UnlockOSThread()
		return
	}
	if err := enter(ns); err != nil {
		r.err = fmt.Errorf("make a mount namespace: %w", err)
	}
	opened <- fmt.Sprintf("/proc/self/task/%d/ns/mnt", unix.Gettid())
	for job := range r.jobs {
		job()
	}
}

func enter(ns string) error {
	if _, err := os.Stat(unified + "/cgroup.procs"); err != nil {
		return nil
	}
	if ns == "" {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		// A slave lets go of what others unmount.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			return err
		}
		return unix.Unmount(unified, unix.MNT_DETACH)
	}
	f, err := os.Open(ns)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNS)
}
