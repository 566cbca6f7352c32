package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeQEMU answers each line with what reply gives for it.
func fakeQEMU(t *testing.T, reply func(line string) string) (*monitor, <-chan event, func() error) {
	t.Helper()
	ours, theirs := net.Pipe()
	events := make(chan event, 10)
	q := newMonitor(ours, func(e event) { events <- e })
	var work sync.WaitGroup
	var end error
	work.Go(func() { end = q.run() })
	work.Go(func() {
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			if text := reply(lines.Text()); text != "" {
				if _, err := theirs.Write([]byte(text)); err != nil {
					return
				}
			}
		}
	})
	finish := func() error {
		theirs.Close()
		work.Wait()
		return end
	}
	t.Cleanup(func() { _ = finish() })
	return q, events, finish
}

func TestMonitor(t *testing.T) {
	q, events, finish := fakeQEMU(t, func(line string) string {
		switch {
		case strings.Contains(line, `"good"`):
			return `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}, "timestamp": {}}` + "\r\n" +
				`{"event": "OTHER", "data": {"guest": 7}}` + "\n" + `{"return": {"a": 5}, "id": 99}` + "\n" + `{"return": {"a": 7}, "id": 1}` + "\n"
		case strings.Contains(line, `"bad"`):
			return `{"error": {"class": "GenericError", "desc": "no such thing"}, "id": 2}` + "\n"
		}
		return ""
	})
	var result struct{ A int }
	if err := q.do(t.Context(), "good", nil, &result); err != nil || result.A != 7 {
		t.Errorf("%+v, %v", result, err)
	}
	if e := <-events; e.Name != "SHUTDOWN" || e.Data.Reason != "guest-reset" || !e.Data.Guest {
		t.Errorf("%+v", e)
	}
	var refused *qmpError
	if err := q.do(t.Context(), "bad", map[string]int{"x": 1}, nil); !errors.As(err, &refused) || !strings.Contains(err.Error(), "no such thing") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := q.do(ctx, "silent", nil, nil); !errors.Is(err, context.DeadlineExceeded) || len(q.pending) != 0 {
		t.Errorf("%v, %v", err, q.pending)
	}
	if err := finish(); err != nil {
		t.Error(err)
	}
	if err := q.do(t.Context(), "late", nil, nil); !errors.Is(err, errMonitorGone) {
		t.Error(err)
	}
}

// A monitor that speaks nonsense, or without end, is given up.
func TestMonitorNonsense(t *testing.T) {
	for name, text := range map[string]string{
		"words":   "hello\n",
		"endless": strings.Repeat("x", maxQMP+1),
	} {
		t.Run(name, func(t *testing.T) {
			q, _, finish := fakeQEMU(t, func(string) string { return text })
			if err := q.do(t.Context(), "anything", nil, nil); !errors.Is(err, errMonitorGone) {
				t.Error(err)
			}
			if err := finish(); err == nil {
				t.Error("taken")
			}
		})
	}
}

func FuzzMonitor(f *testing.F) {
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		q := newMonitor(ours, func(event) {})
		answer := make(chan message, 1)
		q.pending[1] = answer
		go func() {
			defer theirs.Close()
			_, _ = theirs.Write(said)
		}()
		_ = q.run()
		if len(answer) == 0 && len(q.pending) == 0 {
			t.Error("an answer was lost")
		}
		_, _, _ = greeting(said)
	})
}

func TestBanner(t *testing.T) {
	b := boards["riscv64"].banner
	text := "\r\nOpenSBI v1.1\r\n  art\r\nBoot HART MEDELEG         : 0x1\r\n"
	for i := range len(text) {
		if end, more := b.end([]byte(text[:i])); end != 0 || !more {
			t.Errorf("after %d bytes: %d, %v", i, end, more)
		}
	}
	if end, _ := b.end([]byte(text + "rest")); end != len(text) {
		t.Errorf("%d, want %d", end, len(text))
	}
	if end, more := b.end([]byte("\r\nOther")); end != 0 || more {
		t.Errorf("another text: %d, %v", end, more)
	}
}

func FuzzBanner(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		b := boards["riscv64"].banner
		end, more := b.end(text)
		if end < 0 || end > len(text) || end > 0 && (more || !bytes.HasPrefix(text, []byte(b.first))) {
			t.Errorf("%d, %v of %q", end, more, text)
		}
	})
}
