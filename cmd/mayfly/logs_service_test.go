package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Lines of several containers are whole, and each says whose it is.
func TestServicePrinter(t *testing.T) {
	var out, failed bytes.Buffer
	p := &servicePrinter{to: map[string]io.Writer{"stdout": &out, "stderr": &failed}, open: make(map[string][]byte)}
	one := mayfly.Instance{ID: "a", Workload: "web", Replica: 1}
	two := mayfly.Instance{ID: "b", Workload: "web", Replica: 2, Sidecar: "log"}
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, e := range []serviceEntry{
		{one, mayfly.LogEntry{Time: at, Stream: "stdout", Data: []byte("half ")}},
		{two, mayfly.LogEntry{Time: at, Stream: "stdout", Data: []byte("x\ny\n")}},
		{one, mayfly.LogEntry{Time: at, Stream: "stderr", Data: []byte("oh\n")}},
		{one, mayfly.LogEntry{Time: at, Stream: "stdout", Data: []byte("a line\nno end")}},
	} {
		if err := p.print(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.flush("a"); err != nil {
		t.Fatal(err)
	}
	if want := "web/2 log | x\nweb/2 log | y\nweb/1 | half a line\nweb/1 | no end\n"; out.String() != want {
		t.Errorf("stdout %q, want %q", out.String(), want)
	}
	if want := "web/1 | oh\n"; failed.String() != want {
		t.Errorf("stderr %q, want %q", failed.String(), want)
	}
}
