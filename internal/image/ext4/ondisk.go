package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var le = binary.LittleEndian

// superOffset is where the superblock lies, in bytes; superSize is its length.
const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53
)

// superblock is struct ext4_super_block ("4.1 Super Block").
type superblock struct {
	InodesCount       uint32 // 0x00
	BlocksCountLo     uint32
	ReservedLo        uint32
	FreeBlocksLo      uint32
	FreeInodes        uint32 // 0x10
	FirstDataBlock    uint32
	LogBlockSize      uint32 // of 1024 bytes
	LogClusterSize    uint32
	BlocksPerGroup    uint32 // 0x20
	ClustersPerGroup  uint32
	InodesPerGroup    uint32
	MountTime         uint32
	WriteTime         uint32 // 0x30
	MountCount        uint16
	MaxMountCount     uint16
	Magic             uint16 // 0x38
	State             uint16
	Errors            uint16
	MinorRevLevel     uint16
	LastCheck         uint32 // 0x40
	CheckInterval     uint32
	CreatorOS         uint32
	RevLevel          uint32
	DefaultUID        uint16 // 0x50
	DefaultGID        uint16
	FirstInode        uint32
	InodeSize         uint16 // 0x58
	BlockGroupNr      uint16 // of the group whose copy this is
	Compat            uint32
	Incompat          uint32 // 0x60
	ROCompat          uint32
	UUID              [16]byte // 0x68
	Label             [16]byte
	LastMounted       [64]byte
	AlgorithmBitmap   uint32
	PreallocBlocks    uint8
	PreallocDirBlocks uint8
	ReservedGDT       uint16
	JournalUUID       [16]byte // 0xD0
	JournalInode      uint32
	JournalDevice     uint32
	LastOrphan        uint32
	HashSeed          [4]uint32 // 0xEC
	HashVersion       uint8
	JournalBackup     uint8 // 1: JournalBlocks is valid
	DescSize          uint16
	DefaultMountOpts  uint32 // 0x100
	FirstMetaBG       uint32
	MakeTime          uint32
	JournalBlocks     [17]uint32 // the journal inode's i_block, then i_size_high and i_size_lo
	BlocksCountHi     uint32     // 0x150
	ReservedHi        uint32
	FreeBlocksHi      uint32
	MinExtraSize      uint16 // of inodes
	WantExtraSize     uint16
	Flags             uint32 // 0x160
	RaidStride        uint16
	MMPInterval       uint16
	MMPBlock          uint64
	RaidStripeWidth   uint32 // 0x170
	LogGroupsPerFlex  uint8
	ChecksumType      uint8 // 1: crc32c
	EncryptionLevel   uint8
	_                 uint8
	KBytesWritten     uint64
	_                 [48]byte // 0x180: snapshots, first error
	_                 [80]byte // 0x1B0
	MountOptions      [64]byte // 0x200
	UserQuotaInode    uint32
	GroupQuotaInode   uint32
	OverheadBlocks    uint32
	BackupGroups      [2]uint32 // with sparse_super2
	EncryptionAlgos   [4]uint8
	EncryptionSalt    [16]byte
	LostFoundInode    uint32 // 0x268
	ProjectQuotaInode uint32
	ChecksumSeed      uint32   // 0x270, with csum_seed
	_                 [12]byte // high bytes of times, encodings
	OrphanFile        uint32   // 0x280: its inode, with orphan_file
	_                 [376]byte
	Checksum          uint32 // 0x3FC
}

// Features, by their names in mke2fs.
const (
	compatJournal  = 0x4    // has_journal
	compatXattr    = 0x8    // ext_attr
	compatResize   = 0x10   // resize_inode
	compatDirIndex = 0x20   // dir_index
	compatSparse2  = 0x200  // sparse_super2
	compatOrphans  = 0x1000 // orphan_file

	incompatFiletype = 0x2    // filetype
	incompatRecover  = 0x4    // needs_recovery
	incompatMetaBG   = 0x10   // meta_bg
	incompatExtents  = 0x40   // extent
	incompat64bit    = 0x80   // 64bit
	incompatMMP      = 0x100  // mmp
	incompatFlexBG   = 0x200  // flex_bg
	incompatSeed     = 0x2000 // metadata_csum_seed
	incompatLargeDir = 0x4000 // large_dir

	roSparse    = 0x1     // sparse_super
	roLargeFile = 0x2     // large_file
	roHugeFile  = 0x8     // huge_file
	roGDTCsum   = 0x10    // uninit_bg
	roDirNlink  = 0x20    // dir_nlink
	roExtraSize = 0x40    // extra_isize
	roBigalloc  = 0x200   // bigalloc
	roChecksums = 0x400   // metadata_csum
	roVerity    = 0x8000  // verity
	roOrphans   = 0x10000 // orphan_present
)

