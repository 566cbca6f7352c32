package vnet_test

import (
	"bytes"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wolffia/internal/vnet"
)

// lab is a switch with pipes plugged in, and a clock that stands still.
type lab struct {
	t    testing.TB
	sw   *vnet.Switch
	now  atomic.Int64 // seconds
	ends []vnet.Port
	ids  []vnet.PortID
}

func newLab(t testing.TB, ports int) *lab {
	l := &lab{t: t}
	l.sw = vnet.NewSwitch(vnet.SwitchOptions{Now: func() time.Time { return time.Unix(1e9+l.now.Load(), 0) }})
	t.Cleanup(func() { l.sw.Close() })
	for range ports {
		l.add()
	}
	return l
}

func (l *lab) add() int {
	inside, outside := vnet.Pipe(vnet.PipeOptions{})
	id, err := l.sw.Attach(outside, vnet.PortOptions{Name: string(rune('a' + len(l.ends)))})
	if err != nil {
		l.t.Fatal(err)
	}
	l.ends, l.ids = append(l.ends, inside), append(l.ids, id)
	return len(l.ends) - 1
}

// mac is the address of station n.
func mac(n byte) []byte { return []byte{2, 0, 0, 0, 0, n} }

func frame(dst, src []byte, payload string) []byte {
	return append(append(append(bytes.Clone(dst), src...), 0x88, 0xb5), payload...)
}

// send writes frames into a port.
func (l *lab) send(port int, data ...[]byte) {
	l.t.Helper()
	fs := make([]vnet.Frame, len(data))
	for i := range data {
		fs[i].Data = data[i]
	}
	if n, err := l.ends[port].WriteFrames(fs); err != nil || n != len(fs) {
		l.t.Fatalf("wrote %d of %d: %v", n, len(fs), err)
	}
}

// sendAll is send for more than the pipe holds at once.
func (l *lab) sendAll(port int, data ...[]byte) {
	l.t.Helper()
	for len(data) > 0 {
		n, err := l.ends[port].WriteFrames([]vnet.Frame{{Data: data[0]}})
		if err != nil {
			l.t.Fatal(err)
		}
		data = data[n:]
		if n == 0 {
			runtime.Gosched()
		}
	}
}

