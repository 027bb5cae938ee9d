package claim

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/store"
	"github.com/mayfly-run/mayfly/volume/arrivals"
)

// Emit accepts events of a space. Those that were accepted before, by source and
// id, are accepted again without effect.
type Emit func(ctx context.Context, space string, events []mayfly.Event) error

// arrivalWatches are the volumes of this machine of whose files events tell. Such a
// volume stays open for as long as it is watched, though no container uses it. Each
// has a note of what was told, beneath dir, from when it was made or got its events
// until it is removed or has them no more.
type arrivalWatches struct {
	dir   string
	log   *slog.Logger
	emit  Emit          // of Run
	again chan struct{} // something is to be looked at, besides changes of the record

	mu   sync.Mutex
	open map[store.Key]*arrivalWatch

	failed map[store.Key]string // why a volume is not watched; of Run
}

// arrivalWatch is one volume that is watched.
type arrivalWatch struct {
	volume mayfly.Volume // as it was then
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of it goes on
}

func newArrivalWatches(dir string, log *slog.Logger) *arrivalWatches {
	return &arrivalWatches{dir: dir, log: log, again: make(chan struct{}, 1), open: map[store.Key]*arrivalWatch{}, failed: map[store.Key]string{}}
}

func (a *arrivalWatches) note(v mayfly.Volume) string { return filepath.Join(a.dir, v.Space, v.Name) }

func arrivalOptions(v mayfly.Volume) arrivals.Options {
	return arrivals.Options{Rules: arrivals.Rules{Match: v.Events.Match, Depth: v.Events.Depth}}
}

// watches reports whether a volume is to stay open though nobody uses it.
func (a *arrivalWatches) watches(key store.Key) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.open[key] != nil
}

// stop ends the watch of a volume and waits for that. Run begins it again if the
// record says so.
func (a *arrivalWatches) stop(key store.Key) {
	a.mu.Lock()
	w := a.open[key]
	delete(a.open, key)
	a.mu.Unlock()
	if w != nil {
		w.cancel()
		<-w.done
	}
}

// TellArrivals has events told of the files that come into volumes of this machine
// which say so, until ctx ends. What came while it did not run is told of then.
func (vs *Volumes) TellArrivals(ctx context.Context, emit Emit) error {
	a := vs.arrivals
	a.emit = emit
	defer vs.endArrivals(context.WithoutCancel(ctx))
	for {
		changed := vs.store.Volumes.Changed()
		wait := vs.arrangeWatches(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-a.again:
		case <-wait:
		}
	}
}

// watchRetry is how long a volume is left alone that could not be watched.
const watchRetry = 10 * time.Second

// arrangeWatches watches what is to be watched, and nothing else. What it returns
// says when to look again, if something could not be done now.
func (vs *Volumes) arrangeWatches(ctx context.Context) <-chan time.Time {
	var wait time.Duration
	wanted := map[store.Key]bool{}
	for _, rec := range vs.store.Volumes.List("") {
		v := rec.Value
		if v.Node != vs.node || v.Leaving || !v.Events.On() {
			continue
		}
		wanted[rec.Key] = true
		switch err := vs.watch(ctx, rec.Key); {
		case mayfly.KindOf(err) == mayfly.Busy:
			wait = 50 * time.Millisecond // somebody claims it, or it is being restored
		case err != nil:
			if vs.arrivals.failed[rec.Key] != err.Error() {
				vs.arrivals.failed[rec.Key] = err.Error()
				vs.arrivals.log.Error("watch a volume", "space", v.Space, "volume", v.Name, "err", err)
				vs.news("volume.unwatched", v, "files that come into volume "+v.Name+" are not told of: "+err.Error())
			}
			wait = max(wait, watchRetry)
		case vs.arrivals.failed[rec.Key] != "":
			delete(vs.arrivals.failed, rec.Key)
			vs.news("volume.watched", v, "files that come into volume "+v.Name+" are told of again, and so are those that came meanwhile")
		}
	}
	vs.arrivals.mu.Lock()
	open := slices.Collect(maps.Keys(vs.arrivals.open))
	vs.arrivals.mu.Unlock()
	for _, key := range open {
		if !wanted[key] {
			vs.unwatch(ctx, key)
		}
	}
	if wait == 0 {
		return nil
	}
	return time.After(wait)
}

