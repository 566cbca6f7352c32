// Package gateway is the router between a virtual network and the host, in user
// space: to a guest it looks like QEMU's user network (gateway .2, DNS .3,
// leases from .15), to the host it is an ordinary program that opens sockets.
// It runs on one end of a [vnet.Port], without privileges.
//
//	port, err := sw.Plug(vnet.PortOptions{Name: "gateway", Offloads: true, Queue: gateway.PortQueue})
//	gw, err := gateway.New(port, gateway.Config{Names: map[string][]netip.Addr{...}})
//	defer gw.Close()
//	conn, err := gw.DialContext(ctx, "tcp", "10.0.2.15:22")
//
// What it does:
//   - DHCPv4 (RFC 2131), router advertisements with RDNSS (RFC 4861, 8106), and
//     stateless DHCPv6 (RFC 8415, 6);
//   - DNS on its DNS address and its own: names of the network first, then the
//     host's /etc/hosts, then the host's name servers, UDP and TCP;
//   - TCP: the host is dialled first, and the guest's handshake is completed
//     only when the host answered; refused is refused, half-close passes;
//   - UDP, with port unreachable when the host says so;
//   - ICMP echo, answered only when the real destination answered;
//   - forwards from host ports to guests, and dialling guests in-process.
//
// A guest reaches the host's loopback at the gateway's address, and there
// alone. [Config.NoHost] closes the host to guests, [Config.Restrict]
// everything outside.
//
// A guest is not trusted: every table is bounded (see limits.go for the bounds
// and for what happens at each), foreign source addresses are dropped, and
// malformed packets are ignored. Fragments are reassembled within netstack's
// bounds.
//
// [NewLink] is the small sibling: one host, one guest, static addresses, no
// services.
//
// TCP/IP itself is gVisor's netstack, which no other package imports.
// Deliberately absent: routing between networks (a machine can do that, and
// [Config.Routes] names what lies behind it), IGMP
// and multicast routing, inbound connections other than forwards, IPv6 extension
// headers other than that of fragments.
package gateway
