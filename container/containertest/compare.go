package containertest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// A Difference is a fact that two drivers' containers do not share.
type Difference struct {
	Config, Title string
	Diff          string // first driver's lines with -, second's with +
}

// Compare has the probe look around in containers of two drivers, and from the
// outside at them, and returns what differs. Each container is made of the
// same config; both have mayfly-init.
func Compare(t *testing.T, p Programs, first, second Maker) (all []Difference) {
	one, two := NewBed(t, p, first), NewBed(t, p, second)
	volume, network := t.TempDir(), netNS(t)
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	configs := variants(volume, network)
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		var facts [2]map[string][]string
		for i, b := range []*Bed{one, two} {
			c := b.Config
			configs[name](&c)
			facts[i] = b.look(t, c, volume)
		}
		titles := maps.Keys(facts[0])
		if len(facts[0]) < 20 || len(facts[0]) != len(facts[1]) {
			t.Fatalf("%s: the probes found %d and %d kinds of facts", name, len(facts[0]), len(facts[1]))
		}
		for _, title := range slices.Sorted(titles) {
			if d := cmp.Diff(facts[0][title], facts[1][title]); d != "" {
				all = append(all, Difference{name, title, d})
			}
		}
	}
	return all
}

// variants are the configs that are compared, as changes to a plain one.
func variants(volume string, network *os.File) map[string]func(*container.Config) {
	ann := container.User{UID: 1000, GID: 1000, Groups: []uint32{44, 7}, Home: "/home/ann"}
	return map[string]func(*container.Config){
		"host network, root": func(c *container.Config) {},
		"no network, root": func(c *container.Config) {
			c.NetNS = network
			c.Resolv, c.Hosts = []byte("nameserver 10.0.0.1\n"), []byte("127.0.0.1 localhost\n")
		},
		"no network, user": func(c *container.Config) {
			c.NetNS, c.User, c.WorkDir = network, ann, "/new/place"
			c.Env = []string{"A=1", "B=2", "A=3", "PATH=/bin"}
		},
		"read-only, user": func(c *container.Config) { c.NetNS, c.User, c.ReadOnly = network, ann, true },
		"limits": func(c *container.Config) {
			c.NetNS = network
			c.Resources = mayfly.Resources{Memory: 256 << 20, CPUs: 1.5, Pids: 200, Files: 777}
		},
		"mounts": func(c *container.Config) {
			c.NetNS, c.ReadOnly = network, true
			c.Files = map[string][]byte{"self.json": []byte("{}")}
			c.Mounts = []mayfly.Mount{
				{Type: "tmpfs", Target: "/scratch", Size: 1 << 20}, {Type: "tmpfs", Target: "/tmp"},
				{Type: "bind", Source: volume, Target: "/data"}, {Type: "bind", Source: volume, Target: "/readonly", ReadOnly: true},
			}
		},
	}
}

// look runs the probe and looks at it and at init from the outside.
func (b *Bed) look(t testing.TB, c container.Config, volume string) map[string][]string {
	t.Helper()
	s := b.create(t, c)
	r := start(t, s, "/inside", "probe")
	line, err := bufio.NewReaderSize(r.out, 1<<20).ReadBytes('\n')
	if err != nil {
		out, _ := r.output()
		t.Fatalf("probe: %v: %+v", err, out)
	}
	facts := make(map[string][]string)
	if err := json.Unmarshal(line, &facts); err != nil {
		t.Fatal(err)
	}
	init := fmt.Sprint(pid(t, s))
	outside(facts, "main ", onlyChild(t, init))
	outside(facts, "init ", init)
	facts["limits of the group"] = b.limits(s.ID)
	r.in.Close()
	<-s.Ended()
	s.Remove()
	same := strings.NewReplacer(b.dir, "BED", volume, "VOLUME", b.cgroup, "/GROUP", strings.TrimPrefix(b.cgroup, "/"), "GROUP", s.ID, "ID", b.Driver.Name(), "DRIVER")
	if c.NetNS == nil { // a daemon of another test may turn it on
		for i, l := range facts["sysctl"] {
			facts["sysctl"][i] = forwarding.ReplaceAllString(l, "$1 N ")
		}
	}
	for title, list := range facts {
		facts[title] = normal(title, list, same)
	}
	return facts
}

// onlyChild is the main program. What its calls left to init is there for a moment
// more, until init has reaped it.
func onlyChild(t testing.TB, init string) string {
	t.Helper()
	for {
		var children []string
		tasks, _ := filepath.Glob("/proc/" + init + "/task/*/children") // of each thread
		for _, f := range tasks {
			data, _ := os.ReadFile(f)
			children = append(children, strings.Fields(string(data))...)
		}
		switch len(children) {
		case 0:
			t.Fatal("init has no child")
		case 1:
			return children[0]
		}
	}
}

