package gateway

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookupRoute asks the kernel where it would send a packet to an address
// (rtnetlink(7), RTM_GETROUTE). The list of the interfaces' addresses is not
// enough: a host may answer for whole ranges (`ip route add local`), and a
// router for anycast addresses that no interface lists.
func lookupRoute(dst netip.Addr) routeKind {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return routeUnknown
	}
	defer unix.Close(fd)
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(fd, routeRequest(dst), 0, to); err != nil {
		return routeUnknown
	}
	var b [4096]byte
	for {
		n, _, err := unix.Recvfrom(fd, b[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return routeUnknown
		}
		return parseRoute(b[:n])
	}
}

// routeRequest is struct nlmsghdr, struct rtmsg, and the attribute RTA_DST.
func routeRequest(dst netip.Addr) []byte {
	family, bits := byte(unix.AF_INET), byte(dst.BitLen())
	if dst.Is6() {
		family = unix.AF_INET6
	}
	ne, addr := binary.NativeEndian, dst.AsSlice()
	b := ne.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+unix.SizeofRtMsg+unix.SizeofRtAttr+len(addr)))
	b = ne.AppendUint16(b, unix.RTM_GETROUTE)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...)             // sequence number and port: one question, one answer
	b = append(b, family, bits, 0, 0, 0, 0, 0, 0) // family, length of the destination, and no wish for the rest
	b = append(b, 0, 0, 0, 0)                     // flags
	b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+len(addr)))
	b = ne.AppendUint16(b, unix.RTA_DST)
	return append(b, addr...)
}

// parseRoute reads the type of the route, the eighth byte of struct rtmsg, or
// the error in its place: that there is no way to the address.
func parseRoute(b []byte) routeKind {
	if len(b) < unix.SizeofNlMsghdr+unix.SizeofRtMsg {
		return routeUnknown
	}
	switch binary.NativeEndian.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		switch syscall.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))) {
		case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES:
			return routeAway // as for every other program
		}
		return routeUnknown
	case unix.RTM_NEWROUTE:
		switch b[unix.SizeofNlMsghdr+7] {
		case unix.RTN_LOCAL, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
			return routeLocal
		case unix.RTN_BROADCAST:
			return routeBroadcast
		}
		return routeAway
	}
	return routeUnknown
}
