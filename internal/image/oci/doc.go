// Package oci reads and writes container images as the Open Container
// Initiative defines them, and moves them to and from registries.
//
// What is written ([WriteLayout], [WriteArchive]) is an image layout of version
// 1.0.0, as a folder or as a tar archive: an index, and for each image a
// manifest, a configuration and one layer, compressed with gzip or zstd. The
// same trees and options give the same digests. An archive of one image also
// has the manifest.json that "docker load" looks for.
//
// What is read ([ReadTree]) is a layout, folder or archive, and what "docker
// save" writes: the layers are laid over each other, with their whiteouts, and
// become one tree. Digests and sizes are checked on the way; layers pass
// through package tarball, which refuses hostile ones; what all of them may
// take is bounded. A directory that a layer mentions only as the parent of
// something is looked for through symbolic links, within the image: one that
// the layer has an entry for takes the place of a link.
//
// [Pull] and [Push] speak the distribution protocol, with the credentials that
// docker's own configuration names, over TLS, or plain HTTP where the registry
// is on this host or in a private network. [Resolve] pins a name to a digest.
//
// Deliberately absent: making images of several layers, signatures and other
// artifacts that refer to images, encrypted layers, image formats older than
// Docker's version 2 schema 2, digests other than SHA-256, and layers that a
// manifest only gives a URL for.
//
// The formats: https://github.com/opencontainers/image-spec/blob/v1.1.0/spec.md
// and https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
//
//	digest, err := oci.WriteLayout("image", []oci.Image{{Tree: t, Arch: "arm64"}}, oci.WriteOptions{Ref: "latest"})
//	...
//	t, info, err := oci.ReadTree("image", oci.ReadOptions{Scratch: dir})
package oci
