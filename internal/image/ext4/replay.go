package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var be = binary.BigEndian

// More of the journal ("4.5 Journal (jbd2)").
const (
	journalHead       = 12 // magic, type, transaction
	journalDescriptor = 1
	journalCommit     = 2
	journalSuperV1    = 3
	journalRevoke     = 5

	journalHasRevoke = 0x1
	journal64bit     = 0x2
	journalAsync     = 0x4
	journalSumV2     = 0x8
	journalSumV3     = 0x10

	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8
)

// maxReplay bounds the blocks that a journal can bring up to date.
const maxReplay = 1 << 22

// moved is where the latest state of a block is: in the journal.
type moved struct {
	block   uint64
	escaped bool // its first four bytes were the journal's magic number
}

func (f *FS) readMoved(n, off uint64, p []byte) error {
	m, ok := f.moved[n]
	if !ok {
		return readFull(f.r, p, int64(n*f.bs+off))
	}
	if err := readFull(f.r, p, int64(m.block*f.bs+off)); err != nil {
		return err
	}
	if m.escaped && off < 4 {
		copy(p, []byte{0xC0, 0x3B, 0x39, 0x98}[off:])
	}
	return nil
}

// replay finds out which blocks have their latest state in the journal.
func (f *FS) replay() error {
	j := journal{f: f, cache: cache{f: f}, moved: map[uint64]logged{}, revoked: map[uint64]uint32{}}
	if err := j.open(); err != nil {
		return err
	}
	if err := j.scan(); err != nil {
		return err
	}
	f.moved, f.replays = map[uint64]moved{}, j.replayed
	for n, l := range j.moved {
		if at, ok := j.revoked[n]; !ok || int32(l.transaction-at) > 0 {
			f.moved[n] = l.moved
		}
	}
	return nil
}

// logged is a block in the journal.
type logged struct {
	moved
	transaction uint32
}

// journal is a log that is read from its start to the last transaction that
// was written whole.
type journal struct {
	f        *FS
	cache    cache
	blocks   fileMap
	first    uint32 // of the log's blocks, which go round
	end      uint32
	features uint32
	seed     uint32 // of checksums

	at       uint32 // the next block
	sequence uint32 // the transaction that is read
	left     uint32 // blocks until all of the log was read
	replayed int

	moved   map[uint64]logged
	revoked map[uint64]uint32 // blocks by the last transaction that made older states void
	pending map[uint64]logged // of a transaction that is not committed so far
	voided  []uint64
	damaged error // no matter, unless it is committed
}

// open reads the journal's superblock.
func (j *journal) open() error {
	s := &j.f.super
	if s.JournalInode != journalInode {
		return fmt.Errorf("the journal is in inode %d or on another device, which is not supported", s.JournalInode)
	}
	w := walker{f: j.f, cache: cache{f: j.f}}
	i, err := w.inode(journalInode)
	if err != nil {
		return err
	}
	j.blocks = j.f.mapOf(i)
	b, _, err := j.block(0)
	if err != nil {
		return err
	}
	if kind := be.Uint32(b[4:]); be.Uint32(b) != journalMagic || kind != journalSuperV1 && kind != journalSuperV2 {
		return errors.New("there is no journal's superblock")
	}
	if be.Uint32(b[4:]) == journalSuperV2 {
		j.features = be.Uint32(b[0x28:])
	}
	if unknown := j.features &^ (journalHasRevoke | journal64bit | journalAsync | journalSumV2 | journalSumV3); unknown != 0 {
		return fmt.Errorf("it uses features that are not supported: %#x", unknown)
	}
	j.end, j.first = be.Uint32(b[0x10:]), be.Uint32(b[0x14:])
	j.sequence, j.at = be.Uint32(b[0x18:]), be.Uint32(b[0x1C:])
	switch {
	case uint64(be.Uint32(b[0xC:])) != j.f.bs:
		return fmt.Errorf("its blocks of %d bytes are not those of the file system", be.Uint32(b[0xC:]))
	case j.first == 0 || j.first >= j.end || uint64(j.end) > j.f.blocks || uint64(j.end) > i.raw.size/j.f.bs:
		return fmt.Errorf("its log from block %d to %d is out of range", j.first, j.end)
	case j.at != 0 && (j.at < j.first || j.at >= j.end):
		return fmt.Errorf("its log starts at %d, out of range", j.at)
	}
	j.left = j.end - j.first
	j.seed = crc(^uint32(0), b[0x30:0x40])
	if j.summed() {
		sum := crc(crc(crc(^uint32(0), b[:0xFC]), make([]byte, 4)), b[0x100:0x400])
		if sum != be.Uint32(b[0xFC:]) {
			return errors.New("the checksum of its superblock is wrong")
		}
	}
	return nil
}

func (j *journal) summed() bool { return j.features&(journalSumV2|journalSumV3) != 0 }

// block reads block n of the journal and tells where it lies.
func (j *journal) block(n uint32) ([]byte, uint64, error) {
	s, err := j.blocks.find(&j.cache, uint64(n))
	if err != nil {
		return nil, 0, err
	}
	if s.disk == 0 {
		return nil, 0, fmt.Errorf("block %d of it is missing", n)
	}
	b, err := j.cache.block(s.disk)
	return b, s.disk, err
}

