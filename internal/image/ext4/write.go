package ext4

import (
	"fmt"
	"io"
	"time"

	"wolffia/internal/tree"
)

// Write writes t as a file system into w, from offset 0 on: an [os.File], or a
// partition in one. It must read as zeros wherever nothing is written, as a new
// file does: holes, the journal's space and unused inodes are not written, so
// that the image stays sparse. Its last byte is.
//
// Errors name the file of the tree that they are about.
func Write(w io.WriterAt, t *tree.Tree, o Options) error {
	if err := write(w, t, &o); err != nil {
		return fmt.Errorf("write %s: %w", o.Type, err)
	}
	return nil
}

// Size gives the length in bytes of the image that [Write] would write. It reads
// no contents.
func Size(t *tree.Tree, o Options) (int64, error) {
	_, l, err := plan(t, &o)
	if err != nil {
		return 0, fmt.Errorf("plan %s: %w", o.Type, err)
	}
	return int64(l.image), nil
}

// plan decides all but where each file's blocks go.
func plan(t *tree.Tree, o *Options) (*collector, *layout, error) {
	if err := o.check(); err != nil {
		return nil, nil, err
	}
	c, err := collect(t, o)
	if err != nil {
		return nil, nil, err
	}
	need := uint64(len(c.blocks))
	for i := range c.all() {
		for _, r := range i.runs {
			need += r.count
		}
		need += mapBound(o, i.runs)
	}
	l, err := planLayout(o, need, uint64(firstInode-1+len(c.inodes)))
	return c, l, err
}

type writer struct {
	o    *Options
	c    *collector
	l    *layout
	out  *output
	free allocator
	seed uint32 // of all checksums

	journal mapped
	huge    bool // a file takes 2 TiB or more (huge_file)
}

func write(to io.WriterAt, t *tree.Tree, o *Options) error {
	c, l, err := plan(t, o)
	if err != nil {
		return err
	}
	w := &writer{
		o: o, c: c, l: l,
		out:  &output{w: to, bs: l.bs, arena: make([]byte, bufferSize)},
		free: allocator{next: l.first, end: l.blocks, avoid: l.metadata},
		seed: crc(^uint32(0), o.UUID[:]),
	}
	if _, err := to.WriteAt([]byte{0}, int64(l.image)-1); err != nil {
		return err
	}
	for _, step := range []func() error{w.writeJournal, w.writeDirs, w.writeXattrs, w.writeLinks, w.writeFiles, w.writeInodes, w.writeGroups} {
		if err := step(); err != nil {
			return err
		}
	}
	return w.out.flush()
}

// alloc gives the next run of at most n blocks.
func (w *writer) alloc(n uint64) (span, error) {
	s := w.free.run(n)
	if s.count == 0 {
		return s, w.l.tooSmall()
	}
	return s, nil
}

func (w *writer) writeDirs() error {
	for i := range w.c.all() {
		if !i.node.IsDir() {
			continue
		}
		if err := w.writeDir(i); err != nil {
			return fmt.Errorf("%q: %w", i.path(), err)
		}
	}
	return nil
}

func (w *writer) writeDir(i *inode) error {
	if i.runs[0].count*w.l.bs >= 1<<31 {
		return errDirTooLarge
	}
	var spans []span
	m := w.mapFile(i.number)
	if err := m.add(0, i.runs[0].count, func(s span) error { spans = append(spans, s); return nil }); err != nil {
		return err
	}
	d := dirWriter{o: w.o, seed: inodeSeed(w.seed, i.number, 0)}
	d.next = func() ([]byte, error) {
		s := &spans[0]
		b, err := w.out.block(s.first)
		s.first, s.count = s.first+1, s.count-1
		if s.count == 0 {
			spans = spans[1:]
		}
		return b, err
	}
	if err := d.write(i); err != nil {
		return err
	}
	var err error
	i.mapped, err = m.finish()
	if i.index != nil {
		i.mapped.flags |= flagIndex
	}
	return err
}

func (w *writer) writeXattrs() error {
	for _, x := range w.c.blocks {
		s, err := w.alloc(1)
		if err != nil {
			return err
		}
		x.number = s.first
		x.finish(w.seed, w.o.Checksums)
		b, err := w.out.block(s.first)
		if err != nil {
			return err
		}
		copy(b, x.data)
		x.data = nil
	}
	return nil
}

