package build

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// machine makes the root of a small machine with things that are nobody's
// business.
func machine(t *testing.T) string {
	t.Helper()
	dir := write(t,
		"etc/shadow", "secret", "etc/passwd", "alice:x:1000:1000::/home/alice:/bin/sh\n", "etc/hostname", "secret",
		"etc/ssl/certs/ca.crt", "cert", "etc/ssl/private/key", "secret", "etc/ssl/openssl.cnf", "conf",
		"etc/python3.11/sitecustomize.py", "site", "etc/python3/debian_config", "conf", "etc/ld.so.cache", "cache",
		"etc/fonts/hidden", "secret", "home/alice/diary", "secret", "root/.ssh/id", "secret", "var/lib/db", "secret",
		"usr/bin/python3", "elf", "usr/local/bin/node", "elf", "opt/thing", "secret",
	)
	for name, mode := range map[string]fs.FileMode{"usr/bin/python3": 0o755, "usr/local/bin/node": 0o755, "etc/fonts/hidden": 0o600} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "lib": "usr/lib", "etc/alternatives/awk": "/usr/bin/mawk", "etc/alternatives/awk.1.gz": "/usr/share/man/man1/mawk.1.gz",
		"etc/os-release": "../usr/lib/os-release", "etc/localtime": "/usr/share/zoneinfo/UTC",
	} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, full); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestHostLayer(t *testing.T) {
	dir := machine(t)
	layer, err := hostLayer(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(entries(t, layer), "\n")
	if strings.Contains(all, "secret") || strings.Contains(all, "alice") {
		t.Error("something private is in the layer:\n" + all)
	}
	for _, want := range []string{
		"drwxr-xr-x app/", "dtrwxrwxrwx tmp/", "drwx------ root/", "drwxr-xr-x usr/", "Lrwxrwxrwx bin -> usr/bin", "Lrwxrwxrwx lib -> usr/lib",
		"-rw-r--r-- etc/ssl/certs/ca.crt cert", "-rw-r--r-- etc/ssl/openssl.cnf conf", "-rw-r--r-- etc/ld.so.cache cache",
		"-rw-r--r-- etc/python3.11/sitecustomize.py site", "-rw-r--r-- etc/python3/debian_config conf",
		"Lrwxrwxrwx etc/alternatives/awk -> /usr/bin/mawk", "Lrwxrwxrwx etc/os-release -> ../usr/lib/os-release",
		"-rw-r--r-- etc/passwd root:x:0:0:root:/root:/bin/sh",
	} {
		if !strings.Contains("\n"+all, "\n"+want) {
			t.Errorf("missing %s", want)
		}
	}
	for _, not := range []string{"awk.1.gz", "usr/bin/python3", "private", "opt/thing"} {
		if strings.Contains(all, not) {
			t.Errorf("%s is in the layer", not)
		}
	}
	if got := hostInterpreters(dir); got["python"] != "/usr/bin/python3" || got["node"] != "/usr/local/bin/node" || len(got) != 2 {
		t.Errorf("interpreters: %v", got)
	}
}

// Any image may carry the label; it must not open the machine to it.
func TestHostMounts(t *testing.T) {
	for label, want := range map[string]string{
		"": "", "/usr": "/usr", "/": "", "/etc /root": "", "/usr /etc": "/usr", "/usr/../etc": "", "/usr/": "", "/usr/local": "",
	} {
		if got := strings.Join(HostMounts(map[string]string{LabelHostMounts: label}), " "); got != want {
			t.Errorf("HostMounts(%q) = %q, want %q", label, got, want)
		}
	}
}

func TestHostLayerNeedsMergedUsr(t *testing.T) {
	dir := write(t, "bin/sh", "", "etc/ld.so.cache", "")
	_, err := hostLayer(dir)
	want := "the stack host needs /bin to be a link into /usr, and here it is none; apt-get install usrmerge, or build the stack debian"
	if err == nil || err.Error() != want || mayfly.KindOf(err) != mayfly.Unavailable {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

// The image of this machine's own stack runs its Python, and its Node where it
// has one, when /usr is mounted where the label says.
func TestHostStackRuns(t *testing.T) {
	store := openStore(t)
	stacks := NewStacks(store, Options{})
	var said strings.Builder
	img, err := stacks.Ensure(t.Context(), "host", &said)
	if err != nil {
		t.Fatal(err)
	}
	again, err := stacks.Ensure(t.Context(), "host", &said)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != img.Digest || said.String() != "building stack host of this machine's /usr\n" {
		t.Errorf("built twice: %s, %s, said %q", img.Digest, again.Digest, &said)
	}
	labels := img.Config.Config.Labels
	if labels[LabelHostMounts] != "/usr" {
		t.Fatalf("labels: %v", labels)
	}
	for language, code := range map[string]string{
		"python": "import json, ssl, ctypes; print('ok' if ssl.create_default_context().get_ca_certs() else 'no certificates')",
		"node":   "require('fs').readFileSync('/etc/ssl/openssl.cnf'); console.log('ok')",
	} {
		t.Run(language, func(t *testing.T) {
			program := labels[LabelLoader+language]
			if program == "" {
				t.Skipf("this machine has no %s in /usr", language)
			}
			flag := map[string]string{"python": "-c", "node": "-e"}[language]
			out, err := within(t, lowers(t, store, img), program, flag, code).CombinedOutput()
			if err != nil || string(out) != "ok\n" {
				t.Errorf("%s: %v: %s", program, err, out)
			}
		})
	}
}

// within returns a command that runs in the layers with the machine's /usr, in
// a mount namespace that ends with it.
func within(t *testing.T, lowers []string, argv ...string) *exec.Cmd {
	t.Helper()
	script := `mount -t overlay overlay -o "lowerdir=$1" "$2" && mount --bind -o ro /usr "$2/usr" && shift && exec chroot "$@"`
	args := append([]string{"-c", script, "sh", strings.Join(lowers, ":"), t.TempDir()}, argv...)
	cmd := exec.CommandContext(t.Context(), "/bin/sh", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd
}
