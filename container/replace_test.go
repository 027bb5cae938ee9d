package container

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// A path that leads through ".." is found whatever is renamed on the machine
// meanwhile: the kernel gives up then, and is asked again.
func TestPathIsFoundWhileFilesAreRenamed(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"/root", "/root/a", "/root/b", "/elsewhere"} {
		must(t, os.Mkdir(dir+d, 0o755))
	}
	must(t, os.WriteFile(dir+"/root/b/file", nil, 0o644))
	must(t, os.Symlink("../b", dir+"/root/a/link"))
	root, err := unix.Open(dir+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(root)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				os.Rename(dir+"/elsewhere", dir+"/moved")
				os.Rename(dir+"/moved", dir+"/elsewhere")
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	s := &Sandbox{ID: "x"}
	for range 20_000 {
		fd, err := s.openWithin(root, "/a/link/file")
		must(t, err)
		unix.Close(fd)
	}
}
