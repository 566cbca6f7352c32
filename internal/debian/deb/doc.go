// Package deb opens binary Debian packages: an ar archive of three members,
// debian-binary, control.tar and data.tar.
//
// Subset: format 2.x as in deb(5); members that are not compressed, or
// compressed by gzip, xz, zstd or (old packages) bzip2. Deliberately absent:
// the 1990s format 0.93, lzma, and everything that changes a system: nothing
// here runs a maintainer script, and data.tar is only decompressed. What it
// holds is for a tar reader, such as image/tarball, to judge.
//
// A package is foreign bytes until its checksum has been compared, and some
// are big: the number of members, what control.tar holds and what data.tar
// grows to are bounded, and the blocks of an xz stream (a kernel has 17) are
// decoded side by side, by image/xz.
//
// Specification: deb(5).
//
//	a, err := deb.Open(f, size, deb.Options{})
//	c, err := a.Control()
//	fmt.Println(c.Paragraph.Get("Package"), c.Scripts())
//	n, err := a.ExtractData(ctx, out)
package deb
