// Package tarball reads and writes tar archives as trees.
package tarball
