// Package stream sends and checks data over connections: both ends know what
// has to arrive, byte for byte, from a seed that the first bytes say. So nothing
// that is lost, changed, or comes twice in a stream stays unseen, however long
// the stream is.
//
//	go stream.Answer(accepted)
//	n, err := stream.Run(dialled, stream.Options{Seed: 1, Bytes: 1 << 20})
//
// Both directions carry data at the same time.
package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Options are what the end that dialled wants.
type Options struct {
	Seed  uint64
	Bytes int64 // in each direction
	Rate  int64 // bytes a second, in each direction; 0 is as fast as it goes
	// Progress, if set, is told now and then how many bytes have arrived.
	Progress func(received int64)
}

const (
	// patience is how long a connection may be silent.
	patience = time.Minute
	// chunk is what is written at once.
	chunk     = 16 << 10
	headerLen = 24
)

// Run sends and checks until both directions are through.
func Run(c net.Conn, o Options) (received int64, err error) {
	defer c.Close()
	header := binary.BigEndian.AppendUint64(nil, o.Seed)
	header = binary.BigEndian.AppendUint64(header, uint64(o.Bytes))
	header = binary.BigEndian.AppendUint64(header, uint64(o.Rate))
	if _, err := c.Write(header); err != nil {
		return 0, fmt.Errorf("begin a stream: %w", err)
	}
	return both(c, o, 0)
}

// Answer is the other end of Run.
func Answer(c net.Conn) error {
	defer c.Close()
	var header [headerLen]byte
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c, header[:]); err == io.EOF {
		return nil // a knock, to see whether the port is open
	} else if err != nil {
		return fmt.Errorf("read how a stream begins: %w", err)
	}
	_, err := both(c, Options{
		Seed:  binary.BigEndian.Uint64(header[:]),
		Bytes: int64(binary.BigEndian.Uint64(header[8:])),
		Rate:  int64(binary.BigEndian.Uint64(header[16:])),
	}, 1)
	return err
}

// both carries the two directions; side tells the ends apart.
func both(c net.Conn, o Options, side byte) (received int64, err error) {
	sent := make(chan error, 1)
	go func() { sent <- send(c, o, side) }()
	received, err = check(c, o, 1-side)
	if err != nil {
		c.Close()
	}
	return received, errors.Join(err, <-sent)
}

// content is what one side says.
func content(seed uint64, side byte) *rand.ChaCha8 {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	key[8] = side
	return rand.NewChaCha8(key)
}

func send(c net.Conn, o Options, side byte) error {
	source := content(o.Seed, side)
	buf := make([]byte, chunk)
	start := time.Now()
	for done := int64(0); done < o.Bytes; {
		p := buf[:min(chunk, o.Bytes-done)]
		source.Read(p)
		c.SetWriteDeadline(time.Now().Add(patience))
		n, err := c.Write(p)
		if done += int64(n); err != nil {
			return fmt.Errorf("send after %d bytes: %w", done, err)
		}
		if o.Rate > 0 {
			due := time.Duration(float64(done) / float64(o.Rate) * float64(time.Second))
			time.Sleep(time.Until(start.Add(due)))
		}
	}
	return nil
}

func check(c net.Conn, o Options, side byte) (done int64, err error) {
	source := content(o.Seed, side)
	got, want := make([]byte, 4*chunk), make([]byte, 4*chunk)
	told := time.Now()
	for done < o.Bytes {
		c.SetReadDeadline(time.Now().Add(patience))
		n, err := c.Read(got[:min(int64(len(got)), o.Bytes-done)])
		source.Read(want[:n])
		if !bytes.Equal(got[:n], want[:n]) {
			return done, fmt.Errorf("%d bytes after byte %d are not those that were sent", n, done)
		}
		if done += int64(n); err != nil && done < o.Bytes {
			return done, fmt.Errorf("receive after %d bytes: %w", done, err)
		}
		if o.Progress != nil && time.Since(told) > time.Second {
			told = time.Now()
			o.Progress(done)
		}
	}
	return done, nil
}
