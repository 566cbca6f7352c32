package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"wolffia/internal/image/disk"
	"wolffia/internal/image/finding"
)

func newImageCheck(env Env) *cobra.Command {
	o := &imageOptions{}
	cmd := &cobra.Command{
		Use:   "check IMAGE...",
		Short: "Look for damage in an image",
		Long: `Looks for damage in everything of an image that wolffia understands, and changes
nothing: both copies of a GUID partition table, their checksums, and overlaps;
of an ext2, ext3 or ext4 file system what e2fsck looks at (its journal played
back, inodes, blocks that two files have, directories, links, bitmaps, counts,
checksums), of a FAT what fsck.vfat does (lost and crossed clusters, copies), of a
qcow2 what qemu-img check does (reference counts, leaks); all files of an archive;
and the digests of a container image.

Status 0 says that all is in order, 1 that there is damage, or that it could not
be looked at. Notes are no damage.`,
		Example: `  wolffia image check disk.qcow2
  wolffia image check --json *.img | jq '.[] | select(.problems > 0) | .image'`,
		Args: wantImages,
		RunE: func(cmd *cobra.Command, args []string) error { return o.check(cmd.Context(), env, args) },
	}
	o.flags(env, cmd)
	o.jsonFlag(cmd)
	return cmd
}

// checkedImage is a check's JSON form.
type checkedImage struct {
	Image    string            `json:"image"`
	Format   disk.Format       `json:"format"`
	Problems int               `json:"problems"`
	Findings []finding.Finding `json:"findings"`
	Dropped  int               `json:"dropped,omitempty"` // findings that are not listed
}

func (o *imageOptions) check(ctx context.Context, env Env, args []string) error {
	var all []checkedImage
	var out page
	problems := 0
	for _, arg := range args {
		c, err := o.checkOne(ctx, env, arg)
		if err != nil {
			return err
		}
		all = append(all, *c)
		problems += c.Problems
		c.print(&out)
	}
	var err error
	if o.json {
		err = writeJSON(env.Stdout, all)
	} else {
		err = out.show(env)
	}
	if err == nil && problems > 0 {
		return statusError(ExitFailure)
	}
	return err
}

func (o *imageOptions) checkOne(ctx context.Context, env Env, arg string) (*checkedImage, error) {
	s, err := o.subjectOf(env, arg)
	if err != nil {
		return nil, err
	}
	if !s.whole {
		return nil, usagef("%s: check is about whole images", quoted(arg))
	}
	f, close, err := o.openImage(ctx, env, s)
	if err != nil {
		return nil, err
	}
	defer close()
	l, err := f.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.label(), err)
	}
	return &checkedImage{arg, f.Format, l.Problems, append([]finding.Finding{}, l.All...), l.Dropped}, nil
}

func (c *checkedImage) print(out *page) {
	for _, f := range c.Findings {
		kind := ""
		if f.Note {
			kind = "note: "
		}
		out.printf("%s: %s%s\n", quoted(c.Image), kind, strings.ReplaceAll(f.String(), "\n", "; "))
	}
	if c.Dropped > 0 {
		out.printf("%s: %d more findings are not listed\n", quoted(c.Image), c.Dropped)
	}
	switch c.Problems {
	case 0:
		out.printf("%s: %s, no damage found\n", quoted(c.Image), formatName(c.Format))
	case 1:
		out.printf("%s: %s, 1 problem\n", quoted(c.Image), formatName(c.Format))
	default:
		out.printf("%s: %s, %d problems\n", quoted(c.Image), formatName(c.Format), c.Problems)
	}
}