// writeLinks writes the targets that don't fit into their inodes.
func (w *writer) writeLinks() error {
	for _, i := range w.c.inodes {
		if i.node.Type() != tree.TypeSymlink {
			continue
		}
		if len(i.runs) == 0 {
			copy(i.mapped.block[:], i.node.Target)
			continue
		}
		m := w.mapFile(i.number)
		err := m.add(0, 1, func(s span) error {
			b, err := w.out.block(s.first)
			copy(b, i.node.Target)
			return err
		})
		if err != nil {
			return err
		}
		if i.mapped, err = m.finish(); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) writeFiles() error {
	var files []*inode
	for _, i := range w.c.inodes {
		switch {
		case i.node.Type() != tree.TypeRegular:
		case len(i.runs) > 0:
			files = append(files, i)
			fallthrough
		default: // empty files have a map, too
			i.mapped, _ = w.mapFile(i.number).finish()
		}
	}
	var at *inode
	var m mapper
	end := func() (err error) {
		if at != nil {
			at.mapped, err = m.finish()
		}
		return err
	}
	err := feed(files, w.o.BlockSize).each(func(b batch) error {
		for _, p := range b.pieces {
			if p.inode != at {
				if err := end(); err != nil {
					return err
				}
				at, m = p.inode, w.mapFile(p.inode.number)
			}
			data := p.data
			err := m.add(p.first, uint64(len(data))/w.l.bs, func(s span) error {
				n := s.count * w.l.bs
				err := w.out.write(s.first, data[:n])
				data = data[n:]
				return err
			})
			if err != nil {
				return err
			}
		}
		return w.out.flush() // the buffer is about to be used again
	})
	if err != nil {
		return err
	}
	return end()
}

// writeInodes fills the inode tables as far as they are used.
func (w *writer) writeInodes() error {
	last := uint32(firstInode - 1 + len(w.c.inodes))
	var b []byte
	for n := uint32(1); n <= last; n++ {
		g, k := (n-1)/w.l.inodes, uint64((n-1)%w.l.inodes)
		at := k * inodeSize % w.l.bs
		if at == 0 {
			var err error
			if b, err = w.out.block(w.l.placed[g].inodeTable + k*inodeSize/w.l.bs); err != nil {
				return err
			}
		}
		w.encodeInode(n, b[at:][:inodeSize])
	}
	return nil
}

func (w *writer) encodeInode(n uint32, b []byte) {
	switch {
	case n == rootInode:
		w.encodeNode(w.c.root, b)
	case n == journalInode && w.l.journal > 0:
		w.encodeJournal(b)
	case n >= firstInode:
		w.encodeNode(w.c.inodes[n-firstInode], b)
	default:
		return
	}
	if w.o.Checksums {
		putInodeSum(inodeSeed(w.seed, n, 0), b)
	}
}

func (w *writer) encodeNode(i *inode, b []byte) {
	n := i.node
	raw := rawInode{
		mode: uint16(n.Mode), uid: n.UID, gid: n.GID, size: uint64(n.Size()),
		links: uint16(i.links), blocks: i.mapped.blocks, flags: i.mapped.flags, block: i.mapped.block,
	}
	raw.seconds, raw.nanoseconds = w.time(n.ModTime)
	switch n.Type() {
	case tree.TypeDir:
		raw.size = i.runs[0].count * w.l.bs
	case tree.TypeBlock, tree.TypeChar:
		raw.block = encodeDevice(n.Major, n.Minor)
	}
	if i.xattrBlock != nil {
		raw.fileACL = i.xattrBlock.number
		raw.blocks++
	}
	raw.blocks *= w.l.bs / 512
	w.huge = w.huge || raw.blocks >= 1<<32
	raw.encode(b)
	copy(b[oldInodeSize+extraSize:], i.xattrs)
}

// time clamps a time to the options' and to the form's range.
func (w *writer) time(t time.Time) (sec int64, nsec uint32) {
	if t.IsZero() {
		return 0, 0
	}
	if !w.o.Time.IsZero() && t.After(w.o.Time) {
		t = w.o.Time
	}
	switch sec := t.Unix(); {
	case sec < minTime:
		return minTime, 0
	case sec > maxTime:
		return maxTime, 0
	}
	return t.Unix(), uint32(t.Nanosecond())
}
