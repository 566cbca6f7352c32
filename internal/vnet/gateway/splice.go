package gateway

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// spliceBuffer is how much one direction of a connection moves at a time, and
// narrowSplice how much one with short buffers does. A connection holds a buffer
// only while there are bytes to move.
const (
	spliceBuffer = 128 << 10
	narrowSplice = 16 << 10
)

// bufferPool holds buffers of one size.
type bufferPool struct{ sync.Pool }

func newBufferPool(size int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

func (p *bufferPool) get() *[]byte { return p.Get().(*[]byte) }

var wideBuffers, narrowBuffers = newBufferPool(spliceBuffer), newBufferPool(narrowSplice)

// splice moves bytes both ways between a socket of the host and a connection
// of the stack until both have ended, and closes both. The end of one
// direction is passed on as such; an error or the end of ctx resets both. It
// returns when the guest has taken all, too.
func splice(ctx context.Context, host *net.TCPConn, ep tcpip.Endpoint, wq *waiter.Queue, narrow bool) {
	setKeepalive(ep)
	pool := wideBuffers
	if narrow {
		pool = narrowBuffers
		ep.SocketOptions().SetReceiveBufferSize(narrowBuffer, true)
		ep.SocketOptions().SetSendBufferSize(narrowBuffer, true)
	}
	var once sync.Once
	abort := func() {
		once.Do(func() {
			_ = host.SetLinger(0)
			host.Close()
			ep.Abort()
		})
	}
	stop := context.AfterFunc(ctx, abort)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		if hostToGuest(host, ep, wq, pool) != nil {
			abort()
		} else {
			_ = ep.Shutdown(tcpip.ShutdownWrite)
		}
	}()
	if guestToHost(host, ep, wq, pool) != nil {
		abort()
	} else {
		_ = host.CloseWrite()
	}
	wg.Wait()
	stop()
	once.Do(func() {
		host.Close()
		ep.Close()
		settle(ctx, ep, lingerTime)
	})
}

// settle waits until a connection that is closed needs the stack no longer, and
// resets it when the guest does not take what is left to send.
func settle(ctx context.Context, ep tcpip.Endpoint, linger time.Duration) {
	limit := time.After(linger)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		switch tcp.EndpointState(ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateTimeWait:
			return
		}
		select {
		case <-time.After(wait):
			continue
		case <-limit:
		case <-ctx.Done():
		}
		ep.Abort()
		return
	}
}

// lazyBuffer takes a buffer from the pool when the first byte arrives.
type lazyBuffer struct {
	pool *bufferPool
	buf  *[]byte
	n    int
}

func (l *lazyBuffer) Write(p []byte) (int, error) {
	if l.buf == nil {
		l.buf = l.pool.get()
	}
	n := copy((*l.buf)[l.n:], p)
	if l.n += n; n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}

func (l *lazyBuffer) free() {
	if l.buf != nil {
		l.pool.Put(l.buf)
	}
	l.buf, l.n = nil, 0
}

// readReady reads from an endpoint as soon as it has something, into buf. At
// the end of the stream it returns io.EOF.
func readReady(ep tcpip.Endpoint, ready <-chan struct{}, buf *lazyBuffer) error {
	for {
		_, err := ep.Read(buf, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			return nil
		case *tcpip.ErrWouldBlock:
			if buf.n > 0 {
				return nil
			}
			<-ready
		case *tcpip.ErrClosedForReceive:
			return io.EOF
		default:
			return stackError(err)
		}
	}
}

func guestToHost(host *net.TCPConn, ep tcpip.Endpoint, wq *waiter.Queue, pool *bufferPool) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	buf := lazyBuffer{pool: pool}
	defer buf.free()
	for {
		err := readReady(ep, ready, &buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		ep.ModerateRecvBuf(buf.n)
		if _, err := host.Write((*buf.buf)[:buf.n]); err != nil {
			return err
		}
		buf.free()
	}
}

func hostToGuest(host *net.TCPConn, ep tcpip.Endpoint, wq *waiter.Queue, pool *bufferPool) error {
	raw, err := host.SyscallConn()
	if err != nil {
		return err
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	in := lazyReader{raw: raw, pool: pool}
	in.try = in.read
	var r bytes.Reader
	for {
		if err := in.next(); err != nil || in.n == 0 {
			return err
		}
		r.Reset((*in.buf)[:in.n])
		for r.Len() > 0 {
			_, err := ep.Write(&r, tcpip.WriteOptions{})
			switch err.(type) {
			case nil:
			case *tcpip.ErrWouldBlock:
				<-ready
			default:
				in.free()
				return stackError(err)
			}
		}
		in.free()
	}
}

// lazyReader reads from a descriptor and takes a buffer from the pool only once
// there is something to read.
type lazyReader struct {
	raw   syscall.RawConn
	pool  *bufferPool
	try   func(fd uintptr) bool // read, as one closure for all calls
	buf   *[]byte
	n     int
	errno error
}

// next waits for bytes; n is 0 at the end of a stream. The caller frees.
func (l *lazyReader) next() error {
	l.n, l.errno = 0, nil
	err := l.raw.Read(l.try)
	if err == nil {
		err = l.errno
	}
	if err != nil {
		l.free()
	}
	return err
}

func (l *lazyReader) read(fd uintptr) bool {
	if l.buf == nil {
		l.buf = l.pool.get()
	}
	for {
		n, err := unix.Read(int(fd), *l.buf)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			l.free()
			return false
		}
		l.n, l.errno = max(n, 0), err
		return true
	}
}

func (l *lazyReader) free() {
	if l.buf != nil {
		l.pool.Put(l.buf)
		l.buf = nil
	}
}
