package ext4

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"wolffia/internal/tree"
)

// piece is a run of blocks of a file, whole, none of them all zeros.
type piece struct {
	inode *inode
	first uint64
	data  []byte
}

// batch is what was read into one buffer.
type batch struct {
	pieces []piece
	free   chan<- []byte // takes the buffer back
	buffer []byte
	err    error
}

// job is a row of files that one worker reads.
type job struct {
	files   []*inode
	batches chan batch // closed at the end
}

// feeder reads the files' contents ahead, several at a time, and gives them in
// order.
type feeder struct {
	bs   int
	jobs []job
	next atomic.Int64 // the first job that nobody has taken
	stop chan struct{}
	all  sync.WaitGroup
}

// feed starts to read the files, each of which has runs.
func feed(files []*inode, bs int) *feeder {
	f := &feeder{bs: bs, stop: make(chan struct{})}
	for len(files) > 0 {
		n, size := 0, int64(0)
		for n < len(files) && (n == 0 || size+files[n].node.Size() <= bufferSize) {
			size += files[n].node.Size()
			n++
		}
		f.jobs = append(f.jobs, job{files[:n], make(chan batch, 1)})
		files = files[n:]
	}
	for range min(runtime.GOMAXPROCS(0), 4, len(f.jobs)) {
		f.all.Go(f.work)
	}
	return f
}

// each calls fn for every batch in order. The batch is fn's until it returns.
func (f *feeder) each(fn func(batch) error) error {
	defer f.all.Wait()
	defer close(f.stop)
	for _, j := range f.jobs {
		for b := range j.batches {
			if b.err != nil {
				return b.err
			}
			if err := fn(b); err != nil {
				return err
			}
			b.free <- b.buffer
		}
	}
	return nil
}

// work takes jobs in order. A worker has two buffers of its own, so that one
// with an earlier job never waits for one with a later.
func (f *feeder) work() {
	r := reading{f: f, free: make(chan []byte, 2)}
	r.free <- make([]byte, bufferSize)
	r.free <- make([]byte, bufferSize)
	for {
		i := f.next.Add(1) - 1
		if i >= int64(len(f.jobs)) {
			return
		}
		r.j = f.jobs[i]
		if err := r.files(); err != nil {
			if err != errStopped {
				r.send(batch{err: err})
			}
			return
		}
		close(r.j.batches)
	}
}

var errStopped = errors.New("stopped")

// reading is a worker's state.
type reading struct {
	f    *feeder
	j    job
	free chan []byte
	b    batch
	used int // bytes of the batch's buffer
}

func (r *reading) send(b batch) error {
	select {
	case r.j.batches <- b:
		return nil
	case <-r.f.stop:
		return errStopped
	}
}

// flush passes on what was read.
func (r *reading) flush() error {
	if r.b.buffer == nil {
		return nil
	}
	b := r.b
	r.b, r.used = batch{}, 0
	return r.send(b)
}

// room gives a piece of the buffer of at least a block and at most n bytes,
// rounded up to whole blocks.
func (r *reading) room(n int64) ([]byte, error) {
	if r.b.buffer != nil && len(r.b.buffer)-r.used < r.f.bs {
		if err := r.flush(); err != nil {
			return nil, err
		}
	}
	if r.b.buffer == nil {
		select {
		case b := <-r.free:
			r.b = batch{buffer: b, free: r.free}
		case <-r.f.stop:
			return nil, errStopped
		}
	}
	n = min(int64(len(r.b.buffer)-r.used), int64(ceil(uint64(n), uint64(r.f.bs)))*int64(r.f.bs))
	p := r.b.buffer[r.used:][:n]
	r.used += int(n)
	return p, nil
}

func (r *reading) files() error {
	for _, i := range r.j.files {
		if err := r.file(i); err != nil {
			if err != errStopped {
				err = fmt.Errorf("%q: %w", i.path(), err)
			}
			return err
		}
	}
	return r.flush()
}

func (r *reading) file(i *inode) error {
	if s, ok := i.node.Content.(tree.Sparse); ok {
		src, err := s.OpenAt()
		if err != nil {
			return err
		}
		defer src.Close()
		for _, run := range i.runs {
			off := int64(run.first) * int64(r.f.bs)
			end := min(off+int64(run.count)*int64(r.f.bs), i.node.Size())
			if err := r.run(i, run.first, io.NewSectionReader(src, off, end-off), end-off); err != nil {
				return err
			}
		}
		return nil
	}
	src, err := i.node.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	return r.run(i, 0, src, i.node.Size())
}

// run reads size bytes that begin at the block first of the file.
func (r *reading) run(i *inode, first uint64, src io.Reader, size int64) error {
	for size > 0 {
		p, err := r.room(size)
		if err != nil {
			return err
		}
		n := min(size, int64(len(p)))
		if got, err := io.ReadFull(src, p[:n]); err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return fmt.Errorf("content ends %d bytes before its size of %d: %w", size-int64(got), i.node.Size(), io.ErrUnexpectedEOF)
			}
			return err
		}
		clear(p[n:])
		r.split(i, first, p)
		first += uint64(len(p) / r.f.bs)
		size -= n
	}
	return nil
}

// split cuts what was read into pieces, without the blocks of zeros.
func (r *reading) split(i *inode, first uint64, p []byte) {
	bs := r.f.bs
	from := 0
	for at := 0; at <= len(p); at += bs {
		if at < len(p) && !zero(p[at:at+bs]) {
			continue
		}
		if at > from {
			r.b.pieces = append(r.b.pieces, piece{i, first + uint64(from/bs), p[from:at]})
		}
		from = at + bs
	}
}
