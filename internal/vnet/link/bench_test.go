package link

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"wolffia/internal/vnet"
	"wolffia/internal/vnet/porttest"
)

// sink takes and gives frames at no cost, so that what remains is the link's.
type sink struct{}

func (sink) ReadFrames(bufs []vnet.Frame) (int, error)    { return len(bufs), nil }
func (sink) WriteFrames(frames []vnet.Frame) (int, error) { return len(frames), nil }
func (sink) Close() error                                 { return nil }
func (sink) Offloads() bool                               { return true }
func (sink) Direct() bool                                 { return true }

// TestPlainAllocatesNothing: a link of which nothing is asked makes no garbage.
func TestPlainAllocatesNothing(t *testing.T) {
	for _, lifted := range []bool{false, true} {
		l := New(sink{}, Options{})
		if lifted {
			setImpairment(t, l, In, Impairment{Loss: 1})
			setImpairment(t, l, In, Impairment{})
			l.wg.Wait() // for its goroutine, which has nothing left to do
		}
		frames := run(0, batchLen, 1514)
		if got := testing.AllocsPerRun(100, func() {
			l.WriteFrames(frames)
			l.ReadFrames(frames)
		}); got != 0 {
			t.Errorf("%v allocations for a batch each way", got)
		}
		l.Close()
	}
}

// BenchmarkPlain is what a link costs of which nothing is asked, next to its
// port alone.
func BenchmarkPlain(b *testing.B) {
	for _, batch := range []int{1, batchLen} {
		frames := run(0, batch, 1514)
		for name, p := range map[string]vnet.Port{"port": sink{}, "link": New(sink{}, Options{})} {
			b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.WriteFrames(frames)
				}
			})
		}
	}
}

// BenchmarkShaped is what an impaired link can carry.
func BenchmarkShaped(b *testing.B) {
	card, machine := vnet.Pipe(vnet.PipeOptions{})
	defer machine.Close()
	l := New(card, Options{})
	defer l.Close()
	setImpairment(b, l, In, Impairment{Loss: 0.01, Corrupt: 0.01, Delay: 100 * time.Microsecond})
	go func() {
		bufs := vnet.NewBatch(batchLen, vnet.MaxFrame)
		for {
			if _, err := machine.ReadFrames(bufs); err != nil {
				return
			}
		}
	}()
	frames := run(0, batchLen, 1514)
	b.SetBytes(batchLen * 1514)
	b.ReportAllocs()
	for b.Loop() {
		l.WriteFrames(frames)
	}
	s := l.Stats(In)
	b.ReportMetric(100*float64(s.Dropped.Queue)/float64(s.Frames+s.Dropped.Total()), "%full")
}

// BenchmarkAccuracy measures, in real time, how late frames are and how far the
// rate is off. Each round takes a second.
func BenchmarkAccuracy(b *testing.B) {
	for _, i := range []Impairment{
		{Delay: 5 * time.Millisecond},
		{Rate: 1e6, Queue: MaxQueue}, {Rate: 10e6, Queue: MaxQueue}, {Rate: 100e6, Queue: MaxQueue}, {Rate: 1e9, Queue: MaxQueue},
	} {
		b.Run(i.String(), func(b *testing.B) {
			for b.Loop() {
				accuracy(b, i)
			}
		})
	}
}

func accuracy(b *testing.B, i Impairment) {
	card, machine := vnet.Pipe(vnet.PipeOptions{Queue: 1 << 24})
	defer machine.Close()
	l := New(card, Options{})
	defer l.Close()
	setImpairment(b, l, In, i)
	n := 200
	if i.Rate > 0 {
		n = min(int(i.Rate)/(8*1514), 40_000)
	}
	start := time.Now()
	sent := make([]time.Duration, n)
	go func() {
		frame := []vnet.Frame{{Data: porttest.Frame(0, 1514)}}
		for k := range n {
			if i.Rate == 0 {
				time.Sleep(time.Until(start.Add(time.Duration(k) * 5 * time.Millisecond)))
			}
			frame[0].Data[14], frame[0].Data[15], frame[0].Data[16], frame[0].Data[17] = byte(k>>24), byte(k>>16), byte(k>>8), byte(k)
			sent[k] = time.Since(start)
			l.WriteFrames(frame)
		}
	}()
	bufs := vnet.NewBatch(batchLen, vnet.MaxFrame)
	var late []time.Duration
	var first, last time.Duration
	bits := 0.0
	for len(late) < n {
		got, err := machine.ReadFrames(bufs)
		if err != nil {
			b.Fatal(err)
		}
		at := time.Since(start)
		for _, f := range bufs[:got] {
			k := arrival{data: f.Data}.number()
			due := sent[k] + i.Delay
			if i.Rate > 0 {
				due = sent[0] + time.Duration(float64(k+1)*1514*8/float64(i.Rate)*1e9)
			}
			if len(late) == 0 {
				first = at
			} else {
				bits += 1514 * 8
			}
			last = at
			late = append(late, at-due)
		}
	}
	slices.Sort(late)
	b.ReportMetric(float64(late[n/2].Microseconds()), "µs-late-median")
	b.ReportMetric(float64(late[n*99/100].Microseconds()), "µs-late-p99")
	if i.Rate > 0 {
		b.ReportMetric(100*(bits/(last-first).Seconds()/float64(i.Rate)-1), "%rate-error")
	}
}
