package ext4

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Type is a kind of file system.
type Type string

// The kinds.
const (
	Ext2 Type = "ext2"
	Ext3 Type = "ext3"
	Ext4 Type = "ext4"
)

// Options says how a file system is written. The zero value is an ext4 just
// large enough for the tree.
type Options struct {
	// Type is the kind; empty means [Ext4].
	Type Type
	// BlockSize is 1024, 2048 or 4096 bytes; 0 means 4096.
	BlockSize int
	// Size is the image's length in bytes, of which what is over whole blocks
	// stays unused. 0 means as small as the tree needs, and Free.
	Size int64
	// Free is, where Size is 0, how many bytes to leave for new files, at least.
	Free int64
	// Inodes is how many files the file system can hold at least, the tree's
	// included. 0 means one for each 16 KiB of free space, as mke2fs has it.
	Inodes int64
	// Reserved is how many of the free bytes only root may use.
	Reserved int64
	// Journal is the journal's size in bytes, at least 1024 blocks, for ext3
	// and ext4. 0 means what mke2fs would choose for the size.
	Journal int64
	// NoJournal leaves the journal out of an ext4.
	NoJournal bool
	// Checksums adds checksums to all metadata (metadata_csum), for ext4.
	Checksums bool
	// Label is the volume's name of at most 16 bytes.
	Label string
	// UUID identifies the file system. The zero value means one made from a
	// digest of the tree's names and metadata and of these options.
	UUID [16]byte
	// HashSeed is that of the directories' index; the zero value means one made
	// as the UUID is.
	HashSeed [16]byte
	// Time, where set, is the latest time that a file may have: later ones
	// become this, as SOURCE_DATE_EPOCH asks. It is also when the file system
	// says that it was made; the zero time means the epoch.
	Time time.Time

	wide bool // 64bit even where the size doesn't need it, for tests
}

// check fills in the defaults.
func (o *Options) check() error {
	if o.Type == "" {
		o.Type = Ext4
	}
	o.Time = o.Time.Round(0).UTC()
	if o.BlockSize == 0 {
		o.BlockSize = 4096
	}
	switch {
	case o.Type != Ext2 && o.Type != Ext3 && o.Type != Ext4:
		return fmt.Errorf("file system type %q is none of ext2, ext3, ext4", string(o.Type))
	case o.BlockSize != 1024 && o.BlockSize != 2048 && o.BlockSize != 4096:
		return fmt.Errorf("block size %d is none of 1024, 2048, 4096", o.BlockSize)
	case o.Size < 0 || o.Free < 0 || o.Inodes < 0 || o.Reserved < 0 || o.Journal < 0:
		return errors.New("sizes and counts can't be negative")
	case o.Size > 0 && o.Free > 0:
		return errors.New("either Size or Free can be set, not both")
	case o.Inodes > math.MaxUint32:
		return fmt.Errorf("%d inodes are more than can be numbered", o.Inodes)
	case o.Type != Ext4 && o.Checksums:
		return fmt.Errorf("%s has no metadata checksums: use ext4", o.Type)
	case o.Type == Ext3 && o.NoJournal:
		return errors.New("ext3 without a journal is ext2: ask for that")
	case o.Journal > 0 && !o.journaled():
		return errors.New("a journal's size is given, but no journal wanted")
	case o.Journal > 0 && (o.Journal < minJournal*int64(o.BlockSize) || o.Journal > maxJournal):
		return fmt.Errorf("a journal of %d bytes is not within %d and %d", o.Journal, minJournal*o.BlockSize, int64(maxJournal))
	case len(o.Label) > 16 || strings.IndexByte(o.Label, 0) >= 0:
		return fmt.Errorf("label %.40q is longer than 16 bytes or holds a NUL", o.Label)
	}
	return nil
}

// minJournal is in blocks (JBD2_MIN_JOURNAL_BLOCKS), maxJournal in bytes.
const (
	minJournal = 1024
	maxJournal = 10 << 30
)

func (o *Options) journaled() bool { return o.Type == Ext3 || o.Type == Ext4 && !o.NoJournal }

// journalBlocks is the journal's length for a file system of so many blocks, by
// mke2fs's table (ext2fs_default_journal_size), except that one too small for
// any journal gets the smallest.
func (o *Options) journalBlocks(blocks uint64) uint64 {
	if !o.journaled() {
		return 0
	}
	if o.Journal > 0 {
		return uint64(o.Journal) / uint64(o.BlockSize)
	}
	for _, row := range [...]struct{ below, journal uint64 }{
		{32 << 10, minJournal}, {256 << 10, 4096}, {512 << 10, 8192}, {4 << 20, 16384},
		{8 << 20, 32768}, {16 << 20, 65536}, {32 << 20, 131072},
	} {
		if blocks < row.below {
			return row.journal
		}
	}
	return 262144
}
