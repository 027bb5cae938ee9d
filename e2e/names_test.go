package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// resolverImage has the resolver of glibc, this machine's, and that of busybox.
func resolverImage(t *testing.T) []byte {
	t.Helper()
	listed, err := exec.Command("ldd", "/usr/bin/getent").Output()
	if err != nil {
		t.Skip("needs a dynamically linked /usr/bin/getent:", err)
	}
	files := []string{"/usr/bin/getent", "/bin/busybox"}
	for _, m := range regexp.MustCompile(`(?m)(/\S+) \(0x`).FindAllStringSubmatch(string(listed), -1) {
		files = append(files, m[1])
	}
	for _, extra := range []string{"/lib/x86_64-linux-gnu/libnss_dns.so.2", "/lib/x86_64-linux-gnu/libresolv.so.2"} { // in libc, where that is new
		if _, err := os.Stat(extra); err == nil {
			files = append(files, extra)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, d := range []string{"bin", "lib", "lib64", "usr", "usr/bin", "etc", "tmp", "proc", "sys", "dev", "run"} {
		w.WriteHeader(&tar.Header{Name: d + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		w.WriteHeader(&tar.Header{Name: name[1:], Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})
		w.Write(data)
	}
	nss := "hosts: files dns\n"
	w.WriteHeader(&tar.Header{Name: "etc/nsswitch.conf", Mode: 0o644, Size: int64(len(nss)), Typeflag: tar.TypeReg})
	w.Write([]byte(nss))
	w.WriteHeader(&tar.Header{Name: "bin/sh", Linkname: "busybox", Mode: 0o777, Typeflag: tar.TypeSymlink})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Programs find services by name: with the resolver of glibc and that of busybox,
// by plain names, aliases and whole names, from services and from `mayfly run`.
func TestServicesHaveNames(t *testing.T) {
	n := start(t)
	if _, err := n.ImportImage(t.Context(), "resolver", bytes.NewReader(resolverImage(t)), 0); err != nil {
		t.Fatal(err)
	}
	n.serve(mayfly.Workload{
		Name: "db", App: "blog", Provides: []mayfly.Provide{{Name: "db", Port: 8080}},
		Process: mayfly.Process{Env: map[string]string{"PORT": "8080"}}, Service: &mayfly.Service{Aliases: []string{"database"}},
	})
	n.until("db runs", func() bool { return len(n.instancesOf("db")) == 1 })
	db := n.instancesOf("db")[0]
	script := `
ask() { until busybox timeout 5 "$@" > /tmp/out 2>&1; do busybox sleep 0.05; done; busybox tr '\n' ' ' < /tmp/out; echo; }
echo glibc plain $(ask getent ahostsv4 db)
echo glibc alias $(ask getent ahostsv4 database)
echo glibc whole $(ask getent ahostsv4 db.default.mayfly)
echo busybox plain $(ask busybox nslookup db)
echo busybox whole $(ask busybox nslookup db.default.mayfly)
echo reverse $(ask getent hosts ` + db.Address + `)
getent ahostsv4 nobody.default.mayfly || echo unknown is code $?
cat /etc/resolv.conf
echo done
while true; do busybox sleep 1; done`
	n.serve(mayfly.Workload{Name: "web", Image: "resolver", App: "blog", Process: mayfly.Process{Command: []string{"sh", "-c", script}}})
	n.until("web has asked", func() bool {
		l := n.instancesOf("web")
		return len(l) == 1 && strings.Contains(n.execLog(l[0]), "done\n")
	})
	log := n.execLog(n.instancesOf("web")[0])
	t.Log(log)
	for _, want := range []string{"glibc plain " + db.Address, "glibc alias " + db.Address, "glibc whole " + db.Address, "unknown is code 2"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q", want)
		}
	}
	for line := range strings.Lines(log) {
		if strings.HasPrefix(line, "busybox ") && !strings.Contains(line, db.Address) {
			t.Errorf("busybox: %s", line)
		}
	}
	n.until("mayfly run finds it", func() bool { // a resolver has its own patience
		out, err := n.Run(t.Context(), "resolver", []string{"getent", "ahostsv4", "db"}, client.RunOptions{})
		if err != nil {
			t.Log(err)
		}
		return err == nil && strings.HasPrefix(string(out), db.Address)
	})
}
