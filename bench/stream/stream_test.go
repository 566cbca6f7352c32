package stream

import (
	"net"
	"strings"
	"testing"
)

func TestStream(t *testing.T) {
	near, far := net.Pipe()
	answered := make(chan error, 1)
	go func() { answered <- Answer(far) }()
	const size = 300000
	if n, err := Run(near, Options{Seed: 7, Bytes: size}); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

// flipped changes one byte of what is read.
type flipped struct {
	net.Conn
	at int
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if f.at >= 0 && f.at < n {
		p[f.at] ^= 1
	}
	f.at -= n
	return n, err
}

func TestStreamChanged(t *testing.T) {
	near, far := net.Pipe()
	answered := make(chan error, 1)
	go func() { answered <- Answer(far) }()
	_, err := Run(&flipped{near, 40000}, Options{Seed: 7, Bytes: 300000})
	if err == nil || !strings.Contains(err.Error(), "not those that were sent") {
		t.Error(err)
	}
	if err := <-answered; err == nil {
		t.Error("the other end did not notice")
	}
}

func TestKnock(t *testing.T) {
	near, far := net.Pipe()
	near.Close()
	if err := Answer(far); err != nil {
		t.Error(err)
	}
}
