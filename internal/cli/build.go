package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	xterm "golang.org/x/term"

	"wolffia/internal/build"
	"wolffia/internal/image/disk"
	"wolffia/internal/lab"
	"wolffia/internal/term"
)

type buildVerb struct {
	buildOptions
	out      string
	format   string
	compress string
	size     string
	table    string
	kernel   string
	push     string
}

func newBuild(env Env) *cobra.Command {
	o := &buildVerb{}
	cmd := &cobra.Command{
		Use:   "build [IMAGE]... -o OUT",
		Short: "Write an image to a file, the same bytes every time",
		Long: `Builds images and writes them as files. The same file, wolffia.lock and wolffia
give the same bytes, in any folder, at any time, for anybody.

OUT is a file, - for standard output, or an existing folder, which several
images need. The format follows from OUT's name unless --format gives it:

  .cpio .tar           an archive: an initramfs, or one for all purposes
  .ext2 .ext3 .ext4    a file system, to be the root of a machine
  .img .raw            a disk, complete by itself: it boots in any emulator and
                       on any computer of its architecture, by UEFI and, where
                       there is such a thing, by BIOS
  .qcow2               the same in QEMU's own form (.ext4.qcow2: a file system)
  .oci                 a container image, as an archive of the OCI layout, which
                       skopeo, podman and docker load take; or, where a slash is
                       behind the name, as the folder of that layout

.gz or .zst behind that compresses it. Without IMAGE all images of the file are
meant.

A disk has Debian's generic kernel, without the modules for sound, cameras, radio
and large graphics, unless the image or --kernel says otherwise: --kernel cloud
makes a far smaller disk for virtual machines. Its login prompts are on the
screen and the serial port: give root a password, or a key, by the key users of
the image.

One line is printed for each image: SHA-256, size in bytes, and path; with
--json, an object with these and the image's name.`,
		Example: `  wolffia build -o root.cpio
  wolffia build base -o base.tar.zst
  wolffia build -o disk.img && qemu-system-x86_64 -m 512 -drive file=disk.img,format=raw
  wolffia build --arch arm64 --kernel cloud --size 1G -o board.qcow2
  wolffia build base --push registry.example/pond:1
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
	f.StringVar(&o.size, "size", "", "the size of a disk or file system, such as 256M (default: the file's, else what is on it and 64M)")
	f.StringVar(&o.table, "table", "", "the kind of a disk's partition table: gpt or mbr (default gpt)")
	f.StringVar(&o.kernel, "kernel", "", "the kernel of a disk: generic, cloud, one of Debian's names, or the path of your own (default generic)")
	f.StringVar(&o.push, "push", "", "send the image to a registry, as HOST[:PORT]/NAME:TAG; docker login's credentials count")
	complete(cmd, "push", words())
	complete(cmd, "size", words("64M", "256M", "1G", "4G"))
	complete(cmd, "table", words("gpt", "mbr"))
	complete(cmd, "format", words(build.Formats()...))
	complete(cmd, "compress", words(build.Compressions()...))
	cmd.ValidArgsFunction = fromLab(env, &o.file, (*lab.Spec).ImageNames)
}

func (o *buildVerb) run(ctx context.Context, env Env, names []string) error {
	name, err := o.target()
	if err != nil {
		return err
	}
	format, err := o.formatOf(name)
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
	images, err := o.images(env, p.Spec, names)
	if err != nil {
		return &usageError{err}
	}
	folder := o.out != "" && isFolder(inDir(env.Dir, o.out))
	if len(images) > 1 && o.push != "" {
		return usagef("--push takes one image, and the file has several: name one of %s", strings.Join(p.ImageNames(), ", "))
	}
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
		if o.push != "" {
			err = o.publish(ctx, env, art, img.Name, screen)
		}
		if err == nil && o.out != "" {
			err = o.deliver(env, art, img.Name, format, folder)
		}
		art.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// target is what the format follows from: the name of the output, or that
// registries have only images of their own kind.
func (o *buildVerb) target() (name string, err error) {
	switch {
	case o.out == "" && o.push == "":
		return "", usagef("wolffia build needs -o OUT: a file, a folder, or - for standard output")
	case o.push != "" && o.format != "" && o.format != "oci":
		return "", usagef("a registry takes images of format oci, and --format is %s", o.format)
	case o.push != "":
		o.format = "oci"
	}
	return o.out, nil
}

// images picks images and lays the flags over them.
func (o *buildVerb) images(env Env, s *lab.Spec, names []string) ([]*lab.Image, error) {
	images, err := pickImages(s, names)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		if o.size != "" {
			if img.Size, err = lab.ParseDiskSize(o.size); err != nil {
				return nil, err
			}
		}
		if o.kernel != "" {
			img.Kernel = o.kernel
			if build.IsPath(o.kernel) {
				img.Kernel = inDir(env.Dir, o.kernel) // not the file's folder
			}
		}
	}
	return images, nil
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

// packings are what the end of a file's name says about compression, and in
// what its place the format stands.
var packings = []struct{ end, compression, stands string }{
	{".gz", "gzip", ""}, {".zst", "zstd", ""}, {".tgz", "gzip", ".tar"},
}

// endings are the formats by what a file's name ends in, besides their own names.
var endings = map[string]string{"img": "disk", "raw": "disk"}

// formatOf takes format and compression from flags, else from the file's name.
func (o *buildVerb) formatOf(name string) (build.Format, error) {
	f := build.Format{Compression: o.compress, Table: disk.Table(o.table)}
	base := strings.ToLower(filepath.Base(name))
	packed := false
	for _, e := range packings {
		var stem string
		if stem, packed = strings.CutSuffix(base, e.end); packed {
			base, f.Compression = stem+e.stands, cmp.Or(o.compress, e.compression)
			break
		}
	}
	base, f.QCOW2 = strings.CutSuffix(base, ".qcow2")
	if o.format == "qcow2" {
		f.QCOW2 = true
	} else {
		f.Name = o.format
	}
	ext := strings.TrimPrefix(filepath.Ext(base), ".")
	switch {
	case f.Name != "":
	case slices.Contains(build.Formats(), ext):
		f.Name = ext
	case endings[ext] != "":
		f.Name = endings[ext]
	case f.QCOW2:
		f.Name = "disk"
	default:
		return f, fmt.Errorf("%s does not say which format it is to have; give --format %s", name, strings.Join(build.Formats(), " or "))
	}
	if err := f.Check(); err != nil {
		return f, err
	}
	if packed && (f.QCOW2 || f.Name == "oci") {
		return f, fmt.Errorf("%s is not compressed as a whole: leave out the last ending, and compress what is in it by --compress", name)
	}
	if o.size != "" && !f.Sized() {
		return f, fmt.Errorf("--size is for disks and file systems, and %s is neither", f.Name)
	}
	if o.kernel != "" && f.Name != "disk" {
		return f, fmt.Errorf("--kernel is for disks, and %s is none", f.Name)
	}
	return f, nil
}

func extension(f build.Format) string {
	ext := "." + f.Name
	if f.Name == "disk" {
		ext = ".img"
	}
	switch {
	case f.QCOW2 && f.Name == "disk":
		return ".qcow2"
	case f.QCOW2:
		return ext + ".qcow2"
	case f.Name == "oci":
		return ext
	}
	return ext + map[string]string{"gzip": ".gz", "zstd": ".zst"}[f.Compression]
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// sizeText is a size for people.
func sizeText(n int64) string { return term.Bytes(n) }
