// Package qcow2 writes and reads QEMU's disk images: a guest's disk of which
// only what holds data takes space, on its own or over a backing file.
//
// What is written is version 3: [Write] turns a raw disk into one in a single
// pass over its data, plain or with each cluster compressed (deflate or zstd,
// on all processors); [Create] makes an empty overlay over another image. The
// same disk and options give the same bytes. The header is written last, so a
// file that was cut off in the middle is not taken for an image.
//
// What is read is versions 2 and 3: compressed clusters of both kinds, zero
// clusters, subclusters (extended L2 entries) and chains of backing files. A
// [Source] decides which files a chain may lead to; [OpenFile] confines it to
// one folder. Every table that is held in memory is bounded, and a table or a
// cluster that lies outside the file is an error when it is used.
//
// Deliberately absent: writing into an image that exists; encryption and
// external data files, which are refused by name ([UnsupportedError]); internal
// snapshots and dirty bitmaps, which reading leaves aside: what is read is the
// present state of the disk. [Check] looks at them, and at the reference counts,
// which reading doesn't need.
//
// The format: https://www.qemu.org/docs/master/interop/qcow2.html
//
//	raw, err := os.Open("disk.img")
//	...
//	out, err := os.Create("disk.qcow2")
//	...
//	err = qcow2.Write(out, raw, size, qcow2.Options{Compression: qcow2.Zstd})
package qcow2
