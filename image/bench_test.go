package image_test

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/mayfly-run/mayfly/image"
)

func BenchmarkUse(b *testing.B) {
	s, err := image.Open(b.TempDir(), image.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	img, err := s.Import(b.Context(), "app", bytes.NewReader(makeTar(b, entry{name: "bin/sh", mode: 0o755})))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("same owner", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Use(b.Context(), img.Digest, "o"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("new owner", func(b *testing.B) {
		n := 0
		for b.Loop() {
			n++
			owner := fmt.Sprint("o", n)
			if _, err := s.Use(b.Context(), img.Digest, owner); err != nil {
				b.Fatal(err)
			}
			if err := s.Release(b.Context(), owner); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		s, err := image.Open(dir, image.Options{})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func BenchmarkImportRoot(b *testing.B) {
	path := os.Getenv("MAYFLY_BENCH_ROOT")
	if path == "" {
		b.Skip("set MAYFLY_BENCH_ROOT to a root as a tar")
	}
	for b.Loop() {
		s, err := image.Open(b.TempDir(), image.Options{})
		if err != nil {
			b.Fatal(err)
		}
		img, err := s.ImportPath(b.Context(), "root", path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(img.Blobs), "stored-B")
		s.Close()
	}
}
