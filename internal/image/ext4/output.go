package ext4

import "io"

const bufferSize = 1 << 20 // bytes written at once, at most, and read ahead at once

// output joins writes of what lies together both on the disk and in memory.
type output struct {
	w       io.WriterAt
	bs      uint64
	at      uint64 // byte offset of pending
	pending []byte
	arena   []byte // for the blocks that block gives
}

// block gives a block of zeros, to be filled before anything else is written.
func (o *output) block(n uint64) ([]byte, error) {
	off, used := n*o.bs, uint64(len(o.pending))
	inArena := used > 0 && &o.pending[0] == &o.arena[0]
	if !inArena || off != o.at+used || used+o.bs > uint64(len(o.arena)) {
		if err := o.flush(); err != nil {
			return nil, err
		}
		o.at, used = off, 0
	}
	o.pending = o.arena[:used+o.bs]
	b := o.pending[used:]
	clear(b)
	return b, nil
}

// write writes data from block n on. It may keep data until the next flush.
func (o *output) write(n uint64, data []byte) error {
	off, used := n*o.bs, len(o.pending)
	if used > 0 && off == o.at+uint64(used) && cap(o.pending)-used >= len(data) && &o.pending[:used+1][used] == &data[0] {
		o.pending = o.pending[:used+len(data)]
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	o.at, o.pending = off, data
	return nil
}

func (o *output) flush() error {
	b := o.pending
	o.pending = nil
	if len(b) == 0 {
		return nil
	}
	_, err := o.w.WriteAt(b, int64(o.at))
	return err
}
