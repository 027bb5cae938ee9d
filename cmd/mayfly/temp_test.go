package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// A daemon that was killed leaves half a root behind, and maybe what writes it: the
// next one begins with an empty folder at once, and removes that one later.
func TestWhatAKilledBuildLeftIsRemovedLater(t *testing.T) {
	data := t.TempDir()
	for _, half := range []string{"tmp/mayfly-stack-1/usr", "tmp-left-1/tmp/mayfly-stack-0"} {
		if err := os.MkdirAll(filepath.Join(data, half), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	still, err := os.OpenRoot(filepath.Join(data, "tmp/mayfly-stack-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer still.Close()
	temp, clear, err := newTemp(data, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := still.Create("late"); err != nil { // who writes there does not disturb
		t.Error(err)
	} else {
		f.Close()
	}
	if list, err := os.ReadDir(temp); err != nil || len(list) > 0 {
		t.Errorf("at the start there is %v, %v", list, err)
	}
	if err := clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(data); err != nil || len(list) != 1 || list[0].Name() != "tmp" {
		t.Errorf("later there is %v, %v", list, err)
	}
}
