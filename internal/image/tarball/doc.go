// Package tarball reads and writes tar archives as trees.
//
// What is read: v7, ustar, GNU (long names and links, large numbers, sparse
// files) and pax (all fields that a tree has, extended attributes as
// SCHILY.xattr, sparse files 0.0 to 1.0). [ReadAt] reads only the headers of an
// uncompressed archive and leaves the contents where they are; [Read] takes a
// stream, plain, gzip or zstd, and keeps it in memory or in a file. Hostile
// archives are refused, by the rules of [tree.Unpacker] and these: a header with
// a wrong checksum, a size that reaches past the archive's end, an archive
// without an end marker, and a hard link that carries data are errors.
//
// What is written is the same, byte for byte, for the same tree and options, on
// any number of processors: entries in [tree.Tree.Walk]'s order, the root as
// "./", numeric owners without names, times in whole seconds, ustar headers with
// a pax header only where ustar can't hold a value, or a GNU header for a name
// that is not UTF-8. Names of one node after the
// first are hard links to it.
//
// Deliberately absent: multi-volume archives, GNU incremental dumps, ACLs other
// than as the extended attributes that hold them, access and change times, xz
// and bzip2, and sockets, which tar can't hold (writing one is an error).
//
// The formats: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
// and https://www.gnu.org/software/tar/manual/html_node/Standard.html
//
//	f, err := os.Open("data.tar.zst")
//	...
//	t, err := tarball.Read(f, tarball.ReadOptions{})
package tarball
