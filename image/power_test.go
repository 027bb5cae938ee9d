package image_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly/disk/disktest"
	"github.com/mayfly-run/mayfly/image"
)

// TestNamedImagesAreOnDisk: an image that has its name is whole after a power loss,
// and so is one of layers that were there already.
func TestNamedImagesAreOnDisk(t *testing.T) {
	d := disktest.New(t)
	s := open(t, d.Dir+"/images", image.Options{})
	body := strings.Repeat("all that is in it\n", 10_000)
	imported, err := s.Import(t.Context(), "root", bytes.NewReader(makeTar(t, entry{name: "bin/sh", body: body, mode: 0o755})))
	if err != nil {
		t.Fatal(err)
	}
	added := func(name string) image.Image {
		t.Helper()
		layer := image.Layer{Tar: bytes.NewReader(makeTar(t, entry{name: "main.py", body: body}))}
		img, err := s.AddLayer(t.Context(), imported.Digest, name, layer, func(c *ocispec.ImageConfig) { c.WorkingDir = "/" + name })
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	found := func(name string) map[string]string {
		t.Helper()
		after := d.AfterPowerLoss()
		s := open(t, after+"/images", image.Options{})
		img, err := s.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		root, err := s.Use(t.Context(), img.Digest, "test")
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := filepath.Glob(after + "/images/content/blobs/sha256/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range blobs {
			if data, err := os.ReadFile(b); err != nil || digestOf(data) != "sha256:"+filepath.Base(b) {
				t.Errorf("blob %s has %d bytes of another digest; %v", filepath.Base(b), len(data), err)
			}
		}
		return merged(t, root)
	}
	want := map[string]string{"bin": "d", "bin/sh": body}
	if got := found("root"); !maps.Equal(got, want) {
		t.Errorf("of what was imported, %d files are there", len(got))
	}
	want["main.py"] = body
	for _, name := range []string{"one", "other"} {
		added(name)
		if got := found(name); !maps.Equal(got, want) {
			t.Errorf("of image %s, %d files are there", name, len(got))
		}
	}
}

// TestKeptImagesAreOnDisk: an image that is kept for an owner is there after a power
// loss, though it has no name.
func TestKeptImagesAreOnDisk(t *testing.T) {
	d := disktest.New(t)
	s := open(t, d.Dir+"/images", image.Options{})
	img, err := s.Import(t.Context(), "root", bytes.NewReader(makeTar(t, entry{name: "file", body: "text"})))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Use(t.Context(), img.Digest, "release/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep("release/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "root", true); err != nil {
		t.Fatal(err)
	}
	after := open(t, d.AfterPowerLoss()+"/images", image.Options{})
	root, err := after.Use(t.Context(), img.Digest, "release/1")
	if err != nil {
		t.Fatal(err)
	}
	if got := merged(t, root); !maps.Equal(got, map[string]string{"file": "text"}) {
		t.Errorf("it has %v", got)
	}
}
