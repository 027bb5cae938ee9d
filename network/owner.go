package network

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// portOwner describes the program that has a port of this machine, for an
// error. It looks through every process, so it is for that only.
func portOwner(proto uint8, port uint16) string {
	const unknown = "another program on this machine"
	tables := []string{"tcp", "tcp6"}
	if proto == unix.IPPROTO_UDP {
		tables = []string{"udp", "udp6"}
	}
	var inodes []string
	for _, t := range tables {
		f, err := os.Open("/proc/thread-self/net/" + t)
		if err != nil {
			continue
		}
		inodes = append(inodes, socketsOn(bufio.NewScanner(f), port)...)
		f.Close()
	}
	if len(inodes) == 0 {
		return unknown
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range fds {
		if !holdsSocket(dir, inodes) {
			continue
		}
		proc := filepath.Dir(dir)
		name, err := os.ReadFile(proc + "/comm")
		if err == nil {
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), filepath.Base(proc))
		}
	}
	return unknown
}

// socketsOn returns the inodes of the sockets bound to port in a table of
// /proc/net: those of connections are left out.
func socketsOn(table *bufio.Scanner, port uint16) []string {
	const listening, unconnected = "0A", "07"
	var inodes []string
	for table.Scan() {
		f := strings.Fields(table.Text())
		if len(f) < 10 || f[3] != listening && f[3] != unconnected {
			continue
		}
		_, hex, _ := strings.Cut(f[1], ":")
		if p, err := strconv.ParseUint(hex, 16, 16); err == nil && uint16(p) == port {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}

func holdsSocket(dir string, inodes []string) bool {
	entries, err := fs.ReadDir(os.DirFS(dir), ".")
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		inode, ok := strings.CutPrefix(target, "socket:[")
		return err == nil && ok && slices.Contains(inodes, strings.TrimSuffix(inode, "]"))
	})
}
