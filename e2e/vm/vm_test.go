package vm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly/e2e/vm"
)

// host is a script that uses what a host of containers must have. Each line
// that it prints is looked for below.
const host = `
set -eu
echo "stderr too" >&2
echo "kernel $(uname -r)"
echo "filesystem $(stat -f -c %t /sys/fs/cgroup)"
echo "hierarchies $(grep -c cgroup /proc/mounts)"
echo "controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
echo "+cpu +memory +pids" >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/a
echo 10M >/sys/fs/cgroup/a/memory.max
echo "memory.max $(cat /sys/fs/cgroup/a/memory.max)"
rmdir /sys/fs/cgroup/a

for at in /tmp /data; do
	cd $at
	mkdir lower upper work merged
	echo below >lower/file
	echo below >lower/gone
	mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged
	echo above >merged/file
	rm merged/gone
	echo "overlay on $at: $(cat merged/file) over $(cat lower/file), $(ls merged)"
	umount merged
done
echo "data is $(grep ' /data ' /proc/mounts | cut -d ' ' -f 3)"

ip() { "$IP" "$@"; } # busybox prefers its own, which knows no namespaces
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
for n in 2 3; do
	ip netns add n$n
	ip link add v$n type veth peer name eth0 netns n$n
	ip link set v$n master br0 up
	ip -n n$n addr add 10.9.0.$n/24 dev eth0
	ip -n n$n link set eth0 up
	ip -n n$n link set lo up
	ip -n n$n route add default via 10.9.0.1
done
nft -f - <<RULES
table ip m {
	chain post { type nat hook postrouting priority 100; ip saddr 10.9.0.0/24 masquerade; }
	chain output { type nat hook output priority -100; tcp dport 80 dnat to 10.9.0.2:8080; }
	chain pre { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.9.0.2:8080; }
	chain forward { type filter hook forward priority 0; ct state established,related accept; tcp dport 9 reject; }
}
RULES
ip netns exec n3 ping -c 1 -W 10 10.9.0.2 >/dev/null && echo "bridge carries"
ip netns exec n2 nc -l -p 8080 -e echo "answer from the namespace" &
until ip netns exec n2 netstat -ltn | grep -q :8080; do :; done
nc 10.9.0.1 80 </dev/null
mkdir /tmp/new /tmp/new/old
unshare -m sh -c 'mount --bind /tmp/new /tmp/new && cd /tmp/new && pivot_root . old' && echo "root pivots"
exit 7
`

func TestMachineIsAHostForContainers(t *testing.T) {
	hello := filepath.Join(t.TempDir(), "dir")
	if err := os.MkdirAll(filepath.Join(hello, "sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hello, "sub", "file"), []byte("hello\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sub/file", filepath.Join(hello, "link")); err != nil {
		t.Fatal(err)
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Fatal(err)
	}
	out, exit := vm.Run(t, vm.Options{
		Programs: []string{"busybox", "ip", "nft"},
		Files:    map[string]string{hello: "/given/dir"},
		Command:  []string{"busybox", "sh", "-c", "mkdir /applets; busybox --install -s /applets; PATH=$PATH:/applets; cat /given/dir/link; stat -c %a-%F /given/dir/sub/file; pwd; echo $X;" + host},
		Env:      []string{"X=in the environment", "IP=" + ip},
		Dir:      "/given",
		Disk:     64,
	})
	if exit != 7 {
		t.Errorf("exit code %d, want 7", exit)
	}
	for _, want := range []string{
		"hello\n640-regular file\n/given\nin the environment\n",
		"stderr too\n",
		"-cloud-amd64\n",
		"filesystem 63677270\nhierarchies 1\ncontrollers cpuset cpu io memory",
		"memory.max 10485760\n",
		"overlay on /tmp: above over below, file\n",
		"overlay on /data: above over below, file\n",
		"data is ext4\n",
		"bridge carries\n",
		"answer from the namespace\n",
		"root pivots\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestMachineThatStaysOnIsSwitchedOff(t *testing.T) {
	_, err := vm.Boot(t.Context(), t.TempDir(), vm.Options{
		Programs: []string{"busybox"},
		Command:  []string{"busybox", "sleep", "1000000"},
		Timeout:  time.Second,
	})
	if err == nil || !strings.Contains(err.Error(), "still on after 1s") {
		t.Errorf("got %v, want the time limit", err)
	}
}

func TestWhatCannotRunSaysWhy(t *testing.T) {
	cases := map[string]struct {
		options vm.Options
		want    string
	}{
		"no command":        {vm.Options{}, "no command"},
		"an unknown module": {vm.Options{Command: []string{"x"}, Modules: []string{"nonesuch"}}, `no module "nonesuch"`},
		"an absent program": {vm.Options{Command: []string{"x"}, Programs: []string{"nonesuch"}}, `"nonesuch": executable file not found`},
		"an absent file":    {vm.Options{Command: []string{"x"}, Files: map[string]string{"/nonesuch": "/x"}}, "/nonesuch"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := vm.Boot(context.Background(), t.TempDir(), c.options)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
