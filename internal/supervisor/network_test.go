package supervisor

import (
	"net/netip"
	"testing"

	"wolffia/internal/lab"
)

// TestPrefix6: two networks of one machine must not look like one.
func TestPrefix6(t *testing.T) {
	given := netip.MustParsePrefix("fd00:9::/64")
	one, two, three := &lab.Network{Name: "lan"}, &lab.Network{Name: "dmz"}, &lab.Network{Name: "given", Subnet6: given}
	l := &lab.Spec{Networks: map[string]*lab.Network{"lan": one}}
	if p := prefix6(l, one); p.IsValid() {
		t.Errorf("an only network has %v, not the gateway's choice", p)
	}
	l.Networks["dmz"], l.Networks["given"] = two, three
	a, b := prefix6(l, one), prefix6(l, two)
	if a == b || !a.IsValid() || a.Bits() != 64 || a != a.Masked() || !a.Addr().IsPrivate() {
		t.Errorf("prefixes %v and %v", a, b)
	}
	if p := prefix6(l, three); p != given {
		t.Errorf("%v, want %v", p, given)
	}
}
