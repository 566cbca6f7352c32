package ext4

import "wolffia/internal/tree"

// The journal ("4.5 Journal (jbd2)"). Its numbers are big-endian.
const (
	journalMagic   = 0xC03B3998
	journalSuperV2 = 4
)

// writeJournal writes an empty journal: a superblock that says so, and space.
func (w *writer) writeJournal() error {
	if w.l.journal == 0 {
		return nil
	}
	m, first := w.mapFile(journalInode), uint64(0)
	err := m.add(0, w.l.journal, func(s span) error {
		if first == 0 {
			first = s.first
		}
		return nil
	})
	if err != nil {
		return err
	}
	b, err := w.out.block(first)
	if err != nil {
		return err
	}
	be.PutUint32(b[0x0:], journalMagic)
	be.PutUint32(b[0x4:], journalSuperV2)
	be.PutUint32(b[0xC:], uint32(w.o.BlockSize))
	be.PutUint32(b[0x10:], uint32(w.l.journal))
	be.PutUint32(b[0x14:], 1) // the first block of the log
	be.PutUint32(b[0x18:], 1) // the first number that a transaction gets
	copy(b[0x30:], w.o.UUID[:])
	be.PutUint32(b[0x40:], 1) // file systems that use it
	w.journal, err = m.finish()
	return err
}

func (w *writer) encodeJournal(b []byte) {
	raw := rawInode{
		mode: tree.TypeRegular | 0o600, size: w.l.journal * w.l.bs, links: 1,
		blocks: w.journal.blocks * (w.l.bs / 512), flags: w.journal.flags, block: w.journal.block,
	}
	raw.seconds, raw.nanoseconds = w.time(w.o.Time)
	raw.encode(b)
}
