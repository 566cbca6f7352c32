package vnet

// PipeOptions describe both ends of a [Pipe].
type PipeOptions struct {
	// Offloads says that both readers understand frames with an [Offload].
	Offloads bool
	// Queue is the room in each direction, in bytes; 0 means 1 MiB.
	Queue int
}

// DefaultQueue is the room of a queue whose size is not given, in bytes. It
// holds about 650 frames of 1514 bytes or 15 of the longest.
const DefaultQueue = 1 << 20

// Pipe makes two ports that are joined by a cable in memory: what is written
// to one is read from the other. Both are [Direct]; a frame that finds the
// queue full is dropped. Closing either end closes both; what was written
// before can still be read.
func Pipe(o PipeOptions) (Port, Port) {
	if o.Queue == 0 {
		o.Queue = DefaultQueue
	}
	ab, ba := newRing(o.Queue), newRing(o.Queue)
	return &pipeEnd{ringReader: ringReader{ring: ba}, out: ab, offloads: o.Offloads},
		&pipeEnd{ringReader: ringReader{ring: ab}, out: ba, offloads: o.Offloads}
}

type pipeEnd struct {
	ringReader
	out      *ring
	offloads bool
}

func (p *pipeEnd) Offloads() bool { return p.offloads }
func (p *pipeEnd) Direct() bool   { return true }

func (p *pipeEnd) WriteFrames(frames []Frame) (int, error) { return p.out.push(frames) }

func (p *pipeEnd) Close() error {
	p.ring.close()
	p.out.close()
	return nil
}

// ringReader is the reading half of a port in memory.
type ringReader struct {
	ring  *ring
	views [batchLen]Frame
}

// ReadFrames implements [Port].
func (r *ringReader) ReadFrames(bufs []Frame) (int, error) {
	for {
		got, err := r.ring.peek(r.views[:min(len(bufs), len(r.views))])
		if err != nil {
			return 0, err
		}
		n := 0
		for _, v := range r.views[:got] {
			b := &bufs[n]
			if len(v.Data) > cap(b.Data) {
				continue
			}
			b.Data = b.Data[:len(v.Data)]
			copy(b.Data, v.Data)
			b.Offload, b.Source, b.Flooded = v.Offload, v.Source, v.Flooded
			n++
		}
		r.ring.release()
		if n > 0 {
			return n, nil
		}
	}
}
