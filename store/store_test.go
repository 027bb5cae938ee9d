package store

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB) *Store {
	t.Helper()
	b, err := bus.Open(t.Context(), t.TempDir(), bus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return openOn(t, b)
}

func openOn(t testing.TB, b *bus.Bus) *Store {
	t.Helper()
	s, err := Open(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func wantKind(t *testing.T, err error, kind mayfly.Kind) {
	t.Helper()
	if mayfly.KindOf(err) != kind {
		t.Fatalf("got error %v, want one of kind %q", err, kind)
	}
}

// deploy makes a release and activates it.
func deploy(t testing.TB, s *Store, w mayfly.Workload) Workload {
	t.Helper()
	rel, err := s.PutRelease(t.Context(), w, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	var seen uint64
	if old, err := s.Workload(w.Space, w.Name); err == nil {
		seen = old.Revision
	}
	if _, err := s.SetWorkload(t.Context(), w.Space, w.Name, rel.Number, seen); err != nil {
		t.Fatal(err)
	}
	got, err := s.Workload(w.Space, w.Name)
	if err != nil || got.Number != rel.Number {
		t.Fatalf("own write is not seen: %+v, %v", got, err)
	}
	return got
}

func thumb(routes ...mayfly.Route) mayfly.Workload {
	return mayfly.Workload{Space: "default", Name: "thumb", Routes: routes}
}

func TestDeployRollBackDelete(t *testing.T) {
	s := open(t)
	_, err := s.Workload("default", "thumb")
	wantKind(t, err, mayfly.NotFound)
	one := deploy(t, s, thumb())
	two := deploy(t, s, thumb())
	if one.Number != 1 || two.Number != 2 {
		t.Fatalf("releases %d and %d, want 1 and 2", one.Number, two.Number)
	}
	_, err = s.SetWorkload(t.Context(), "default", "thumb", 1, one.Revision)
	wantKind(t, err, mayfly.Conflict)
	if _, err := s.SetWorkload(t.Context(), "default", "thumb", 1, two.Revision); err != nil {
		t.Fatal(err)
	}
	if w, _ := s.Workload("default", "thumb"); w.Number != 1 {
		t.Fatalf("release %d is active after the rollback to 1", w.Number)
	}
	_, err = s.SetWorkload(t.Context(), "default", "thumb", 7, 0)
	wantKind(t, err, mayfly.NotFound)
	list, err := s.Releases(t.Context(), "default", "thumb")
	if err != nil || len(list) != 2 || list[0].Number != 2 {
		t.Fatalf("releases: %v, %v", list, err)
	}
	w, _ := s.Workload("default", "thumb")
	if err := s.DeleteWorkload(t.Context(), "default", "thumb", w.Revision); err != nil {
		t.Fatal(err)
	}
	_, err = s.Workload("default", "thumb")
	wantKind(t, err, mayfly.NotFound)
	if list, err := s.Releases(t.Context(), "default", "thumb"); err != nil || len(list) != 0 {
		t.Fatalf("releases of a deleted workload: %v, %v", list, err)
	}
	if again := deploy(t, s, thumb()); again.Number != 3 {
		t.Fatalf("release number %d came back", again.Number)
	}
}

func TestRouteBelongsToOneWorkload(t *testing.T) {
	s := open(t)
	deploy(t, s, thumb(mayfly.Route{Host: "Blog.example", Path: "/thumb/"}))
	other := mayfly.Workload{Space: "default", Name: "other", Routes: []mayfly.Route{{Host: "blog.example", Path: "/thumb"}}}
	rel, err := s.PutRelease(t.Context(), other, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.SetWorkload(t.Context(), "default", "other", rel.Number, 0)
	wantKind(t, err, mayfly.Conflict)
	other.Space = "elsewhere" // whose requests come in at the same door
	rel, err = s.PutRelease(t.Context(), other, "sha256:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.SetWorkload(t.Context(), "elsewhere", "other", rel.Number, 0)
	wantKind(t, err, mayfly.Conflict)
	deploy(t, s, thumb())
	deploy(t, s, other)
}

func instance(name string) mayfly.Instance {
	return mayfly.Instance{ID: mayfly.NewID(), Space: "default", Name: name, State: mayfly.Starting, Created: time.Now().UTC()}
}

func TestInstanceLife(t *testing.T) {
	s := open(t)
	in := instance("web")
	rev, err := s.PutInstance(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"web", in.ID, in.ID[:12]} {
		if got, err := s.Instance("default", ref); err != nil || got.ID != in.ID {
			t.Errorf("by %q: %v, %v", ref, got, err)
		}
	}
	_, err = s.Instance("other", in.ID)
	wantKind(t, err, mayfly.NotFound)
	_, err = s.PutInstance(t.Context(), instance("web"))
	wantKind(t, err, mayfly.Conflict)
	if n := len(s.Instances("")); n != 1 {
		t.Fatalf("%d instances, the refused one included", n)
	}
	in.State = mayfly.Running
	next, err := s.UpdateInstance(t.Context(), in, rev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.UpdateInstance(t.Context(), in, rev)
	wantKind(t, err, mayfly.Conflict)
	if got, _ := s.Instance("default", "web"); got.State != mayfly.Running || got.Revision != next {
		t.Fatalf("own write is not seen: %+v", got)
	}
	if err := s.DeleteInstance(t.Context(), "default", in.ID); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.DeleteInstance(t.Context(), "default", in.ID), mayfly.NotFound)
	if _, err := s.PutInstance(t.Context(), instance("web")); err != nil {
		t.Fatalf("the name of a removed instance is not free: %v", err)
	}
}

func TestNamesAreChecked(t *testing.T) {
	s := open(t)
	for _, bad := range []string{"", ".", "a.b", "*", ">", "A", "a b", "ä", "-a"} {
		_, err := s.PutRelease(t.Context(), mayfly.Workload{Space: "default", Name: bad}, "sha256:1")
		wantKind(t, err, mayfly.Invalid)
		_, err = s.PutRelease(t.Context(), mayfly.Workload{Space: bad, Name: "a"}, "sha256:1")
		wantKind(t, err, mayfly.Invalid)
		_, err = s.Releases(t.Context(), "default", bad)
		wantKind(t, err, mayfly.Invalid)
		in := instance("")
		in.Space = bad
		_, err = s.PutInstance(t.Context(), in)
		wantKind(t, err, mayfly.Invalid)
		in = instance("")
		in.ID = bad
		_, err = s.PutInstance(t.Context(), in)
		wantKind(t, err, mayfly.Invalid)
	}
}

func TestTooLargeIsRefused(t *testing.T) {
	s := open(t)
	w := thumb()
	w.Env = map[string]string{"A": strings.Repeat("x", 2<<20)}
	_, err := s.PutRelease(t.Context(), w, "sha256:1")
	wantKind(t, err, mayfly.TooLarge)
}

func TestDeleteRelease(t *testing.T) {
	s := open(t)
	for range 3 {
		deploy(t, s, thumb())
	}
	if _, err := s.PutRelease(t.Context(), thumb(), "sha256:never-active"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.DeleteRelease(t.Context(), "default", "thumb", 3), mayfly.Conflict)
	for range 2 {
		if err := s.DeleteRelease(t.Context(), "default", "thumb", 1); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Release(t.Context(), "default", "thumb", 1)
	wantKind(t, err, mayfly.NotFound)
	list, err := s.Releases(t.Context(), "default", "thumb")
	if err != nil || len(list) != 3 || list[0].Number != 4 || list[2].Number != 2 {
		t.Errorf("left are %+v, %v", list, err)
	}
	if w := deploy(t, s, thumb()); w.Number != 5 {
		t.Errorf("the next release is %d", w.Number)
	}
}
