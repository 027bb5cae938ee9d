package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
)

func TestTableIsComparedAndSet(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	changed := s.Wishes.Changed()
	rev, err := s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	<-changed
	_, err = s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 9}, 0)
	wantKind(t, err, mayfly.Conflict)
	if _, err = s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 2}, rev); err != nil {
		t.Fatal(err)
	}
	_, err = s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 9}, rev)
	wantKind(t, err, mayfly.Conflict)
	got, err := s.Wishes.Get("default", "db")
	if err != nil || got.Value.Generation != 2 {
		t.Fatalf("own write is not seen: %+v, %v", got, err)
	}
	wantKind(t, s.Wishes.Delete(ctx, "default", "db", rev), mayfly.Conflict)
	if err := s.Wishes.Delete(ctx, "default", "db", got.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = s.Wishes.Get("default", "db")
	wantKind(t, err, mayfly.NotFound)
	if _, err := s.Wishes.Put(ctx, "default", "db", mayfly.Wish{Generation: 3}, 0); err != nil {
		t.Fatalf("a removed record cannot be made again: %v", err)
	}
}

func TestTableIsReadAgainByAnotherStore(t *testing.T) {
	s := open(t)
	for _, space := range []string{"b", "a"} {
		for _, name := range []string{"y", "x"} {
			if _, err := s.Configs.Put(t.Context(), space, name, mayfly.Config{Name: name}, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	other := openOn(t, s.bus)
	if n := len(other.Configs.List("")); n != 4 {
		t.Errorf("%d records, want 4", n)
	}
	list := other.Configs.List("a")
	if len(list) != 2 || list[0].Name != "x" || list[1].Space != "a" {
		t.Errorf("listed %+v", list)
	}
}

func TestUpdatesOfTwoStoresAreAllCounted(t *testing.T) {
	s := open(t)
	other := openOn(t, s.bus)
	const each = 50
	var group sync.WaitGroup
	for _, st := range []*Store{s, other} {
		group.Go(func() {
			for range each {
				_, err := st.Wishes.Update(t.Context(), "default", "db", func(w mayfly.Wish, _ bool) (mayfly.Wish, bool, error) {
					w.Generation++
					return w, true, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	got, err := s.Wishes.Update(t.Context(), "default", "db", func(w mayfly.Wish, _ bool) (mayfly.Wish, bool, error) { return w, true, nil })
	if err != nil || got.Generation != 2*each {
		t.Errorf("counted %d, %v; want %d", got.Generation, err, 2*each)
	}
}

func TestNewsIsKeptFollowedAndSelected(t *testing.T) {
	s := open(t)
	s.RecordNews(mayfly.News{Space: "default", Type: "service.ready", Subject: "db", Text: "one"})
	s.RecordNews(mayfly.News{Space: "default", Type: "volume.created", Subject: "data", Text: "two"})
	s.RecordNews(mayfly.News{Space: "other", Type: "service.ready", Subject: "db", Text: "three"})
	s.RecordNews(mayfly.News{Space: "default", Type: "services.x", Subject: "db", Text: "four"})
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Close()
	again := openOn(t, s.bus)
	list, next := again.News(NewsFilter{Space: "default", Type: "service"}, 0)
	if len(list) != 1 || list[0].Text != "one" || list[0].ID == "" || list[0].Time.IsZero() {
		t.Errorf("selected %+v", list)
	}
	if list, _ = again.News(NewsFilter{}, 2); len(list) != 2 || list[1].Text != "four" {
		t.Errorf("the last two are %+v", list)
	}
	again.RecordNews(mayfly.News{Space: "default", Type: "service.crashed", Subject: "db", Text: "five"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done := errors.New("seen")
	err := again.FollowNews(ctx, NewsFilter{Subject: "db"}, next, func(n mayfly.News) error {
		if n.Text != "five" {
			t.Errorf("followed %+v", n)
		}
		return done
	})
	if err != done {
		t.Error(err)
	}
}

// Who records news reads it at once, and once, although it comes back from the
// stream later; others have it in the order of the stream.
func TestNewsIsReadAtOnceAndOnce(t *testing.T) {
	s := open(t)
	other := openOn(t, s.bus)
	s.RecordNews(mayfly.News{Space: "default", Type: "service.ready", Subject: "db", Text: "one"})
	list, next := s.News(NewsFilter{}, 0)
	if len(list) != 1 || list[0].Text != "one" {
		t.Errorf("at once there is %+v", list)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done := errors.New("seen")
	if err := other.FollowNews(ctx, NewsFilter{}, 0, func(n mayfly.News) error {
		if n.Text != "one" {
			t.Errorf("others have %q", n.Text)
		}
		return done
	}); err != done {
		t.Error(err)
	}
	other.RecordNews(mayfly.News{Space: "default", Type: "service.ready", Subject: "db", Text: "two"})
	if list, _ := other.News(NewsFilter{}, 0); len(list) != 2 {
		t.Errorf("others have %+v", list)
	}
	if err := s.FollowNews(ctx, NewsFilter{}, next, func(n mayfly.News) error {
		if n.Text != "two" {
			t.Errorf("there is %q once more", n.Text)
		}
		return done
	}); err != done {
		t.Error(err)
	}
}

// Who waits for some records is not woken by others.
func TestTableTellsOfThoseThatFit(t *testing.T) {
	s := open(t)
	ctx := t.Context()
	wait := func() (<-chan struct{}, func()) {
		return s.Wishes.ChangedOf("default", func(r Record[mayfly.Wish]) bool { return r.Name == "db" && r.Value.Generation < 3 })
	}
	put := func(space, name string, generation int) {
		t.Helper()
		rec, _ := s.Wishes.Find(space, name)
		if _, err := s.Wishes.Put(ctx, space, name, mayfly.Wish{Generation: generation}, rec.Revision); err != nil {
			t.Fatal(err)
		}
	}
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	changed, stop := wait()
	put("default", "web", 1)
	put("other", "db", 1)
	put("default", "db", 7)
	if closed(changed) {
		t.Error("it was woken by what does not fit")
	}
	put("default", "db", 1)
	if !closed(changed) {
		t.Error("it was not woken by what fits now")
	}
	stop()
	changed, _ = wait()
	put("default", "db", 7)
	if !closed(changed) {
		t.Error("it was not woken by what fitted before")
	}
	put("default", "db", 1)
	changed, _ = wait()
	rec, _ := s.Wishes.Find("default", "db")
	if err := s.Wishes.Delete(ctx, "default", "db", rec.Revision); err != nil {
		t.Fatal(err)
	}
	if !closed(changed) {
		t.Error("it was not woken by a removal")
	}
	_, stop = wait()
	stop()
	if len(s.Wishes.waiting) > 0 {
		t.Error("who has stopped is still known")
	}
}
