package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/manifest"
)

// DiffReleases says what differs between two releases of a workload. A from of 0 is
// the one before to, and a to of 0 the active one.
func (n *Node) DiffReleases(ctx context.Context, space, name string, from, to int) (mayfly.ReleaseDiff, error) {
	d := mayfly.ReleaseDiff{Settings: []mayfly.SettingDiff{}, Files: []mayfly.FileDiff{}}
	w, err := n.store.Workload(space, name)
	if err != nil {
		return d, err
	}
	if to == 0 {
		to = w.Number
	}
	if from == 0 {
		all, err := n.store.Releases(ctx, space, name)
		if err != nil {
			return d, err
		}
		for _, rel := range all { // newest first
			if rel.Number < to {
				from = rel.Number
				break
			}
		}
		if from == 0 {
			return d, mayfly.Errorf(mayfly.Conflict, "there is no release of %s before release %d", name, to)
		}
	}
	a, err := n.store.Release(ctx, space, name, from)
	if err != nil {
		return d, err
	}
	b, err := n.store.Release(ctx, space, name, to)
	if err != nil {
		return d, err
	}
	d.From, d.To = from, to
	if d.Settings, err = diffSettings(&a.Workload, &b.Workload); err != nil {
		return d, err
	}
	if a.Image == b.Image {
		return d, nil
	}
	d.Files, err = n.diffFiles(ctx, a.Image, b.Image)
	if mayfly.KindOf(err) == mayfly.NotFound {
		d.Files, d.Unread, err = []mayfly.FileDiff{}, "an image of them is not kept any more", nil
	}
	return d, err
}

// diffSettings compares what two workloads say. Where code comes from is not among
// it: the files tell.
func diffSettings(a, b *mayfly.Workload) ([]mayfly.SettingDiff, error) {
	from, err := settings(a)
	if err != nil {
		return nil, err
	}
	to, err := settings(b)
	if err != nil {
		return nil, err
	}
	list := []mayfly.SettingDiff{}
	names := maps.Clone(from)
	maps.Copy(names, to)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if from[name] != to[name] {
			list = append(list, mayfly.SettingDiff{Name: name, From: from[name], To: to[name]})
		}
	}
	return list, nil
}

// settings is what a workload says, each with a name such as env.DEBUG.
func settings(w *mayfly.Workload) (map[string]string, error) {
	data, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber() // times are whole numbers
	if err := dec.Decode(&all); err != nil {
		return nil, err
	}
	for _, other := range []string{"space", "name", "code", "detected"} {
		delete(all, other)
	}
	sayUnits(reflect.TypeOf(w), "", all)
	out := make(map[string]string)
	flatten(out, "", all)
	return out, nil
}

// sayUnits writes the times and sizes in what was decoded of a value of type t as a
// manifest says them, and returns it.
func sayUnits(t reflect.Type, name string, v any) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		switch {
		case err != nil:
		case t == reflect.TypeFor[time.Duration]():
			return manifest.DurationText(time.Duration(n))
		case slices.Contains([]string{"memory", "memoryUpTo", "maxBody", "size"}, name):
			return manifest.SizeText(n)
		}
	case []any:
		if t.Kind() != reflect.Slice {
			break
		}
		for i := range v {
			v[i] = sayUnits(t.Elem(), name, v[i])
		}
	case map[string]any:
		if t.Kind() != reflect.Struct {
			break // maps are of texts
		}
		for _, field := range reflect.VisibleFields(t) {
			key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if value, ok := v[key]; ok {
				v[key] = sayUnits(field.Type, key, value)
			}
		}
	}
	return v
}

func flatten(out map[string]string, name string, v any) {
	if m, ok := v.(map[string]any); ok {
		for key, value := range m {
			flatten(out, strings.TrimPrefix(name+"."+key, "."), value)
		}
		return
	}
	if text, ok := v.(string); ok {
		out[name] = text
		return
	}
	var text strings.Builder
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // for people: commands have < and >
	if err := enc.Encode(v); err != nil {
		panic(err) // it was JSON before
	}
	out[name] = strings.TrimSuffix(text.String(), "\n")
}

// diffFiles compares the code of two images.
func (n *Node) diffFiles(ctx context.Context, a, b string) ([]mayfly.FileDiff, error) {
	owner := "diff-" + mayfly.NewID()
	defer n.releaseImages(context.WithoutCancel(ctx), owner)
	left, err := n.codeOf(ctx, a, owner)
	if err != nil {
		return nil, err
	}
	defer left.close()
	owner2 := "diff-" + mayfly.NewID()
	defer n.releaseImages(context.WithoutCancel(ctx), owner2)
	right, err := n.codeOf(ctx, b, owner2)
	if err != nil {
		return nil, err
	}
	defer right.close()
	list := []mayfly.FileDiff{}
	for name, info := range left.files {
		other, ok := right.files[name]
		if !ok {
			list = append(list, mayfly.FileDiff{Name: name, Change: "removed"})
			continue
		}
		same, err := sameFile(ctx, left, right, name, info, other)
		if err != nil {
			return nil, err
		}
		if !same {
			list = append(list, mayfly.FileDiff{Name: name, Change: "changed"})
		}
	}
	for name := range right.files {
		if _, ok := left.files[name]; !ok {
			list = append(list, mayfly.FileDiff{Name: name, Change: "added"})
		}
	}
	slices.SortFunc(list, func(a, b mayfly.FileDiff) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// codeTree is the code of an image.
type codeTree struct {
	root  *os.Root               // nil: it has none
	files map[string]fs.FileInfo // files and links, by their names beneath build.AppDir
}

func (c *codeTree) close() {
	if c.root != nil {
		c.root.Close()
	}
}

// codeOf opens the code layer of an image, which is kept for owner.
func (n *Node) codeOf(ctx context.Context, digest, owner string) (*codeTree, error) {
	c := &codeTree{files: make(map[string]fs.FileInfo)}
	used, err := n.images.Use(ctx, digest, owner)
	if err != nil {
		return nil, err
	}
	if used.Config.Labels[build.LabelCode] != "true" || len(used.Lower) == 0 {
		return c, nil
	}
	layer, err := os.OpenRoot(used.Lower[0])
	if err != nil {
		return nil, err
	}
	defer layer.Close()
	c.root, err = layer.OpenRoot(strings.TrimPrefix(build.AppDir, "/"))
	if errors.Is(err, fs.ErrNotExist) {
		c.root = nil
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(c.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || e.IsDir() {
			return err
		}
		c.files[name], err = e.Info()
		return err
	})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("read the code of %s: %w", digest, err)
	}
	return c, nil
}

func sameFile(ctx context.Context, left, right *codeTree, name string, a, b fs.FileInfo) (bool, error) {
	if a.Mode() != b.Mode() || a.Size() != b.Size() {
		return false, nil
	}
	if a.Mode()&fs.ModeSymlink != 0 {
		to, err := left.root.Readlink(name)
		if err != nil {
			return false, err
		}
		other, err := right.root.Readlink(name)
		return to == other, err
	}
	f, err := left.root.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := right.root.Open(name)
	if err != nil {
		return false, err
	}
	defer g.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for ctx.Err() == nil {
		i, err := io.ReadFull(f, x)
		j, _ := io.ReadFull(g, y)
		if i != j || !bytes.Equal(x[:i], y[:j]) {
			return false, nil
		}
		if err != nil { // the end of both, which are of one size
			return true, nil
		}
	}
	return false, ctx.Err()
}
