package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

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

One line is printed for each image: SHA-256, size in bytes, and path; with
--json, an object with these and the image's name.`,
		Example: `  wolffia build -o root.cpio
  wolffia build base -o base.tar.zst
  wolffia build --format cpio --compress gzip -o - | ssh board 'cat > /boot/initrd'`,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), env, args) },
	}
	o.flags(env, cmd)
	return cmd
}

func (o *buildVerb) flags(env Env, cmd *cobra.Command) {
	o.buildOptions.flags(env, cmd)
	f := cmd.Flags()
	f.StringVarP(&o.out, "output", "o", "", "the file or folder to write, or - for standard output")
	f.StringVar(&o.format, "format", "", "the format: "+strings.Join(build.Formats(), ", "))
	f.StringVar(&o.compress, "compress", "", "the compression: "+strings.Join(build.Compressions(), ", "))
	complete(cmd, "format", words(build.Formats()...))
	complete(cmd, "compress", words(build.Compressions()...))
	cmd.ValidArgsFunction = fromLab(env, &o.file, (*lab.Spec).ImageNames)
}

func (o *buildVerb) run(ctx context.Context, env Env, names []string) error {
	if o.out == "" {
		return usagef("wolffia build needs -o OUT: a file, a folder, or - for standard output")
	}
	format, err := o.formatOf(o.out)
	if err != nil {
		return &usageError{err}
	}
	if o.out == "-" && xterm.IsTerminal(int(env.Stdout.Fd())) {
		return usagef("an image is nothing to show on a terminal; give -o a file, or send the output on")
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
		if r := p.builder.Kept(art); art.Cached && r != nil {
			p.builder.Tell(img, r)
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

// endings are what a file's name says about compression, and in what its place
// the format stands.
var endings = []struct{ end, compression, stands string }{
	{".gz", "gzip", ""}, {".zst", "zstd", ""}, {".tgz", "gzip", ".tar"},
}

// formatOf takes format and compression from flags, else from the file's name.
func (o *buildVerb) formatOf(name string) (build.Format, error) {
	f := build.Format{Name: o.format, Compression: "none"}
	base := strings.ToLower(filepath.Base(name))
	for _, e := range endings {
		if stem, ok := strings.CutSuffix(base, e.end); ok {
			base, f.Compression = stem+e.stands, e.compression
			break
		}
	}
	if o.compress != "" {
		f.Compression = o.compress
	}
	if ext := strings.TrimPrefix(filepath.Ext(base), "."); f.Name == "" && slices.Contains(build.Formats(), ext) {
		f.Name = ext
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
	if o.json {
		return json.NewEncoder(env.Stdout).Encode(builtImage{name, sum, size, shown})
	}
	var out page
	out.printf("%s  %d  %s\n", sum, size, shown)
	return out.show(env)
}

// builtImage is the result's JSON form.
type builtImage struct {
	Image  string `json:"image"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"` // in bytes
	Path   string `json:"path"`
}

func extension(f build.Format) string {
	return "." + f.Name + map[string]string{"gzip": ".gz", "zstd": ".zst"}[f.Compression]
}

// writeWhole copies in to a file that appears complete or not at all. A link
// is followed, and what is no regular file, such as a device, is written as it is.
func writeWhole(path string, in *os.File) (sum string, size int64, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return "", 0, err
		}
		return copySum(f, in)
	}
	// Nobody else's: two at once must not write to one file.
	temp := filepath.Join(filepath.Dir(path), ".wolffia-"+rand.Text()[:10])
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return "", 0, err
	}
	if sum, size, err = copySum(f, in); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return "", 0, err
	}
	return sum, size, nil
}

// copySum copies in to f, which it closes. It reads twice, because the kernel
// copies faster than we do.
func copySum(f, in *os.File) (sum string, size int64, err error) {
	size, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	if _, err = in.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(h, in)
	}
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// sizeText is a size for people.
func sizeText(n int64) string { return term.Bytes(n) }
