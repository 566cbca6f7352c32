package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"
)

// FuzzRequest: requests of any bytes give an answer or none, and options
// within their bounds.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("\x00\x01pxelinux.0\x00octet\x00tsize\x000\x00blksize\x001456\x00"))
	f.Add([]byte("\x00\x01a\x00netascii\x00windowsize\x0065535\x00timeout\x00255\x00"))
	f.Add([]byte("\x00\x02a\x00octet\x00"))
	f.Add([]byte("\x00\x01\x00\x00"))
	s := NewServer(nil, Options{MaxBlock: 1468})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, perr := parseRequest(b)
		if perr != nil {
			if perr.answer && len(perr.packet()) > 64 {
				t.Errorf("an error of %d bytes", len(perr.packet()))
			}
			return
		}
		tr := s.negotiate(r, bytes.NewReader(b), int64(len(b)))
		if tr.size < minBlock || tr.size > 1468 || tr.window < 1 || tr.window > maxWindow || tr.timeout < time.Second || tr.timeout > 255*time.Second || len(tr.oack) > 512 {
			t.Errorf("granted %+v", tr)
		}
	})
}

// FuzzAcks: whatever a client answers, a transfer ends, and what it sends is in
// proportion to what it got.
func FuzzAcks(f *testing.F) {
	f.Add([]byte{0, 4, 0, 0, 0, 4, 0, 1, 0, 4, 0, 2}, uint8(1))
	f.Add([]byte{0, 4, 0, 0, 0, 4, 0, 3, 0, 4, 0, 3, 0, 4, 0, 0xff}, uint8(8))
	f.Add([]byte{0, 5, 0, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, window uint8) {
		c := &scripted{script: script}
		file := make([]byte, 4000)
		tr := &transfer{
			ctx: context.Background(), conn: c, blocks: &plain{bytes.NewReader(file), int64(len(file))},
			size: 64, window: int64(window%maxWindow) + 1, timeout: time.Second, oack: []byte{0, opOptions},
		}
		_ = tr.run()
		if c.sent > (len(script)/4+1)*maxTries*maxWindow {
			t.Errorf("%d packets were sent for %d bytes", c.sent, len(script))
		}
	})
}

// scripted is a client that answers four bytes at a time, and then no more.
type scripted struct {
	net.Conn
	script []byte
	sent   int
}

func (c *scripted) SetReadDeadline(time.Time) error { return nil }

func (c *scripted) Write(b []byte) (int, error) {
	c.sent++
	if len(b) >= 4 && b[1] == opData && binary.BigEndian.Uint16(b[2:]) > 63 {
		return 0, os.ErrInvalid // past the end of the file
	}
	return len(b), nil
}

func (c *scripted) Read(b []byte) (int, error) {
	if len(c.script) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b[:min(4, len(b))], c.script)
	c.script = c.script[n:]
	return n, nil
}
