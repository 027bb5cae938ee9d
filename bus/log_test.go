package bus

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestOpenAfterACrash: what a crash always leaves behind, and the engine mends
// by itself, is no news for whoever runs Mayfly. A copy of the directory while
// it is open is what a crash leaves.
func TestOpenAfterACrash(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()+"/data"
	b := open(t, dir)
	put := func(key string) {
		t.Helper()
		if _, err := b.State().Put(t.Context(), WorkloadKey("default", key), []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	put("a")
	closeBus(t, b)
	b = open(t, dir)
	for _, key := range []string{"b", "c", "d"} {
		put(key)
	}
	copyDir(t, copied, dir)
	closeBus(t, b)
	var log bytes.Buffer
	b, err := Open(t.Context(), copied, Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBus(t, b)
	if _, err := b.State().Get(t.Context(), WorkloadKey("default", "d")); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "outdated") {
		t.Error("the engine had nothing to mend; the test shows nothing")
	}
	for line := range strings.Lines(log.String()) {
		if !strings.Contains(line, "level=DEBUG") {
			t.Errorf("logged %s", line)
		}
	}
}

func TestRealErrorsAreLogged(t *testing.T) {
	var out bytes.Buffer
	log := &serverLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	log.Warnf("Stream state checksum did not match")
	log.Errorf("disk is full")
	log.Warnf("Filestore [%s] TTL state is outdated; attempting to recover", "KV_state")
	log.Noticef("Server is ready")
	if n := strings.Count(out.String(), "\n"); n != 2 || !strings.Contains(out.String(), "level=WARN") || !strings.Contains(out.String(), "level=ERROR") {
		t.Errorf("logged %s", out.String())
	}
}
