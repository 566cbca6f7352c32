// Package fat writes trees as FAT12, FAT16 and FAT32 file systems with long
// names (VFAT), and reads all three as trees.
//
// What is written is the same, byte for byte, for the same tree and options.
// Directories are sorted, every file lies in one piece, in [tree.Tree.Walk]'s
// order, and clusters of zeros become holes of the image. The serial number,
// where it is not given, comes from a digest of the tree's names and metadata.
//
// Names are kept as they are. One that is a short name in capitals, or in small
// letters, is stored as that, with the bits that Windows NT uses for the latter;
// every other one has a long name, and a short one made as the specification
// says. Times are UTC, in steps of two seconds, from 1980 to 2107; others are
// brought to the nearest that there is. A file that nobody may write is
// read-only; other modes, and owners, are lost.
//
// What the form can't hold is an error that names the file: links of both
// kinds, device nodes, pipes, sockets, extended attributes, files of 4 GiB or
// more, names with characters that FAT forbids or that end in a dot or a space,
// names that differ only in the case of their letters, and directories of more
// than 65,536 entries.
//
// What is read: these, and what mkfs.fat, mtools, Linux and Windows make, in
// sectors of 512 to 4096 bytes. All files are root's, of mode 0644 (0444 if
// read-only), directories of mode 0755. Short names that are not ASCII are read
// as code page 437. Everything that is read is taken for hostile: chains that
// are loops, meet, or lead outside are errors, not guesses.
//
// [FS.Check] looks for damage in all of a file system, as fsck.vfat does.
//
// Deliberately absent: exFAT, boot code, marks for bad clusters, and writing to
// what exists.
//
// The format: "Microsoft FAT Specification", version 1.03, which ECMA-107 covers
// in part, and https://docs.kernel.org/filesystems/vfat.html
//
//	f, err := os.Create("esp.img")
//	...
//	err = fat.Write(f, t, fat.Options{Type: fat.FAT32, Label: "ESP", Time: epoch})
package fat
