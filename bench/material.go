package main

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// program is what a container is made for.
type program struct {
	name    string
	argv    []string // for those that run a command
	host    bool     // its root is the machine's /usr, bound read-only
	handler string   // for Mayfly; a command on stdio if empty
	needs   string   // a file without which it is left out
}

// answer is what every program writes, somewhere in its output.
const answer = "hello"

func programs() []program {
	return []program{
		{name: "static", argv: []string{"/bin/echo", answer}, needs: "/usr/bin/busybox"},
		{
			name: "python", host: true, handler: "main.handle", needs: "/usr/bin/python3",
			argv: []string{"/usr/bin/python3", "-c", `import json; print(json.dumps({"say": "hello"}))`},
		},
		{
			name: "node", host: true, handler: "index.handle", needs: "/usr/bin/node",
			argv: []string{"/usr/bin/node", "-e", `console.log(JSON.stringify({say: "hello"}))`},
		},
	}
}

// present returns the programs that this machine can run.
func present() []program {
	var all []program
	for _, p := range programs() {
		if _, err := os.Stat(p.needs); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// material is what everybody is measured with.
type material struct {
	static, host       string // directories: roots of containers
	staticTar, hostTar string // the same as archives
	code               string // directory with the handlers
}

// makeMaterial makes a root with nothing but a static busybox, one whose
// programs are the machine's, and the handlers.
func makeMaterial(dir string) (material, error) {
	m := material{
		static: dir + "/static", host: dir + "/host", staticTar: dir + "/static.tar", hostTar: dir + "/host.tar", code: dir + "/code",
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return m, errors.New("busybox is missing: install busybox-static")
	}
	for _, d := range []string{"/etc", "/proc", "/sys", "/dev", "/tmp", "/run", "/root"} {
		for _, root := range []string{m.static, m.host} {
			if err := os.MkdirAll(root+d, 0o755); err != nil {
				return m, err
			}
		}
	}
	for _, d := range []string{m.static + "/bin", m.static + "/www", m.host + "/usr", m.code} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return m, err
		}
	}
	text, err := os.ReadFile(busybox)
	if err != nil {
		return m, err
	}
	files := map[string][]byte{
		m.static + "/bin/busybox":       text,
		m.static + "/www/static-reused": []byte(answer + "\n"), // by the path of its function
		m.static + "/etc/passwd":        []byte("root:x:0:0:root:/root:/bin/sh\n"),
		m.host + "/etc/passwd":          []byte("root:x:0:0:root:/root:/bin/sh\n"),
		m.code + "/main.py":             []byte("def handle(event, context):\n    return {\"say\": \"hello\"}\n"),
		m.code + "/index.mjs":           []byte("export async function handle (event, context) {\n  return { say: 'hello' }\n}\n"),
	}
	for path, text := range files {
		if err := os.WriteFile(path, text, 0o755); err != nil {
			return m, err
		}
	}
	links := map[string]string{
		m.static + "/bin/echo": "busybox", m.static + "/bin/sh": "busybox", m.static + "/bin/httpd": "busybox",
		m.host + "/bin": "usr/bin", m.host + "/sbin": "usr/sbin", m.host + "/lib": "usr/lib", m.host + "/lib64": "usr/lib64",
	}
	for path, to := range links {
		if err := os.Symlink(to, path); err != nil {
			return m, err
		}
	}
	return m, errors.Join(tarFile(m.staticTar, m.static), tarFile(m.hostTar, m.host))
}

// tarFile archives a directory.
func tarFile(path, dir string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		return tarEntry(w, dir, path, d)
	})
	return errors.Join(err, w.Close())
}

func tarEntry(w *tar.Writer, dir, path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	if h.Name, err = filepath.Rel(dir, path); err != nil {
		return err
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
