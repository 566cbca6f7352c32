package tftp

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options configure a [Server]. The zero value is fit for use.
type Options struct {
	// MaxBlock is the longest block, in bytes, that a client may negotiate: what
	// fits the network's packets. 0 means 65464, the protocol's own bound.
	MaxBlock int
	// MaxSessions is how many transfers may run at once; further requests are
	// ignored, so that clients ask again. 0 means 64.
	MaxSessions int
	// Admit says whether a client may have one more transfer; release is called
	// at its end. nil lets everybody.
	Admit func(client net.Addr) (release func(), ok bool)
	// Timeout is how long an acknowledgement may take before blocks are sent
	// again, unless the client asks for another time; 0 means one second. After
	// the sixth time in a row the transfer ends.
	Timeout time.Duration
}

const (
	defaultBlock    = 512   // RFC 1350, 2
	minBlock        = 8     // RFC 2348
	maxBlock        = 65464 //
	maxWindow       = 64    // blocks; clients may ask for up to 65535
	maxRequest      = 1024  // bytes of a request; RFC 2347 has clients keep to 512
	defaultSessions = 64
	maxTries        = 6
)

// Server serves one folder. All methods may be called from any goroutine.
type Server struct {
	root *os.Root
	o    Options

	mu     sync.Mutex
	active map[string]bool // clients, by address and port, that have a transfer
}

// NewServer makes a server for a folder, which the caller closes after Serve
// has returned.
func NewServer(root *os.Root, o Options) *Server {
	if o.MaxBlock == 0 {
		o.MaxBlock = maxBlock
	}
	o.MaxBlock = min(max(o.MaxBlock, minBlock), maxBlock)
	if o.MaxSessions == 0 {
		o.MaxSessions = defaultSessions
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	return &Server{root: root, o: o, active: map[string]bool{}}
}

// Serve answers requests that arrive at a socket, usually at port 69, until ctx
// ends or the socket is closed; it closes the socket. Each transfer has a socket
// of its own, at a new port, which dial connects to the client. Serve returns
// once all of its transfers have ended.
func (s *Server) Serve(ctx context.Context, socket net.PacketConn, dial func(client net.Addr) (net.Conn, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	var transfers sync.WaitGroup
	defer transfers.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	defer socket.Close()
	buf := make([]byte, maxRequest+1)
	for {
		n, client, err := socket.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			continue // an ICMP error for an earlier answer
		}
		req, perr := parseRequest(buf[:n])
		if perr != nil {
			if perr.answer {
				_, _ = socket.WriteTo(perr.packet(), client)
			}
			continue
		}
		end, ok := s.begin(client)
		if !ok {
			continue
		}
		transfers.Go(func() {
			defer end()
			s.transfer(ctx, req, client, dial)
		})
	}
}

// begin takes a place for a client's transfer. A request that a client repeats,
// for want of an answer, is no second transfer.
func (s *Server) begin(client net.Addr) (end func(), ok bool) {
	key := client.String()
	s.mu.Lock()
	ok = !s.active[key] && len(s.active) < s.o.MaxSessions
	if ok {
		s.active[key] = true
	}
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	release := func() {}
	if s.o.Admit != nil {
		release, ok = s.o.Admit(client)
	}
	end = func() {
		s.mu.Lock()
		delete(s.active, key)
		s.mu.Unlock()
		if ok {
			release()
		}
	}
	if !ok {
		end()
		return nil, false
	}
	return end, true
}

func (s *Server) transfer(ctx context.Context, req *request, client net.Addr, dial func(net.Addr) (net.Conn, error)) {
	conn, err := dial(client)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	file, size, perr := s.open(req.name)
	if perr != nil {
		_, _ = conn.Write(perr.packet())
		return
	}
	defer file.Close()
	t := s.negotiate(req, file, size)
	t.conn, t.ctx = conn, ctx
	if err := t.run(); err != nil {
		if perr := (*protocolError)(nil); errors.As(err, &perr) && perr.answer {
			_, _ = conn.Write(perr.packet())
		}
	}
}

// open opens a regular file of the folder. A name is relative to the folder,
// with or without a slash before it.
func (s *Server) open(name string) (*os.File, int64, *protocolError) {
	name = strings.TrimLeft(name, "/")
	if !filepath.IsLocal(name) {
		return nil, 0, refuse(codeAccess, "there are no files outside of the folder")
	}
	// A look before opening: to open a device or a pipe may do something.
	st, err := s.root.Stat(name)
	if err == nil && !st.Mode().IsRegular() {
		return nil, 0, refuse(codeAccess, "not a regular file")
	}
	var file *os.File
	if err == nil {
		file, err = s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	}
	if err == nil {
		if st, err = file.Stat(); err == nil && st.Mode().IsRegular() {
			return file, st.Size(), nil
		}
		file.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, refuse(codeNotFound, "file not found")
	}
	return nil, 0, refuse(codeAccess, "the file can't be read")
}
