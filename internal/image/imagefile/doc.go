// Package imagefile opens an image of any kind, whatever it is called: what a
// file is, is told by its content alone.
//
// Known are cpio and tar archives, ext2, ext3, ext4 and FAT file systems, disks
// with a partition table (GPT or MBR), QEMU's qcow2 images of these with their
// chains of backing files, OCI images (as a folder or an archive, those of
// "docker save" too) and UEFI programs such as unified kernel images. Each may
// be compressed with gzip, zstd or xz: then it is unpacked, but for a cpio
// archive, into a scratch folder, where its zeros take no room.
//
// What is opened is taken for hostile. It is only read; all that it makes us
// keep is bounded; and other files than the one that was named are read only
// for the backing files of a qcow2, as package qcow2 confines them.
//
// Deliberately absent: writing, LVM, RAID, encryption, and the file systems that
// [disk.Detect] knows only by name.
//
//	f, err := imagefile.Open(ctx, "disk.qcow2", imagefile.Options{Scratch: dir})
//	...
//	defer f.Close()
//	t, err := f.Tree(0)
package imagefile
