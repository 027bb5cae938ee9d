package main

import (
	"os"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
	"github.com/mayfly-run/mayfly/store"
)

func TestANodeKeepsItsName(t *testing.T) {
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	record, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer record.Close()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	check := func(asked, want string) {
		t.Helper()
		if got, err := nodeName(record, asked); err != nil || got != want {
			t.Errorf("asked for %q: %q, %v; want %q", asked, got, err, want)
		}
	}
	check("", host)
	check("box", "box")
	if _, err := record.Nodes.Put(t.Context(), store.NodeSpace, "first", mayfly.NodeInfo{Name: "first"}, 0); err != nil {
		t.Fatal(err)
	}
	check("", "first")
	check("first", "first")
	if _, err := nodeName(record, "box"); mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "use --node first") {
		t.Errorf("renamed: %v", err)
	}
}