// next reads the next block of the log. It reports false where all was read.
func (j *journal) next() (b []byte, disk uint64, ok bool, err error) {
	if j.left == 0 {
		return nil, 0, false, nil
	}
	j.left--
	b, disk, err = j.block(j.at)
	if j.at++; j.at == j.end {
		j.at = j.first
	}
	return b, disk, err == nil, err
}

// scan reads transactions until one is not whole, which is where the last
// crash happened.
func (j *journal) scan() error {
	if j.at == 0 {
		return nil // the log is empty
	}
	j.pending = map[uint64]logged{}
	for {
		b, _, ok, err := j.next()
		if err != nil || !ok {
			return err
		}
		if be.Uint32(b) != journalMagic || be.Uint32(b[8:]) != j.sequence {
			return nil
		}
		switch be.Uint32(b[4:]) {
		case journalDescriptor:
			ok, err = j.descriptor(b)
		case journalCommit:
			ok = !j.summed() || j.verify(b, 0x10)
			if ok {
				err = j.commit()
			}
		case journalRevoke:
			ok, err = j.revoke(b)
		default:
			ok = false
		}
		if err != nil || !ok {
			return err
		}
	}
}

// verify checks the checksum of a block of the journal's own, which lies at
// off.
func (j *journal) verify(b []byte, off int) bool {
	sum := crc(crc(crc(j.seed, b[:off]), make([]byte, 4)), b[off+4:])
	return sum == be.Uint32(b[off:])
}

// commit makes a whole transaction count.
func (j *journal) commit() error {
	if j.damaged != nil {
		return j.damaged
	}
	for n, l := range j.pending {
		j.moved[n] = l
	}
	for _, n := range j.voided {
		j.revoked[n] = j.sequence
	}
	clear(j.pending)
	j.voided = nil
	j.sequence++
	j.replayed++
	return nil
}

// tagSize is the length of one block's tag, without a UUID.
func (j *journal) tagSize() int {
	n := 12
	if j.features&journalSumV3 != 0 {
		return 16
	}
	if j.features&journalSumV2 != 0 {
		n += 2
	}
	if j.features&journal64bit == 0 {
		n -= 4
	}
	return n
}

// descriptor reads a row of tags and the blocks that they are about. It
// reports false where they are not whole.
func (j *journal) descriptor(b []byte) (bool, error) {
	if j.summed() {
		if !j.verify(b, len(b)-4) {
			return false, nil
		}
		b = b[:len(b)-4]
	}
	for at := journalHead; ; {
		size := j.tagSize()
		if at+size > len(b) {
			return false, errors.New("a tag is cut off")
		}
		tag := b[at:][:size]
		n, flags := uint64(be.Uint32(tag)), uint32(be.Uint16(tag[6:]))
		sum, mask := uint32(be.Uint16(tag[4:])), uint32(0xFFFF)
		high := tag[8:]
		if j.features&journalSumV3 != 0 {
			flags, sum, mask = be.Uint32(tag[4:]), be.Uint32(tag[12:]), ^uint32(0)
		}
		if j.features&journal64bit != 0 {
			n |= uint64(be.Uint32(high)) << 32
		}
		at += size
		if flags&tagSameUUID == 0 {
			at += 16
		}
		data, disk, ok, err := j.next()
		if err != nil || !ok {
			return false, err
		}
		if n >= j.f.blocks {
			return false, fmt.Errorf("it has block %d, beyond the last, %d", n, j.f.blocks-1)
		}
		if j.summed() {
			var seq [4]byte
			be.PutUint32(seq[:], j.sequence)
			if (crc(crc(j.seed, seq[:]), data)^sum)&mask != 0 {
				j.damaged = fmt.Errorf("the checksum of block %d in it is wrong", n)
			}
		}
		j.pending[n] = logged{moved{disk, flags&tagEscaped != 0}, j.sequence}
		if len(j.pending)+len(j.moved) > maxReplay {
			return false, fmt.Errorf("it has more than %d blocks", maxReplay)
		}
		if flags&tagLast != 0 {
			return true, nil
		}
	}
}

// revoke reads a row of blocks whose older states are void.
func (j *journal) revoke(b []byte) (bool, error) {
	if j.summed() {
		if !j.verify(b, len(b)-4) {
			return false, nil
		}
		b = b[:len(b)-4]
	}
	end, size := int(be.Uint32(b[journalHead:])), 4
	if j.features&journal64bit != 0 {
		size = 8
	}
	if end > len(b) || end < journalHead+4 {
		return false, fmt.Errorf("a revocation of %d bytes is out of range", end)
	}
	for at := journalHead + 4; at+size <= end; at += size {
		n := uint64(be.Uint32(b[at:]))
		if size == 8 {
			n = be.Uint64(b[at:])
		}
		j.voided = append(j.voided, n)
		if len(j.voided)+len(j.revoked) > maxReplay {
			return false, fmt.Errorf("it voids more than %d blocks", maxReplay)
		}
	}
	return true, nil
}
