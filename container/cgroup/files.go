package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// write writes values into a control file, each in one call, as the kernel
// wants it. It goes around os.File, which would ask the poller about each file.
func write(dir, file string, values ...string) error {
	fd, err := open(dir+"/"+file, unix.O_WRONLY)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir + "/" + file, Err: err}
	}
	defer unix.Close(fd)
	for _, value := range values {
		for {
			_, err = unix.Write(fd, []byte(value))
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("write %q to %s/%s: %w", value, dir, file, err)
		}
	}
	return nil
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// read returns a control file without its last newline.
func read(dir, file string) (string, error) {
	text, err := os.ReadFile(dir + "/" + file)
	return strings.TrimSuffix(string(text), "\n"), err
}

// number reads a control file with one number; "max" is the largest.
func number(dir, file string) (int64, error) {
	text, err := read(dir, file)
	if err != nil {
		return 0, err
	}
	if text == "max" {
		return 1<<63 - 1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s/%s: %w", dir, file, err)
	}
	return n, nil
}

// keyed reads a control file whose lines are a name and a number.
func keyed(dir, file string) (map[string]int64, error) {
	text, err := read(dir, file)
	if err != nil {
		return nil, err
	}
	values := map[string]int64{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			values[name] = n
		}
	}
	return values, nil
}

func decimal[T int64 | uint64](n T) string { return fmt.Sprint(n) }
