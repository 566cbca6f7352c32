package fat

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// Type is a kind of FAT, which the number of its clusters decides.
type Type string

// The kinds.
const (
	FAT12 Type = "fat12" // up to 4,084 clusters
	FAT16 Type = "fat16" // up to 65,524
	FAT32 Type = "fat32" // up to 268,435,444
)

// Options says how a file system is written. The zero value is one just large
// enough for the tree.
type Options struct {
	// Type is the kind. Empty means FAT12 below 16 MiB, FAT16 below 512 MiB,
	// else FAT32.
	Type Type
	// Size is the image's length in bytes, of which what is over whole clusters
	// stays unused. 0 means as small as the tree, and Free, and the kind allow.
	Size int64
	// Free is, where Size is 0, how many bytes to leave for new files, at least.
	Free int64
	// ClusterSize is a power of two from 512 to 32768 bytes; 0 means one that
	// suits the size.
	ClusterSize int
	// Label is the volume's name of at most 11 characters, those that a short
	// name may have, and spaces. Small letters become capitals.
	Label string
	// Serial is the volume's serial number, which Linux shows as its UUID, like
	// 1234-ABCD. 0 means one made of a digest of the tree's names and metadata
	// and of these options.
	Serial uint32
	// Offset is where on its disk the file system begins, in bytes, if it is in
	// a partition. Boot code may look at it.
	Offset int64
	// Time, where set, is the latest time that a file may have: later ones
	// become this, as SOURCE_DATE_EPOCH asks.
	Time time.Time
}

const (
	sectorSize     = 512
	minClusterSize = 512
	maxClusterSize = 32 << 10
	maxFile        = 1<<32 - 1 // bytes
)

// check fills in the defaults.
func (o *Options) check() error {
	o.Label = strings.ToUpper(o.Label)
	switch {
	case o.Type != "" && o.Type != FAT12 && o.Type != FAT16 && o.Type != FAT32:
		return fmt.Errorf("file system type %q is none of fat12, fat16, fat32", string(o.Type))
	case o.Size < 0 || o.Free < 0 || o.Size > 0 && o.Free > 0:
		return fmt.Errorf("size %d and free %d: one of them can be set, to no negative number", o.Size, o.Free)
	case o.ClusterSize != 0 && (o.ClusterSize < minClusterSize || o.ClusterSize > maxClusterSize || bits.OnesCount(uint(o.ClusterSize)) != 1):
		return fmt.Errorf("cluster size %d is no power of two within %d and %d", o.ClusterSize, minClusterSize, maxClusterSize)
	case o.Offset < 0 || o.Offset%sectorSize != 0:
		return fmt.Errorf("offset %d is not of whole sectors", o.Offset)
	case len(o.Label) > 11 || o.Label != "" && o.Label[0] == ' ':
		return fmt.Errorf("label %.40q is longer than 11 characters or begins with a space", o.Label)
	}
	for i := range len(o.Label) {
		if c := o.Label[i]; c != ' ' && !shortChar(c) {
			return fmt.Errorf("label %.40q has characters that FAT forbids there", o.Label)
		}
	}
	return nil
}