// outside adds what the host sees of a process.
func outside(facts map[string][]string, who, pid string) {
	read := func(name string) []string {
		data, err := os.ReadFile("/proc/" + pid + "/" + name)
		if err != nil {
			return []string{"cannot be read"}
		}
		return strings.Split(strings.ReplaceAll(strings.TrimSpace(string(data)), "\x00", "\n"), "\n")
	}
	for _, name := range []string{"status", "limits", "mountinfo", "environ", "cmdline", "oom_score_adj", "personality", "loginuid", "coredump_filter", "timerslack_ns", "uid_map", "gid_map", "setgroups"} {
		facts[who+name] = read(name)
	}
	cgroups := read("cgroup")
	for i, line := range cgroups {
		_, cgroups[i], _ = strings.Cut(line, ":") // the hierarchy's number
	}
	facts[who+"cgroup"] = cgroups
	var namespaces, files []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		theirs, _ := os.Readlink("/proc/" + pid + "/ns/" + ns)
		ours, _ := os.Readlink("/proc/thread-self/ns/" + ns)
		namespaces = append(namespaces, fmt.Sprint(ns, " is the host's: ", theirs == ours))
	}
	facts[who+"namespaces"] = namespaces
	entries, _ := os.ReadDir("/proc/" + pid + "/fd")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/" + pid + "/fd/" + e.Name())
		flags := ""
		for _, l := range read("fdinfo/" + e.Name()) {
			if strings.HasPrefix(l, "flags:") {
				flags = l
			}
		}
		files = append(files, unnumbered(to)+" "+flags)
	}
	slices.Sort(files)
	facts[who+"files"] = files
	for _, link := range []string{"root", "cwd", "exe"} {
		to, _ := os.Readlink("/proc/" + pid + "/" + link)
		facts[who+"links"] = append(facts[who+"links"], link+" "+to)
	}
}

// limits are the settings of a sandbox's cgroup, as the host sees them.
func (b *Bed) limits(id string) (all []string) {
	settings := regexp.MustCompile(`max|limit|quota|period|shares|weight|devices\.list|swappiness|oom|high|low|min|burst|freez|cpuset|cgroup\.type|subtree_control|idle|notify|clone|uclamp|hierarchy`)
	// clone_children is how a new cpuset gets its parent's processors; runc
	// copies them itself.
	changing := regexp.MustCompile(`clone_children|usage|failcnt|events|stat|pressure|numa|peak|current|effective`)
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		files, _ := filepath.Glob(pattern + b.cgroup + "/" + id + "/*")
		for _, f := range files {
			name := filepath.Base(f)
			if shared.MatchString(f) || !settings.MatchString(name) || changing.MatchString(name) || unused.MatchString("/"+name) {
				continue
			}
			data, err := os.ReadFile(f)
			if err != nil {
				continue // only to be written
			}
			values := strings.Split(strings.TrimSpace(string(data)), "\n")
			slices.Sort(values) // the kernel lists devices in no order that matters
			all = append(all, f+": "+strings.Join(values, ", "))
		}
	}
	return all
}

// varying is what is never the same in two containers. Go blocks and catches
// signals as it goes.
var varying = regexp.MustCompile(`^(Pid|Tgid|Ngid|PPid|NSpid|NSpgid|NStgid|NSsid|Vm|Rss|Hugetlb|State|Threads|SigQ|Cpus|Mems|volunt|nonvolunt|SigBlk|SigCgt|CoreDump|THP|untag|x86_)`)

// known is the newest system call that the library of an older runc may know by
// name: it answers those beyond with ENOSYS, whatever the profile says.
const known = 450

// uretprobe is newer than its number, on amd64.
const uretprobe = "335:"

// unused are controllers of cgroup v2 that runc turns on whether or not there
// is a limit to set, and the native driver does not.
var unused = regexp.MustCompile(`/(hugetlb|misc|rdma)\.`)

// shared are the v1 hierarchies in which the native driver leaves a container
// in its parent's group, for nothing is limited there. Inside, that looks the
// same.
var shared = regexp.MustCompile(`^(name=systemd|blkio|freezer|cpuset):|/sys/fs/cgroup/(systemd|blkio|freezer|cpuset)[/ ]`)

var numbered = regexp.MustCompile(`(pipe|socket|mnt|net|ipc|uts|pid|cgroup|user|time|pid_for_children|time_for_children):\[\d+\]`)

// unnumbered leaves out the kernel's numbers; do that before sorting.
func unnumbered(l string) string { return numbered.ReplaceAllString(l, "$1:[N]") }

// forwarding finds the value of the setting, behind its mode and owner.
var forwarding = regexp.MustCompile(`^(/proc/sys/net/ipv4/ip_forward \d+ \d+:\d+) [01] `)

var peers = regexp.MustCompile(`(shared|master|propagate_from):\d+`)

// normal takes names, numbers and times out of facts.
func normal(title string, list []string, same *strings.Replacer) []string {
	var out []string
	for _, l := range list {
		l = same.Replace(l)
		if shared.MatchString(l) {
			l = strings.Replace(l, "/GROUP/ID", "/GROUP", 1)
		}
		switch {
		case strings.HasSuffix(strings.ToLower(title), "status"):
			if varying.MatchString(l) {
				continue
			}
		case title == "mounts" || strings.HasSuffix(title, "mountinfo"):
			if f := strings.SplitN(l, " ", 4); len(f) == 4 {
				l = peers.ReplaceAllString(f[3], "$1:N")          // but for ids and the device
				if root, ok := strings.CutPrefix(l, "/ / "); ok { // runc's is mounted on the host first
					l = "/ / " + strings.Replace(root, "master:N ", "", 1)
				}
			}
		case title == "calls":
			var n int
			if fmt.Sscanf(l, "%d:", &n); n > known || strings.HasPrefix(l, uretprobe) {
				continue
			}
		case title == "groups" && unused.MatchString(l):
			continue
		case title == "cgroup":
			_, l, _ = strings.Cut(l, ":")
		}
		out = append(out, unnumbered(l))
	}
	return out
}
