package main

import (
	"cmp"
	"context"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

func (c *cli) volume() *cobra.Command {
	return c.family(&cobra.Command{
		Use:   "volume",
		Short: "Keep data that outlives containers",
		Example: `  mayfly volume create data --size 10g
  mayfly run -v data:/data debian touch /data/kept
  mayfly volume snapshot data before-upgrade`,
	}, c.volumeList(), c.volumeCreate(), c.volumeInspect(), c.volumeRemove(), c.volumeCopy(), c.volumeSnapshot(), c.volumeRestore(), c.volumeClone())
}

func (c *cli) completeVolumes() cobra.CompletionFunc {
	return complete(c, (*client.Client).ListVolumes, func(v mayfly.Volume) string { return v.Name })
}

func (c *cli) volumeList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List volumes",
		Example: `  mayfly volume ls -o json`,
		Args:    atMost(0),
	}
	header := headings("NAME", "PROVIDER", "SIZE", "SHARED", "WRITER", "CREATED").sparing("CREATED")
	return listing(c, cmd, all((*client.Client).ListVolumes), header, func(v mayfly.Volume) []string {
		size, created := "", ago(v.Created)
		if v.Size > 0 {
			size = binarySize(v.Size)
		}
		if v.Node == "" {
			created = "when it is needed"
		}
		return []string{v.Name, providerOf(v), size, strconv.FormatBool(v.Shared), cmp.Or(v.WriterName, v.Writer), created}
	})
}

func providerOf(v mayfly.Volume) string {
	if v.Provider == "" {
		return mayfly.VolumeLocal
	}
	return v.Provider
}