// Values of other fields.
const (
	stateClean        = 1
	stateErrors       = 2
	errorsContinue    = 1
	revDynamic        = 1
	flagUnsignedHash  = 2
	hashHalfMD4       = 1
	checksumCRC32C    = 1
	defaultMountOpts  = 0xC // user_xattr, acl
	inodeSize         = 256
	extraSize         = 32 // bytes of an inode's fields beyond the first 128
	inodeRoom         = inodeSize - oldInodeSize - extraSize
	oldInodeSize      = 128
	rootInode         = 2
	resizeInode       = 7 // has the blocks that more descriptors would take
	journalInode      = 8
	firstInode        = 11 // the first that is not reserved: lost+found
	maxLinks          = 65000
	groupInodesUninit = 1 // group flag: no inode is in use, and nothing is initialized
	groupBlocksUninit = 2 // group flag: the block bitmap is not initialized
	groupInodesZeroed = 4 // group flag: the inode table needs no later zeroing
)

func (s *superblock) encode() []byte {
	b := make([]byte, 0, superSize)
	b, err := binary.Append(b, le, s)
	if err != nil {
		panic(err) // the structure has fixed size
	}
	if s.ROCompat&roChecksums != 0 {
		le.PutUint32(b[superSize-4:], crc(^uint32(0), b[:superSize-4]))
	}
	return b
}

