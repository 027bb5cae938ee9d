package mayfly_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"TERM": unix.SIGTERM, "SIGTERM": unix.SIGTERM, "sigterm": unix.SIGTERM, "15": unix.SIGTERM, "IOT": unix.SIGABRT, "POLL": unix.SIGIO,
		"1": unix.SIGHUP, "64": 64, "RTMIN": 34, "SIGRTMIN+3": 37, "rtmax": 64, "RTMAX-30": 34,
		"": 0, "0": 0, "65": 0, "-1": 0, "1x": 0, "+1": 0, "FOO": 0, "SIG": 0, "SIGSIGTERM": 0, "RTMIN-1": 0, "RTMIN+": 0, "RTMIN+31": 0, "RTMAX+1": 0, "TERM ": 0,
	} {
		got, ok := mayfly.ParseSignal(text)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("%q is read as %d, %v", text, got, ok)
		}
	}
	for n := unix.Signal(1); n <= 64; n++ { // as the kernel's headers have them
		if name := unix.SignalName(n); name != "" && name != "SIG"+mayfly.SignalName(n) {
			t.Errorf("%d is named %s, and is %s", n, mayfly.SignalName(n), name)
		}
		if got, ok := mayfly.ParseSignal(mayfly.SignalName(n)); !ok || got != n {
			t.Errorf("%d is read as %d", n, got)
		}
	}
}

func FuzzParseSignal(f *testing.F) {
	for _, text := range []string{"TERM", "SIGRTMIN+3", "RTMAX-1", "15", "-1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sig, ok := mayfly.ParseSignal(text)
		if !ok {
			return
		}
		if again, ok := mayfly.ParseSignal(mayfly.SignalName(sig)); !ok || again != sig || sig < 1 || sig > 64 {
			t.Errorf("%q is read as %d, whose name is %d", text, sig, again)
		}
	})
}
