package control

import "io"

// ParsePackages reads a Packages index (uncompressed). keep, if not nil, says
// which packages are wanted; it may not keep a pointer to one it rejects.
func ParsePackages(r io.Reader, keep func(*Package) bool) ([]*Package, error) {
	panic("being written")
}