// watch watches a volume as its record says. Busy: not now.
func (vs *Volumes) watch(ctx context.Context, key store.Key) error {
	h, a := vs.held(key), vs.arrivals
	if !h.mu.TryLock() { // whoever holds it may wait for a watch to end
		return mayfly.Errorf(mayfly.Busy, "volume %s is in use", key.Name)
	}
	defer h.mu.Unlock()
	rec, found := vs.store.Volumes.Find(key.Space, key.Name)
	v := rec.Value
	if !found || v.Leaving || !v.Events.On() || v.Node != vs.node {
		return nil
	}
	a.mu.Lock()
	w := a.open[key]
	a.mu.Unlock()
	if w != nil && reflect.DeepEqual(w.volume.Events, v.Events) {
		return nil
	}
	if h.alone {
		return mayfly.Errorf(mayfly.Busy, "volume %s is being %s", key.Name, h.doing)
	}
	a.stop(key)
	o, err := vs.open(ctx, v)
	if err != nil {
		return err
	}
	if o.Emptied {
		vs.emptied(v)
	}
	options := arrivalOptions(v)
	options.Log = a.log.With("space", v.Space, "volume", v.Name)
	options.Warn = func(text string) { vs.news("volume.unwatched", v, "volume "+v.Name+" has "+text) }
	tree, err := arrivals.Open(ctx, o.Path, a.note(v), func(ctx context.Context, files []arrivals.File) error {
		return a.tell(ctx, v, files)
	}, options)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	w = &arrivalWatch{volume: v, cancel: cancel, done: make(chan struct{})}
	a.mu.Lock()
	a.open[key] = w
	a.mu.Unlock()
	go a.run(watching, key, w, tree)
	return nil
}

// run watches until it is told to stop. A watch that ends by itself is begun again,
// some time later.
func (a *arrivalWatches) run(ctx context.Context, key store.Key, w *arrivalWatch, tree *arrivals.Tree) {
	defer close(w.done)
	err := tree.Run(ctx)
	if ctx.Err() != nil {
		return
	}
	a.log.Error("the watch of a volume ended; it is begun again", "space", key.Space, "volume", key.Name, "err", err)
	select {
	case <-time.After(watchRetry):
	case <-ctx.Done():
		return
	}
	a.mu.Lock()
	if a.open[key] == w {
		delete(a.open, key)
	}
	a.mu.Unlock()
	wake(a.again)
}

// unwatch ends a watch, and closes the volume if nobody else uses it.
func (vs *Volumes) unwatch(ctx context.Context, key store.Key) {
	vs.arrivals.stop(key)
	h := vs.held(key)
	h.mu.Lock()
	defer h.mu.Unlock()
	rec, found := vs.store.Volumes.Find(key.Space, key.Name)
	if !found {
		return
	}
	if err := vs.closeUnused(ctx, h, rec.Value); err != nil {
		vs.arrivals.log.Error("close a volume", "space", key.Space, "volume", key.Name, "err", err)
	}
}

// closeUnused closes a volume that is watched no more, if nobody else uses it. h.mu
// of its is held.
func (vs *Volumes) closeUnused(ctx context.Context, h *held, v mayfly.Volume) error {
	if len(h.users) > 0 || h.doing != "" {
		return nil
	}
	p, err := vs.room.Provider(v)
	if err != nil {
		return nil // it was never opened
	}
	return p.Close(ctx, v)
}

