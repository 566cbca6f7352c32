package vnet_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"wolffia/internal/vnet"
)

// moody is a port that at times has room for some frames at once, for none, or
// only for those that wait. It notices calls at the same time.
type moody struct {
	stuck
	t    *testing.T
	busy sync.Mutex
	got  chan uint64 // what each frame carries
}

func (m *moody) take(frames []vnet.Frame) {
	for _, f := range frames {
		m.got <- binary.BigEndian.Uint64(f.Data[14:])
	}
}

func (m *moody) WriteFrames(frames []vnet.Frame) (int, error) {
	if !m.busy.TryLock() {
		m.t.Error("two calls at the same time")
		return 0, net.ErrClosed
	}
	defer m.busy.Unlock()
	m.take(frames)
	return len(frames), nil
}

func (m *moody) TryWriteFrames(frames []vnet.Frame) int {
	if !m.busy.TryLock() {
		m.t.Error("two calls at the same time")
		return 0
	}
	defer m.busy.Unlock()
	n := rand.IntN(len(frames) + 1)
	m.take(frames[:n])
	return n
}

// TestOutboxPasses: what goes past the queue and what goes through it keep each
// sender's order, and nothing is lost or sent twice.
func TestOutboxPasses(t *testing.T) {
	const senders, each = 4, 5000
	port := &moody{stuck: stuck{closed: make(chan struct{})}, t: t, got: make(chan uint64, 64)}
	box := vnet.NewOutbox(port, 64<<20)
	var wg sync.WaitGroup
	for s := range uint64(senders) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(s, 1))
			for i := uint64(0); i < each; {
				batch := make([]vnet.Frame, min(1+r.Uint64N(40), each-i)) // few, and many
				for j := range batch {
					batch[j] = vnet.Frame{Data: binary.BigEndian.AppendUint64(make([]byte, 14), s<<32|i), Source: uint16(s + 1)}
					i++
				}
				if n := box.Write(batch); n != 0 {
					t.Errorf("%d frames were dropped", n)
				}
			}
		})
	}
	var next [senders]uint64
	for range senders * each {
		got := <-port.got
		if s := got >> 32; got&0xffffffff != next[s] {
			t.Fatalf("sender %d: got frame %d, want %d", s, got&0xffffffff, next[s])
		} else {
			next[s]++
		}
	}
	wg.Wait()
	port.Close()
	box.Close()
	if frames, bytes, dropped, refused := box.Sent(); frames != senders*each || bytes != frames*22 || dropped != 0 || refused != 0 {
		t.Errorf("it counts %d frames, %d bytes, %d dropped, %d refused", frames, bytes, dropped, refused)
	}
}

// picky takes the first frame that it is given, and no other.
type picky struct{ stuck }

func (p *picky) WriteFrames([]vnet.Frame) (int, error) { return 1, nil }

// TestOutboxRefused: frames that the port refused were counted as if there had been
// no room for them.
func TestOutboxRefused(t *testing.T) {
	port := &picky{stuck{closed: make(chan struct{})}}
	box := vnet.NewOutbox(port, 0)
	box.Write([]vnet.Frame{{Data: make([]byte, 60)}, {Data: make([]byte, 60)}, {Data: make([]byte, 60)}})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		frames, _, dropped, refused := box.Sent()
		if frames == 1 && dropped == 0 && refused == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it counts %d frames, %d dropped, %d refused", frames, dropped, refused)
		}
	}
	port.Close()
	box.Close()
}
