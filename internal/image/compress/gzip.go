package compress

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"sync"
)

// gzipBlock is how many bytes are compressed at a time. Like all of how a block
// is compressed it is part of the bytes that come out: never change it lightly.
const gzipBlock = 1 << 20

// gzipHeader is that of a member without a name, and without a time: "no time
// is available" (RFC 1952, 2.3.1). The system is Unix.
var gzipHeader = [10]byte{0: 0x1f, 1: 0x8b, 2: 8, 9: 3}

// errEnded says that somebody writes into an archive that has ended.
var errEnded = errors.New("write to a compressed file that has ended")

// gzipWriter makes one gzip member of what is written, with several processors:
// its blocks are compressed side by side. Each sees the 32 KiB before it, so that
// it may point back into them, and ends at a byte.
type gzipWriter struct {
	input *gzipJob // that is being filled
	sum   uint32   // CRC-32 of all input
	size  uint32   // of all input, modulo 2^32
	ended bool

	jobs    chan *gzipJob // to be compressed, in any order
	order   chan *gzipJob // the same, in the order of the input: to be written
	workers sync.WaitGroup
	output  sync.WaitGroup

	mu  sync.Mutex
	err error // of the writer below
}

// gzipJob is a block on its way.
type gzipJob struct {
	data []byte // what came before, and the block
	from int    // where the block begins
	out  []byte
	done chan struct{} // closed when out is there
}

// newGzip starts a writer whose end has to be called.
func newGzip(w io.Writer) *gzipWriter {
	n := runtime.GOMAXPROCS(0)
	// As many blocks again wait as are being compressed: 1 MiB each, and what
	// came of it.
	z := &gzipWriter{input: newGzipJob(nil), jobs: make(chan *gzipJob, n), order: make(chan *gzipJob, n)}
	for range n {
		z.workers.Go(func() {
			var e deflater
			for job := range z.jobs {
				job.out = e.compress(nil, job.data, job.from)
				close(job.done)
			}
		})
	}
	z.output.Go(func() {
		_, err := w.Write(gzipHeader[:])
		for job := range z.order {
			<-job.done
			if err == nil {
				_, err = w.Write(job.out)
			}
			if err != nil {
				z.fail(err)
			}
		}
		if err != nil {
			z.fail(err)
		}
	})
	return z
}

// newGzipJob is an empty block that comes after another.
func newGzipJob(before []byte) *gzipJob {
	job := &gzipJob{data: make([]byte, 0, windowSize+gzipBlock), done: make(chan struct{})}
	job.data = append(job.data, before[max(0, len(before)-windowSize):]...)
	job.from = len(job.data)
	return job
}

func (z *gzipWriter) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.err == nil {
		z.err = err
	}
}

func (z *gzipWriter) failed() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.err
}

// Write takes p. An error is one of the writer below, whenever it came.
func (z *gzipWriter) Write(p []byte) (int, error) {
	if z.ended {
		return 0, errEnded
	}
	for n := 0; n < len(p); {
		if err := z.failed(); err != nil {
			return n, err
		}
		job := z.input
		take := min(len(p)-n, job.from+gzipBlock-len(job.data))
		job.data = append(job.data, p[n:n+take]...)
		n += take
		if len(job.data) == job.from+gzipBlock {
			z.send()
		}
	}
	z.sum, z.size = crc32.Update(z.sum, crc32.IEEETable, p), z.size+uint32(len(p))
	return len(p), nil
}

// send has the block compressed that was filled.
func (z *gzipWriter) send() {
	job := z.input
	z.input = newGzipJob(job.data)
	z.jobs <- job
	z.order <- job
}

// end writes what is left and the end of the member into w, and waits for all
// that was started.
func (z *gzipWriter) end(w io.Writer) error {
	if z.ended {
		return z.failed()
	}
	if z.ended = true; len(z.input.data) > z.input.from {
		z.send()
	}
	close(z.jobs)
	close(z.order)
	z.workers.Wait()
	z.output.Wait()
	if err := z.failed(); err != nil {
		return err
	}
	tail := append([]byte(nil), emptyLastBlock...)
	tail = binary.LittleEndian.AppendUint32(tail, z.sum)
	tail = binary.LittleEndian.AppendUint32(tail, z.size)
	_, err := w.Write(tail)
	return err
}
