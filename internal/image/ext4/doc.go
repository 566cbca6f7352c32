// Package ext4 writes trees as ext2, ext3 and ext4 file systems, and reads all
// three as trees.
//
// What is written is the same, byte for byte, for the same tree and options, on
// any number of processors. It is written in one pass over the contents: inodes
// are numbered in [tree.Tree.Walk]'s order, every file lies in as few pieces as
// can be, and blocks of zeros become holes. The UUID and the seed of the
// directories' hash, where they are not given, come from a digest of the tree's
// names and metadata.
//
// The kinds of file system differ in this:
//
//   - Ext2 has neither journal nor extents.
//   - Ext3 adds a journal to it.
//   - Ext4 has extents, a journal unless told otherwise, and its metadata
//     packed (flex_bg). [Options.Checksums] adds metadata_csum.
//
// All have blocks of 1, 2 or 4 KiB, inodes of 256 bytes with times in
// nanoseconds until 2446, extended attributes in the inode and in one shared
// block each, directories of more than a block indexed by half-MD4 (dir_index),
// a clean journal of the size mke2fs would choose, and backups of the
// superblock (sparse_super). GRUB 2.06 and Linux of any present version can
// read them.
//
// A directory of more than 64,998 subdirectories needs dir_nlink, which ext4
// always has. An ext2 or ext3 gets it only then, and Linux mounts that for writing
// as ext4, not by its own name.
//
// What the form can't hold is an error that names the file: more than 65,000
// names of one file, attributes that take more than the inode's room and one
// block together, an attribute in an unknown namespace, symbolic links of a
// block or longer, and files beyond the largest size: 16 GiB, 256 GiB and 2 TiB for
// the block maps of ext2 and ext3, by block size, and 4 to 16 TiB for extents.
// Times before 1901 and after 2446 are brought to the nearest that is within.
//
// What is read: these, and what mke2fs and the kernel make with their usual
// features, of any block size, 64-bit and meta_bg ones too. A journal that was not
// played back (needs_recovery) is played back in memory. Everything that is read
// is taken for hostile: it is bounded, and what is damaged is an error, not a
// guess.
//
// [FS.Check] looks for damage in all of a file system, as e2fsck does.
//
// Deliberately absent: inline_data, bigalloc, encryption, casefolding,
// compression, attributes in inodes of their own (ea_inode), quotas, external
// journals, the resize inode (a file system grows offline, or online up to the
// space its descriptors have), huge directories (large_dir), and writing to what
// exists.
//
// The format: https://docs.kernel.org/filesystems/ext4/
//
//	f, err := os.Create("root.img")
//	...
//	err = ext4.Write(f, t, ext4.Options{Size: 64 << 20, Label: "root", Time: epoch})
package ext4
