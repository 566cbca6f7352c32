// Package hostnet joins a lab's networks with the network of the host: taps
// with a host address, proxy ARP and masquerading, bridges, VLAN interfaces. It
// is what root used to be asked for by hand, and it takes all of it back.
//
//	live, err := hostnet.Apply(hostnet.Plan{
//		Name: "pair",
//		Taps: []hostnet.Tap{{Name: "tap0", Side: hostnet.Side{
//			Addr: netip.MustParsePrefix("192.168.0.254/24"), Masquerade: true,
//		}}},
//	}, hostnet.Options{Journal: "/run/user/1000/wolffia/pair/hostnet.journal"})
//	port := live.Tap("tap0") // a vnet.Port for the lab's switch
//	defer live.Close()
//
// A [Plan] is data. [Apply] reads what the host has, makes a list of steps of
// it, and takes them one by one; [Commands] prints the same list as ip, sysctl
// and nft commands. What is undone comes from the same list, backwards: by
// Close, by Apply itself when a step fails, and by [Recover] when the owner was
// killed, out of the journal that has each step before it is taken.
//
// # What is never changed
//
// Nothing that the host had is changed, but for this, which is put back:
//
//   - Forwarding. For IPv4, net.ipv4.ip_forward stays as it is: forwarding is
//     switched on for each interface, and for those to come. So it can be told
//     afterwards whether somebody else has switched it on for all in the
//     meantime, and then it stays on. IPv6 has only one switch, and with it
//     comes that the host no longer listens to routers: accept_ra is set to 2
//     where it was 1, before.
//   - Neighbour proxies, on the interfaces where a guest's address is at home.
//   - The addresses and routes of an uplink that goes into a bridge.
//
// A sysctl that several labs need is kept in a ledger in [Options].RunDir, with
// the value that it had before the first of them and the journals of those that
// still need it; the last one that is alive puts it back. A value that somebody
// else has changed since is left alone.
//
// Rules are in a table of our own, inet wolffia-NAME. Nftables lets every table
// decide: a drop in another one's chain still drops, and [Live.Warnings] tells
// which, and what to type.
//
// # Addresses that a DHCP client or a router gave
//
// While its interface is in a bridge, such an address is the bridge's, without
// an end; nobody renews it, and a warning says so. When it moves back it has the
// lifetimes that it had at first, so that the client, which asks again in its
// own time, finds it still valid. Temporary IPv6 addresses are not moved: the
// kernel makes new ones.
//
// # Absent
//
// Bonds, Wi-Fi interfaces in bridges (access points refuse the frames), routes
// with several next hops or encapsulation (a plan that would have to move one
// is refused), VLAN filtering in bridges of the host, and sysctls that were set
// for an uplink alone, which its bridge does not inherit.
//
// Everything happens in the network namespace of the process. Needed is
// CAP_NET_ADMIN there, and /dev/net/tun; only joining a bridge of the host can
// do with qemu-bridge-helper, and a tap that the administrator made for the
// user needs nothing. The kernel's side is in rtnetlink(7), packet formats in
// Documentation/netlink of its sources, taps in
// Documentation/networking/tuntap.rst.
package hostnet
