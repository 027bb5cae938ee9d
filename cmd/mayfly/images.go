package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/image"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) images() *cobra.Command {
	var quiet, all bool
	cmd := &cobra.Command{
		Use:     "images",
		Aliases: []string{"image"},
		Short:   "List images, or import, push, tag and prune them",
		Long: `List images, or import, push, tag and prune them. Those that deploy makes of a
function's code are left out, unless --all is given.`,
		Example: `  mayfly images
  mayfly images import rootfs.tar.gz --name team/app:1
  mayfly image prune`,
		Args: c.noSuchVerb,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "digests only")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those of functions' code, too")
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
		list, err := cl.ListImages(ctx)
		if err != nil {
			return err
		}
		if !all {
			list = slices.DeleteFunc(list, isCode)
		}
		if quiet {
			for _, i := range list {
				fmt.Fprintln(c.stdout, i.Digest)
			}
			return nil
		}
		header := headings("NAME", "DIGEST", "CREATED", "SIZE").sparing("CREATED", "DIGEST")
		return print(c.stdout, output, list, header, func(i client.Image) []string {
			return []string{i.Name, shortDigest(i.Digest), ago(i.Created), humanSize(i.Size)}
		})
	})
	cmd.AddCommand(c.imageImport(), c.push(), c.imageTag(), c.imagePrune(), c.imageUsage())
	return cmd
}

// isCode says whether deploy made an image of a function's code, and named it.
func isCode(i client.Image) bool {
	return i.Labels[build.LabelCode] != "" && strings.HasPrefix(i.Name, "code/")
}

func (c *cli) imageImport() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import FILE|DIR|- --name NAME",
		Short: "Make an image of an archive or a directory",
		Long: `Make an image of an archive or a directory: an OCI layout, a docker-archive
(docker save), or the root of a file system; archives plain, gzip or zstd. What
it is is found out by looking. - reads an archive from stdin.`,
		Example: `  mayfly images import rootfs.tar.gz --name team/app:1
  docker save nginx | mayfly images import - --name nginx
  mmdebstrap --variant=minbase bookworm - | mayfly images import - --name debian`,
		Args: exactly("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usagef("--name is missing")
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			i, err := c.importImage(cmd.Context(), cl, name, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintln(c.stdout, i.Digest)
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for the image")
	return cmd
}

func (c *cli) importImage(ctx context.Context, cl *client.Client, name, file string) (client.Image, error) {
	if file == "-" {
		return cl.ImportImage(ctx, name, c.stdin, 0)
	}
	f, err := os.Open(file)
	if err != nil {
		return client.Image{}, mayfly.Errorf(mayfly.Invalid, "import: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return client.Image{}, mayfly.Errorf(mayfly.Invalid, "import: %w", err)
	}
	if !info.IsDir() {
		return cl.ImportImage(ctx, name, f, info.Size())
	}
	return piped(func(w io.Writer) error { return image.TarDir(ctx, w, file) },
		func(r io.Reader) (client.Image, error) { return cl.ImportImage(ctx, name, r, 0) })
}

// piped gives what write writes to read. When both fail, write's error is the
// cause, unless it only saw that nobody reads any more.
func piped[T any](write func(io.Writer) error, read func(io.Reader) (T, error)) (T, error) {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	value, err := read(r)
	r.CloseWithError(errUnread)
	if werr := <-written; werr != nil && err != nil && !isUnread(werr) {
		err = werr
	}
	return value, err
}

func (c *cli) pull() *cobra.Command {
	var plain, quiet bool
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE",
		Short: "Fetch an image from its registry",
		Long: `Fetch an image from its registry. Credentials are those that docker login left
in ~/.docker/config.json. What is here already is not fetched again, and what
broke off is continued.`,
		Example: `  mayfly pull debian:12
  mayfly pull registry.example.com/team/app:1`,
		Args: exactly("image"),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			return c.fetch(ctx, cl, client.Transfer{Name: args[0], PlainHTTP: plain}, func(i client.Image) {
				if quiet {
					fmt.Fprintln(c.stdout, i.Digest)
				} else {
					fmt.Fprintf(c.stdout, "%s %s\n", i.Name, i.Digest)
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&plain, "plain-http", false, "allow http to a registry that is not on this machine")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the digest only")
	return cmd
}

// fetch pulls an image and shows how far it is.
func (c *cli) fetch(ctx context.Context, cl *client.Client, t client.Transfer, then ...func(client.Image)) error {
	var err error
	if t.Credentials, err = credentials(ctx, t.Name); err != nil {
		return err
	}
	view := c.progress()
	i, err := cl.PullImage(ctx, t, view.report)
	view.done()
	if err != nil {
		return err
	}
	for _, f := range then {
		f(i)
	}
	return nil
}

// credentials are ours, not the node's: it has none.
func credentials(ctx context.Context, name string) (client.Credentials, error) {
	auth, err := image.Credentials(ctx, name)
	if err != nil || auth == nil {
		return client.Credentials{}, err
	}
	a, err := authn.Authorization(ctx, auth)
	if err != nil {
		return client.Credentials{}, mayfly.Errorf(mayfly.Invalid, "credentials for %s: %w", name, err)
	}
	return client.Credentials{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}, nil
}

func (c *cli) push() *cobra.Command {
	var plain bool
	cmd := &cobra.Command{
		Use:   "push [flags] IMAGE",
		Short: "Send an image to its registry",
		Long: `Send an image to the registry that its name says. Give it such a name with
mayfly images tag. Credentials are those that docker login left.`,
		Example: `  mayfly images tag app registry.example.com/team/app:1
  mayfly images push registry.example.com/team/app:1`,
		Args:              exactly("image"),
		ValidArgsFunction: c.completeImages(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) (err error) {
			t := client.Transfer{Name: args[0], PlainHTTP: plain}
			if t.Credentials, err = credentials(ctx, t.Name); err != nil {
				return err
			}
			view := c.progress()
			i, err := cl.PushImage(ctx, t, view.report)
			view.done()
			if err == nil {
				fmt.Fprintln(c.stdout, i.Digest)
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&plain, "plain-http", false, "allow http to a registry that is not on this machine")
	return cmd
}

func (c *cli) imageTag() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME",
		Short:             "Give an image a further name",
		Example:           `  mayfly images tag app registry.example.com/team/app:1`,
		Args:              exactly("image", "name"),
		ValidArgsFunction: c.completeImages(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			_, err := cl.TagImage(ctx, args[0], args[1])
			return err
		}),
	}
}

func (c *cli) imagePrune() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove images that have no name and that nothing uses",
		Example: `  mayfly image prune
  mayfly image prune --all`,
		Args: atMost(0),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
			p, err := cl.PruneImages(ctx, all)
			if err != nil {
				return err
			}
			for _, name := range p.Images {
				fmt.Fprintln(c.stdout, name)
			}
			fmt.Fprintf(c.stderr, "freed %s\n", humanSize(max(p.Freed, 0)))
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that have a name, too")
	return cmd
}

func (c *cli) imageUsage() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "usage",
		Short:   "Show what images take on disk",
		Example: `  mayfly images usage`,
		Args:    atMost(0),
	}
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, _ []string) error {
		u, err := cl.ImageUsage(ctx)
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(c.stdout, u)
		}
		return printTable(c.stdout, *output, headings("IMAGES", "BLOBS", "UNPACKED", "PARTIAL"), 1, func(int) []string {
			return []string{fmt.Sprint(u.Images), humanSize(u.Blobs), humanSize(u.Unpacked), humanSize(u.Partial)}
		})
	})
	return cmd
}

