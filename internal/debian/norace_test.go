//go:build !race

package debian

const raced = false
