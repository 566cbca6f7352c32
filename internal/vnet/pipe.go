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
	return &pipeEnd{in: ba, out: ab, offloads: o.Offloads}, &pipeEnd{in: ab, out: ba, offloads: o.Offloads}
}

type pipeEnd struct {
	in, out  *ring
	offloads bool
	views    [64]Frame // of the reader
}

func (p *pipeEnd) Offloads() bool { return p.offloads }
func (p *pipeEnd) Direct() bool   { return true }

func (p *pipeEnd) ReadFrames(bufs []Frame) (int, error) {
	for {
		got, err := p.in.peek(p.views[:min(len(bufs), len(p.views))])
		if err != nil {
			return 0, err
		}
		n := 0
		for _, v := range p.views[:got] {
			b := &bufs[n]
			if len(v.Data) > cap(b.Data) {
				continue
			}
			b.Data = b.Data[:len(v.Data)]
			copy(b.Data, v.Data)
			b.Offload = v.Offload
			n++
		}
		p.in.release()
		if n > 0 {
			return n, nil
		}
	}
}

func (p *pipeEnd) WriteFrames(frames []Frame) (int, error) {
	n, err := p.out.push(frames)
	return n, err
}

func (p *pipeEnd) Close() error {
	p.in.close()
	p.out.close()
	return nil
}
