package containertest

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// Hostile gives the daemon containers whose init is not mayfly-init: as if a
// program had taken it over. The daemon must neither hang nor crash, and keep
// nothing of what it is sent.
func Hostile(t *testing.T, p Programs, maker Maker) {
	b := NewBed(t, p, maker)
	data, err := os.ReadFile(p.Inside)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := container.InstallInit(b.dir, data)
	if err != nil {
		t.Fatal(err)
	}
	host, err := container.Open(b.dir+"/sandboxes", fake, b.Driver, container.Options{Cgroup: b.cgroup})
	if err != nil {
		t.Fatal(err)
	}
	stop := b.run(host)
	if s, err := host.Create(t.Context(), mayfly.NewID(), b.Config); err == nil { // what the driver opens once
		s.Remove()
		<-s.Ended()
	}
	descriptors := openDescriptors(t)
	for _, how := range []string{"closes", "exits", "garbage", "huge", "descriptors before the greeting"} {
		t.Run(how, func(t *testing.T) {
			c := b.Config
			c.Files = map[string][]byte{"hostile": []byte(how)}
			if s, err := host.Create(t.Context(), mayfly.NewID(), c); err == nil {
				if how != "descriptors before the greeting" { // it does greet
					t.Error("there is a sandbox")
				}
				s.Remove()
				<-s.Ended()
			}
		})
	}
	t.Run("silent", func(t *testing.T) {
		c := b.Config
		c.Files = map[string][]byte{"hostile": []byte("silent")}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := host.Create(ctx, mayfly.NewID(), c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited for with a deadline: %v", err)
		}
	})
	for _, how := range []string{"deaf", "flood", "short bodies", "files", "a file for a connection", "its own end", "the end of what runs on"} {
		t.Run(how, func(t *testing.T) { b.abuse(t, host, how) })
	}
	stop()
	if now := openDescriptors(t); now > descriptors {
		t.Errorf("%d descriptors are open, %d were before", now, descriptors)
	}
}

// abuse asks a hostile init for everything that there is to ask.
func (b *Bed) abuse(t *testing.T, host *container.Host, how string) {
	c := b.Config
	c.Files = map[string][]byte{"hostile": []byte(how)}
	s, err := host.Create(t.Context(), mayfly.NewID(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, ask := range []func(context.Context){
		func(ctx context.Context) { s.Start(ctx, container.Program{Argv: []string{"true"}}) },
		func(ctx context.Context) {
			s.Spawn(ctx, container.Program{Argv: []string{"true", string(make([]byte, 2<<20))}})
		},
		func(ctx context.Context) { s.Signal(ctx, nil, syscall.SIGTERM) },
		func(ctx context.Context) {
			if conn, err := s.Dial(ctx, 80, time.Millisecond); err == nil {
				t.Errorf("dialed %v", conn)
				conn.Close()
			}
		},
		func(ctx context.Context) {
			s.Attach(ctx, func() {}, func(mayfly.LogEntry) error { return nil })
		},
		func(ctx context.Context) { s.Stop(ctx, syscall.SIGTERM, 10*time.Millisecond) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		ask(ctx)
		cancel()
	}
	s.Kill()
	<-s.Ended()
	s.Remove()
}