func (c *cli) volumeCreate() *cobra.Command {
	var v mayfly.Volume
	var size, mode string
	cmd := &cobra.Command{
		Use:   "create [flags] VOLUME",
		Short: "Make a volume",
		Long: `Make a volume. What a workload or mayfly run -v names and nobody made is made
with the defaults.`,
		Example: `  mayfly volume create data --owner 999:999 --mode 0750
  mayfly volume create cache --provider tmpfs --size 256m --shared
  mayfly volume create photos --provider bind --source /srv/photos
  mayfly volume create inbox --shared --events photo.uploaded --match '*.jpg'`,
		Args: exactly("volume"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			v.Name = args[0]
			if size != "" {
				if v.Size, err = parseSize(size); err != nil || v.Size < 1 {
					return usagef("--size %q is not a size, such as 10g", size)
				}
			}
			if mode != "" {
				bits, err := strconv.ParseUint(mode, 8, 16)
				if err != nil {
					return usagef("--mode %q is not octal, such as 0750", mode)
				}
				v.Mode = uint32(bits)
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			_, err = cl.CreateVolume(cmd.Context(), v)
			return c.said(v.Name, err)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&v.Provider, "provider", mayfly.VolumeLocal, "local (a directory of the node), tmpfs (memory) or bind (a directory that an administrator allowed)")
	fs.StringVar(&size, "size", "", "most that fits in, such as 10g (default no limit)")
	fs.StringVar(&v.Owner, "owner", "", "UID:GID that it belongs to (default 0:0)")
	fs.StringVar(&mode, "mode", "", "permissions of its top, in octal (default 0755)")
	fs.StringVar(&v.Events.Type, "events", "", "type of the events that tell of files which come into it, such as photo.uploaded")
	fs.StringArrayVar(&v.Events.Match, "match", nil, "only of files with names such as '*.jpg'; again for more")
	fs.BoolVar(&v.Shared, "shared", false, "several containers may write at once")
	fs.StringVar(&v.Source, "source", "", "of bind: the directory on the node, beneath one of mayfly up --allow-bind")
	_ = cmd.RegisterFlagCompletionFunc("provider", cobra.FixedCompletions([]string{mayfly.VolumeLocal, mayfly.VolumeTmpfs, mayfly.VolumeBind}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *cli) volumeInspect() *cobra.Command {
	return &cobra.Command{
		Use:               "inspect VOLUME...",
		Short:             "Show volumes, what they take, their snapshots and who uses them, as JSON",
		Example:           `  mayfly volume inspect data`,
		Args:              atLeast("volume"),
		ValidArgsFunction: c.completeVolumes(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			list := []mayfly.VolumeDetails{}
			failed := c.each(args, func(name string) error {
				v, err := cl.GetVolume(ctx, name)
				if err == nil {
					list = append(list, v)
				}
				return err
			})
			if err := printJSON(c.stdout, list); err != nil {
				return err
			}
			return failed
		}),
	}
}

func (c *cli) volumeRemove() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm [flags] VOLUME[@SNAPSHOT]...",
		Short: "Remove volumes that nobody uses, or snapshots",
		Example: `  mayfly volume rm data@before-upgrade
  mayfly volume rm --force data`,
		Args:              atLeast("volume"),
		ValidArgsFunction: c.completeVolumes(),
		RunE: c.toEach(func(ctx context.Context, cl *client.Client, name string) error {
			if name, snapshot, ok := strings.Cut(name, "@"); ok {
				return cl.RemoveSnapshot(ctx, name, snapshot)
			}
			return cl.RemoveVolume(ctx, name, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "although a workload names it, and its snapshots too")
	return cmd
}

// volumeFiles are the files of volumes, copied as those of containers are.
type volumeFiles struct{ *client.Client }

func (v volumeFiles) ReadFiles(ctx context.Context, name, path string) (io.ReadCloser, error) {
	return v.ReadVolumeFiles(ctx, name, path)
}

func (v volumeFiles) WriteFiles(ctx context.Context, name, path string, tar io.Reader, o client.CopyOptions) (client.CopyReport, error) {
	return v.WriteVolumeFiles(ctx, name, path, tar, o)
}

func (c *cli) volumeCopy() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "cp [flags] SRC DST",
		Short: "Copy files into a volume or out of it",
		Long: `Copy files into a volume or out of it. One of SRC and DST is VOLUME:PATH, the
other is here, or - for a tar stream. Where a copy lands is as with mayfly cp.
What is copied in becomes that of the volume's owner, unless -a keeps owners.`,
		Example: `  mayfly volume cp ./dump.sql data:/
  mayfly volume cp data:/dump.sql .`,
		Args: exactly("source", "target"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.copyEither(cmd.Context(), args, keep, "VOLUME", func(cl *client.Client) filed { return volumeFiles{cl} })
		},
	}
	cmd.Flags().BoolVarP(&keep, "archive", "a", false, "keep owners, by number, and set-id bits")
	return cmd
}

func (c *cli) volumeSnapshot() *cobra.Command {
	return &cobra.Command{
		Use:   "snapshot VOLUME [SNAPSHOT]",
		Short: "Keep a copy of what is in a volume now",
		Long: `Keep a copy of what is in a volume at one moment, under a name, or one made of
the time. A volume that is written to all the time is refused.`,
		Example:           `  mayfly volume snapshot data before-upgrade`,
		Args:              cobra.MatchAll(atLeast("volume"), atMost(2)),
		ValidArgsFunction: c.completeVolumes(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			s, err := cl.SnapshotVolume(ctx, args[0], append(args, "")[1])
			return c.said(args[0]+"@"+s.Name, err)
		}),
	}
}

func (c *cli) volumeRestore() *cobra.Command {
	return &cobra.Command{
		Use:               "restore VOLUME SNAPSHOT",
		Short:             "Put a snapshot in the place of what is in a volume that nobody uses",
		Example:           `  mayfly volume restore data before-upgrade`,
		Args:              exactly("volume", "snapshot"),
		ValidArgsFunction: c.completeVolumes(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			return c.said(args[0], cl.RestoreVolume(ctx, args[0], args[1]))
		}),
	}
}

func (c *cli) volumeClone() *cobra.Command {
	return &cobra.Command{
		Use:   "clone VOLUME[@SNAPSHOT] NEW",
		Short: "Make a volume with what is in another one",
		Example: `  mayfly volume clone data trial
  mayfly volume clone data@before-upgrade old`,
		Args:              exactly("volume", "new volume's name"),
		ValidArgsFunction: c.completeVolumes(),
		RunE: c.asking(func(ctx context.Context, cl *client.Client, args []string) error {
			name, snapshot, _ := strings.Cut(args[0], "@")
			v, err := cl.CloneVolume(ctx, name, snapshot, args[1])
			return c.said(v.Name, err)
		}),
	}
}
