package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"wolffia/internal/tree"
)

func newImageCat(env Env) *cobra.Command {
	o := &imageOptions{}
	cmd := &cobra.Command{
		Use:   "cat IMAGE:PATH...",
		Short: "Write files in an image to standard output",
		Long: `Writes the bytes of files in an image to standard output, one after the other.
Symbolic links are followed as they would be in a system that runs from the
image, never out of it.`,
		Example: `  wolffia image cat disk.qcow2:/etc/fstab
  wolffia image cat --part 1 disk.img:EFI/BOOT/BOOTX64.EFI > boot.efi`,
		Args: wantImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if err := o.cat(cmd.Context(), env, arg); err != nil {
					return err
				}
			}
			return nil
		},
	}
	o.flags(env, cmd)
	o.partFlag(cmd)
	return cmd
}

func (o *imageOptions) cat(ctx context.Context, env Env, arg string) error {
	s, err := o.subjectOf(env, arg)
	if err != nil {
		return err
	}
	if s.whole {
		return usagef("%s names no file in the image; write %[1]s:/PATH", quoted(arg))
	}
	t, close, err := o.openTree(ctx, env, s)
	if err != nil {
		return err
	}
	defer close()
	name, n, err := s.lookup(t, true)
	if err != nil {
		return err
	}
	if n.Type() != tree.TypeRegular {
		return fmt.Errorf("%s: %s is no file, but a %s", s.label(), quoted(name), typeNames[n.Type()])
	}
	r, err := n.Open()
	if err != nil {
		return fmt.Errorf("read %s: %w", quoted(name), err)
	}
	_, err = io.Copy(env.Stdout, contextReader{ctx, r})
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("copy %s to standard output: %w", quoted(name), err)
	}
	return nil
}

// contextReader ends a long copy when the person wants it to.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
