package secret_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"filippo.io/age"
	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const value = "correct horse battery staple"

func seal(t *testing.T, k *secret.Keyring, name string) []byte {
	t.Helper()
	sealed, err := k.Seal(name, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func opens(t *testing.T, k *secret.Keyring, name string, sealed []byte) {
	t.Helper()
	if got, err := k.Open(name, sealed); err != nil || string(got) != value {
		t.Errorf("opened as %q, %v", got, err)
	}
}

func TestSealAndOpen(t *testing.T) {
	path := t.TempDir() + "/secret.key"
	k := secret.NewKeyring(path)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("there is a key before the first use: %v", err)
	}
	sealed := seal(t, k, "default/db")
	if bytes.Contains(sealed, []byte(value)) {
		t.Error("what is sealed holds the value")
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key file is %v, %v", st.Mode(), err)
	}
	opens(t, k, "default/db", sealed)
	opens(t, secret.NewKeyring(path), "default/db", sealed) // the next daemon
	for _, empty := range [][]byte{nil, {}} {
		sealed, err := k.Seal("default/empty", empty)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open("default/empty", sealed); err != nil || len(got) > 0 {
			t.Errorf("nothing is opened as %q, %v", got, err)
		}
	}
}

// TestBoundToItsName: what was sealed for one secret is of no use as another.
func TestBoundToItsName(t *testing.T) {
	k := secret.NewKeyring(t.TempDir() + "/secret.key")
	sealed := seal(t, k, "default/db")
	for _, name := range []string{"other/db", "default/d", "default/dbx", ""} {
		if got, err := k.Open(name, sealed); mayfly.KindOf(err) != mayfly.Denied {
			t.Errorf("as %q it is %q, %v", name, got, err)
		}
	}
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/secret.key"
	old := seal(t, secret.NewKeyring(path), "default/db")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string, mode os.FileMode) *secret.Keyring {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return secret.NewKeyring(path)
	}
	t.Run("an old key opens, the first one seals", func(t *testing.T) {
		k := write(fresh.String()+"\n"+string(text), 0o600)
		opens(t, k, "default/db", old)
		opens(t, write(fresh.String(), 0o600), "default/db", seal(t, k, "default/db"))
	})
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       mayfly.Kind
		says       string
	}{
		{"another key", fresh.String(), 0o600, mayfly.Conflict, "put that key back"},
		{"an empty file", "# nothing\n", 0o600, mayfly.Internal, "it is empty"},
		{"no key", "AGE-SECRET-KEY-1BROKEN", 0o600, mayfly.Internal, "line 1 is no age identity"},
		{"a file for all", string(text), 0o644, mayfly.Denied, "chmod 600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := write(c.text, c.mode).Open("default/db", old)
			if mayfly.KindOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want kind %s with %q", err, c.want, c.says)
			}
			if strings.Contains(err.Error(), "BROKEN") || strings.Contains(err.Error(), "AGE-SECRET") {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		_, err := secret.NewKeyring(path).Open("default/db", old)
		if mayfly.KindOf(err) != mayfly.Conflict || !strings.Contains(err.Error(), "is gone") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Error("opening has made a key")
		}
	})
}

func TestRefused(t *testing.T) {
	k := secret.NewKeyring(t.TempDir() + "/secret.key")
	if _, err := k.Seal("default/db", make([]byte, secret.MaxValue+1)); mayfly.KindOf(err) != mayfly.TooLarge {
		t.Errorf("a value that is too large: %v", err)
	}
	large, err := k.Seal("default/db", make([]byte, secret.MaxValue))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open("default/db", large); err != nil || len(got) != secret.MaxValue {
		t.Errorf("the largest value: %d bytes, %v", len(got), err)
	}
	if _, err := k.Seal("a\x00b", nil); mayfly.KindOf(err) != mayfly.Invalid {
		t.Errorf("a name with a zero byte: %v", err)
	}
	if _, err := k.Open("default/db", make([]byte, 1<<20)); mayfly.KindOf(err) != mayfly.TooLarge {
		t.Errorf("what is too large to be one: %v", err)
	}
}

// FuzzOpen: nothing but what was sealed opens.
func FuzzOpen(f *testing.F) {
	k := secret.NewKeyring(f.TempDir() + "/secret.key")
	sealed, err := k.Seal("default/db", []byte(value))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-1])
	f.Add([]byte("age-encryption.org/v1\n-> X25519 \n\n---"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := k.Open("default/db", data)
		if err == nil && (!bytes.Equal(data, sealed) || string(got) != value) {
			t.Errorf("%q opens as %q", data, got)
		}
	})
}
