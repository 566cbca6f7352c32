package gateway

import "time"

// The bounds on what guests can make the gateway hold.
const (
	maxTCPInFlight = 2048 // connections being dialled; further SYNs are ignored, the guest sends them again
	maxTCPConns    = 8192 // open connections; further ones are reset
	maxUDPFlows    = 2048 // further ones push out the one idle for longest
	maxUDPForward  = 512  // clients of one UDP forward; the one idle for longest is pushed out
	maxEchoFlows   = 256  // ping sockets; the one idle for longest is pushed out
	maxLeases      = 4096 // and never more than the subnet holds
	maxDNSInFlight = 256  // queries being forwarded; further ones are answered SERVFAIL
	maxDNSConns    = 128  // TCP connections to the DNS server; further ones are closed
	maxNeighbours  = 1024 // remembered hardware addresses; further ones replace any

	dialTimeout    = 15 * time.Second
	udpIdle        = 60 * time.Second
	udpIdleDNS     = 10 * time.Second // flows to port 53
	echoIdle       = 15 * time.Second
	timeWait       = 5 * time.Second
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
