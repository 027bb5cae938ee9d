package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
)

// FuzzManifest: whatever a registry sends as an index, a manifest or a
// configuration is taken or refused as Invalid or TooLarge, and what is taken
// names only digests that can be files.
func FuzzManifest(f *testing.F) {
	d := digest.FromString("x").String()
	for _, seed := range []string{
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + d + `","size":1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"` + d + `","size":5}]}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + d + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":1,"fsLayers":[]}`, `{"config":{"digest":"../../etc/passwd"}}`, `{"manifests":[{"digest":"sha256:../x"}]}`,
		`{"manifests":[{"digest":"` + d + `"},{"digest":"` + d + `","annotations":{"org.opencontainers.image.ref.name":"a b"}}]}`,
		`{"rootfs":{"diff_ids":["` + d + `"]}}`, `[]`, `null`, `{`, ``,
	} {
		f.Add([]byte(seed), "app")
	}
	refused := func(t *testing.T, err error) {
		if k := mayfly.KindOf(err); k != mayfly.Invalid && k != mayfly.TooLarge {
			t.Errorf("kind %q: %v", k, err)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		_, resolved, err := resolveIndex(raw, choice{name: name}, func(d ocispec.Descriptor) ([]byte, error) {
			if d.Digest.Validate() != nil {
				t.Errorf("asked for %q", d.Digest)
			}
			return raw, nil
		})
		if err != nil {
			refused(t, err)
			return
		}
		m, err := parseManifest(resolved)
		if err != nil {
			refused(t, err)
			return
		}
		for _, l := range append(m.Layers, m.Config) {
			if !filepath.IsLocal(blobPath(l.Digest)) {
				t.Errorf("layer at %q", blobPath(l.Digest))
			}
		}
		if _, err := parseConfig(raw, m); err != nil {
			refused(t, err)
		}
	})
}

// FuzzName: what is taken as a name can be stored and read back.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "a:1", "docker.io/library/a", "localhost:5000/x/y:z", "a@sha256:" + strings.Repeat("0", 64), "A", "../a", "a//b", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := parseName(s)
		if err != nil {
			return
		}
		again, err := parseName(familiar(ref.String()))
		if err != nil || again.String() != ref.String() {
			t.Errorf("%q became %q, then %v, %v", s, ref, again, err)
		}
	})
}

// FuzzCode: of any tar, what becomes a layer is sorted, lies below its prefix,
// belongs to root and holds only files, directories and links.
func FuzzCode(f *testing.F) {
	for _, data := range hostile(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if _, err := in.Write(data); err != nil {
			t.Fatal(err)
		}
		in.Seek(0, io.SeekStart)
		code, err := readCode(in, "/app", 1000)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := code.write(t.Context(), &out); err != nil {
			return
		}
		var names, links []string
		tr := tar.NewReader(&out)
		for {
			hdr, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if hdr.Name != "app/" && !strings.HasPrefix(hdr.Name, "app/") || !filepath.IsLocal(hdr.Name) {
				t.Errorf("%q is not below app/", hdr.Name)
			}
			if hdr.Uid != 0 || hdr.Gid != 0 || hdr.Mode&^0o777 != 0 || !hdr.ModTime.Equal(codeTime()) || slices.ContainsFunc(slices.Collect(maps.Keys(hdr.PAXRecords)), func(k string) bool { return strings.HasPrefix(k, xattrRecord) }) {
				t.Errorf("got %+v", hdr)
			}
			switch hdr.Typeflag {
			case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
				names = append(names, strings.TrimSuffix(hdr.Name, "/"))
			case tar.TypeLink:
				links = append(links, hdr.Name)
				if !slices.Contains(names, hdr.Linkname) {
					t.Errorf("link to %q before it", hdr.Linkname)
				}
			default:
				t.Errorf("type %q", hdr.Typeflag)
			}
		}
		if !slices.IsSorted(names) || !slices.IsSorted(links) {
			t.Errorf("not sorted: %q %q", names, links)
		}
	})
}

// TestExtendConfigKeepsTheRest: a code layer must not lose what this package
// does not know of its base.
func TestExtendConfigKeepsTheRest(t *testing.T) {
	raw := []byte(`{"architecture":"amd64","os":"linux","created":"2020-01-02T03:04:05Z","docker_version":"20",
		"config":{"Env":["A=1"],"Healthcheck":{"Test":["CMD","true"]},"Cmd":["old"]},"rootfs":{"type":"layers","diff_ids":[]}}`)
	var c ocispec.Image
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	out, err := extendConfig(raw, c, digest.FromString("x"), func(c *ocispec.ImageConfig) {
		c.Cmd, c.WorkingDir, c.Env = nil, "/app", append(c.Env, "B=2")
	})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	config, _ := json.Marshal(got["config"])
	want := `{"Env":["A=1","B=2"],"Healthcheck":{"Test":["CMD","true"]},"WorkingDir":"/app"}`
	if string(config) != want {
		t.Errorf("got  %s\nwant %s", config, want)
	}
	if got["docker_version"] != "20" || got["created"] != "2020-01-02T03:04:05Z" || got["architecture"] != "amd64" {
		t.Errorf("got %s", out)
	}
}
