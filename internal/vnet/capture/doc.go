// Package capture writes the frames of a virtual network as pcapng files
// (https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/), which Wireshark,
// tshark and tcpdump read.
//
// Two things take frames, each through a [vnet.Observer] for every interface
// that it listens at, and neither makes the packets wait: [Live] streams them
// to a reader, [Ring] always holds the last few megabytes, to be looked at
// after something went wrong.
//
//	live := capture.NewLive(file, capture.LiveOptions{Direction: capture.Once})
//	defer live.Close(ctx)
//	remove := link.Observe(live.Interface(capture.Interface{Name: "alice/eth0", Description: "lan"}))
//	defer remove()
//
//	ring := capture.NewRing(capture.RingOptions{})
//	link.Observe(ring.Interface(capture.Interface{Name: "alice/eth0", Description: "lan"}))
//	frames, err := capture.Dump(file, capture.Selection{Since: time.Now().Add(-time.Minute)}, ring)
//
// In a file, each interface is a machine's card, inbound and outbound are seen
// from that machine, and a frame that the link dropped says why in a comment
// ("dropped: loss"), so that the display filter frame.comment finds it. A
// frame that a machine left to be segmented, or without a checksum, is written
// as it went, with the flags that say so; tcpdump on the machine itself would
// show it like that, too. Frames that the capture missed are counted before
// the next one (epb_dropcount) and in the statistics at the end.
//
// The package filter below has tcpdump's expressions. Deliberately absent: a
// reader, several sections, compression, decryption secrets.
package capture

// Direction chooses which frames of a link are captured. Directions are seen
// from the machine: out is from the machine to the network.
type Direction uint8

const (
	// Both is right for a machine's capture: all that its cards send and get.
	Both Direction = iota
	// Out is what machines send: with the links of all of a network's
	// machines, each frame once, where it enters the switch.
	Out
	// In is what comes to machines.
	In
	// Once is right for a network's capture: Out, and besides the frames that
	// links dropped on their way to a machine.
	Once
)

func (d Direction) wants(in, dropped bool) bool {
	switch d {
	case Out:
		return !in
	case In:
		return in
	case Once:
		return !in || dropped
	}
	return true
}
