package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-yaml"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

//go:embed stacks/*.yaml
var descriptions embed.FS

// Description says what a stack is made of.
type Description struct {
	Name        string            `yaml:"-" json:"name"`
	Description string            `yaml:"description" json:"description"`     // one line for a person
	Host        bool              `yaml:"host" json:"host,omitempty"`         // made of the machine's own /usr
	Variant     string            `yaml:"variant" json:"variant,omitempty"`   // of mmdebstrap; "essential" if empty
	Packages    []string          `yaml:"packages" json:"packages,omitempty"` // of Debian
	Env         map[string]string `yaml:"env" json:"env,omitempty"`           // of what runs in it
	Loaders     map[string]string `yaml:"loaders" json:"loaders,omitempty"`   // language to the path of its interpreter
	Suites      []string          `yaml:"suites" json:"suites,omitempty"`     // of the release beside its own, such as backports
	Files       map[string]string `yaml:"files" json:"files,omitempty"`       // small ones, by absolute path
	Prepare     []string          `yaml:"prepare" json:"prepare,omitempty"`   // shell commands that are run in the root when it is made
	Build       []string          `yaml:"build" json:"-"`                     // further packages where code is made ready for the stack

	image string // name of its image in the store
}

// Stack is a description and what was made of it.
type Stack struct {
	Description
	Image string `json:"image,omitempty"` // digest; empty until it is built
}

// hostFresh is how long the machine's own files are taken for what they were, so
// that a deploy of many workloads reads them once.
const hostFresh = 5 * time.Second

// Options tune Stacks. The zero value is fit for production.
type Options struct {
	TempDir string        // for roots while they are made, of this process alone, with some GB; os.TempDir if empty
	Timeout time.Duration // of one build; 20 minutes if zero
}

// maxBuilds is how many roots are made of packages at once. A build keeps most
// of two cores busy, and a good deal of disk.
const maxBuilds = 2

// Stacks makes stacks and keeps them in a store of images, each under the name
// that StackImage gives. Its methods may be called at once from many
// goroutines; who asks for a stack that is being built waits for it.
type Stacks struct {
	store *image.Store
	opts  Options
	swept sync.Once     // TempDir of what a killed process left
	room  chan struct{} // a token for each build under way

	mu   sync.Mutex
	busy map[string]chan struct{} // by name of the image; holds a token while it is built
	host struct {                 // what the machine's own files made when they were last looked at
		digest string
		at     time.Time
	}
}

// NewStacks returns the stacks over a store.
func NewStacks(store *image.Store, opts Options) *Stacks {
	if opts.Timeout == 0 {
		opts.Timeout = 20 * time.Minute
	}
	return &Stacks{store: store, opts: opts, room: make(chan struct{}, maxBuilds), busy: map[string]chan struct{}{}}
}

// lock waits until nobody makes the image, and returns what lets the next one.
func (s *Stacks) lock(ctx context.Context, name string) (unlock func(), err error) {
	s.mu.Lock()
	turn, ok := s.busy[name]
	if !ok {
		turn = make(chan struct{}, 1)
		s.busy[name] = turn
	}
	s.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// StackImage is the name of a stack's image in the store.
func StackImage(name string) string { return "stack/" + name }

// List returns every stack that is described here, sorted by name.
func (s *Stacks) List(ctx context.Context) ([]Stack, error) {
	entries, err := descriptions.ReadDir("stacks")
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Internal, "list stacks: %w", err)
	}
	var all []Stack
	for _, e := range entries {
		stack, err := s.Show(ctx, strings.TrimSuffix(e.Name(), ".yaml"))
		if err != nil {
			return nil, err
		}
		all = append(all, stack)
	}
	return all, nil
}

// Show returns one stack. It fails with kind NotFound when none has the name.
func (s *Stacks) Show(ctx context.Context, name string) (Stack, error) {
	d, err := describe(name)
	if err != nil {
		return Stack{}, err
	}
	return s.show(ctx, d)
}

func (s *Stacks) show(ctx context.Context, d Description) (Stack, error) {
	stack := Stack{Description: d}
	img, err := s.store.Get(ctx, d.image)
	switch {
	case err == nil:
		stack.Image = img.Digest
	case mayfly.KindOf(err) != mayfly.NotFound:
		return Stack{}, err
	}
	return stack, nil
}

// describe reads the description of a stack.
func describe(name string) (Description, error) {
	if err := mayfly.CheckName("stack", name); err != nil {
		return Description{}, err
	}
	data, err := descriptions.ReadFile(path.Join("stacks", name+".yaml"))
	if err != nil {
		return Description{}, mayfly.Errorf(mayfly.NotFound, "no stack %q", name).
			WithHint("there are %s; or import an image and name it %s", strings.Join(names(), ", "), StackImage(name))
	}
	d := Description{}
	if err := yaml.UnmarshalWithOptions(data, &d, yaml.Strict()); err != nil {
		return Description{}, mayfly.Errorf(mayfly.Internal, "read description of stack %s: %w", name, err)
	}
	d.Name, d.image = name, StackImage(name)
	return d, nil
}

