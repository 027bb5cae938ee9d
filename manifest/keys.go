package manifest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// serviceKeys are what a service may have, Compose's keys and our own.
var serviceKeys = []string{
	// Compose's.
	"command", "configs", "container_name", "cpu_count", "cpu_period", "cpu_quota", "cpus", "depends_on", "deploy", "entrypoint",
	"env_file", "environment", "expose", "extends", "healthcheck", "hostname", "image", "init", "label_file", "labels", "links", "mem_limit",
	"net", "network_mode", "networks", "pids_limit", "ports", "profiles", "read_only", "restart", "scale", "secrets", "security_opt", "shm_size",
	"stop_grace_period", "stop_signal", "tmpfs", "ulimits", "user", "volumes", "working_dir",
	// Ours.
	"code", "drain", "env", "files", "live", "maxBody", "memory", "network", "pids", "processes", "provides", "readOnly", "ready", "replicas",
	"requires", "routes", "sidecars", "stack", "startup", "stop", "timeout", "update", "workdir",
}

// harmlessKeys are not done, and a program does without; each is warned of.
var harmlessKeys = map[string]string{
	"annotations":        "nothing reads them",
	"attach":             "read logs with mayfly logs",
	"cpu_shares":         "cpus bounds a service; shares are even",
	"develop":            "deploy again after a change",
	"logging":            "logs are kept by Mayfly; read them with mayfly logs",
	"log_driver":         "logs are kept by Mayfly; read them with mayfly logs",
	"log_opt":            "logs are kept by Mayfly; read them with mayfly logs",
	"mem_reservation":    "nothing is reserved; memory bounds a service",
	"mem_swappiness":     "the machine's is used",
	"memswap_limit":      "memory bounds a service",
	"platform":           "images are run as they are",
	"pull_policy":        "an image is pulled when it is not there; mayfly pull gets a newer one",
	"pull_refresh_after": "an image is pulled when it is not there; mayfly pull gets a newer one",
	"stdin_open":         "a service has no input",
	"tty":                "a service has no terminal",
}

// refusedKeys would change what a program does, and cannot be honoured yet.
// Each has what to do instead.
var refusedKeys = map[string]string{
	"blkio_config":        "remove it",
	"build":               "build the image and name it with image:, or use stack: and code:",
	"cap_add":             "remove it: containers have Docker's default capabilities",
	"cap_drop":            "remove it: containers have Docker's default capabilities",
	"cgroup":              "remove it",
	"cgroup_parent":       "remove it",
	"cpu_percent":         "use cpus",
	"cpu_rt_period":       "remove it",
	"cpu_rt_runtime":      "remove it",
	"cpuset":              "use cpus",
	"credential_spec":     "remove it",
	"device_cgroup_rules": "remove it",
	"devices":             "remove it: containers have no devices of the machine",
	"dns":                 "remove it: names of services and of the outside are resolved",
	"dns_opt":             "remove it",
	"dns_search":          "use whole names",
	"dockerfile":          "build the image and name it with image:, or use stack: and code:",
	"domainname":          "use hostname",
	"external_links":      "use requires:",
	"extra_hosts":         "register it with mayfly endpoint add, and use requires:",
	"gpus":                "remove it",
	"group_add":           "use user: NAME:GROUP",
	"ipc":                 "remove it: each container has its own",
	"isolation":           "remove it",
	"mac_address":         "remove it",
	"models":              "remove it",
	"oom_kill_disable":    "remove it, and give enough memory",
	"oom_score_adj":       "remove it",
	"pid":                 "remove it: each container has its own, and sidecars share a network",
	"post_start":          "use processes: or sidecars:",
	"pre_start":           "use a service of its own, with depends_on and service_completed_successfully",
	"pre_stop":            "handle the stop signal",
	"privileged":          "remove it: no container is privileged",
	"provider":            "register it with mayfly endpoint add, and use requires:",
	"runtime":             "remove it",
	"storage_opt":         "use volumes with a size",
	"sysctls":             "remove it, or set them on the machine",
	"umask":               "set it in the command",
	"use_api_socket":      "remove it; containers find Mayfly's API at /run/mayfly/api.sock",
	"userns_mode":         "remove it",
	"uts":                 "use hostname",
	"volume_driver":       "declare the volume at the top",
	"volumes_from":        "mount the same named volume in both",
}

// serviceKeyRules notes or warns of each key that is not honoured, and returns
// the mapping without them and without what says nothing.
func (r *reader) serviceKeyRules(d *decoder, m map[string]any) (map[string]any, error) {
	later := slices.Concat(slices.Collect(maps.Keys(harmlessKeys)), slices.Collect(maps.Keys(refusedKeys)))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if slices.Contains(serviceKeys, key) || slices.Contains(later, key) || strings.HasPrefix(key, "x-") {
			continue
		}
		if nearest(key, serviceKeys) != "" {
			later = nil
		}
		return nil, d.unknownKey(d.at.child(key), d.what, key, serviceKeys, later)
	}
	said := make(map[string]any, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		v := m[key]
		if isEmpty(v) && key != "command" && key != "entrypoint" || isDefault(key, v) {
			continue
		}
		if hint, ok := refusedKeys[key]; ok {
			r.refused = append(r.refused, refusal{d.source, d.what, key, hint, d.position(d.at.child(key).key())})
			continue
		}
		if why, ok := harmlessKeys[key]; ok {
			r.warn(d, key, "%q is ignored: %s", harmlessText(key, v), why)
			continue
		}
		said[key] = v
	}
	return said, nil
}

// refusal is a key that cannot be honoured yet.
type refusal struct {
	in              *source
	what, key, hint string
	at              position
}

// refusal names all keys that cannot be honoured yet, so that a file is mended at
// once: the first with what it says, of the others where they stand.
func (r *reader) refusal() error {
	if len(r.refused) == 0 {
		return nil
	}
	slices.SortStableFunc(r.refused, func(a, b refusal) int {
		return cmp.Or(cmp.Compare(a.in.name, b.in.name), cmp.Compare(a.at.line, b.at.line))
	})
	first, others := r.refused[0], r.refused[1:]
	err := first.in.errorAt(first.at, fmt.Sprintf("%s: %q is not supported yet", first.what, first.key)).WithHint("%s", first.hint)
	if len(others) == 0 {
		return err
	}
	const most = 20
	var names []string
	for _, o := range others[:min(most, len(others))] {
		names = append(names, printable(fmt.Sprintf("%q of %s (%s:%d, %s)", o.key, o.what, o.in.name, o.at.line, o.hint)))
	}
	if more := len(others) - most; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	err.Hint += "; nor are " + strings.Join(names, ", ")
	return err
}

// harmlessText names a key, and of logging the driver too.
func harmlessText(key string, v any) string {
	if m, ok := v.(map[string]any); ok && key == "logging" {
		if driver, _ := m["driver"].(string); driver != "" {
			return "logging: driver: " + driver
		}
	}
	return key
}

// isDefault says whether a value asks for what is so anyway.
func isDefault(key string, v any) bool {
	switch v := v.(type) {
	case bool:
		return !v && key != "init" && key != "attach"
	case string:
		switch key {
		case "ipc", "cgroup", "pid", "uts":
			return v == "private" || v == ""
		case "isolation":
			return v == "default" || v == ""
		case "pull_policy":
			return v == "missing" || v == "if_not_present"
		case "privileged", "tty", "stdin_open", "oom_kill_disable", "use_api_socket", "attach":
			return strings.EqualFold(v, "false")
		}
		return v == "" && refusedKeys[key] != ""
	}
	return false
}
