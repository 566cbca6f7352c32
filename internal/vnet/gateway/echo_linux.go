package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wolffia/internal/host"
	"wolffia/internal/vnet"
)

// echoSocket is an ICMP socket of the host's, connected to one destination.
type echoSocket struct {
	file  *os.File
	conn  syscall.RawConn
	dst   netip.Addr
	raw   bool   // a raw socket: we make the header and see everybody's answers
	ident uint16 // of our requests; a ping socket's is the kernel's business
	ttl   int    // as last set
	once  sync.Once
	buf   []byte
}

var errEchoClosed = errors.New("echo socket is closed")

// openEcho opens a ping socket (icmp(7)), or where those are closed a raw one.
func openEcho(dst netip.Addr) (*echoSocket, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if dst.Is6() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	s := &echoSocket{dst: dst, ident: uint16(rand.Uint32())}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|flags, proto)
	if err == unix.EACCES || err == unix.EPERM {
		s.raw = true
		var rerr error
		if fd, rerr = unix.Socket(family, unix.SOCK_RAW|flags, proto); rerr != nil {
			return nil, &host.UnsupportedError{
				Feature: "ping out of the network", Why: fmt.Sprintf("opening an ICMP socket: %v", err),
				Fix: `sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"`,
			}
		}
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("open an ICMP socket: %w", err)
	}
	if err := s.setup(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ping %v: %w", dst, err)
	}
	s.file = os.NewFile(uintptr(fd), "echo")
	if s.conn, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// setup filters what a raw socket sees, asks for errors (ip(7), IP_RECVERR) and
// connects. That there is no route is reported by the first send.
func (s *echoSocket) setup(fd int) error {
	if s.dst.Is4() {
		if s.raw {
			// ICMP_FILTER (raw(7)): a set bit blocks that type.
			if err := unix.SetsockoptInt(fd, unix.SOL_RAW, 1, ^int(1<<icmpEchoReply.type4)); err != nil {
				return err
			}
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1); err != nil {
			return err
		}
		return ignoreUnreachable(unix.Connect(fd, &unix.SockaddrInet4{Addr: s.dst.As4()}))
	}
	if s.raw {
		var f unix.ICMPv6Filter
		for i := range f.Data {
			f.Data[i] = 1<<32 - 1
		}
		f.Data[icmpEchoReply.type6/32] &^= 1 << (icmpEchoReply.type6 % 32)
		if err := unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1); err != nil {
		return err
	}
	return ignoreUnreachable(unix.Connect(fd, &unix.SockaddrInet6{Addr: s.dst.As16()}))
}

func ignoreUnreachable(err error) error {
	if err == unix.ENETUNREACH || err == unix.EHOSTUNREACH {
		return nil
	}
	return err
}

func (s *echoSocket) close() { s.once.Do(func() { s.file.Close() }) }

