// Package porttest is the conformance suite that every [vnet.Port] passes.
//
//	porttest.Run(t, func(t *testing.T) (a, b vnet.Port) { return vnet.Pipe(vnet.PipeOptions{}) })
package porttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"wolffia/internal/vnet"
)

// EtherType marks the suite's frames; all others that a port hands out, such as
// a kernel's own, are passed over. It is IEEE's local experimental one.
const EtherType = 0x88b5

// Pair makes two ports joined by a cable: what one writes the other reads.
type Pair func(t *testing.T) (a, b vnet.Port)

// Run checks a kind of port.
func Run(t *testing.T, pair Pair) {
	t.Run("order and bytes", func(t *testing.T) { testOrder(t, pair) })
	t.Run("buffers are reused", func(t *testing.T) { testReuse(t, pair) })
	t.Run("too long for the buffer", func(t *testing.T) { testOversize(t, pair) })
	t.Run("a single buffer", func(t *testing.T) { testSingle(t, pair) })
	t.Run("close ends a read", func(t *testing.T) { testCloseRead(t, pair) })
	t.Run("close ends a write", func(t *testing.T) { testCloseWrite(t, pair) })
	t.Run("after close", func(t *testing.T) { testClosed(t, pair) })
	t.Run("no allocation", func(t *testing.T) { testAllocs(t, pair) })
}

