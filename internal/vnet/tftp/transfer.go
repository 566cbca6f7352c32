package tftp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

// reader is what a file is read by.
type reader interface{ io.ReaderAt }

// blocks gives the data of a file in blocks, counted from 1. A block that is
// not full is the last one.
type blocks interface {
	// read fills b with the n-th block. Only the latest block, and those after
	// it, are asked for, where plain is not the implementation.
	read(n int64, b []byte) (int, error)
}

// plain is a file as it is: mode octet.
type plain struct {
	file reader
	size int64 // when it was opened
}

func (p *plain) read(n int64, b []byte) (int, error) {
	at := (n - 1) * int64(len(b))
	if left := p.size - at; left < int64(len(b)) {
		b = b[:max(left, 0)]
	}
	k, err := p.file.ReadAt(b, at)
	if err == io.EOF {
		err = nil // the file has become shorter
	}
	return k, err
}

// netASCII is a text with the line ends of RFC 764: LF becomes CR LF, CR
// becomes CR NUL.
type netASCII struct {
	in    *bufio.Reader
	carry []byte // what did not fit the last block
	n     int64  // the block in last
	last  []byte
}

func newNetASCII(file reader, size int64) *netASCII {
	return &netASCII{in: bufio.NewReader(io.NewSectionReader(file, 0, size))}
}

func (a *netASCII) read(n int64, b []byte) (int, error) {
	if n == a.n {
		return copy(b, a.last), nil
	}
	out := append(make([]byte, 0, len(b)+1), a.carry...)
	for len(out) < len(b) {
		c, err := a.in.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		switch c {
		case '\n':
			out = append(out, '\r', '\n')
		case '\r':
			out = append(out, '\r', 0)
		default:
			out = append(out, c)
		}
	}
	k := copy(b, out)
	a.n, a.last, a.carry = n, out[:k:k], out[k:]
	return k, nil
}

// transfer sends one file to one client.
type transfer struct {
	ctx     context.Context
	conn    net.Conn // connected to the client
	blocks  blocks
	size    int   // bytes of a block
	window  int64 // blocks sent ahead of their acknowledgement (RFC 7440)
	timeout time.Duration
	oack    []byte // which options are granted; nil when none was asked for

	packet []byte // the latest that was sent
	acked  int64  // blocks are in order up to here
	sent   int64  // and were sent up to here
	last   int64  // the last block, once it is known
}

var errGivenUp = errors.New("the client does not answer")

// run sends the file. An error is not the server's business, unless it is a
// protocolError.
func (t *transfer) run() error {
	t.packet = make([]byte, 4+t.size)
	if t.oack != nil {
		if err := t.exchange(func() error { _, err := t.conn.Write(t.oack); return err }); err != nil {
			return err
		}
	}
	for t.last == 0 || t.acked < t.last {
		if err := t.exchange(t.sendWindow); err != nil {
			return err
		}
	}
	return nil
}

// sendWindow sends what follows what is acknowledged.
func (t *transfer) sendWindow() error {
	for n := t.acked + 1; n <= t.acked+t.window && (t.last == 0 || n <= t.last); n++ {
		k, err := t.blocks.read(n, t.packet[4:])
		if err != nil {
			return refuse(codeUndefined, "the file can't be read any further")
		}
		if k < t.size {
			t.last = n
		}
		binary.BigEndian.PutUint16(t.packet, opData)
		binary.BigEndian.PutUint16(t.packet[2:], uint16(n)) // starts again at 0, as everybody expects
		if _, err := t.conn.Write(t.packet[:4+k]); err != nil {
			return err
		}
		t.sent = max(t.sent, n)
	}
	return nil
}

// exchange sends something, again when the client is silent for long, until the
// client has acknowledged more than before, or with nothing sent yet, block 0.
func (t *transfer) exchange(send func() error) error {
	again := t.window > 1
	for range maxTries {
		if err := send(); err != nil {
			return err
		}
		deadline := time.Now().Add(t.timeout)
		for {
			ack, err := t.readAck(deadline)
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() && t.ctx.Err() == nil {
				break
			}
			if err != nil {
				return err
			}
			if n := t.expand(ack); n > t.acked && n <= t.sent || t.sent == 0 && n == 0 {
				t.acked = n
				return nil
			}
			// A client that missed the first block of a window says again what it
			// has. To answer that each time would double every packet from then
			// on, and to answer it without windows is the same mistake (RFC 1123,
			// 4.2.3.1).
			if t.expand(ack) == t.acked && again {
				again = false
				break
			}
		}
	}
	return errGivenUp
}

// expand gives the block's whole number, at or after what is acknowledged.
func (t *transfer) expand(ack uint16) int64 { return t.acked + int64(ack-uint16(t.acked)) }

// readAck waits for an acknowledgement.
func (t *transfer) readAck(deadline time.Time) (uint16, error) {
	var b [64]byte
	for {
		_ = t.conn.SetReadDeadline(deadline)
		if err := t.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := t.conn.Read(b[:])
		if err != nil {
			return 0, err
		}
		if n < 4 {
			continue
		}
		switch binary.BigEndian.Uint16(b[:]) {
		case opAck:
			return binary.BigEndian.Uint16(b[2:]), nil
		case opError:
			return 0, errGivenUp
		}
	}
}
