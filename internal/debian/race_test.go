//go:build race

package debian

// raced: the race detector makes decompression ten times as slow, so the tests
// that only need much of it take less.
const raced = true
