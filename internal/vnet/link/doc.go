// Package link is the cable between a machine's network card and the switch:
// it can be pulled out, made worse in each direction, and watched.
//
// A [Link] is a [vnet.Port] around another one, the card:
//
//	l := link.New(card, link.Options{})
//	id, err := sw.Attach(l, vnet.PortOptions{Name: "alice/eth0"})
//	err = l.SetImpairment(link.Out, link.Impairment{Delay: 50 * time.Millisecond, Loss: 0.1, Seed: 7})
//	l.SetUp(false)
//	remove := l.Observe(observer)
//
// As long as nothing of that is asked for, a frame costs one atomic load and
// the counters. Where the port is the network's end of the cable instead, as
// the one from [vnet.Switch.Plug] that a gateway uses, [Options.Reversed] says
// so.
//
// # What an impairment does
//
// A frame first meets its fate: it may be lost, have a bit flipped, or get a
// copy that follows it. Then it waits for its turn on a wire of the given rate,
// in a queue of limited length; then it is under way for the delay and the
// jitter. So the queue holds what waits for the rate only, and a long delay
// takes nothing from the throughput. The rate counts whole frames as they are
// here: with the Ethernet header, without preamble, checksum and gap, as
// Linux's tc counts.
//
// Frames with an Offload are cut and their checksums filled in first, so that
// loss, rate and corruption meet the packets that a wire would carry. A
// corrupted frame passes all switches, as if its Ethernet checksum had been
// made anew: the machine's IP, TCP and UDP checksums are what finds it.
//
// Jitter is uniform between Delay-Jitter and Delay+Jitter, and keeps the order:
// a frame whose draw would let it overtake arrives together with the one before
// it. That is what the varying queues of a real path do; tc's netem would
// reorder here. What reorders is Reorder: such a frame skips delay and jitter,
// but not the queue for the rate.
//
// # Replay
//
// Whether and how the n-th frame of a direction is lost, corrupted, duplicated,
// reordered or shifted follows from the seed, the direction and n alone, where
// n counts what came to the direction, cut into packets, while the carrier was
// up since SetImpairment. Neither the clock, nor the other direction, nor the
// other probabilities come into it, so a run with one probability raised loses
// the same frames as before, and some more. Only what a full queue drops
// depends on time.
//
// # Bounds
//
// A direction holds at most 64 MiB of buffers; a frame beyond is dropped as by
// a full queue. Frames are released within some 0.1 ms of their time.
//
// Deliberately absent: correlated and state-model losses, other distributions
// of jitter, and queue disciplines other than first in, first out.
//
// The words of the textual form and their units are those of tc(8),
// https://man7.org/linux/man-pages/man8/tc-netem.8.html.
package link