func names() []string {
	entries, _ := descriptions.ReadDir("stacks") // embedded: it cannot fail
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return names
}

// Ensure returns the image of a stack, building it when there is none or when
// what it is made of has changed: its description, Debian's release, or for
// the stack "host" the machine's own files. Newer packages alone do not make it
// build again; Build does.
//
// An image that someone else put under a stack's name, and that no description
// here stands for, is returned as it is.
func (s *Stacks) Ensure(ctx context.Context, name string, progress io.Writer) (image.Image, error) {
	d, err := describe(name)
	if mayfly.KindOf(err) == mayfly.NotFound {
		if img, getErr := s.store.Get(ctx, StackImage(name)); getErr == nil {
			return img, nil
		}
	}
	if err != nil {
		return image.Image{}, err
	}
	return s.build(ctx, d, progress, false)
}

// Build makes a stack even when it is there already, so that it has the newest
// packages. What it does is written to progress, line by line; nil is fine.
func (s *Stacks) Build(ctx context.Context, name string, progress io.Writer) (image.Image, error) {
	d, err := describe(name)
	if err != nil {
		return image.Image{}, err
	}
	return s.build(ctx, d, progress, true)
}

func (s *Stacks) build(ctx context.Context, d Description, progress io.Writer, fresh bool) (image.Image, error) {
	if progress == nil {
		progress = io.Discard
	}
	unlock, err := s.lock(ctx, d.image)
	if err != nil {
		return image.Image{}, err
	}
	defer unlock()
	if d.Host {
		return s.buildHost(ctx, d, progress, fresh)
	}
	release, err := readRelease("/usr/lib/os-release")
	if err != nil {
		return image.Image{}, err
	}
	hash, err := hashOf(d, release)
	if err != nil {
		return image.Image{}, err
	}
	if !fresh {
		if img, ok, err := s.current(ctx, d, hash); err != nil || ok {
			return img, err
		}
	}
	return s.buildDebian(ctx, d, release, hash, progress)
}

// current returns the stack's image when it was made of what has this hash.
func (s *Stacks) current(ctx context.Context, d Description, hash string) (image.Image, bool, error) {
	img, err := s.store.Get(ctx, d.image)
	if mayfly.KindOf(err) == mayfly.NotFound {
		return image.Image{}, false, nil
	}
	if err != nil {
		return image.Image{}, false, err
	}
	return img, img.Config.Config.Labels[LabelStack] == hash, nil
}

// finish gives the root that was just imported under the stack's name its
// configuration. That comes with a layer, of the folders that a container has
// code in or things mounted on, so that none need be made for each container.
func (s *Stacks) finish(ctx context.Context, d Description, root image.Image, hash string) (image.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"app/", "dev/", "proc/", "run/", "sys/"} {
		if err := w.WriteHeader(header(dir, tar.TypeDir, 0o755)); err != nil {
			return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
		}
	}
	if err := writeFiles(w, d.Files); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}
	if err := w.Close(); err != nil {
		return image.Image{}, mayfly.Errorf(mayfly.Internal, "build stack %s: %w", d.Name, err)
	}
	return s.store.AddLayer(ctx, root.Digest, d.image, image.Layer{Tar: &layer}, configure(d, hash))
}

// writeFiles adds small files to a layer, sorted, with the folders above them.
func writeFiles(w *tar.Writer, files map[string]string) error {
	l := layerWriter{w: w}
	made := map[string]bool{".": true}
	for _, name := range sortedKeys(files) {
		at := strings.TrimPrefix(name, "/")
		if err := l.above(at, made); err != nil {
			return err
		}
		if err := writeFile(w, at, 0o644, []byte(files[name])); err != nil {
			return err
		}
	}
	return nil
}

// configure returns the change of an image's configuration that makes it the
// stack d.
func configure(d Description, hash string) func(*ocispec.ImageConfig) {
	return func(c *ocispec.ImageConfig) {
		c.Labels = withLabels(c, map[string]string{LabelStack: hash})
		for language, program := range d.Loaders {
			c.Labels[LabelLoader+language] = program
		}
		if d.Host {
			c.Labels[LabelHostMounts] = hostDir
		}
		c.WorkingDir = "/"
		c.Env = nil
		if d.Env["PATH"] == "" {
			c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
		}
		for _, k := range sortedKeys(d.Env) {
			c.Env = append(c.Env, k+"="+d.Env[k])
		}
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// hashOf stands for what a stack is made of. JSON sorts the keys of maps.
func hashOf(parts ...any) (string, error) {
	data, err := json.Marshal(parts)
	if err != nil {
		return "", mayfly.Errorf(mayfly.Internal, "hash stack: %w", err)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