// endArrivals ends all watches.
func (vs *Volumes) endArrivals(ctx context.Context) {
	vs.arrivals.mu.Lock()
	open := slices.Collect(maps.Keys(vs.arrivals.open))
	vs.arrivals.mu.Unlock()
	for _, key := range open {
		vs.unwatch(ctx, key)
	}
}

// arrival is the data of an event.
type arrival struct {
	Volume  string    `json:"volume"`
	Path    string    `json:"path"`
	Size    int64     `json:"size"`
	ModTime time.Time `json:"modTime"`
}

// eventOf tells of a file that came into a volume.
func eventOf(v mayfly.Volume, f *arrivals.File) (mayfly.Event, error) {
	data, err := json.Marshal(arrival{v.Name, f.Path, f.Size, f.ModTime})
	return mayfly.Event{
		ID: f.ID(), Source: "/volumes/" + v.Name, Type: v.Events.Type, Subject: f.Path, Time: f.ModTime,
		DataContentType: "application/json", Data: data,
	}, err
}

// tell has events accepted for files. What cannot be an event, such as one of a
// path that is too long, is left out.
func (a *arrivalWatches) tell(ctx context.Context, v mayfly.Volume, files []arrivals.File) error {
	events := make([]mayfly.Event, 0, len(files))
	for i := range files {
		ev, err := eventOf(v, &files[i])
		if err == nil {
			err = ev.Check()
		}
		if err != nil {
			a.log.Error("a file cannot be told of", "space", v.Space, "volume", v.Name, "path", files[i].Path, "err", err)
			continue
		}
		events = append(events, ev)
	}
	if len(events) == 0 {
		return nil
	}
	return a.emit(ctx, v.Space, events)
}

// beginNote has all files told of that come into a volume which is being made. What
// is in a directory of the host's was there before. h.mu of its is held.
func (vs *Volumes) beginNote(ctx context.Context, v mayfly.Volume) error {
	if !v.Events.On() {
		return nil
	}
	if v.Provider != mayfly.VolumeBind {
		return arrivals.Begin(vs.arrivals.note(v))
	}
	return vs.rebase(ctx, v, nil)
}

// rebase notes what is in a volume as told, but for what counted by the rules
// before, if there were any. h.mu of its is held, or it is alone.
func (vs *Volumes) rebase(ctx context.Context, v mayfly.Volume, before *mayfly.VolumeEvents) error {
	vs.arrivals.stop(store.Key{Space: v.Space, Name: v.Name})
	defer wake(vs.arrivals.again)
	o, err := vs.open(ctx, v)
	if err != nil {
		return err
	}
	var rules *arrivals.Rules
	if before != nil {
		rules = &arrivals.Rules{Match: before.Match, Depth: before.Depth}
	}
	return arrivals.Rebase(ctx, o.Path, vs.arrivals.note(v), arrivalOptions(v), rules)
}

// changeEvents prepares for another definition of what is told of a volume that was
// made: what is in it when it gets events is no news. h.mu of its is held.
func (vs *Volumes) changeEvents(ctx context.Context, h *held, old, next mayfly.Volume) error {
	switch {
	case old.Node != vs.node || reflect.DeepEqual(old.Events, next.Events):
		return nil
	case !next.Events.On(): // what comes from now on is not told of
		vs.arrivals.stop(store.Key{Space: old.Space, Name: old.Name})
		return vs.closeUnused(ctx, h, old)
	case old.Events.On() && slices.Equal(old.Events.Match, next.Events.Match) && old.Events.Depth == next.Events.Depth:
		return nil // another type, which counts from now on
	}
	var before *mayfly.VolumeEvents
	if old.Events.On() {
		before = &old.Events
	}
	return vs.rebase(ctx, next, before)
}

// forget removes what is noted of a volume's files. h.mu of its is held.
func (vs *Volumes) forget(v mayfly.Volume) error {
	vs.arrivals.stop(store.Key{Space: v.Space, Name: v.Name})
	return errors.Join(arrivals.Forget(vs.arrivals.note(v)))
}

// wake puts something into a channel that holds one, unless there is something.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
