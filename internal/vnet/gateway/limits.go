package gateway

import (
	"syscall"
	"time"
)

// The bounds on what guests can make the gateway hold, and who is cut short
// when one is reached. What is shared by [share] leaves half of what is free to
// the others: one guest gets half at most. In a table of [flows] the guest that
// has most loses first.
const (
	maxTCPInFlight = 4096  // connections being dialled or answered, shared; further SYNs are ignored, the guest sends them again
	maxTCPConns    = 16384 // open connections, shared; further ones are reset
	maxUDPFlows    = 2048  // flows: each has a socket of the host
	maxEchoFlows   = 256   // flows: ping sockets
	maxLeases      = 4096  // DHCP leases, shared, and never more than the range holds; reservations have room of their own
	maxNeighbours  = 512   // guests' addresses of each IP version, shared; packets from further ones are dropped
	maxDNSInFlight = 256   // queries being forwarded, shared; further ones are answered SERVFAIL
	maxDNSConns    = 128   // TCP connections to the DNS server, shared; further ones are closed
	maxTransfers   = 64    // TFTP transfers, shared; further requests are ignored, the guest sends them again
	maxUDPForward  = 512   // clients of one UDP forward; the one idle for longest is pushed out

	// Fragments that wait for others take at most 4 MiB for each IP version,
	// which is netstack's bound; the oldest ones are dropped, and all after 30
	// or 60 seconds. Packets that wait for a hardware address: netstack keeps
	// 256 for each address.

	// What a guest may make the gateway do itself, in the coin of police.go; what
	// it can't pay is dropped.
	policeRate  = 20000 // a second
	policeBurst = 20000 // at most saved up
	policeLeast = 200   // of either, that the gateway leaves a guest when it can't keep up

	neighbourIdle = time.Minute // then another address may take the place

	// A guest's first connections have long buffers, so that one alone is fast.
	// The others have short ones, or a guest that reads nothing could fill the
	// host's memory.
	wideConns    = 64
	narrowBuffer = 64 << 10

	dialTimeout    = 15 * time.Second
	udpIdle        = 60 * time.Second
	udpIdleDNS     = 10 * time.Second // flows to port 53
	echoIdle       = 15 * time.Second
	timeWait       = 5 * time.Second
	lingerTime     = time.Minute     // for what is left to send when both sides have closed
	keepaliveIdle  = 5 * time.Minute // a guest that was rebooted leaves no connection behind for ever
	keepaliveEvery = 30 * time.Second

	// One window must fit what a tap or the switch queues for a guest, or
	// bursts are lost.
	tcpReceiveBuffer = 1 << 20
	tcpReceiveMax    = 3 << 20
	tcpSendBuffer    = 1 << 20
	tcpSendMax       = 4 << 20

	// PortQueue is the room, in bytes, that a switch should keep for frames to
	// a gateway: a TCP window fits, so that one fast sender loses nothing.
	PortQueue = 4 << 20
)

// withinFiles lowers a bound to a part of the files that this process may have
// open, which its gateways share with everything else.
func withinFiles(bound, part int) int {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil || r.Cur/uint64(part) > uint64(bound) {
		return bound
	}
	return max(int(r.Cur)/part, 16)
}
