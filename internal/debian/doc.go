// Package debian is a client for Debian archives: it finds a mirror, verifies
// what the mirror says, picks packages, fetches them and unpacks them into a
// [tree.Tree], for any architecture and without root.
//
// Trust goes down a chain: Debian's archive keys (embedded, and those that the
// caller adds) sign InRelease, which has the digest of every Packages index,
// which has the digest of every .deb. Nothing is used before its link of the
// chain was checked. Everything is kept in a [store.Store], so that what was
// used once works without a network.
//
//	m, err := debian.FindMirror(debian.MirrorOptions{Getenv: os.Getenv, AptDir: "/etc/apt"})
//	c := debian.New(debian.Options{Store: st, Mirror: m})
//	lock, err := c.Resolve(ctx, debian.Request{Release: "trixie", Arch: "arm64", Packages: []string{"strace"}})
//	err = c.Fetch(ctx, lock)
//	u, err := c.Unpack(ctx, lock, debian.UnpackOptions{})
//	defer u.Close()
//	// u.Tree
//
// A [Lock] pins the outcome of resolving: with one, no index is needed at all.
//
// Subset: archives with a signed InRelease, SHA256 and a pool; component main
// unless the mirror says otherwise; http, https and file URIs; Packages.gz,
// .xz and plain. Deliberately absent: running maintainer scripts (each one that
// was not run is reported), diversions and alternatives, source packages,
// translations, pdiffs, mirror lists over the network, Release.gpg, and MD5 or
// SHA1 for anything.
//
// Specifications: https://wiki.debian.org/DebianRepository/Format,
// sources.list(5), deb(5), https://www.debian.org/doc/debian-policy/.
package debian
