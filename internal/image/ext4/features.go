package ext4

import "fmt"

// featureNames are mke2fs's, by the bits of the three fields of the superblock.
var featureNames = [3]map[uint32]string{
	{ // compatible
		0x1: "dir_prealloc", 0x2: "imagic_inodes", 0x4: "has_journal", 0x8: "ext_attr", 0x10: "resize_inode",
		0x20: "dir_index", 0x200: "sparse_super2", 0x400: "fast_commit", 0x800: "stable_inodes", 0x1000: "orphan_file",
	},
	{ // incompatible
		0x1: "compression", 0x2: "filetype", 0x4: "needs_recovery", 0x8: "journal_dev", 0x10: "meta_bg", 0x40: "extent",
		0x80: "64bit", 0x100: "mmp", 0x200: "flex_bg", 0x400: "ea_inode", 0x1000: "dirdata", 0x2000: "metadata_csum_seed",
		0x4000: "large_dir", 0x8000: "inline_data", 0x10000: "encrypt", 0x20000: "casefold",
	},
	{ // compatible with reading
		0x1: "sparse_super", 0x2: "large_file", 0x8: "huge_file", 0x10: "uninit_bg", 0x20: "dir_nlink", 0x40: "extra_isize",
		0x100: "quota", 0x200: "bigalloc", 0x400: "metadata_csum", 0x1000: "read-only", 0x2000: "project",
		0x4000: "shared_blocks", 0x8000: "verity", 0x10000: "orphan_present",
	},
}

// features lists the names of what the superblock has.
func (s *superblock) features() []string {
	var out []string
	for i, bits := range [3]uint32{s.Compat, s.Incompat, s.ROCompat} {
		for ; bits != 0; bits &= bits - 1 {
			bit := bits & -bits
			name := featureNames[i][bit]
			if name == "" {
				name = fmt.Sprintf("%#x", bit)
			}
			out = append(out, name)
		}
	}
	return out
}
