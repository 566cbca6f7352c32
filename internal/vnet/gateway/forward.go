package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Forward is a port of the host that leads to a guest.
type Forward struct {
	Network string // "tcp", the default, or "udp"
	// Bind is where the host listens. Without an address it is 127.0.0.1, and
	// port 0 lets the host choose one.
	Bind netip.AddrPort
	// Guest is where it leads. Guests see connections come from the gateway.
	Guest netip.AddrPort
	Name  string // of the guest, for errors; may be empty
}

func (f Forward) String() string {
	if f.Name != "" {
		return fmt.Sprintf("%s %v -> %s (%v)", f.Network, f.Bind, f.Name, f.Guest)
	}
	return fmt.Sprintf("%s %v -> %v", f.Network, f.Bind, f.Guest)
}

// ForwardError is a forward that can't be set up.
type ForwardError struct {
	Forward Forward
	Err     error
	Fix     string // what to do about it, if that is known
}

func (e *ForwardError) Error() string {
	s := fmt.Sprintf("forward %v: %v", e.Forward, e.Err)
	if e.Fix != "" {
		s += "; " + e.Fix
	}
	return s
}

func (e *ForwardError) Unwrap() error { return e.Err }

// AddForward opens a port of the host. It gives the forward as it is, with
// address and port filled in, which is also what RemoveForward wants.
func (g *Gateway) AddForward(f Forward) (Forward, error) { return g.fwd.add(f) }

// RemoveForward closes a port of the host. Connections that came through it go
// on.
func (g *Gateway) RemoveForward(f Forward) error { return g.fwd.remove(f) }

// SetForwards opens and closes ports of the host until these forwards, and no
// others, are open. Those that are open already stay open: those that were asked
// for in the same words, or with the port that the host chose. A connection goes
// on, whatever becomes of its forward. What can't be opened is reported, all of
// it, and the others are there.
func (g *Gateway) SetForwards(list []Forward) error { return g.fwd.set(list) }

// Forwards lists the open forwards, in no order.
func (g *Gateway) Forwards() []Forward { return g.fwd.list() }

// forwardTable holds the listening sockets of the host.
type forwardTable struct {
	g       *Gateway
	setting sync.Mutex // one list at a time

	mu   sync.Mutex
	open map[Forward]openForward
	done bool
}

type openForward struct {
	asked Forward // where open's key has the port that the host chose
	stop  func()
}

const guestDialTimeout = 15 * time.Second

func newForwardTable(g *Gateway) *forwardTable {
	return &forwardTable{g: g, open: map[Forward]openForward{}}
}

// whole fills in what a forward leaves open.
func (f Forward) whole() Forward {
	if f.Network == "" {
		f.Network = "tcp"
	}
	if !f.Bind.Addr().IsValid() {
		f.Bind = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), f.Bind.Port())
	}
	return f
}

func (t *forwardTable) set(list []Forward) error {
	t.setting.Lock()
	defer t.setting.Unlock()
	wanted := map[Forward]int{}
	for _, f := range list {
		wanted[f.whole()]++
	}
	var gone []Forward
	t.mu.Lock()
	for f, o := range t.open {
		switch {
		case wanted[f] > 0:
			wanted[f]--
		case wanted[o.asked] > 0:
			wanted[o.asked]--
		default:
			gone = append(gone, f)
		}
	}
	t.mu.Unlock()
	for _, f := range gone { // first, since a port may have another use now
		_ = t.remove(f) // unless it has gone by itself
	}
	var errs []error
	for _, f := range list {
		if f = f.whole(); wanted[f] > 0 {
			wanted[f]--
			_, err := t.add(f)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *forwardTable) add(f Forward) (Forward, error) {
	f = f.whole()
	asked := f
	fail := func(err error) (Forward, error) {
		e := &ForwardError{Forward: f, Err: err}
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			e.Fix = "choose another port of the host, or end what uses this one"
		case errors.Is(err, syscall.EACCES):
			e.Fix = "ports below net.ipv4.ip_unprivileged_port_start are root's: choose a higher one"
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			e.Fix = "choose an address that the host has"
		}
		return f, e
	}
	guest := f.Guest.Addr()
	if !t.g.guest4(guest) && !t.g.behind(guest) && (t.g.cfg.NoIPv6 || !t.g.cfg.Prefix6.Contains(guest)) || f.Guest.Port() == 0 {
		return fail(fmt.Errorf("%v is no guest's address and port in %v", f.Guest, t.g.cfg.Subnet))
	}
	stop, bound, err := t.listen(f)
	if err != nil {
		return fail(err)
	}
	f.Bind = bound
	t.mu.Lock()
	closed := t.done
	if !closed {
		t.open[f] = openForward{asked, stop}
	}
	t.mu.Unlock()
	if closed {
		stop()
		return fail(net.ErrClosed)
	}
	return f, nil
}

func (t *forwardTable) listen(f Forward) (stop func(), bound netip.AddrPort, err error) {
	switch f.Network {
	case "tcp":
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(f.Bind))
		if err != nil {
			return nil, bound, syscallError(err)
		}
		t.g.tasks.start(func() { t.serveTCP(f, l) })
		return func() { l.Close() }, netip.AddrPortFrom(f.Bind.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port()), nil
	case "udp":
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(f.Bind))
		if err != nil {
			return nil, bound, syscallError(err)
		}
		t.g.tasks.start(func() { t.serveUDP(f, c) })
		return func() { c.Close() }, netip.AddrPortFrom(f.Bind.Addr(), c.LocalAddr().(*net.UDPAddr).AddrPort().Port()), nil
	}
	return nil, bound, fmt.Errorf("the network is tcp or udp, not %q", f.Network)
}

