// Package secret seals what nobody but this machine may read.
//
// A Keyring is a file with keys. What is sealed is an age file
// (age-encryption.org/v1) and bound to a name: under another one it does not
// open, so that who can write to the record, but not read the keys, cannot swap
// one secret for another. The first key in the file seals; all of them open, so
// that a key is changed by putting a new one first.
//
// The key is made at the first use and is on disk before anything is sealed with
// it. Where secrets are kept, and who may have them, is the caller's.
package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/disk"
)

// MaxValue is the largest value of a secret, in bytes.
const MaxValue = 64 << 10

// maxSealed bounds what is read of an age file: its header has a stanza for one key.
const maxSealed = MaxValue + 16<<10

// maxKeys bounds the key file, in bytes.
const maxKeys = 64 << 10

// Keyring seals and opens. Its methods may be called at once.
type Keyring struct {
	path string

	mu   sync.Mutex
	keys []*age.X25519Identity // that seals first; nil until the file was read
}

// NewKeyring returns the keyring in a file, which need not be there yet.
func NewKeyring(path string) *Keyring { return &Keyring{path: path} }

// Seal encrypts a value under a name.
func (k *Keyring) Seal(name string, value []byte) ([]byte, error) {
	if len(value) > MaxValue {
		return nil, mayfly.Errorf(mayfly.TooLarge, "secret %s has %d bytes, and %d are the most", name, len(value), MaxValue)
	}
	if strings.Contains(name, "\x00") {
		return nil, mayfly.Errorf(mayfly.Invalid, "the name of a secret has a zero byte")
	}
	keys, err := k.load(true)
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, keys[0].Recipient())
	if err == nil {
		_, err = w.Write(append([]byte(name+"\x00"), value...))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal secret %s: %w", name, err)
	}
	return sealed.Bytes(), nil
}

// Open decrypts what was sealed under a name. Where no key fits, the error is a
// Conflict that says what to do.
func (k *Keyring) Open(name string, sealed []byte) ([]byte, error) {
	if len(sealed) > maxSealed {
		return nil, mayfly.Errorf(mayfly.TooLarge, "secret %s: what was sealed has %d bytes", name, len(sealed))
	}
	keys, err := k.load(false)
	if err != nil {
		return nil, err
	}
	ids := make([]age.Identity, len(keys))
	for i, key := range keys {
		ids[i] = key
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if none := new(age.NoIdentityMatchError); errors.As(err, &none) {
		return nil, k.lost(name)
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(io.LimitReader(r, maxSealed))
	}
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "secret %s is damaged: %w", name, err).WithHint("set it again")
	}
	bound, value, ok := bytes.Cut(plain, []byte{0})
	if !ok || string(bound) != name {
		return nil, mayfly.Errorf(mayfly.Denied, "secret %s was sealed under another name", name).WithHint("set it again")
	}
	return value, nil
}

func (k *Keyring) lost(name string) error {
	return mayfly.Errorf(mayfly.Conflict, "secret %s was sealed with a key that is not in %s", name, k.path).
		WithHint("put that key back from a copy of the file, or set the secret again")
}

// load reads the keys, and makes the first one where there is none and one is to
// be made. A file that changed is read by the next daemon.
func (k *Keyring) load(create bool) ([]*age.X25519Identity, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys != nil {
		return k.keys, nil
	}
	text, err := k.read()
	if errors.Is(err, fs.ErrNotExist) {
		if !create {
			return nil, mayfly.Errorf(mayfly.Conflict, "the key of the secrets is gone: there is no %s", k.path).
				WithHint("put it back from a copy, or set the secrets again")
		}
		return k.create()
	}
	if err != nil {
		return nil, err
	}
	keys, err := parse(text)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "%s does not hold keys: %w", k.path, err).WithHint("put it back from a copy")
	}
	k.keys = keys
	return keys, nil
}

// read refuses a file that others may read: its keys are not secret any more.
func (k *Keyring) read() ([]byte, error) {
	f, err := os.Open(k.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, mayfly.Errorf(mayfly.Denied, "%s has mode %04o, so that others can read it", k.path, st.Mode().Perm()).
			WithHint("chmod 600 it, and think of who may have a copy")
	}
	return io.ReadAll(io.LimitReader(f, maxKeys))
}

// parse reads one key from each line. Empty lines and those with # are passed
// over. Its errors hold nothing of what was read.
func parse(text []byte) (keys []*age.X25519Identity, err error) {
	for n, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		key, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d is no age identity", n+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it is empty")
	}
	return keys, nil
}

// create makes the first key. It is on disk when create returns.
func (k *Keyring) create() ([]*age.X25519Identity, error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make a key for secrets: %w", err)
	}
	dir := filepath.Dir(k.path)
	f, err := os.CreateTemp(dir, ".secret-") // of mode 0600
	if err != nil {
		return nil, fmt.Errorf("keep the key of the secrets: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = fmt.Fprintf(f, "# The key of Mayfly's secrets on this machine. Whoever has it can read them;\n# without it nobody can. Keep a copy elsewhere.\n%s\n", key)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Link(f.Name(), k.path) // never in place of another one
	}
	if err == nil {
		err = disk.SyncDir(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the key of the secrets: %w", err)
	}
	k.keys = []*age.X25519Identity{key}
	return k.keys, nil
}