// send sends one request. failed says that the host knows at once that it can't
// arrive.
func (s *echoSocket) send(r *echoRequest) (kind icmpKind, failed bool) {
	m := make([]byte, 8+len(r.payload))
	m[0] = echo4
	if s.dst.Is6() {
		m[0] = echo6
	}
	binary.BigEndian.PutUint16(m[4:], s.ident)
	binary.BigEndian.PutUint16(m[6:], r.seq)
	copy(m[8:], r.payload)
	if s.raw && s.dst.Is4() { // elsewhere the kernel sums
		binary.BigEndian.PutUint16(m[2:], ^vnet.Checksum(m, 0))
	}
	var err error
	cerr := s.conn.Control(func(fd uintptr) {
		if ttl := int(r.ttl); ttl != s.ttl {
			if s.dst.Is4() {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TTL, ttl)
			} else {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
			}
			s.ttl = ttl
		}
		err = unix.Send(int(fd), m, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if cerr != nil {
		return kind, false
	}
	switch err {
	case unix.ENETUNREACH, unix.EDESTADDRREQ, unix.ENOTCONN:
		return icmpNetUnreachable, true
	case unix.EHOSTUNREACH:
		return icmpHostUnreachable, true
	case unix.EACCES, unix.EPERM:
		return icmpProhibited, true
	}
	return kind, false
}

// receive waits for an answer until the deadline; then it returns an error. It
// returns errEchoClosed once the socket is closed.
func (s *echoSocket) receive(deadline time.Time) (a echoAnswer, err error) {
	if s.buf == nil {
		s.buf = make([]byte, 65536)
	}
	_ = s.file.SetReadDeadline(deadline)
	var got bool
	cerr := s.conn.Read(func(fd uintptr) bool {
		for {
			n, _, _, _, rerr := unix.Recvmsg(int(fd), s.buf, nil, unix.MSG_DONTWAIT)
			switch {
			case rerr == unix.EAGAIN:
				return false
			case rerr == unix.EINTR:
			case rerr != nil:
				if a, got = s.readError(int(fd)); got {
					return true
				}
			default:
				if a, got = s.parse(s.buf[:n]); got {
					return true
				}
			}
		}
	})
	switch {
	case got:
		return a, nil
	case cerr == nil:
		return a, errEchoClosed
	case errors.Is(cerr, os.ErrDeadlineExceeded):
		return a, cerr
	}
	return a, errEchoClosed
}

// parse reads a reply. A raw socket of version 4 gets the IP header, too, and
// both raw kinds get replies to other programs.
func (s *echoSocket) parse(b []byte) (a echoAnswer, ok bool) {
	if s.raw && s.dst.Is4() {
		if len(b) < 20 || len(b) < int(b[0]&15)*4 {
			return a, false
		}
		b = b[int(b[0]&15)*4:]
	}
	want := icmpEchoReply.type4
	if s.dst.Is6() {
		want = icmpEchoReply.type6
	}
	if len(b) < 8 || b[0] != want || s.raw && binary.BigEndian.Uint16(b[4:]) != s.ident {
		return a, false
	}
	return echoAnswer{seq: binary.BigEndian.Uint16(b[6:]), payload: append([]byte(nil), b[8:]...)}, true
}

// readError takes one report from the socket's error queue: struct
// sock_extended_err (ip(7)), then the address of who reported it, with the
// request as the data.
func (s *echoSocket) readError(fd int) (a echoAnswer, ok bool) {
	var oob [512]byte
	n, oobn, _, _, err := unix.Recvmsg(fd, s.buf, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return a, false
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return a, false
	}
	request := s.buf[:n]
	if s.raw && s.dst.Is4() && n >= 28 && request[0]>>4 == 4 && request[0]&15 >= 5 {
		request = request[min(n, int(request[0]&15)*4):]
	}
	if len(request) < 8 || s.raw && binary.BigEndian.Uint16(request[4:]) != s.ident {
		return a, false
	}
	for _, m := range msgs {
		is4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		is6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (is4 || is6) && len(m.Data) >= 16 {
			a.failed, a.seq = true, binary.BigEndian.Uint16(request[6:])
			a.kind, a.from, ok = s.report(m.Data)
			return a, ok
		}
	}
	return a, false
}

// report reads struct sock_extended_err: errno u32, origin, type and code u8,
// pad, info u32, data u32; then a sockaddr.
func (s *echoSocket) report(d []byte) (kind icmpKind, from netip.Addr, ok bool) {
	errno, origin := syscall.Errno(binary.NativeEndian.Uint32(d)), d[4]
	kind = icmpKind{d[5], d[6], d[5], d[6]}
	switch origin {
	case 2: // SO_EE_ORIGIN_ICMP
		if len(d) >= 16+8 {
			from = netip.AddrFrom4([4]byte(d[20:24]))
		}
	case 3: // SO_EE_ORIGIN_ICMP6
		if len(d) >= 16+24 {
			from = netip.AddrFrom16([16]byte(d[24:40]))
		}
	default: // the host itself
		kind = icmpHostUnreachable
		if errno == unix.ENETUNREACH {
			kind = icmpNetUnreachable
		}
		return kind, from, errno == unix.EHOSTUNREACH || errno == unix.ENETUNREACH
	}
	// Only what can be passed on without further fields.
	unreachable, exceeded := d[5] == 3, d[5] == 11
	if s.dst.Is6() {
		unreachable, exceeded = d[5] == 1, d[5] == 3
	}
	if !routable(from) {
		from = netip.Addr{}
	}
	return kind, from, unreachable && (s.dst.Is6() || d[6] != 4) || exceeded
}