// syscallError strips what net wraps around an errno: the forward says it.
func syscallError(err error) error {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func (t *forwardTable) remove(f Forward) error {
	t.mu.Lock()
	o, ok := t.open[f]
	delete(t.open, f)
	t.mu.Unlock()
	if !ok {
		return &ForwardError{Forward: f, Err: errors.New("there is no such forward")}
	}
	o.stop()
	return nil
}

func (t *forwardTable) list() []Forward {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []Forward
	for f := range t.open {
		all = append(all, f)
	}
	return all
}

func (t *forwardTable) close() {
	t.mu.Lock()
	t.done = true
	open := t.open
	t.open = map[Forward]openForward{}
	t.mu.Unlock()
	for _, o := range open {
		o.stop()
	}
}

func (t *forwardTable) serveTCP(f Forward, l *net.TCPListener) {
	defer l.Close()
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: give others time to end.
			select {
			case <-t.g.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		if !t.g.tcp.conns.take(nobody) {
			reset(c)
			continue
		}
		if !t.g.tasks.start(func() {
			defer t.g.tcp.conns.give(nobody)
			t.carry(f, c)
		}) {
			t.g.tcp.conns.give(nobody)
			reset(c)
		}
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// carry dials the guest and joins the two connections.
func (t *forwardTable) carry(f Forward, c *net.TCPConn) {
	ctx, cancel := context.WithTimeout(t.g.ctx, guestDialTimeout)
	from := netip.AddrPortFrom(t.g.selfFor(f.Guest.Addr()), 0)
	ep, wq, err := connect(ctx, t.g.stack, from, f.Guest)
	cancel()
	if err != nil {
		reset(c)
		return
	}
	splice(t.g.ctx, c, ep, wq, t.g.tcp.conns.holds(nobody) > wideConns)
}

// udpClient is one peer of a UDP forward.
type udpClient struct {
	guest net.Conn
	used  atomic.Int64
}

// serveUDP gives each client of the host its own port at the gateway, so that
// the guest's answers find their way back.
func (t *forwardTable) serveUDP(f Forward, c *net.UDPConn) {
	var mu sync.Mutex
	clients := map[netip.AddrPort]*udpClient{}
	defer func() {
		c.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, cl := range clients {
			cl.guest.Close()
		}
	}()
	buf := make([]byte, 65535)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		mu.Lock()
		cl := clients[from]
		mu.Unlock()
		if cl == nil {
			guest, err := t.g.DialContext(t.g.ctx, "udp", f.Guest.String())
			if err != nil {
				continue
			}
			cl = &udpClient{guest: guest}
			cl.used.Store(time.Now().UnixNano())
			mu.Lock()
			if len(clients) >= maxUDPForward {
				dropOldest(clients)
			}
			clients[from] = cl
			mu.Unlock()
			if !t.g.tasks.start(func() {
				t.answerUDP(c, from, cl)
				mu.Lock()
				if clients[from] == cl {
					delete(clients, from)
				}
				mu.Unlock()
			}) {
				guest.Close()
				return
			}
		}
		cl.used.Store(time.Now().UnixNano())
		_, _ = cl.guest.Write(buf[:n])
	}
}

func dropOldest(clients map[netip.AddrPort]*udpClient) {
	var oldest netip.AddrPort
	for a, cl := range clients {
		if o := clients[oldest]; o == nil || cl.used.Load() < o.used.Load() {
			oldest = a
		}
	}
	clients[oldest].guest.SetReadDeadline(time.Unix(1, 0))
	clients[oldest].used.Store(0)
	delete(clients, oldest)
}

// answerUDP carries a guest's answers until the client has been idle for long.
func (t *forwardTable) answerUDP(c *net.UDPConn, to netip.AddrPort, cl *udpClient) {
	defer cl.guest.Close()
	stop := t.g.onClose(func() { cl.guest.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 65535)
	for t.g.ctx.Err() == nil {
		left := udpIdle - time.Since(time.Unix(0, cl.used.Load()))
		if left <= 0 {
			return
		}
		_ = cl.guest.SetReadDeadline(time.Now().Add(left))
		n, err := cl.guest.Read(buf)
		if err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue // looked at above
			}
			select { // the guest says that nobody listens: that may change
			case <-t.g.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		cl.used.Store(time.Now().UnixNano())
		_, _ = c.WriteToUDPAddrPort(buf[:n], to)
	}
}