func (c *cli) rmi() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rmi [flags] IMAGE...",
		Short: "Take names off images, and the images away with their last name",
		Example: `  mayfly rmi debian:12
  mayfly rmi $(mayfly images -q)`,
		Args:              atLeast("image"),
		ValidArgsFunction: c.completeImages(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			return cl.RemoveImage(ctx, name, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even when something uses it")
	return cmd
}

func (c *cli) stack() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "stack",
		Short: "List, show and build stacks: base images with a language in them",
		Example: `  mayfly stack ls
  mayfly stack build python`,
	}, c.stackList(), c.stackShow(), c.stackBuild())
}

func (c *cli) stackList() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List stacks", Example: `  mayfly stack ls`, Args: atMost(0)}
	return listing(c, cmd, all((*client.Client).ListStacks), headings("NAME", "BUILT", "DESCRIPTION"), func(s client.Stack) []string {
		built := "no"
		if s.Image != "" {
			built = shortDigest(s.Image)
		}
		return []string{s.Name, built, s.Description}
	})
}

func (c *cli) completeStacks() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListStacks, func(s client.Stack) string { return s.Name })
}

func (c *cli) stackShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [flags] NAME", Short: "Show what a stack is made of, and what was made of it", Example: `  mayfly stack show python
  mayfly stack show python -o json`,
		Args: exactly("name"), ValidArgsFunction: c.completeStacks(),
	}
	output := outputFlag(cmd)
	cmd.RunE = c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
		s, err := cl.GetStack(ctx, args[0])
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(c.stdout, s)
		}
		return c.printStack(ctx, cl, s)
	})
	return cmd
}

// printStack prints a stack as its description is written, and then its image.
func (c *cli) printStack(ctx context.Context, cl *client.Client, s client.Stack) error {
	digest, used := s.Image, s.UsedBy
	s.Image, s.UsedBy = "", nil
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	var keys yaml.MapSlice // JSON is YAML, and this keeps its order
	if err := yaml.Unmarshal(data, &keys); err != nil {
		return err
	}
	text, err := yaml.MarshalWithOptions(keys, yaml.UseLiteralStyleIfMultiline(true), yaml.IndentSequence(true))
	if err != nil {
		return err
	}
	fmt.Fprintf(c.stdout, "%s", text)
	switch img, err := cl.GetImage(ctx, digest); {
	case digest == "":
		fmt.Fprintf(c.stdout, "# not built yet: mayfly stack build %s\n", s.Name)
	case err != nil:
		return err
	default:
		fmt.Fprintf(c.stdout, "# image %s, %s\n", digest, humanSize(img.Size))
	}
	if len(used) > 0 {
		fmt.Fprintf(c.stdout, "# used by %s\n", strings.Join(used, ", "))
	}
	return nil
}

func (c *cli) stackBuild() *cobra.Command {
	var fresh bool
	cmd := &cobra.Command{
		Use: "build [flags] NAME...", Short: "Build stacks, unless they are up to date",
		Example: `  mayfly stack build python node
  mayfly stack build --fresh debian`,
		Args: atLeast("name"), ValidArgsFunction: c.completeStacks(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			return c.each(args, func(name string) error {
				view := c.progress()
				s, err := cl.BuildStack(ctx, name, fresh, view.report)
				view.done()
				if err == nil {
					fmt.Fprintln(c.stdout, strings.Join([]string{s.Name, s.Image}, " "))
				}
				return err
			})
		}),
	}
	cmd.Flags().BoolVar(&fresh, "fresh", false, "build in any case, to have the newest packages")
	return cmd
}