// Frame makes a frame of the suite's kind with size bytes in all, at least 18,
// that carries n. It goes to a group address, so that every bridge passes it on.
func Frame(n uint32, size int) []byte {
	b := make([]byte, size)
	copy(b, []byte{0x03, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(b[12:], EtherType)
	binary.BigEndian.PutUint32(b[14:], n)
	r := rand.New(rand.NewPCG(uint64(n), uint64(size)))
	for i := 18; i < size; i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

func frames(data ...[]byte) []vnet.Frame {
	fs := make([]vnet.Frame, len(data))
	for i := range data {
		fs[i].Data = data[i]
	}
	return fs
}

// reader reads the suite's frames one by one.
type reader struct {
	t    *testing.T
	port vnet.Port
	bufs []vnet.Frame
	have [][]byte
}

func newReader(t *testing.T, p vnet.Port, batch, size int) *reader {
	return &reader{t: t, port: p, bufs: vnet.NewBatch(batch, size)}
}

func (r *reader) next() []byte {
	r.t.Helper()
	for len(r.have) == 0 {
		n, err := r.port.ReadFrames(r.bufs)
		if err != nil {
			r.t.Fatalf("read: %v", err)
		}
		if n < 1 || n > len(r.bufs) {
			r.t.Fatalf("read %d frames into %d buffers", n, len(r.bufs))
		}
		for _, f := range r.bufs[:n] {
			if len(f.Data) >= 18 && binary.BigEndian.Uint16(f.Data[12:]) == EtherType {
				r.have = append(r.have, bytes.Clone(f.Data))
			}
		}
	}
	f := r.have[0]
	r.have = r.have[1:]
	return f
}

func open(t *testing.T, pair Pair) (a, b vnet.Port) {
	a, b = pair(t)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func testOrder(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	both := [][2]vnet.Port{{a, b}, {b, a}}
	for _, d := range both {
		r := newReader(t, d[1], 16, vnet.MaxFrame)
		for round := range uint32(40) {
			var sent [][]byte
			for i := range uint32(10) {
				sent = append(sent, Frame(round*10+i, 60+int(round*31+i*7)%1455))
			}
			if n, err := d[0].WriteFrames(frames(sent...)); err != nil || n != len(sent) {
				t.Fatalf("wrote %d of %d: %v", n, len(sent), err)
			}
			for i, want := range sent {
				if got := r.next(); !bytes.Equal(got, want) {
					t.Fatalf("round %d frame %d: got %d bytes, want %d:\n%x\n%x", round, i, len(got), len(want), got, want)
				}
			}
		}
	}
}

func testReuse(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	buf := Frame(1, 200)
	want := bytes.Clone(buf)
	if _, err := a.WriteFrames(frames(buf)); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	if got := newReader(t, b, 4, vnet.MaxFrame).next(); !bytes.Equal(got, want) {
		t.Fatal("the frame changed after WriteFrames had returned")
	}
}

func testOversize(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	if _, err := a.WriteFrames(frames(Frame(1, 900), Frame(2, 100), Frame(3, 900), Frame(4, 101))); err != nil {
		t.Fatal(err)
	}
	r := newReader(t, b, 8, 500)
	for _, want := range []uint32{2, 4} {
		if got := binary.BigEndian.Uint32(r.next()[14:]); got != want {
			t.Fatalf("got frame %d, want %d", got, want)
		}
	}
}

func testSingle(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	r := newReader(t, b, 1, vnet.MaxFrame)
	if _, err := a.WriteFrames(frames(Frame(1, 60), Frame(2, 1514))); err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint32{1, 2} {
		if got := binary.BigEndian.Uint32(r.next()[14:]); got != want {
			t.Fatalf("got frame %d, want %d", got, want)
		}
	}
}

func testCloseRead(t *testing.T, pair Pair) {
	a, _ := open(t, pair)
	done := make(chan error)
	go func() {
		bufs := vnet.NewBatch(4, vnet.MaxFrame)
		for {
			if _, err := a.ReadFrames(bufs); err != nil {
				done <- err
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond) // likelier to find the reader asleep; either way must work
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("a read ended by Close says %v", err)
	}
}

func testCloseWrite(t *testing.T, pair Pair) {
	a, _ := open(t, pair) // nobody reads the other end
	done := make(chan error)
	go func() {
		f := frames(Frame(1, 1514), Frame(2, 1514))
		for {
			if _, err := a.WriteFrames(f); err != nil {
				done <- err
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond)
	a.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("a write ended by Close says %v", err)
	}
}

func testClosed(t *testing.T, pair Pair) {
	a, _ := open(t, pair)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
	if _, err := a.WriteFrames(frames(Frame(1, 60))); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("write after close: %v", err)
	}
	if _, err := a.ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("read after close: %v", err)
	}
}

// RunPrompt checks a kind of port that is [vnet.Prompt], and whose cable loses
// nothing: it takes frames until the peer has no room, never waits, and loses
// and swaps none of those that it took.
func RunPrompt(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	prompt, ok := a.(vnet.Prompt)
	if !ok {
		t.Fatalf("%T does not write without waiting", a)
	}
	took := uint32(0)
	for refused := 0; refused < 3; {
		if took > 1<<20 {
			t.Fatal("there is room for everything, and nobody reads")
		}
		n := prompt.TryWriteFrames(frames(Frame(took, 60), Frame(took+1, 1514), Frame(took+2, 700)))
		if took += uint32(n); n == 0 {
			refused++
		}
	}
	if took == 0 {
		t.Fatal("it takes nothing, though the peer has room")
	}
	r := newReader(t, b, 16, vnet.MaxFrame)
	for want := range took {
		if got := binary.BigEndian.Uint32(r.next()[14:]); got != want {
			t.Fatalf("got frame %d, want %d of %d", got, want, took)
		}
	}
	if n := prompt.TryWriteFrames(frames(Frame(1, 60))); n != 1 {
		t.Error("it takes nothing, though all was read")
	}
	a.Close()
	if n := prompt.TryWriteFrames(frames(Frame(1, 60))); n != 0 {
		t.Errorf("it took %d frames after Close", n)
	}
}

// RunDriven checks a kind of port that is [vnet.Driven]; where noticed is set, it
// notices that its peer is closed.
func RunDriven(t *testing.T, pair Pair, noticed bool) {
	t.Run("order and bytes", func(t *testing.T) { testDrivenOrder(t, pair) })
	t.Run("pause", func(t *testing.T) { testDrivenPause(t, pair) })
	t.Run("close", func(t *testing.T) { testDrivenClose(t, pair) })
	t.Run("closed before", func(t *testing.T) {
		a, _ := open(t, pair)
		a.Close()
		newDriven(t, a, 0).wait()
	})
	if noticed {
		t.Run("peer is closed", func(t *testing.T) {
			a, b := open(t, pair)
			d := newDriven(t, a, 0)
			if _, err := b.WriteFrames(frames(Frame(7, 100))); err != nil {
				t.Fatal(err)
			}
			if got := d.next(); binary.BigEndian.Uint32(got[14:]) != 7 {
				t.Errorf("what was sent came as %x", got)
			}
			b.Close()
			d.wait()
		})
	}
}

// drivenPort is a port that was told to hand on its frames.
type drivenPort struct {
	t     *testing.T
	got   chan []byte
	at    chan time.Time // when they came
	ended chan struct{}
}

func newDriven(t *testing.T, p vnet.Port, pause time.Duration) *drivenPort {
	t.Helper()
	d := &drivenPort{t: t, got: make(chan []byte, 10_000), at: make(chan time.Time, 10_000), ended: make(chan struct{})}
	ok := p.(vnet.Driven).Drive(func(frames []vnet.Frame) time.Duration {
		select {
		case <-d.ended:
			t.Error("frames are received after the end")
		default:
		}
		for _, f := range frames {
			if len(f.Data) >= 18 && binary.BigEndian.Uint16(f.Data[12:]) == EtherType {
				d.got <- bytes.Clone(f.Data)
				d.at <- time.Now()
			}
		}
		return pause
	}, func() { close(d.ended) })
	if !ok {
		t.Fatalf("%T is not driven", p)
	}
	return d
}

// wait waits for the port's end.
func (d *drivenPort) wait() {
	d.t.Helper()
	select {
	case <-d.ended:
	case <-time.After(10 * time.Second):
		d.t.Fatal("nobody is told of the port's end")
	}
}

func (d *drivenPort) next() []byte {
	d.t.Helper()
	select {
	case f := <-d.got:
		return f
	case <-time.After(10 * time.Second):
		d.t.Fatal("no frame comes")
		return nil
	}
}

func testDrivenOrder(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	d := newDriven(t, a, 0)
	for round := range uint32(200) {
		var sent [][]byte
		for i := range uint32(10) {
			sent = append(sent, Frame(round*10+i, 60+int(round*31+i*7)%1455))
		}
		if n, err := b.WriteFrames(frames(sent...)); err != nil || n != len(sent) {
			t.Fatalf("wrote %d of %d: %v", n, len(sent), err)
		}
		for i, want := range sent {
			if got := d.next(); !bytes.Equal(got, want) {
				t.Fatalf("round %d frame %d: got %d bytes, want %d", round, i, len(got), len(want))
			}
		}
		// The other way is as it was.
		if n, err := a.WriteFrames(frames(sent[0])); err != nil || n != 1 {
			t.Fatalf("wrote %d: %v", n, err)
		}
	}
}

func testDrivenPause(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	const pause = 20 * time.Millisecond
	d := newDriven(t, a, pause)
	var last time.Time
	for i := range uint32(5) {
		if _, err := b.WriteFrames(frames(Frame(i, 60))); err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint32(d.next()[14:]); got != i {
			t.Fatalf("got frame %d, want %d", got, i)
		}
		at := <-d.at
		if gap := at.Sub(last); gap < pause {
			t.Errorf("frame %d came %v after the one before, in its pause", i, gap)
		}
		last = at
	}
	// Many at once all come, though nothing comes after them.
	var many [][]byte
	for i := range uint32(200) {
		many = append(many, Frame(i, 60))
	}
	if n, err := b.WriteFrames(frames(many...)); err != nil || n != len(many) {
		t.Fatalf("wrote %d of %d: %v", n, len(many), err)
	}
	for i := range uint32(200) {
		if got := binary.BigEndian.Uint32(d.next()[14:]); got != i {
			t.Fatalf("got frame %d of many, want %d", got, i)
		}
	}
}

// testDrivenClose closes a port while frames come.
func testDrivenClose(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	d := newDriven(t, a, 0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := uint32(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := b.WriteFrames(frames(Frame(i, 60))); err != nil {
				return
			}
			<-d.got
			<-d.at
		}
	}()
	time.Sleep(5 * time.Millisecond)
	a.Close()
	d.wait()
	close(stop)
	close(d.got) // whoever receives now panics
	close(d.at)
	b.Close()
	<-stopped
}

// Driven makes a port one that is [vnet.Driven].
func Driven(p vnet.Port) vnet.Port { return &driven{p} }

type driven struct{ vnet.Port }

func (d *driven) Offloads() bool {
	o, ok := d.Port.(vnet.Offloader)
	return ok && o.Offloads()
}

func (d *driven) Direct() bool {
	o, ok := d.Port.(vnet.Direct)
	return ok && o.Direct()
}

func (d *driven) Drive(receive func([]vnet.Frame) time.Duration, ended func()) bool {
	go func() {
		defer ended()
		bufs := vnet.NewBatch(64, vnet.MaxFrame)
		for {
			n, err := d.ReadFrames(bufs)
			if err != nil {
				return
			}
			time.Sleep(receive(bufs[:n]))
		}
	}()
	return true
}

func testAllocs(t *testing.T, pair Pair) {
	a, b := open(t, pair)
	fs := frames(Frame(1, 1514), Frame(2, 1514), Frame(3, 1514), Frame(4, 1514))
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := a.WriteFrames(fs); err != nil {
			t.Fatal(err)
		}
		for range fs {
			if _, err := b.ReadFrames(bufs); err != nil {
				t.Fatal(err)
			}
		}
	})
	if allocs >= 1 {
		t.Errorf("%v allocations for %d frames", allocs, len(fs))
	}
}
