package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// flood writes n bytes to each of stdout and stderr at once: lines of 64 bytes
// that are numbered and name their stream.
func flood(n int) {
	var wg sync.WaitGroup
	for i, f := range []*os.File{os.Stdout, os.Stderr} {
		wg.Go(func() {
			var b bytes.Buffer
			for line := 0; line < n/64; line++ {
				fmt.Fprintf(&b, "%d %-61d\n", i+1, line)
				if b.Len() > 30000 || line == n/64-1 {
					if _, err := f.Write(b.Bytes()); err != nil {
						fail(err)
					}
					b.Reset()
				}
			}
		})
	}
	wg.Wait()
}

// memory takes n bytes of memory that is really there, and says so.
func memory(n int) {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		fail(err)
	}
	for i := 0; i < n; i += os.Getpagesize() {
		b[i] = 1
	}
	fmt.Println("taken")
}

// threads starts processes until it may start no more, and says how many.
func threads() {
	var running []*exec.Cmd
	var ends []*os.File
	for len(running) < 10000 {
		r, w, err := os.Pipe()
		if err != nil {
			break
		}
		c := exec.Command("/bin/busybox", "cat")
		c.Stdin = r
		err = c.Start()
		r.Close()
		ends = append(ends, w)
		if err != nil {
			fmt.Println(len(running), err)
			break
		}
		running = append(running, c)
	}
	for _, w := range ends {
		w.Close()
	}
	for _, c := range running {
		c.Wait()
	}
}

// files opens files until it may open no more, and says how many.
func files() {
	for n := 0; ; n++ {
		if _, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0); err != nil {
			fmt.Println(n, err)
			return
		}
	}
}

// orphans leaves n grandchildren to init, ends them, and waits until no trace
// of them is left.
func orphans(n int) {
	r, w, err := os.Pipe()
	if err != nil {
		fail(err)
	}
	for range n {
		c := exec.Command(os.Args[0], "orphan")
		c.Stdin = r
		if err := c.Run(); err != nil {
			fail(err)
		}
	}
	fmt.Println("orphaned", count("busybox"))
	r.Close()
	w.Close()
	for count("busybox") > 0 {
		runtime.Gosched()
	}
	fmt.Println("reaped")
}

// orphan is the parent that ends before its child.
func orphan() {
	c := exec.Command("/bin/busybox", "cat")
	c.Stdin = os.Stdin
	if err := c.Start(); err != nil {
		fail(err)
	}
}

// listen answers one connection.
func listen(addr, text string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fail(err)
	}
	c, err := l.Accept()
	if err != nil {
		fail(err)
	}
	fmt.Fprint(c, text)
	c.Close()
}

// knock says what whoever listens on a unix socket has to say.
func knock(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		fail(err)
	}
	text, err := io.ReadAll(c)
	if err != nil {
		fail(err)
	}
	fmt.Println(string(text))
}

// count is how many processes have that name, the dead included.
func count(name string) (n int) {
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		fail(err)
	}
	for _, p := range all {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "("+name+")") {
			n++
		}
	}
	return n
}
