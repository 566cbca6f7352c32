package fat

import (
	"fmt"
	"sort"
)

// kind is what the number of bits of a FAT's entries decides.
type kind struct {
	bits     int64
	min, max int64 // clusters
	prefer   int   // cluster size, where it is to be chosen for a size
	eoc      uint32
}

var kinds = map[Type]kind{
	FAT12: {12, 1, 4084, 2048, 0xFFF},
	FAT16: {16, 4085, 65524, 2048, 0xFFFF},
	FAT32: {32, 65525, 1<<28 - 12, 4096, 0x0FFFFFFF},
}

// margin is how far from the border between two kinds we stay where we choose
// the number of clusters: the specification warns of programs that are off by
// up to this many.
const margin = 16

// layout is where everything lies, in sectors.
type layout struct {
	kind      Type
	sectors   int64
	reserved  int64
	fat       int64 // of one FAT; there are two
	root      int64 // of the root directory, unless it is a file
	cluster   int64 // of a cluster
	clusters  int64
	rootEntry int64 // entries of the root directory
}

func (l *layout) data() int64 { return l.reserved + 2*l.fat + l.root }

// fatSectors is the length of a FAT for so many clusters.
func (k kind) fatSectors(clusters int64) int64 {
	return ceil((clusters+firstCluster)*k.bits, 8*sectorSize)
}

func ceil(n, d int64) int64 { return (n + d - 1) / d }

// base is a layout of a kind whose length is open.
func (c *collection) base(t Type, cluster int) layout {
	l := layout{kind: t, reserved: 1, cluster: int64(cluster) / sectorSize}
	if t == FAT32 {
		l.reserved = reserved32
		return l
	}
	l.rootEntry = max(rootEntries, ceil(c.files[0].size, sectorSize)*(sectorSize/direntSize))
	l.root = l.rootEntry * direntSize / sectorSize
	return l
}

// ofSectors is the layout that fills so many sectors: the shortest FAT that
// there is for the clusters that it leaves.
func (l layout) ofSectors(sectors int64) layout {
	k := kinds[l.kind]
	room := sectors - l.reserved - l.root
	clusters := func(fat int64) int64 { return min(max(0, room-2*fat)/l.cluster, k.max+1) }
	l.fat = int64(sort.Search(int(k.fatSectors(k.max+1)), func(fat int) bool {
		return int64(fat) >= k.fatSectors(clusters(int64(fat)))
	}))
	l.sectors, l.clusters = sectors, clusters(l.fat)
	return l
}

// ofClusters is the layout with so many clusters.
func (l layout) ofClusters(n int64) layout {
	l.clusters, l.fat = n, kinds[l.kind].fatSectors(n)
	l.sectors = l.data() + n*l.cluster
	return l
}

// need is how many clusters the files take.
func (c *collection) need(l layout) int64 {
	bytes := l.cluster * sectorSize
	n := ceil(c.o.Free, bytes)
	for i, f := range c.files {
		switch {
		case i == 0 && l.kind != FAT32:
		case i == 0:
			n += max(1, ceil(f.size, bytes))
		default:
			n += ceil(f.size, bytes)
		}
	}
	return n
}

// plan chooses the layout, and gives every file its clusters.
func (c *collection) plan() (layout, error) {
	types := []Type{c.o.Type}
	if c.o.Type == "" {
		types = automatic(c.o.Size)
	}
	l, err := c.choose(types[0])
	for _, t := range types[1:] {
		if err == nil {
			break
		}
		// The first kind's reason is the one to tell for a size: others need more.
		var other error
		if l, other = c.choose(t); other == nil || c.o.Size == 0 {
			err = other
		}
	}
	if err != nil {
		return l, err
	}
	next := uint32(firstCluster)
	for i, f := range c.files {
		f.first, f.clusters = 0, 0
		if i == 0 && l.kind != FAT32 || f.size == 0 {
			continue
		}
		f.first, f.clusters = next, uint32(ceil(f.size, l.cluster*sectorSize))
		next += f.clusters
	}
	return l, nil
}

// choose gives the layout of a kind.
func (c *collection) choose(t Type) (layout, error) {
	switch {
	case t != FAT32 && c.files[0].size > maxRootEntries*direntSize:
		return layout{}, fmt.Errorf("the root directory of a %s can't hold %d entries: a fat32's can", t, c.files[0].size/direntSize)
	case c.o.Size == 0:
		return c.smallest(t)
	}
	return c.fitting(t)
}

// automatic lists the kinds to try for a size, where 0 is any.
func automatic(size int64) []Type {
	switch {
	case size >= 512<<20:
		return []Type{FAT32}
	case size >= 16<<20:
		return []Type{FAT16, FAT32}
	}
	return []Type{FAT12, FAT16, FAT32}
}

// clusterSizes lists those to try, in order.
func (c *collection) clusterSizes(k kind) (sizes []int, away int64) {
	if c.o.ClusterSize != 0 {
		return []int{c.o.ClusterSize}, 0
	}
	for s := k.prefer; s <= maxClusterSize; s *= 2 {
		sizes = append(sizes, s)
	}
	for s := k.prefer / 2; s >= minClusterSize; s /= 2 {
		sizes = append(sizes, s)
	}
	return sizes, margin
}

// smallest is the shortest layout that holds the files.
func (c *collection) smallest(t Type) (layout, error) {
	k := kinds[t]
	sizes, away := c.clusterSizes(k)
	var best layout
	for _, size := range sizes {
		l := c.base(t, size)
		n := max(c.need(l), k.min)
		if t != FAT12 {
			n = max(n, k.min+away)
		}
		if n > k.max-away {
			continue
		}
		if l = l.ofClusters(n); best.sectors == 0 || l.sectors < best.sectors {
			best = l
		}
	}
	if best.sectors == 0 || best.sectors > 1<<32-1 {
		return best, fmt.Errorf("the files are too large for a %s", t)
	}
	return best, nil
}

// fitting is the layout of the size that was asked for, with clusters as near
// to what is usual as there can be.
func (c *collection) fitting(t Type) (layout, error) {
	k := kinds[t]
	sectors := c.o.Size / sectorSize
	if sectors > 1<<32-1 {
		return layout{}, fmt.Errorf("%d bytes are more than FAT's 2 TiB", c.o.Size)
	}
	sizes, away := c.clusterSizes(k)
	var short int64
	for _, size := range sizes {
		l := c.base(t, size).ofSectors(sectors)
		low, high := k.min+away, k.max-away
		if t == FAT12 {
			low = k.min
		}
		if l.clusters < low || l.clusters > high {
			continue
		}
		if need := c.need(l); need > l.clusters {
			if missing := (need - l.clusters) * l.cluster * sectorSize; short == 0 || missing < short {
				short = missing
			}
			continue
		}
		return l, nil
	}
	if short > 0 {
		return layout{}, fmt.Errorf("the files do not fit: a %s of %d bytes is at least %d bytes too small", t, c.o.Size, short)
	}
	return layout{}, fmt.Errorf("no %s can have %d bytes with clusters of %v bytes: it needs %d to %d of them", t, c.o.Size, sizes, k.min, k.max)
}
