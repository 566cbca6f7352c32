// Package wire has the [vnet.Port]s that something outside this process plugs
// into, and those that plug into something else.
//
// A descriptor that a virtual machine inherits, and a tap:
//
//	port, guest, err := wire.Socketpair(wire.Seqpacket) // guest goes to the child, as vec0:transport=fd,fd=3
//	port, guest, err := wire.StreamPair()               // or as -netdev stream,addr.type=fd,addr.str=3
//	tap, err := wire.OpenTap(wire.TapOptions{Name: "tap0"})
//
// Sockets for machines that somebody else starts; every program that comes is a
// port of its own, which ends when the program goes:
//
//	l, err := wire.ServeVDE("/run/user/1000/lan", wire.ListenOptions{}, func(p wire.Peer, port vnet.Port) error {
//		_, err := sw.Attach(port, vnet.PortOptions{Name: p.Name}) // "vde/1"
//		return err
//	})
//	defer l.Close()
//
// and likewise [ListenStream] for QEMU's -netdev stream and [ListenBess] for
// User-Mode Linux's transport=bess. Only programs of the same user and of root
// get in, by the sockets' modes and by their credentials, unless a group is
// named; each kind has bounds on how many there are and on what they may say
// before they have a port.
//
// Cables into what others listen with:
//
//	port, err := wire.DialVDE(ctx, "/run/vde.ctl", wire.VDEOptions{})
//	port, err := wire.DialStream(ctx, "/tmp/qemu.sock")
//
// One thread for each two processors waits for all of these, with an epoll instance
// instead of Go's poller, and forwards what comes to those that a switch has attached;
// it ends with the last port.
//
// Subset: SOCK_DGRAM and SOCK_SEQPACKET unix sockets with one raw frame in each
// datagram (User-Mode Linux's vector transports fd and bess, QEMU's -netdev
// dgram), moved with recvmmsg and sendmmsg; SOCK_STREAM unix sockets with the
// length before each frame (QEMU's -netdev stream); Linux taps with or without
// virtio-net headers; and version 3 of the VDE switch's protocol, both sides,
// as vde_switch 2.3, libvdeplug 2 and 4 and User-Mode Linux up to 6.x speak it.
//
// Deliberately absent: version 1 of that protocol, and the management console,
// port permissions and plugins of vde_switch; TCP and UDP as transports, which
// carry frames to other hosts unprotected.
//
// See https://wiki.virtualsquare.org for VDE, qemu(1) and
// https://docs.kernel.org/virt/uml/user_mode_linux_howto_v2.html.
package wire
