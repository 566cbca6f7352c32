// Package vnet is layer 2 in user space: ports that carry Ethernet frames, and
// the switch that joins them.
//
// A [Port] moves whole frames in batches over buffers that the caller owns. A
// [Switch] joins any number of ports as an IEEE 802.1D bridge without spanning
// tree would: it learns where addresses live, forgets them again, and floods
// what it does not know. It is transparent to every protocol, including those
// that a standard bridge keeps for itself (STP, LACP, LLDP), so that guests can
// run them across it.
//
//	sw := vnet.NewSwitch(vnet.SwitchOptions{})
//	defer sw.Close()
//	a, b := vnet.Pipe(vnet.PipeOptions{})
//	id, err := sw.Attach(a, vnet.PortOptions{Name: "test"})
//	n, err := b.WriteFrames(frames)
//
// A frame may be longer than the link's MTU where both sides understand
// segmentation offload; for ports that do not, the queue before the port
// segments in software (see [Segmenter]), so a sender that can make large
// frames profits whatever the receiver is.
//
// A port that is [Driven], as those of package wire are, has its frames forwarded in a
// goroutine that serves many ports; others have a goroutine each.
//
// What plugs a machine in is in package wire below, the cable that can be cut and
// made worse in package link; the router to the host is
// package gateway. Deliberately absent: spanning tree, link aggregation, IGMP
// snooping (multicast is flooded).
package vnet
