package build

import (
	"context"
	"os"

	"wolffia/internal/image/cpio"
	"wolffia/internal/lab"
	"wolffia/internal/rootfs"
)

const kindInitrd = "initrd"

// Initrd makes the small system, a cpio archive, in which a machine starts whose
// root is the image on a disk. The kernel's command line says which (root=), and
// an archive of modules joined to it brings the disk's driver.
func (b *Builder) Initrd(ctx context.Context, img *lab.Image) (*Artifact, error) {
	d, err := b.describe(ctx, img)
	if err != nil {
		return nil, err
	}
	return b.artifact(ctx, kindInitrd, d.key(kindInitrd), d.lock, func(f *os.File) error {
		t, err := b.tree(ctx, img, d)
		if err != nil {
			return err
		}
		defer t.close()
		initrd, err := rootfs.Initrd(t.base, rootfs.InitrdOptions{Time: d.limit()})
		if err != nil {
			return err
		}
		return cpio.Write(f, initrd, cpio.Options{Time: d.limit()})
	})
}
