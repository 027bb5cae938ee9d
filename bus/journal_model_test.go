package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// journalMachine is a journal and, in plain maps, what it is to hold.
type journalMachine struct {
	t      *testing.T
	dir    string
	j      *Journal
	there  map[string]Record
	freed  map[string]bool // may come back
	writes int
}

func TestJournalAgreesWithModel(t *testing.T) {
	m := &journalMachine{t: t, dir: filepath.Join(t.TempDir(), "data")}
	m.j = journalOn(t, open(t, m.dir), TasksStream, 0)
	defer func() {
		m.j.Close()
		closeBus(t, m.j.bus)
	}()
	rapid.Check(t, func(r *rapid.T) {
		m.j.Close()
		if err := m.j.stream.Purge(context.Background()); err != nil {
			r.Fatal(err)
		}
		m.j = journalOn(t, m.j.bus, TasksStream, 0)
		m.there, m.freed = map[string]Record{}, map[string]bool{}
		r.Repeat(map[string]func(*rapid.T){
			"write":   m.write,
			"write 2": m.write,
			"refused": m.refused,
			"free":    m.free,
			"rewrite": m.rewrite,
			"tidy": func(r *rapid.T) {
				aged(m.j)
				if err := m.j.Tidy(context.Background()); err != nil {
					r.Fatal(err)
				}
			},
			"tidy all": m.tidyAll,
			"reopen": func(r *rapid.T) {
				forgetFreed := rapid.Bool().Draw(r, "as if killed")
				if forgetFreed {
					m.j.mu.Lock()
					m.j.lonely, m.j.thinned = nil, nil
					m.j.mu.Unlock()
				}
				m.j.Close()
				m.reopened(r, m.j.bus)
			},
			"crash": func(r *rapid.T) {
				if rapid.IntRange(0, 4).Draw(r, "now") == 0 {
					m.crash(r)
				}
			},
			"": m.check,
		})
		m.tidyAll(r)
		m.check(r)
	})
}

func (m *journalMachine) key(r *rapid.T) string {
	return fmt.Sprint("k", rapid.IntRange(0, 19).Draw(r, "key"))
}

// write writes some records, together.
func (m *journalMachine) write(r *rapid.T) {
	list := map[*Write]Record{}
	busy := map[string]bool{}
	count := rapid.SampledFrom([]int{1, 2, 5, 12}).Draw(r, "count")
	keys := rapid.SliceOfN(rapid.Custom(m.key), count, count).Draw(r, "keys")
	paused(m.j, func() {
		for _, key := range keys {
			m.writes++
			rec := Record{Key: key, Label: "w.0", Head: []byte(key), Data: fmt.Append(nil, key, m.writes)}
			w := m.j.Write(rec, m.there[key].Position)
			if busy[key] {
				<-w.Done()
				if _, err := w.Position(); !errors.Is(err, ErrExists) {
					r.Fatalf("%s written twice at once: %v", key, err)
				}
				continue
			}
			busy[key] = true
			list[w] = rec
		}
	})
	for w, rec := range list {
		<-w.Done()
		pos, err := w.Position()
		if err != nil {
			// What it replaces was being written again.
			if pos, err = m.j.Put(context.Background(), rec, m.there[rec.Key].Position); err != nil {
				r.Fatal(err)
			}
		}
		if pos <= m.there[rec.Key].Position {
			r.Fatalf("%s is at %x after %x", rec.Key, pos, m.there[rec.Key].Position)
		}
		rec.Position = pos
		m.there[rec.Key] = rec
	}
}

// refused writes over what is not there.
func (m *journalMachine) refused(r *rapid.T) {
	key := m.key(r)
	over := m.there[key].Position + rapid.SampledFrom([]uint64{1, 256, 99999}).Draw(r, "off")
	if _, err := m.j.Put(context.Background(), record(key), over); !errors.Is(err, ErrExists) {
		r.Fatalf("put %s over %x: %v", key, over, err)
	}
	m.j.Free(key, over)
}

