package setup

import (
	"encoding/binary"
	"syscall"
	"testing"
)

func answer(v int32) string {
	return string(binary.LittleEndian.AppendUint32([]byte{pidMark}, uint32(v)))
}

// TestParsePID reads status pipes in pieces of every size.
func TestParsePID(t *testing.T) {
	report := string(Report{Errno: uint32(syscall.ENOENT), Text: "execute \xfa\xfb\xfb\xfb\xfb\xfb"}.append(nil))
	for _, c := range []struct {
		name, in string
		pid      int
		errno    syscall.Errno
		rest     string
	}{
		{"a stage", answer(7), 7, 0, ""},
		{"no stage", answer(-int32(syscall.EAGAIN)), 0, syscall.EAGAIN, ""},
		{"a stage that failed", answer(0x1234) + report, 0x1234, 0, report},
		{"a stage that failed before the server wrote", report + report + answer(7), 7, 0, report + report},
		{"a stage that broke down before the server wrote", "panic: x\n" + answer(7) + "goroutine 1", 7, 0, "panic: x\ngoroutine 1"},
		{"both", report + "panic: x\n" + answer(7) + "y", 7, 0, report + "panic: x\ny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for n := range len(c.in) + 1 {
				pid, errno, rest, ok := ParsePID([]byte(c.in[:n]))
				if !ok {
					if string(rest) != c.in[:n] || n == len(c.in) {
						t.Errorf("nothing in %q, rest %q", c.in[:n], rest)
					}
					continue
				}
				if pid != c.pid || errno != c.errno || string(rest)+c.in[n:] != c.rest {
					t.Errorf("%d, %v, %q in %q", pid, errno, rest, c.in[:n])
				}
			}
		})
	}
}
