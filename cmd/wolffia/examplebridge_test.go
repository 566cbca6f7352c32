package main

import (
	"testing"

	"wolffia/internal/tooltest"
)

// TestExampleEarlyUserspaceBridge types what the page says about early userspace
// on a bridge, on a host of its own: before and after it is the same.
func TestExampleEarlyUserspaceBridge(t *testing.T) {
	parallel(t)
	tooltest.Require(t, "dnsmasq", "dnsmasq-base")
	p := newPerson(t)
	dir := p.example(t, "early-userspace")
	// What is fetched comes before: there is no way from that host to the archive.
	p.run(t, call{dir: dir, limit: cold}, "explain", "run", "-f", "bridge.yaml", "early")
	host := newHost(t, p)
	host.sh(t, "while ip -6 addr show tentative | grep .; do sleep 0.05; done")
	host.serve(t, "dnsmasq.log", "dnsmasq --no-daemon --conf-file=/dev/null --port=0 --user=root --group= --interface=eth0 --bind-interfaces"+
		" --dhcp-range=10.9.0.100,10.9.0.150,255.255.255.0,1h --dhcp-leasefile=/run/leases --pid-file --no-ping --log-facility=-")
	before := host.snapshot(t)
	t.Cleanup(func() { p.try(t, call{dir: dir}, "down", "-f", "bridge.yaml") })
	p.typed(t, "early-userspace-network.md", "On a bridge", dir)
	host.same(t, before)
}
