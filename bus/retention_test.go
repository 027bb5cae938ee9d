package bus

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKeptOutcomesOutlastAnUpgrade: a list that changed does not bring the
// defaults back, which could drop what is to be kept.
func TestKeptOutcomesOutlastAnUpgrade(t *testing.T) {
	dir := t.TempDir()
	open := func() *Bus {
		t.Helper()
		b, err := Open(t.Context(), dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open()
	if err := b.KeepOutcomes(t.Context(), 30*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, listFile)); err != nil {
		t.Fatal(err)
	}
	b = open()
	defer b.Close()
	stream, err := b.JetStream().Stream(t.Context(), OutcomesStream)
	if err != nil {
		t.Fatal(err)
	}
	if c := stream.CachedInfo().Config; c.MaxAge != 30*24*time.Hour {
		t.Errorf("they are kept for %s", c.MaxAge)
	}
}
