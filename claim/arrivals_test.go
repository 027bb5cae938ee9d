package claim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// teller runs TellArrivals and has what is emitted.
type teller struct {
	t    *testing.T
	vs   *Volumes
	told chan mayfly.Event
	seen map[string]bool // ids: what comes again is as the ingest has it
	end  func()
}

func tell(t *testing.T, vs *Volumes) *teller {
	t.Helper()
	w := &teller{t: t, vs: vs, told: make(chan mayfly.Event, 1000), seen: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- vs.TellArrivals(ctx, func(_ context.Context, space string, events []mayfly.Event) error {
			for _, ev := range events {
				if err := ev.Check(); err != nil || space != "default" {
					t.Errorf("%+v of space %s: %v", ev, space, err)
				}
				w.told <- ev
			}
			return nil
		})
	}()
	w.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(w.end)
	return w
}

// until returns the subjects that are told of up to the last.
func (w *teller) until(last string) string {
	w.t.Helper()
	var all []string
	for ev := range w.told {
		if w.seen[ev.ID] {
			continue
		}
		w.seen[ev.ID] = true
		if ev.Subject == last {
			break
		}
		all = append(all, ev.Subject)
	}
	return strings.Join(all, " ")
}

func (w *teller) put(v mayfly.Volume, name string) {
	w.t.Helper()
	o, err := w.vs.open(w.t.Context(), v)
	if err == nil {
		err = os.WriteFile(o.Path+"/"+name, []byte("photo"), 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// want puts a file, and looks at what is told of besides.
func (w *teller) want(v mayfly.Volume, name, want string) {
	w.t.Helper()
	w.put(v, name)
	if got := w.until(name); got != want {
		w.t.Errorf("told of %q before %s, want %q", got, name, want)
	}
}

func TestVolumesTellOfFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	bound := t.TempDir()
	if err := os.WriteFile(bound+"/there", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, v := range []mayfly.Volume{
		{Provider: mayfly.VolumeLocal}, {Provider: mayfly.VolumeLocal, Size: 8 << 20}, {Provider: mayfly.VolumeTmpfs},
		{Provider: mayfly.VolumeBind, Source: bound},
	} {
		t.Run(fmt.Sprintf("%s %d", v.Provider, v.Size), func(t *testing.T) {
			dir := t.TempDir()
			v.Space, v.Name, v.Events.Type = "default", "photos", "photo.uploaded"
			vs, end := openVolumes(t, dir, bound)
			recoverVolumes(t, vs)
			made, err := vs.CreateVolume(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			vs.known = nil // as of a daemon that was killed here
			end()
			vs, end = openVolumes(t, dir, bound)
			defer func() { end() }()
			recoverVolumes(t, vs)
			(&teller{t: t, vs: vs}).put(made, "early")
			w := tell(t, vs)
			if got := w.until("early"); got != "" {
				t.Errorf("told of %q", got)
			}
			w.want(made, "first", "")
			w.end()
			w = tell(t, vs)
			w.want(made, "second", "")
			if err := vs.RemoveVolume(t.Context(), "default", "photos", true); err != nil {
				t.Fatal(err)
			}
			w.end()
			if left, err := os.ReadDir(dir + "/arrivals/default"); err != nil || len(left) != 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func TestEventOfFile(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	v := mayfly.Volume{Space: "default", Name: "photos", Events: mayfly.VolumeEvents{Type: "photo.uploaded"}}
	if _, err := vs.CreateVolume(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	w := tell(t, vs)
	w.put(v, "a.jpg")
	ev := <-w.told
	var data arrival
	if err := json.Unmarshal(ev.Data, &data); err != nil {
		t.Fatal(err)
	}
	if data.Volume != "photos" || data.Path != "a.jpg" || data.Size != 5 || !data.ModTime.Equal(ev.Time) {
		t.Errorf("data %s", ev.Data)
	}
	ev.Data, ev.ID, ev.Time = nil, "", data.ModTime
	if got, want := fmt.Sprint(ev), fmt.Sprint(mayfly.Event{
		Source: "/volumes/photos", Type: "photo.uploaded", Subject: "a.jpg", DataContentType: "application/json", Time: data.ModTime,
	}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a volume had before it tells of files is no news, nor is what comes of a
// snapshot or a clone.
func TestVolumeThatHadFiles(t *testing.T) {
	vs, end := openVolumes(t, t.TempDir())
	defer end()
	recoverVolumes(t, vs)
	v := mayfly.Volume{Space: "default", Name: "photos", Shared: true}
	made, err := vs.CreateVolume(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	w := tell(t, vs)
	w.put(made, "old.jpg")
	change := func(e mayfly.VolumeEvents) {
		t.Helper()
		v.Events = e
		if _, err := vs.PutVolume(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	change(mayfly.VolumeEvents{Type: "photo.uploaded", Match: []string{"*.jpg"}})
	w.want(v, "1.jpg", "")
	if _, err := vs.SnapshotVolume(t.Context(), "default", "photos", "before"); err != nil {
		t.Fatal(err)
	}
	w.put(v, "other.png")
	w.want(v, "2.jpg", "")
	change(mayfly.VolumeEvents{Type: "picture.uploaded"})
	w.want(v, "3.png", "")
	if err := vs.RestoreVolume(t.Context(), "default", "photos", "before"); err != nil {
		t.Fatal(err)
	}
	w.want(v, "4", "")
	clone, err := vs.CloneVolume(t.Context(), "default", "photos", "", "copy")
	if err != nil {
		t.Fatal(err)
	}
	w.want(clone, "5", "")
	change(mayfly.VolumeEvents{})
	w.put(v, "6")
	change(mayfly.VolumeEvents{Type: "picture.uploaded"})
	w.want(v, "7", "")
	bad := mayfly.Volume{Space: "default", Name: "bad", Events: mayfly.VolumeEvents{Type: "mayfly.x"}}
	if _, err := vs.CreateVolume(t.Context(), bad); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("the platform's type: %v", err)
	}
}