// crc is crc32c as ext4 uses it: without the inversion before and after.
func crc(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32 of the number n, as it is stored.
func crcUint32(seed, n uint32) uint32 {
	var b [4]byte
	le.PutUint32(b[:], n)
	return crc(seed, b[:])
}

// groupDesc is struct ext4_group_desc ("4.2 Block Group Descriptors").
type groupDesc struct {
	blockBitmap, inodeBitmap, inodeTable uint64
	freeBlocks, freeInodes, dirs         uint32
	flags                                uint16
	unusedInodes                         uint32 // at the end of the inode table
	blockBitmapSum, inodeBitmapSum       uint32
}

// encode fills b, of 32 or 64 bytes, but for the checksum.
func (g *groupDesc) encode(b []byte) {
	le.PutUint32(b[0x0:], uint32(g.blockBitmap))
	le.PutUint32(b[0x4:], uint32(g.inodeBitmap))
	le.PutUint32(b[0x8:], uint32(g.inodeTable))
	le.PutUint16(b[0xC:], uint16(g.freeBlocks))
	le.PutUint16(b[0xE:], uint16(g.freeInodes))
	le.PutUint16(b[0x10:], uint16(g.dirs))
	le.PutUint16(b[0x12:], g.flags)
	le.PutUint16(b[0x18:], uint16(g.blockBitmapSum))
	le.PutUint16(b[0x1A:], uint16(g.inodeBitmapSum))
	le.PutUint16(b[0x1C:], uint16(g.unusedInodes))
	if len(b) < 64 {
		return
	}
	le.PutUint32(b[0x20:], uint32(g.blockBitmap>>32))
	le.PutUint32(b[0x24:], uint32(g.inodeBitmap>>32))
	le.PutUint32(b[0x28:], uint32(g.inodeTable>>32))
	le.PutUint16(b[0x2C:], uint16(g.freeBlocks>>16))
	le.PutUint16(b[0x2E:], uint16(g.freeInodes>>16))
	le.PutUint16(b[0x30:], uint16(g.dirs>>16))
	le.PutUint16(b[0x32:], uint16(g.unusedInodes>>16))
	le.PutUint16(b[0x38:], uint16(g.blockBitmapSum>>16))
	le.PutUint16(b[0x3A:], uint16(g.inodeBitmapSum>>16))
}

// decodeGroup is the inverse of encode, of 32 or 64 bytes or more.
func decodeGroup(b []byte) groupDesc {
	g := groupDesc{
		blockBitmap: uint64(le.Uint32(b[0x0:])), inodeBitmap: uint64(le.Uint32(b[0x4:])), inodeTable: uint64(le.Uint32(b[0x8:])),
		freeBlocks: uint32(le.Uint16(b[0xC:])), freeInodes: uint32(le.Uint16(b[0xE:])), dirs: uint32(le.Uint16(b[0x10:])),
		flags: le.Uint16(b[0x12:]), unusedInodes: uint32(le.Uint16(b[0x1C:])),
		blockBitmapSum: uint32(le.Uint16(b[0x18:])), inodeBitmapSum: uint32(le.Uint16(b[0x1A:])),
	}
	if len(b) < 64 {
		return g
	}
	g.blockBitmap |= uint64(le.Uint32(b[0x20:])) << 32
	g.inodeBitmap |= uint64(le.Uint32(b[0x24:])) << 32
	g.inodeTable |= uint64(le.Uint32(b[0x28:])) << 32
	g.freeBlocks |= uint32(le.Uint16(b[0x2C:])) << 16
	g.freeInodes |= uint32(le.Uint16(b[0x2E:])) << 16
	g.dirs |= uint32(le.Uint16(b[0x30:])) << 16
	g.unusedInodes |= uint32(le.Uint16(b[0x32:])) << 16
	g.blockBitmapSum |= uint32(le.Uint16(b[0x38:])) << 16
	g.inodeBitmapSum |= uint32(le.Uint16(b[0x3A:])) << 16
	return g
}

// groupSum is the checksum of the descriptor b of group g with metadata_csum.
func groupSum(seed, g uint32, b []byte) uint16 {
	sum := crcUint32(seed, g)
	sum = crc(sum, b[:0x1E])
	sum = crc(sum, []byte{0, 0})
	return uint16(crc(sum, b[0x20:]))
}

// Flags of inodes.
const (
	flagIndex   = 0x1000
	flagExtents = 0x80000

	flagEncrypt    = 0x800
	flagMagic      = 0x2000 // imagic_inodes
	flagVerity     = 0x100000
	flagCasefold   = 0x40000000
	flagHugeFile   = 0x40000
	flagEAInode    = 0x200000
	flagInlineData = 0x10000000
)

// rawInode is struct ext4_inode ("4.3.2 Inode Table"), as far as we use it.
type rawInode struct {
	mode        uint16
	uid, gid    uint32
	size        uint64
	seconds     int64 // of all times
	nanoseconds uint32
	links       uint16
	blocks      uint64 // of 512 bytes, with the block of attributes
	flags       uint32
	block       [60]byte
	fileACL     uint64 // the block of attributes
}

// encode fills the first 160 bytes of b, whose rest are attributes. The
// checksum comes last, with [inodeSum].
func (n *rawInode) encode(b []byte) {
	le.PutUint16(b[0x0:], n.mode)
	le.PutUint16(b[0x2:], uint16(n.uid))
	le.PutUint32(b[0x4:], uint32(n.size))
	sec, extra := encodeTime(n.seconds, n.nanoseconds)
	for _, off := range []int{0x8, 0xC, 0x10, 0x90} { // access, change, modification, creation
		le.PutUint32(b[off:], sec)
	}
	for _, off := range []int{0x84, 0x88, 0x8C, 0x94} {
		le.PutUint32(b[off:], extra)
	}
	le.PutUint16(b[0x18:], uint16(n.gid))
	le.PutUint16(b[0x1A:], n.links)
	le.PutUint32(b[0x1C:], uint32(n.blocks))
	le.PutUint32(b[0x20:], n.flags)
	copy(b[0x28:0x64], n.block[:])
	le.PutUint32(b[0x68:], uint32(n.fileACL))
	le.PutUint32(b[0x6C:], uint32(n.size>>32))
	le.PutUint16(b[0x74:], uint16(n.blocks>>32))
	le.PutUint16(b[0x76:], uint16(n.fileACL>>32))
	le.PutUint16(b[0x78:], uint16(n.uid>>16))
	le.PutUint16(b[0x7A:], uint16(n.gid>>16))
	le.PutUint16(b[0x80:], extraSize)
}

// Times have 34 bits for the seconds, of which the upper two are added to a
// signed 32-bit number, and 30 bits for the nanoseconds.
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

func encodeTime(sec int64, nsec uint32) (lo, extra uint32) {
	lo = uint32(sec)
	epoch := (sec - int64(int32(lo))) >> 32
	return lo, uint32(epoch)&3 | nsec<<2
}

func decodeTime(lo, extra uint32) (sec int64, nsec uint32) {
	return int64(int32(lo)) + int64(extra&3)<<32, extra >> 2
}

// inodeSeed is what all checksums of an inode's own structures begin with.
func inodeSeed(seed, number, generation uint32) uint32 {
	return crcUint32(crcUint32(seed, number), generation)
}

// putInodeSum sets the checksum of the whole inode b.
func putInodeSum(seed uint32, b []byte) {
	sum := inodeSum(seed, b)
	le.PutUint16(b[0x7C:], uint16(sum))
	le.PutUint16(b[0x82:], uint16(sum>>16))
}

// inodeSum is the checksum of an inode, whose seed is [inodeSeed].
func inodeSum(seed uint32, b []byte) uint32 {
	sum := crc(seed, b[:0x7C])
	sum = crc(sum, []byte{0, 0})
	if len(b) == oldInodeSize {
		return crc(sum, b[0x7E:])
	}
	sum = crc(sum, b[0x7E:0x82])
	if le.Uint16(b[0x80:]) < 4 { // there is no room for the upper half
		return crc(sum, b[0x82:])
	}
	sum = crc(sum, []byte{0, 0})
	return crc(sum, b[0x84:])
}

// Device numbers are stored in one of two forms: 16 bits in the first word of
// i_block, or 32 bits in the second.
func encodeDevice(major, minor uint32) (b [60]byte) {
	if major < 256 && minor < 256 {
		le.PutUint32(b[0:], major<<8|minor)
	} else {
		le.PutUint32(b[4:], minor&0xFF|major<<8|minor&^0xFF<<12)
	}
	return b
}

func decodeDevice(b []byte) (major, minor uint32) {
	if d := le.Uint32(b[0:]); d != 0 {
		return d >> 8 & 0xFF, d & 0xFF
	}
	d := le.Uint32(b[4:])
	return d >> 8 & 0xFFF, d&0xFF | d>>12&^0xFF
}
