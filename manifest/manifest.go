// Package manifest reads mayfly.yaml, and compose.yaml: a superset of the Compose
// Specification whose functions and services become workloads.
//
// Variables are put in by compose-go; everything else is read here, because
// each error and each warning has a place. A key that nobody knows, and a key that is known
// but cannot be honoured yet, are errors: nothing is ever silently ignored.
// Every error is one line of kind Invalid that names file, line and column.
//
// The package reads files and nothing else. It uploads no code and resolves no
// image; it bounds what it reads (size, depth, aliases), so that a manifest
// from a stranger costs no more than its length.
package manifest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mayfly-run/mayfly"
)

// Limits of what one manifest may hold.
const (
	MaxSize  = 1 << 20 // bytes of one file
	maxDepth = 64      // levels of nesting
	maxNodes = 100_000 // values, aliases counted as often as they are used
	maxFiles = 100     // files that includes may bring in
)

// Options say how a manifest is read. The zero value reads it for the default
// space, with no variables and no profiles.
type Options struct {
	Env      map[string]string // values for ${NAME}; over those of a .env file beside the manifest
	Profiles []string          // Compose profiles that are on
	Space    string            // mayfly.DefaultSpace if empty
}

// Manifest is what a file asks for.
type Manifest struct {
	Name      string     // of the project: the key "name", else the folder's
	Functions []Workload // sorted by name
	Services  []Workload // each after those that it waits for, else sorted by name
	Volumes   []Volume   // sorted by name, as are those below
	Secrets   []Secret
	Configs   []Config
	Off       []string // services that have no part because no profile of theirs is on, sorted by name
	Warnings  []string // one line each, for the person who deploys
}

// Workload is a function or a service, and where its code lies.
type Workload struct {
	mayfly.Workload
	CodeDir string // folder to upload as the workload's Code, as a path from the working directory; empty with Image
}

// Volume is a volume that a workload of the manifest may mount.
type Volume struct {
	mayfly.Volume
	External bool // it must be there already, and is not this manifest's
}

// Secret is a secret that a workload of the manifest may have.
type Secret struct {
	Name     string // in the space
	Value    []byte `json:"-"` // nil if External or Generate, and where only text was read
	External bool   // it must be there already
	Generate bool   `json:",omitzero"` // the deploy makes one at random where there is none
}

// String hides the value.
func (s Secret) String() string { return "secret " + s.Name }

// GoString hides the value.
func (s Secret) GoString() string { return s.String() }

// Config is a config that a workload of the manifest may have.
type Config struct {
	Name     string // in the space
	Value    []byte // nil if External, and where only text was read
	External bool   // it must be there already
}

// Load reads the manifest in the file path. The code folders that it names
// must exist beneath the file's folder. Errors are of kind Invalid, or
// NotFound when there is no such file.
func Load(path string, opts Options) (*Manifest, error) {
	dir := filepath.Dir(path)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, openError(path, err)
	}
	defer root.Close()
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	r := reader{opts: opts, root: root, dir: dir}
	r.overrides(path)
	return r.read(path, data)
}

// overrides warns of the files that Compose would lay over one by itself.
func (r *reader) overrides(path string) {
	if !isCompose(path) {
		return
	}
	for _, name := range []string{"compose.override.yaml", "compose.override.yml", "docker-compose.override.yaml", "docker-compose.override.yml"} {
		if _, err := r.root.Stat(name); err == nil && name != filepath.Base(path) {
			r.out.Warnings = append(r.out.Warnings, filepath.Join(r.dir, name)+" is not read: write what it says into "+filepath.Base(path)+", or use extends or include")
		}
	}
}

// Parse reads a manifest from data. The name stands for the file in errors, and
// its folder is where relative paths begin. No other file is opened, so
// includes are refused and code folders are not looked at.
func Parse(name string, data []byte, opts Options) (*Manifest, error) {
	r := reader{opts: opts, dir: filepath.Dir(name)}
	return r.read(name, data)
}

// readFile reads a file of at most MaxSize bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, openError(path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, mayfly.Errorf(mayfly.Invalid, "%s is a folder", path).
			WithHint("name the file, as in -f %s", filepath.Join(path, "mayfly.yaml"))
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "read manifest: %w", err)
	}
	return data, nil
}

func openError(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return mayfly.Errorf(mayfly.NotFound, "no manifest at %s", path).
			WithHint("write one, or name it with -f FILE")
	}
	return mayfly.Errorf(mayfly.Invalid, "read manifest: %w", err)
}