// expect says which ports get a frame from port, by sending one that everybody
// gets after it: frames of one port never overtake each other.
func (l *lab) expect(port int, data []byte, want ...int) {
	l.t.Helper()
	fence := frame([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{3, 0, 0, 0, 0, 0}, "fence")
	l.send(port, data, fence)
	bufs := vnet.NewBatch(1, vnet.MaxFrame)
	for i, end := range l.ends {
		if i == port || end == nil {
			continue
		}
		got := false
		for {
			if _, err := end.ReadFrames(bufs); err != nil {
				l.t.Fatal(err)
			}
			if bytes.Equal(bufs[0].Data, fence) {
				break
			}
			if !bytes.Equal(bufs[0].Data, data) {
				l.t.Fatalf("port %d got %x", i, bufs[0].Data)
			}
			got = true
		}
		if got != slices.Contains(want, i) {
			l.t.Errorf("port %d got the frame: %v", i, got)
		}
	}
}

func TestSwitchLearns(t *testing.T) {
	l := newLab(t, 3)
	l.expect(0, frame(mac(2), mac(1), "nobody knows 2"), 1, 2)
	l.expect(1, frame(mac(1), mac(2), "1 is at port 0"), 0)
	l.expect(0, frame(mac(2), mac(1), "2 is at port 1"), 1)
	l.expect(0, frame(mac(1), mac(9), "1 is where this comes from"))
	l.expect(2, frame(mac(9), mac(2), "2 has moved"), 0)
	l.expect(0, frame(mac(2), mac(1), "2 is at port 2 now"), 2)
}

func TestSwitchForgets(t *testing.T) {
	l := newLab(t, 3)
	l.expect(1, frame(mac(9), mac(2), "here is 2"), 0, 2)
	l.now.Store(300)
	l.expect(0, frame(mac(2), mac(1), "still known"), 1)
	l.now.Store(301)
	l.expect(0, frame(mac(2), mac(1), "forgotten"), 1, 2)
}

// TestSwitchTransparent: the addresses that a standard bridge keeps for itself
// pass like any other group address, tags and unknown protocols, too.
func TestSwitchTransparent(t *testing.T) {
	l := newLab(t, 3)
	for name, dst := range map[string][]byte{
		"STP":       {0x01, 0x80, 0xc2, 0, 0, 0x00},
		"LACP":      {0x01, 0x80, 0xc2, 0, 0, 0x02},
		"802.1X":    {0x01, 0x80, 0xc2, 0, 0, 0x03},
		"LLDP":      {0x01, 0x80, 0xc2, 0, 0, 0x0e},
		"multicast": {0x33, 0x33, 0, 0, 0, 1},
		"broadcast": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	} {
		f := frame(dst, mac(1), name)
		copy(f[12:], []byte{0x81, 0x00, 0x00, 0x0a})
		l.expect(0, f, 1, 2)
	}
}

func TestSwitchGroupSourceIsNotLearned(t *testing.T) {
	l := newLab(t, 3)
	group := []byte{3, 0, 0, 0, 0, 7}
	l.expect(0, frame(mac(2), group, "a group can't send"), 1, 2)
	l.expect(1, frame(group, mac(2), "and is flooded"), 0, 2)
}

func TestSwitchDropsRunts(t *testing.T) {
	l := newLab(t, 2)
	l.expect(0, []byte{1, 2, 3})
	for _, st := range l.sw.Stats() {
		if st.Name == "a" && st.RxDropped != 1 {
			t.Errorf("stats: %+v", st)
		}
	}
}

// TestSwitchMACFlood: a port that sends from a hundred thousand addresses does
// not make the switch forget the others'.
func TestSwitchMACFlood(t *testing.T) {
	l := newLab(t, 3)
	l.expect(1, frame(mac(9), mac(2), "here is 2"), 0, 2)
	var batch [][]byte
	for i := range 100_000 {
		batch = append(batch, frame(mac(2), []byte{2, 1, byte(i >> 16), byte(i >> 8), byte(i), 0}, ""))
		if len(batch) == 100 {
			l.sendAll(0, batch...)
			batch = batch[:0]
		}
	}
	// All of it went to 2, and what was not dropped on the way is read here.
	done := frame(mac(2), mac(1), "done")
	go func() {
		for { // until the switch is closed: one may be dropped
			if _, err := l.ends[0].WriteFrames([]vnet.Frame{{Data: done}}); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	bufs := vnet.NewBatch(64, vnet.MaxFrame)
	for seen := false; !seen; {
		n, err := l.ends[1].ReadFrames(bufs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range bufs[:n] {
			seen = seen || bytes.Equal(f.Data, done)
		}
	}
	for _, st := range l.sw.Stats() {
		if st.Name == "c" && st.TxFrames+st.TxDropped > 2 {
			t.Errorf("the flood pushed out an address: %+v", st)
		}
	}
}

func TestSwitchDetach(t *testing.T) {
	l := newLab(t, 3)
	l.expect(1, frame(mac(9), mac(2), "here is 2"), 0, 2)
	if err := l.sw.Detach(l.ids[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := l.ends[1].ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the port was not closed: %v", err)
	}
	if err := l.sw.Detach(l.ids[1]); !errors.Is(err, vnet.ErrNoPort) {
		t.Errorf("second detach: %v", err)
	}
	l.ends[1] = nil
	l.expect(0, frame(mac(2), mac(1), "2 is forgotten"), 2)
	l.add() // takes the slot, not the id
	if l.ids[3] == l.ids[1] {
		t.Error("an id was given out twice")
	}
	l.expect(0, frame(mac(2), mac(1), "and unknown"), 2, 3)

	l.ends[2].Close() // the machine goes by itself
	l.sw.Wait(l.ids[2])
	if st := l.sw.Stats(); len(st) != 2 {
		t.Errorf("still attached: %+v", st)
	}
}

// stuck is a port that nobody reads.
type stuck struct {
	once   sync.Once
	closed chan struct{}
}

func (s *stuck) ReadFrames([]vnet.Frame) (int, error) {
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stuck) WriteFrames([]vnet.Frame) (int, error) {
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// TestSwitchStuckPort: a port that takes nothing loses its own frames and
// nobody else's.
func TestSwitchStuckPort(t *testing.T) {
	l := newLab(t, 2)
	id, err := l.sw.Attach(&stuck{closed: make(chan struct{})}, vnet.PortOptions{Name: "stuck", Queue: 1})
	if err != nil {
		t.Fatal(err)
	}
	long := frame([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac(1), string(make([]byte, 1400)))
	for range 300 {
		l.expect(0, long, 1)
	}
	for _, st := range l.sw.Stats() {
		if st.Name == "stuck" && st.TxDropped == 0 {
			t.Errorf("nothing was dropped: %+v", st)
		}
	}
	if err := l.sw.Detach(id); err != nil {
		t.Fatal(err)
	}
}

// late is a port that takes nothing once it has said where it is.
type late struct {
	stuck
	hello []byte
	heard chan struct{} // closed when that was passed on
	said  bool
}

func (l *late) ReadFrames(bufs []vnet.Frame) (int, error) {
	if l.said {
		close(l.heard)
		return l.stuck.ReadFrames(bufs)
	}
	l.said = true
	bufs[0].Data = append(bufs[0].Data[:0], l.hello...)
	return 1, nil
}

// greedy is a port of another process, which always has more to send.
type greedy struct {
	stuck
	data  []byte
	reads atomic.Int64
}

func (g *greedy) ReadFrames(bufs []vnet.Frame) (int, error) {
	select {
	case <-g.closed:
		return 0, net.ErrClosed
	default:
	}
	g.reads.Add(1)
	for i := range bufs {
		bufs[i].Data = append(bufs[i].Data[:0], g.data...)
	}
	return len(bufs), nil
}

// TestSwitchOverrun: who sends a receiver more than that takes is read from no
// more than once in a millisecond.
func TestSwitchOverrun(t *testing.T) {
	untagged, tagged := frame(mac(9), mac(1), "more"), slices.Concat(mac(9), mac(1), []byte{0x81, 0, 0, 10}, []byte("\x88\xb5more"))
	for _, c := range []struct {
		slow, greedy vnet.VLAN
		data         []byte
	}{
		{data: untagged},
		{slow: vnet.VLAN{Access: 10}, greedy: vnet.VLAN{Access: 10}, data: untagged},
		{slow: vnet.VLAN{Access: 10}, greedy: vnet.VLAN{All: true}, data: tagged},
	} {
		l := newLab(t, 0)
		slow := &late{stuck: stuck{closed: make(chan struct{})}, hello: frame(mac(1), mac(9), "here"), heard: make(chan struct{})}
		if _, err := l.sw.Attach(slow, vnet.PortOptions{Name: "slow", VLAN: c.slow, Queue: 1}); err != nil {
			t.Fatal(err)
		}
		<-slow.heard
		g := &greedy{stuck: stuck{closed: make(chan struct{})}, data: c.data}
		if _, err := l.sw.Attach(g, vnet.PortOptions{Name: "greedy", VLAN: c.greedy}); err != nil {
			t.Fatal(err)
		}
		for l.sw.Stats()[0].TxDropped == 0 {
			runtime.Gosched()
		}
		reads, start := g.reads.Load(), time.Now()
		time.Sleep(50 * time.Millisecond)
		reads = g.reads.Load() - reads
		if most := int64(time.Since(start)/time.Millisecond) + 2; reads > most {
			t.Errorf("%+v to %+v: read %d times, want at most %d", c.greedy, c.slow, reads, most)
		}
	}
}

func TestSwitchClose(t *testing.T) {
	l := newLab(t, 3)
	l.sw.Close()
	for _, end := range l.ends {
		if _, err := end.WriteFrames([]vnet.Frame{{Data: make([]byte, 60)}}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a port is still open: %v", err)
		}
	}
	a, b := vnet.Pipe(vnet.PipeOptions{})
	if _, err := l.sw.Attach(a, vnet.PortOptions{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("attach after close: %v", err)
	}
	if _, err := b.ReadFrames(vnet.NewBatch(1, 100)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the refused port was not closed: %v", err)
	}
}

// TestSwitchPortsComeAndGo has ports attached and detached under traffic.
func TestSwitchPortsComeAndGo(t *testing.T) {
	l := newLab(t, 2)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			fs := []vnet.Frame{{Data: frame(mac(byte(2-i)), mac(byte(1+i)), "x")}, {Data: frame([]byte{255, 255, 255, 255, 255, 255}, mac(byte(1+i)), "y")}}
			for {
				select {
				case <-stop:
					l.ends[i].Close()
					return
				default:
					_, _ = l.ends[i].WriteFrames(fs)
				}
			}
		}()
		go func() {
			defer wg.Done()
			bufs := vnet.NewBatch(16, 2000)
			for {
				if _, err := l.ends[i].ReadFrames(bufs); err != nil {
					return
				}
			}
		}()
	}
	for range 50 {
		a, b := vnet.Pipe(vnet.PipeOptions{})
		id, err := l.sw.Attach(a, vnet.PortOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = b.WriteFrames([]vnet.Frame{{Data: frame(mac(1), mac(3), "z")}})
		if err := l.sw.Detach(id); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// FuzzSwitch: whatever a guest sends, the switch goes on, and no frame comes
// back to its sender or changes on the way.
func FuzzSwitch(f *testing.F) {
	f.Add([]byte{}, []byte{1})
	f.Add(frame(mac(2), mac(1), "unicast"), frame(mac(1), mac(2), "answer"))
	f.Add(frame([]byte{0x01, 0x80, 0xc2, 0, 0, 2}, mac(1), "LACP"), frame(mac(1), []byte{255, 255, 255, 255, 255, 255}, "from everybody"))
	f.Add(make([]byte, 13), make([]byte, 14))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if len(first) > vnet.MaxFrame || len(second) > vnet.MaxFrame {
			return
		}
		l := newLab(t, 3)
		l.send(0, first)
		l.send(1, second)
		last := frame([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac(77), "last")
		l.send(2, last)
		bufs := vnet.NewBatch(1, vnet.MaxFrame)
		for i := range 2 {
			for {
				if _, err := l.ends[i].ReadFrames(bufs); err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(bufs[0].Data, last) {
					break
				}
				if other := [][]byte{second, first}[i]; !bytes.Equal(bufs[0].Data, other) {
					t.Fatalf("port %d got %x", i, bufs[0].Data)
				}
			}
		}
	})
}

// BenchmarkSwitch moves 1514-byte frames from port to port.
func BenchmarkSwitch(b *testing.B) {
	l := newLab(b, 2)
	l.send(1, frame(mac(9), mac(2), "here is 2"))
	batch := make([]vnet.Frame, 64)
	for i := range batch {
		batch[i].Data = frame(mac(2), mac(1), string(make([]byte, 1500)))
	}
	bufs := vnet.NewBatch(64, vnet.MaxFrame)
	if _, err := l.ends[0].ReadFrames(bufs); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1514)
	b.ReportAllocs()
	b.ResetTimer()
	for sent := 0; sent < b.N; {
		n, err := l.ends[0].WriteFrames(batch[:min(len(batch), b.N-sent)])
		if err != nil {
			b.Fatal(err)
		}
		sent += n
		for got := 0; got < n; {
			k, err := l.ends[1].ReadFrames(bufs)
			if err != nil {
				b.Fatal(err)
			}
			got += k
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
}

// TestFlooded: receivers are told which frames went to all ports only since nobody
// knew the station.
func TestFlooded(t *testing.T) {
	l := newLab(t, 3)
	got := func(port int) (flooded bool) {
		t.Helper()
		bufs := vnet.NewBatch(1, vnet.MaxFrame)
		if _, err := l.ends[port].ReadFrames(bufs); err != nil {
			t.Fatal(err)
		}
		return bufs[0].Flooded
	}
	l.send(0, frame(mac(2), mac(1), "unknown"))
	if !got(1) || !got(2) {
		t.Error("a frame for an unknown station is not told")
	}
	l.send(1, frame([]byte{255, 255, 255, 255, 255, 255}, mac(2), "all"))
	if got(0) || got(2) {
		t.Error("a frame for all stations counts as one for an unknown one")
	}
	l.send(0, frame(mac(2), mac(1), "known"))
	if got(1) {
		t.Error("a frame for a known station counts as one for an unknown one")
	}
}
