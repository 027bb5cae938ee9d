package build

import (
	"context"
	"io"
	"slices"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/image"
)

// ImageOf is the name of the image of a stack. One that a workload describes has
// the hash of what it is made of in its name: spaces and manifests that call
// different things the same share nothing, and those that say the same share the
// image.
func ImageOf(name string, base *mayfly.StackSpec) string {
	if base == nil {
		return StackImage(name)
	}
	made := *base
	made.Description = "" // for people only
	hash, err := hashOf(made)
	if err != nil {
		panic(err) // strings and maps of strings can be written as JSON
	}
	return StackImage(name) + "-" + hash[len("sha256:"):][:16]
}

// describeAs reads the description of a stack that a workload brings, or of one
// that comes with Mayfly if base is nil.
func describeAs(name string, base *mayfly.StackSpec) (Description, error) {
	if base == nil {
		return describe(name)
	}
	if err := mayfly.CheckName("stack", name); err != nil {
		return Description{}, err
	}
	if err := base.Check(); err != nil {
		return Description{}, mayfly.Errorf(mayfly.Invalid, "stack %s: %w", name, err)
	}
	return Description{
		Name: name, Description: base.Description, Variant: base.Variant, Packages: base.Packages,
		Env: base.Env, Loaders: base.Loaders, image: ImageOf(name, base),
	}, nil
}

// bare is the description without what is for people only: to change that
// builds nothing.
func (d Description) bare() Description {
	d.Description = ""
	return d
}

// EnsureOf is Ensure for a stack that a workload describes. Without a
// description it is Ensure.
func (s *Stacks) EnsureOf(ctx context.Context, name string, base *mayfly.StackSpec, progress io.Writer) (image.Image, error) {
	if base == nil {
		return s.Ensure(ctx, name, progress)
	}
	d, err := describeAs(name, base)
	if err != nil {
		return image.Image{}, err
	}
	return s.build(ctx, d.bare(), progress, false)
}

// CurrentOf returns the image that EnsureOf would return, and false where that
// would have to build it first.
func (s *Stacks) CurrentOf(ctx context.Context, name string, base *mayfly.StackSpec) (image.Image, bool, error) {
	d, err := describeAs(name, base)
	if base == nil && mayfly.KindOf(err) == mayfly.NotFound {
		img, err := s.store.Get(ctx, StackImage(name))
		return img, err == nil, nil
	}
	if err != nil {
		return image.Image{}, false, err
	}
	if d.Host {
		if img, ok := s.seenHost(ctx, d); ok {
			return img, true, nil
		}
		hash, _, err := hashHost(&d)
		if err != nil {
			return image.Image{}, false, err
		}
		return s.current(ctx, d, hash)
	}
	if base != nil {
		d = d.bare()
	}
	release, err := readRelease("/usr/lib/os-release")
	if err != nil {
		return image.Image{}, false, err
	}
	hash, err := hashOf(d, release)
	if err != nil {
		return image.Image{}, false, err
	}
	return s.current(ctx, d, hash)
}

// BuildOf is Build for a stack that a workload describes.
func (s *Stacks) BuildOf(ctx context.Context, name string, base *mayfly.StackSpec, progress io.Writer) (image.Image, error) {
	if base == nil {
		return s.Build(ctx, name, progress)
	}
	d, err := describeAs(name, base)
	if err != nil {
		return image.Image{}, err
	}
	return s.build(ctx, d.bare(), progress, true)
}

// ShowOf is Show for a stack that a workload describes.
func (s *Stacks) ShowOf(ctx context.Context, name string, base *mayfly.StackSpec) (Stack, error) {
	d, err := describeAs(name, base)
	if err != nil {
		return Stack{}, err
	}
	return s.show(ctx, d)
}

// ToolsImage is the name of the image that EnsureTools makes.
func ToolsImage(name string, base *mayfly.StackSpec) string {
	if d, err := describeAs(name, base); err != nil || len(d.Build) == 0 {
		return ImageOf(name, base)
	}
	return StackImage(name) + "-build"
}

// EnsureTools is EnsureOf for the image in which code is made ready to run on a
// stack. It is the stack with its further packages for that, or the stack itself
// where it has none.
func (s *Stacks) EnsureTools(ctx context.Context, name string, base *mayfly.StackSpec, progress io.Writer) (image.Image, error) {
	d, err := describeAs(name, base)
	if err != nil || len(d.Build) == 0 {
		return s.EnsureOf(ctx, name, base, progress)
	}
	d.Packages, d.image = slices.Concat(d.Packages, d.Build), ToolsImage(name, base)
	return s.build(ctx, d, progress, false)
}
