package bus

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *Bus {
	t.Helper()
	b, err := Open(t.Context(), dir, Options{Version: "v0.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closeBus(t *testing.T, b *Bus) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStateSurvivesClose(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	rev, err := b.State().Create(t.Context(), WorkloadKey("default", "a"), []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	closeBus(t, b)
	b = open(t, dir)
	defer closeBus(t, b)
	got, err := b.State().Get(t.Context(), WorkloadKey("default", "a"))
	if err != nil || string(got.Value()) != "1" || got.Revision() != rev {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestHistoryIsFlushedOnClose(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	for range 1000 {
		if _, err := b.JetStream().PublishAsync(RunSubject("default", "a"), []byte("run")); err != nil {
			t.Fatal(err)
		}
	}
	closeBus(t, b)
	b = open(t, dir)
	defer closeBus(t, b)
	if n := b.Runs().CachedInfo().State.Msgs; n != 1000 {
		t.Fatalf("%d of 1000 records are there", n)
	}
}

func TestListIsAsWritten(t *testing.T) {
	b := open(t, t.TempDir())
	defer closeBus(t, b)
	for _, name := range []string{StateStream, ReleasesStream, TasksStream, ParkedStream, QueuesStream, OutcomesStream} {
		stream, err := b.JetStream().Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if c := stream.CachedInfo().Config; c.Storage != jetstream.FileStorage || c.PersistMode != jetstream.DefaultPersistMode {
			t.Errorf("%s is not strict: %+v", name, c)
		}
	}
	c := b.Runs().CachedInfo().Config
	if c.PersistMode != jetstream.AsyncPersistMode || c.MaxBytes == 0 || c.MaxAge == 0 || c.MaxMsgsPerSubject == 0 {
		t.Errorf("runs is not an async, bounded stream: %+v", c)
	}
}

func TestSecondOwnerIsRefused(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	_, err := Open(t.Context(), dir, Options{})
	if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("got %v, want a conflict that names this process", err)
	}
	closeBus(t, b)
	closeBus(t, open(t, dir))
}

func TestFormat(t *testing.T) {
	for _, test := range []struct{ name, content, want string }{
		{"same", "1 v0.1.0\n", ""},
		{"number only", "1\n", ""},
		{"newer", "2 v0.7.0\n", "version v0.7.0"},
		{"newer, number only", "3", "format 3"},
		{"zero", "0\n", "does not hold a format number"},
		{"garbage", "\x00\xff", "does not hold a format number"},
		{"empty", "", "does not hold a format number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, formatFile)
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := Open(t.Context(), dir, Options{})
			if b != nil {
				defer closeBus(t, b)
			}
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if after, _ := os.ReadFile(path); string(after) != test.content {
				t.Errorf("refused data was changed to %q", after)
			}
		})
	}
}

func TestUnusableDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, storeDir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), dir, Options{}); mayfly.KindOf(err) != mayfly.Unavailable {
		t.Fatalf("got %v, want an error that says why the state cannot be opened", err)
	}
}

func TestCancelledOpenLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, dir, Options{}); err == nil {
		t.Fatal("opened")
	}
	closeBus(t, open(t, dir))
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		bus, err := Open(b.Context(), dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		bus.Close()
		b.StartTimer()
	}
}
