package wire

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"

	"wolffia/internal/vnet"
)

// TestPollerEnds: ports that come and go under load leave neither a poller nor a
// descriptor.
func TestPollerEnds(t *testing.T) {
	descriptors := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := descriptors()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for round := range 50 {
				near, guest, err := Socketpair(Seqpacket)
				if err != nil {
					t.Error(err)
					return
				}
				far, err := NewFD(guest)
				if err != nil {
					t.Error(err)
					return
				}
				ended := make(chan struct{})
				near.Drive(func([]vnet.Frame) time.Duration {
					if round%3 == 0 {
						return time.Microsecond
					}
					return 0
				}, func() { close(ended) })
				wrote := make(chan struct{})
				go func() {
					defer close(wrote)
					batch := []vnet.Frame{{Data: make([]byte, 1514)}, {Data: make([]byte, 60)}}
					for {
						if _, err := far.WriteFrames(batch); err != nil {
							return
						}
					}
				}()
				time.Sleep(time.Duration(round) * 20 * time.Microsecond)
				if round%2 == 0 {
					near.Close()
					far.Close()
				} else { // the kernel tells near
					far.Close()
				}
				for _, c := range []chan struct{}{ended, wrote} {
					select {
					case <-c:
					case <-time.After(10 * time.Second):
						t.Error("a port does not end")
						return
					}
				}
				near.Close()
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		pollers.mu.Lock()
		running := len(pollers.all)
		pollers.mu.Unlock()
		after := descriptors()
		if running == 0 && after <= before {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d pollers run, %d descriptors are open, %d were before", running, after, before)
		}
	}
}

// TestPollerIsFair: a port whose peer never stops does not keep others waiting.
func TestPollerIsFair(t *testing.T) {
	// The peers are no ports, which would wait for the poller, too.
	pair := func(receive func([]vnet.Frame) time.Duration) (near *Stream, far *os.File) {
		near, far, err := StreamPair()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		t.Cleanup(func() { far.Close() })
		near.Drive(receive, func() {})
		return near, far
	}
	loud, louder := pair(func([]vnet.Frame) time.Duration {
		for end := time.Now().Add(100 * time.Microsecond); time.Now().Before(end); {
		}
		return 0
	})
	came := make(chan struct{}, 1)
	_, quieter := pair(func([]vnet.Frame) time.Duration {
		came <- struct{}{}
		return 0
	})
	frame := append([]byte{0, 0, 0, 60}, make([]byte, 60)...)
	var flood sync.WaitGroup
	flood.Go(func() {
		many := bytes.Repeat(frame, 1000)
		for {
			if _, err := louder.Write(many); err != nil {
				return
			}
		}
	})
	time.Sleep(50 * time.Millisecond) // the flood is under way
	for i := range 5 {
		if _, err := quieter.Write(frame); err != nil {
			t.Fatal(err)
		}
		select {
		case <-came:
		case <-time.After(10 * time.Second):
			t.Errorf("frame %d waits for the end of another port's flood", i)
			loud.Close()
			flood.Wait()
			return
		}
	}
	loud.Close()
	flood.Wait()
}
