package gateway

import (
	"encoding/binary"

	"wolffia/internal/vnet"
)

// verdict is what the checksums of a frame say.
type verdict int

const (
	corrupt   verdict = iota // one is wrong
	intact                   // all are right, or still to be filled in
	unchecked                // some are where only netstack gets at them
)

// verify looks at the checksums of a frame: those of the IPv4 header and of TCP,
// UDP and ICMP. One that the sender left to the receiver (see [vnet.Offload])
// never went over anything that could have changed the frame. What is no packet
// at all the filter drops.
func verify(f vnet.Frame) verdict {
	switch binary.BigEndian.Uint16(f.Data[12:]) {
	case etherIPv4:
		return verify4(f.Data[ethLen:], f.Offload.NeedsChecksum)
	case etherIPv6:
		return verify6(f.Data[ethLen:], f.Offload.NeedsChecksum)
	}
	return intact
}

func verify4(p []byte, unfinished bool) verdict {
	if len(p) < 20 {
		return intact
	}
	head, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if head < 20 || total < head || total > len(p) {
		return intact
	}
	if vnet.Checksum(p[:head], 0) != rightSum {
		return corrupt
	}
	if binary.BigEndian.Uint16(p[6:])&0x3fff != 0 { // a fragment
		return unchecked
	}
	return verifyBody(p[head:total], p[12:20], p[9], unfinished)
}

func verify6(p []byte, unfinished bool) verdict {
	if len(p) < 40 {
		return intact
	}
	size := int(binary.BigEndian.Uint16(p[4:]))
	if 40+size > len(p) {
		return intact
	}
	return verifyBody(p[40:40+size], p[8:40], p[6], unfinished)
}

// rightSum is what bytes with a right checksum among them add up to.
const rightSum = 0xffff

// verifyBody looks at what an IP packet carries, between these addresses.
func verifyBody(body, addrs []byte, proto byte, unfinished bool) verdict {
	switch proto {
	case protoTCP:
	case protoUDP:
		if len(body) < 8 {
			return intact
		}
		size := int(binary.BigEndian.Uint16(body[4:]))
		if size < 8 || size > len(body) {
			return unchecked
		}
		if body[6] == 0 && body[7] == 0 { // there is none (RFC 768), which IPv6 has rules for
			return unchecked
		}
		body = body[:size]
	case protoICMP:
		if len(addrs) == 8 {
			return sumIs(vnet.Checksum(body, 0))
		}
		return unchecked
	case protoICMPv6:
		unfinished = false
	default:
		return unchecked
	}
	if unfinished {
		return intact
	}
	var rest [4]byte // of the pseudo header (RFC 9293, 3.1)
	rest[1] = proto
	binary.BigEndian.PutUint16(rest[2:], uint16(len(body)))
	return sumIs(vnet.Checksum(body, vnet.Checksum(rest[:], vnet.Checksum(addrs, 0))))
}

func sumIs(sum uint16) verdict {
	if sum != rightSum {
		return corrupt
	}
	return intact
}
