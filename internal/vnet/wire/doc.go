// Package wire has the [vnet.Port]s that something outside this process plugs
// into: a descriptor inherited by a virtual machine, a tap.
//
//	port, guest, err := wire.Socketpair(wire.Seqpacket) // guest goes to the child, as vec0:transport=fd,fd=3
//	port, guest, err := wire.StreamPair()               // or as -netdev stream,addr.type=fd,addr.str=3
//	tap, err := wire.OpenTap(wire.TapOptions{Name: "tap0"})
//
// Subset: SOCK_DGRAM and SOCK_SEQPACKET unix sockets with one raw frame in each
// datagram (User-Mode Linux's vector transports fd and bess, QEMU's -netdev
// dgram), moved with recvmmsg and sendmmsg; SOCK_STREAM unix sockets with the
// length before each frame (QEMU's -netdev stream); and Linux taps with or without
// virtio-net headers.
package wire
