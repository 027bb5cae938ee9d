package node

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly/disk/disktest"
)

// TestNamedCodeIsWhole: uploaded code, and what was built, is known by its name
// alone, so what has its name after a power loss is whole.
func TestNamedCodeIsWhole(t *testing.T) {
	d := disktest.New(t)
	text := strings.Repeat("all that is in it\n", 10_000)
	n := &Node{dir: d.Dir}
	digest, err := n.PutCode(t.Context(), strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.Dir+"/builds", 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := os.CreateTemp(d.Dir+"/builds", partPrefix)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := n.keep(out, d.Dir+"/builds/key"); err != nil {
		t.Fatal(err)
	}
	d.Commit()
	after := d.AfterPowerLoss()
	uploaded, err := (&Node{dir: after}).openCode(digest)
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]*os.File{"uploaded": uploaded, "built": builtBefore(after+"/builds/key", false)} {
		if f == nil {
			t.Errorf("nothing is left of what was %s", what)
			continue
		}
		if got, err := io.ReadAll(f); string(got) != text {
			t.Errorf("of what was %s, %d bytes of %d are there; %v", what, len(got), len(text), err)
		}
		f.Close()
	}
}
