package link

// held is a frame in a shaper's own buffer. Times are nanoseconds since the
// shaper's epoch.
type held struct {
	data    []byte
	departs int64 // when its last bit is on the wire
	due     int64 // when it arrives
}

// fifo is a queue of frames that grows as needed; who fills it bounds it.
type fifo struct {
	ring []held // its length is a power of two
	head int
	n    int
}

const (
	fifoStart = 64
	fifoKeep  = 4096 // a longer ring is given up when it gets empty
)

// at gives the i-th from the front.
func (q *fifo) at(i int) *held { return &q.ring[(q.head+i)&(len(q.ring)-1)] }

func (q *fifo) push(h held) {
	if q.n == len(q.ring) {
		ring := make([]held, max(fifoStart, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = *q.at(i)
		}
		q.ring, q.head = ring, 0
	}
	q.n++
	*q.at(q.n - 1) = h
}

func (q *fifo) pop() held {
	h := *q.at(0)
	*q.at(0) = held{}
	q.head = (q.head + 1) & (len(q.ring) - 1)
	if q.n--; q.n == 0 && len(q.ring) > fifoKeep {
		*q = fifo{}
	}
	return h
}

// pool keeps buffers that are used again and again.
type pool struct{ free [len(bufferSizes)][][]byte }

// Most frames are short or as long as an Ethernet without jumbo frames has
// them; longer ones get a buffer each.
var bufferSizes = [...]int{256, 2048}

// idleBytes is how much of each size is kept for later.
const idleBytes = 2 << 20

// bufferSize says how long a buffer for n bytes is.
func bufferSize(n int) int {
	for _, size := range bufferSizes {
		if n <= size {
			return size
		}
	}
	return n
}

// get gives a buffer of n bytes, and as much capacity as bufferSize says.
func (p *pool) get(n int) []byte {
	size := bufferSize(n)
	for i, s := range bufferSizes {
		if free := p.free[i]; s == size && len(free) > 0 {
			b := free[len(free)-1]
			p.free[i] = free[:len(free)-1]
			return b[:n]
		}
	}
	return make([]byte, n, size)
}

func (p *pool) put(b []byte) {
	for i, s := range bufferSizes {
		if cap(b) == s && len(p.free[i])*s < idleBytes {
			p.free[i] = append(p.free[i], b)
			return
		}
	}
}

// wire is what sends one bit after the other.
type wire struct {
	free int64 // when all that was sent has left, in nanoseconds
	rest int64 // what free is short of that, in bits times nanoseconds per second, below the rate
}

const second = 1e9 // nanoseconds

// send puts size bytes on the wire as soon as it is free, and says when the
// last bit has left.
func (w *wire) send(now int64, size int, rate Rate) int64 {
	if now >= w.free {
		*w = wire{free: now}
	}
	if rate > 0 {
		work := int64(size)*8*second + w.rest // at most 6e14
		w.free += work / int64(rate)
		w.rest = work % int64(rate)
	}
	return w.free
}

// backlog says how many bytes have not left yet. Queue and MinRate keep the
// product in range.
func (w *wire) backlog(now int64, rate Rate) int {
	if w.free <= now {
		return 0
	}
	return int(float64(w.free-now) * float64(rate) / (8 * second))
}
