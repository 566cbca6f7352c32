// Package disk joins partitions, file systems and boot loaders into one disk
// image, and finds out what an image is and holds.
//
// [System] writes a disk that boots by itself: with UEFI from a unified kernel
// image in the EFI system partition, with a BIOS from GRUB, whose core image
// lies in a partition of its own (GPT) or in front of the first (MBR). Its
// partitions, with GPT and both ways to boot:
//
//	sector 0   GRUB's boot code, protective MBR
//	1 MiB      1 bios-boot  GRUB's core image
//	2 MiB      2 esp        FAT32 with EFI/BOOT/BOOTX64.EFI
//	...        3 root       ext4, with the kernel and GRUB's menu in /boot
//	end        the backup of the table
//
// [Write] writes any other layout of partitions. What is written is the same,
// byte for byte, for the same input: GUIDs and signatures come from digests.
// Parts that are zeros are not written, so that a file stays sparse.
//
// [Open] tells a file system from a partitioned disk by content, and opens the
// ext and FAT file systems of either as trees. [Detect] knows archives, QEMU's
// images and compressed files too, to say what they are.
//
// Deliberately absent: changing a disk that exists, LVM, RAID, encryption,
// Secure Boot, and sectors other than of 512 bytes in what is written.
//
//	f, err := os.Create("disk.img")
//	...
//	err = disk.System(f, disk.Options{Arch: "amd64", Root: root, Kernel: vmlinuz, Initrd: []tree.Content{initrd},
//		Cmdline: "console=ttyS0", Stub: stub, GRUB: grubPackage, Size: 256 << 20, Time: epoch})
package disk