func (m *journalMachine) free(r *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(r, "count") {
		key := m.key(r)
		if rec, there := m.there[key]; there {
			m.j.Free(key, rec.Position)
			delete(m.there, key)
			m.freed[key] = true
		}
	}
}

// rewrite writes some messages again, whatever is left in them.
func (m *journalMachine) rewrite(r *rapid.T) {
	first := rapid.IntRange(0, 5).Draw(r, "first")
	m.j.mu.Lock()
	sequences := slices.Sorted(maps.Keys(m.j.tallies))
	m.j.mu.Unlock()
	sequences = sequences[min(first, len(sequences)):]
	if err := m.j.rewrite(context.Background(), sequences[:min(3, len(sequences))]); err != nil {
		r.Fatal(err)
	}
}

// tidyAll leaves nothing of what was freed or replaced.
func (m *journalMachine) tidyAll(r *rapid.T) {
	tidy(r, m.j)
	if got := stored(m.t, m.j); got != len(m.there) {
		r.Fatalf("the stream holds %d records, and %d are there", got, len(m.there))
	}
	clear(m.freed)
}

// crash goes on with what a kill leaves: a copy of the directory during which
// nothing was written.
func (m *journalMachine) crash(r *rapid.T) {
	dir := filepath.Join(m.t.TempDir(), "data")
	copyDir(m.t, dir, m.dir)
	m.j.Close()
	closeBus(m.t, m.j.bus)
	m.dir = dir
	m.reopened(r, open(m.t, dir))
}

// reopened opens the journal of a bus, and frees what has come back, as whoever
// uses a journal must.
func (m *journalMachine) reopened(r *rapid.T, b *Bus) {
	var err error
	if m.j, err = b.OpenJournal(context.Background(), TasksStream, 0); err != nil {
		r.Fatal(err)
	}
	var back []Record
	for _, p := range load(m.t, m.j) {
		if _, there := m.there[p.Key]; there || !m.j.Live(p.Key, p.Position) {
			continue
		}
		if !m.freed[p.Key] {
			r.Fatalf("%s has come back", p.Key)
		}
		back = append(back, Record{Key: p.Key, Position: p.Position})
	}
	for _, rec := range back {
		m.j.Free(rec.Key, rec.Position)
	}
}

func (m *journalMachine) check(r *rapid.T) {
	var positions []uint64
	for key, rec := range m.there {
		if !m.j.Live(key, rec.Position) {
			r.Fatalf("%s is not at %x", key, rec.Position)
		}
		positions = append(positions, rec.Position)
	}
	list, err := m.j.Get(context.Background(), positions)
	if err != nil {
		r.Fatal(err)
	}
	if len(list) != len(m.there) || m.j.Len() != len(m.there) {
		r.Fatalf("%d of %d can be read, and %d are said to be there", len(list), len(m.there), m.j.Len())
	}
	last := uint64(0)
	for _, got := range list {
		want := m.there[got.Key]
		if got.Position != want.Position || got.Position <= last || string(got.Head) != got.Key || string(got.Data) != string(want.Data) {
			r.Fatalf("%s is %+v after %x, want %+v", got.Key, got, last, want)
		}
		last = got.Position
	}
	sound(r, m.j)
}

// copyDir copies a directory of which something may be removed or written
// meanwhile: until nothing was.
func copyDir(t *testing.T, to, from string) {
	t.Helper()
	for {
		before := filesOf(t, from)
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		for path, info := range before {
			name := filepath.Join(to, strings.TrimPrefix(path, from))
			if info.IsDir() {
				if err := os.MkdirAll(name, 0o700); err != nil {
					t.Fatal(err)
				}
				continue
			}
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(name), 0o700)
			}
			if err == nil {
				err = os.WriteFile(name, data, 0o600)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if maps.EqualFunc(before, filesOf(t, from), func(a, b fs.FileInfo) bool {
			return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
		}) {
			return
		}
	}
}

func filesOf(t *testing.T, dir string) map[string]fs.FileInfo {
	t.Helper()
	all := map[string]fs.FileInfo{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		all[path] = info
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
