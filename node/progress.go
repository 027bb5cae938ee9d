package node

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// lineWriter passes each line that is written to it on.
type lineWriter struct {
	each func(string)
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			return len(b), nil
		}
		w.each(string(line))
		w.rest = rest
	}
}

// memTotal is the machine's memory in bytes, as proc_meminfo(5) says.
func memTotal() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kb << 10, err
		}
	}
	return 0, mayfly.Errorf(mayfly.Internal, "no MemTotal in /proc/meminfo")
}

// inventName makes a name out of an id, for an instance that was given none.
func inventName(id string) string { return "run-" + id[len(id)-8:] }
