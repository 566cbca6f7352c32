package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"wolffia/internal/build"
	"wolffia/internal/lab"
	"wolffia/internal/term"
)

type buildVerb struct {
	buildOptions
	out      string
	format   string
	compress string
}

func newBuild(env Env) *cobra.Command {
	o := &buildVerb{}
	cmd := &cobra.Command{
		Use:   "build [IMAGE]... -o OUT",
		Short: "Write an image to a file, the same bytes every time",
		Long: `Builds images and writes them as files. The same file, wolffia.lock and wolffia
give the same bytes, in any folder, at any time, for anybody.

OUT is a file, - for standard output, or an existing folder, which several
images need. The format and the compression follow from OUT's name (.cpio,
.tar, then .gz or .zst) unless flags give them. Without IMAGE all images of
the file are meant.

One line is printed for each image: SHA-256, size in bytes, and path.`,
		Example: `  wolffia build -o root.cpio
  wolffia build base -o base.tar.zst
  wolffia build --format cpio --compress gzip -o - | ssh board 'cat > /boot/initrd'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), env, args) },
	}
	o.buildOptions.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "the file or folder to write, or - for standard output")
	f.StringVar(&o.format, "format", "", "the format: "+strings.Join(build.Formats(), ", "))
	f.StringVar(&o.compress, "compress", "", "the compression: "+strings.Join(build.Compressions(), ", "))
	return cmd
}

func (o *buildVerb) run(ctx context.Context, env Env, names []string) error {
	if o.out == "" {
		return usagef("wolffia build needs -o OUT: a file, a folder, or - for standard output")
	}
	format, err := o.formatOf(o.out)
	if err != nil {
		return &usageError{err}
	}
	screen := o.renderer(env)
	defer screen.Close()
	p, err := o.open(env, screen)
	if err != nil {
		return err
	}
	images, err := pickImages(p.Spec, names)
	if err != nil {
		return &usageError{err}
	}
	folder := isFolder(inDir(env.Dir, o.out))
	if len(images) > 1 && !folder {
		return usagef("%d images need a folder to go to, and %s is none; make it, or name one image", len(images), o.out)
	}
	for _, img := range images {
		art, err := p.builder.Image(ctx, img, format)
		if err != nil {
			return asUsage(err)
		}
		err = o.deliver(env, art, img.Name, format, folder)
		art.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

func pickImages(s *lab.Spec, names []string) ([]*lab.Image, error) {
	if len(names) == 0 {
		names = s.ImageNames()
	}
	var out []*lab.Image
	for _, n := range names {
		if err := lab.OneOf("image", n, s.ImageNames()); err != nil {
			return nil, err
		}
		out = append(out, s.Images[n])
	}
	return out, nil
}

// formatOf takes format and compression from flags, else from the file's name.
func (o *buildVerb) formatOf(name string) (build.Format, error) {
	f := build.Format{Name: o.format, Compression: o.compress}
	base := strings.ToLower(filepath.Base(name))
	for suffix, c := range map[string]string{".gz": "gzip", ".tgz": "gzip", ".zst": "zstd"} {
		if strings.HasSuffix(base, suffix) && f.Compression == "" {
			f.Compression = c
		}
	}
	if f.Compression == "" {
		f.Compression = "none"
	}
	if f.Name == "" {
		for _, known := range build.Formats() {
			if strings.Contains(base, "."+known) {
				f.Name = known
			}
		}
		if strings.HasSuffix(base, ".tgz") {
			f.Name = "tar"
		}
	}
	if f.Name == "" {
		return f, fmt.Errorf("%s does not say which format it is to have; give --format %s", name, strings.Join(build.Formats(), " or "))
	}
	if err := lab.OneOf("format", f.Name, build.Formats()); err != nil {
		return f, err
	}
	return f, lab.OneOf("compression", f.Compression, build.Compressions())
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// deliver copies a built image to where it was asked for, whole or not at all.
func (o *buildVerb) deliver(env Env, art *build.Artifact, name string, format build.Format, folder bool) error {
	in, err := os.Open(art.Path)
	if err != nil {
		return fmt.Errorf("read the built image: %w", err)
	}
	defer in.Close()
	if o.out == "-" {
		if _, err := io.Copy(env.Stdout, in); err != nil {
			return fmt.Errorf("write the image to standard output: %w", err)
		}
		return nil
	}
	shown := o.out
	if folder {
		shown = filepath.Join(o.out, name+extension(format))
	}
	sum, size, err := writeWhole(inDir(env.Dir, shown), in)
	if err != nil {
		return fmt.Errorf("write image %s to %s: %w", name, shown, err)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s  %d  %s\n", sum, size, shown)
	return err
}

func extension(f build.Format) string {
	return "." + f.Name + map[string]string{"gzip": ".gz", "zstd": ".zst"}[f.Compression]
}

// writeWhole copies in to a file that appears complete or not at all. What is
// no regular file, such as a device, is written as it is.
func writeWhole(path string, in *os.File) (sum string, size int64, err error) {
	target := path
	info, err := os.Stat(path)
	var f *os.File
	if err == nil && !info.Mode().IsRegular() {
		f, err = os.OpenFile(path, os.O_WRONLY, 0)
	} else {
		target = filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".wolffia")
		os.Remove(target)
		f, err = os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	}
	if err != nil {
		return "", 0, err
	}
	h := sha256.New()
	size, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err == nil {
		if _, err = in.Seek(0, io.SeekStart); err == nil {
			_, err = io.Copy(h, in)
		}
	}
	if err == nil && target != path {
		err = os.Rename(target, path)
	}
	if err != nil {
		if target != path {
			os.Remove(target)
		}
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// sizeText is a size for people.
func sizeText(n int64) string { return term.Bytes(n) }
