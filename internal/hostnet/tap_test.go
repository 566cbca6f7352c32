package hostnet

import (
	"net/netip"
	"os"
	"testing"
)

// pair is the classic recipe: two machines, each on a tap of its own, in the
// subnet that the host's uplink is in.
func pair() Plan {
	tap := func(name, host, guest string) Tap {
		return Tap{Name: name, Side: Side{Addr: prefix(host + "/32"), ProxyARP: []netip.Addr{addr(guest)}, Masquerade: true}}
	}
	return Plan{Name: "pair", Taps: []Tap{
		tap("tap0", "10.9.0.254", "10.9.0.253"),
		tap("tap1", "10.9.0.252", "10.9.0.251"),
	}}
}

// TestPair has two guests reach each other, the host and beyond, and the
// neighbours of the host reach them.
func TestPair(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	before := snapshot(t)
	o := options(t)
	live, err := Apply(pair(), o)
	must(t, err)
	defer live.Close()
	guest(t, "alice", network(t, live, "tap0"), "10.9.0.253/24", "10.9.0.254")
	guest(t, "bob", network(t, live, "tap1"), "10.9.0.251/24", "10.9.0.252")

	for _, to := range []string{"10.9.0.254", "10.9.0.2", "10.9.0.251", "10.9.0.1", "203.0.113.7"} {
		reaches(t, in("alice"), to)
	}
	reaches(t, in("bob"), "10.9.0.253")
	reaches(t, in("out"), "10.9.0.253")
	reaches(t, "", "10.9.0.251")
	if w := live.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %v", w)
	}
	must(t, live.Close())
	same(t, before)
	if _, err := os.Stat(o.Journal); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// TestSubnet has a network of its own behind a tap, with both families
// masqueraded, and a further one behind that; and one that is forwarded as it is.
func TestSubnet(t *testing.T) {
	if !apart(t) {
		return
	}
	world(t, "out")
	before := snapshot(t)
	live, err := Apply(Plan{Name: "sub", Taps: []Tap{{Name: "tap0", MTU: 1400, Side: Side{
		Addr: prefix("192.168.7.1/24"), Addr6: prefix("fd07::1/64"), Masquerade: true,
		Routes: []Route{{To: prefix("192.168.8.0/24"), Via: addr("192.168.7.2")}, {To: prefix("fd08::/64"), Via: addr("fd07::2")}},
	}}, {Name: "tap1", Side: Side{Addr: prefix("192.168.17.1/24"), Forward: true}}}}, options(t))
	must(t, err)
	defer live.Close()
	sw := network(t, live, "tap0")
	guest(t, "alice", sw, "192.168.7.2/24", "192.168.7.1")
	run(t, in("alice")+"ip addr add fd07::2/64 dev eth0 nodad; "+in("alice")+"ip -6 route add default via fd07::1")
	run(t, in("alice")+"ip addr add 192.168.8.1/32 dev lo; "+in("alice")+"ip addr add fd08::1/128 dev lo")
	for _, to := range []string{"192.168.7.1", "203.0.113.7", "fd07::1", "2001:db8::7"} {
		reaches(t, in("alice"), to)
	}
	reaches(t, "", "192.168.8.1")
	reaches(t, "", "fd08::1")
	// What the far host sees is the host's address.
	reaches(t, in("alice"), "-I 192.168.8.1 203.0.113.7")
	// Without masquerading it sees the guest's, and has to know the way.
	guest(t, "bob", network(t, live, "tap1"), "192.168.17.2/24", "192.168.17.1")
	if _, err := try("%s ping -n -c 1 -W 1 203.0.113.7", in("bob")); err == nil {
		t.Error("what is only forwarded has the host's address")
	}
	run(t, in("out")+"ip route add 192.168.17.0/24 via 10.9.0.2")
	reaches(t, in("bob"), "203.0.113.7")
	reaches(t, in("out"), "192.168.17.2")
	must(t, live.Close())
	same(t, before)
}
