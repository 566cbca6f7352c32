package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
	"wolffia/internal/vnet/wire"
)

// everything is a plan with a step of every kind.
func everything() Plan {
	return Plan{
		Name: "every-thing",
		Bridges: []Bridge{
			{Name: "br0", Uplink: "eth0", Side: Side{Addr: prefix("192.168.3.1/24"), Forward: true}},
			{Name: "br1", Side: Side{Addr: prefix("192.168.4.1/24"), Addr6: prefix("fd04::1/64"), Masquerade: true}},
		},
		Taps: []Tap{
			{Name: "tap0", Side: Side{Addr: prefix("10.9.0.254/32"), ProxyARP: []netip.Addr{addr("10.9.0.253"), addr("fd09::253")}, Masquerade: true}},
			{Name: "tap1", Bridge: "br0"},
			{Name: "tap2", Bridge: "br1"},
			{Name: "tap3", Bridge: "hostbr"},
			{Name: "tap4", Side: Side{Addr: prefix("192.168.5.1/24"), Routes: []Route{{To: prefix("192.168.6.0/24"), Via: addr("192.168.5.2")}}}},
		},
	}
}

// busyWorld is a host that has something of everything already.
func busyWorld(t *testing.T, out string) {
	t.Helper()
	world(t, out)
	run(t, "ip link add hostbr address 02:00:00:00:00:0d type bridge; ip addr add 192.168.99.1/24 dev hostbr; ip link set hostbr up")
	run(t, "ip link add spare2 address 02:00:00:00:00:0b master hostbr type veth peer name spare3 address 02:00:00:00:00:0c; ip link set spare2 up; ip link set spare3 up")
	run(t, "ip link add spare address 02:00:00:00:00:09 type veth peer name spare1 address 02:00:00:00:00:0a; sysctl -qw net.ipv6.conf.spare.forwarding=1 net.ipv4.conf.spare.forwarding=1")
	run(t, "nft add table ip mine; nft add chain ip mine in '{ type filter hook input priority 0; policy accept; }'; nft add rule ip mine in tcp dport 9 drop")
	run(t, "ip rule add from 10.9.0.22 table 77 priority 500; ip neigh add proxy 10.9.0.77 dev eth0; ip neigh add proxy fd09::77 dev eth0; ip neigh add 10.9.0.99 lladdr 02:00:00:00:00:99 dev eth0; ip neigh add fd09::99 lladdr 02:00:00:00:00:99 dev eth0 router")
	run(t, "ip addr add 10.9.1.2 peer 10.9.1.1 dev eth0; ip addr add 2001:db8:1::2/64 dev eth0 noprefixroute nodad; ip -6 route add 2001:db8:1::/64 dev eth0 metric 50")
	run(t, "ip route add 100.64.0.0/10 via 10.9.0.1 src 10.9.0.22 advmss 1200; ip route add 100.64.1.0/24 dev eth0 scope link proto 200")
	settled(t)
}

// TestEveryFailure has each change fail in turn, and looks that the host is as
// it was.
func TestEveryFailure(t *testing.T) {
	if !apart(t) {
		return
	}
	busyWorld(t, "out")
	before := snapshot(t)
	o := options(t)
	injected := errors.New("injected")
	at, total := 0, 0
	for at = 1; ; at++ {
		n, failed, done := 0, "", false
		live, err := apply(everything(), o, func(what string) error {
			if n++; n == at && !done {
				failed = what
				return injected
			}
			return nil
		})
		if done = true; failed == "" {
			must(t, err)
			total = n
			must(t, live.Close())
			break
		}
		if !errors.Is(err, injected) || strings.Count(err.Error(), "injected") != 1 {
			t.Fatalf("change %d, %s: %v", at, failed, err)
		}
		same(t, before)
		if _, err := os.Stat(o.Journal); !os.IsNotExist(err) {
			t.Fatalf("change %d, %s: the journal is still there: %v", at, failed, err)
		}
	}
	same(t, before)
	t.Logf("%d changes", total)
}

// TestEveryCrash kills the owner before each change in turn, and once it lives;
// what follows is undone by Recover. Until then, the commands are those for the host
// that it will be.
func TestEveryCrash(t *testing.T) {
	if !apart(t) {
		return
	}
	busyWorld(t, "out")
	before := snapshot(t)
	o := options(t)
	fresh, err := Commands(everything(), Plan{}, o)
	must(t, err)
	for at := 1; killed(t, everything(), o, at); at++ {
		commands, err := Commands(everything(), Plan{}, o)
		must(t, err)
		if !slices.Equal(commands, fresh) {
			t.Errorf("killed at change %d:\n%s", at, difference(strings.Join(fresh, "\n"), strings.Join(commands, "\n")))
		}
		must(t, Recover(o))
		same(t, before)
	}
	// The last attempt was not killed, and has closed by itself.
	same(t, before)
	if !killed(t, everything(), o, 0) {
		t.Fatal("the owner was not killed")
	}
	// The next owner undoes what the dead one left.
	live, err := Apply(everything(), o)
	must(t, err)
	if err := Recover(o); !errors.Is(err, ErrLive) {
		t.Errorf("recover while the owner lives: %v", err)
	}
	if _, err := Apply(everything(), o); !errors.Is(err, ErrLive) {
		t.Errorf("apply while another owner lives: %v", err)
	}
	must(t, live.Close())
	same(t, before)
	must(t, Recover(o)) // there is nothing to do
	if _, err := os.Stat(o.Journal); !os.IsNotExist(err) {
		t.Errorf("the journal is still there: %v", err)
	}
}

// TestCommands runs the printed commands in one world and applies the plan in
// another, and compares.
func TestCommands(t *testing.T) {
	tooltest.Require(t, "diff", "diffutils")
	if !apart(t) {
		return
	}
	var after [2]string
	for i, name := range []string{"one", "two"} {
		netns(t, name)
		enter(t, name, func() {
			busyWorld(t, name+"-out")
			commands, err := Commands(everything(), Plan{}, options(t))
			must(t, err)
			before := snapshot(t)
			if i == 0 {
				t.Logf("\n%s", strings.Join(commands, "\n"))
				for _, c := range commands {
					run(t, "%s", c)
				}
				// An open tap has a carrier.
				for _, tap := range everything().Taps {
					f, err := wire.OpenTap(wire.TapOptions{Name: tap.Name, VNetHdr: true})
					must(t, err)
					defer f.Close()
				}
				settled(t)
				after[i] = snapshot(t)
				return
			}
			live, err := Apply(everything(), options(t))
			must(t, err)
			settled(t)
			after[i] = snapshot(t)
			must(t, live.Close())
			same(t, before)
		})
	}
	if a, b := comparable(t, after[0]), comparable(t, after[1]); a != b {
		t.Errorf("what the commands did and what Apply did differ:\n%s", difference(a, b))
	}
}

// TestCommandsInstead has a plan live, and gives the commands for when it is no
// more.
func TestCommandsInstead(t *testing.T) {
	if !apart(t) {
		return
	}
	busyWorld(t, "out")
	plan := everything()
	plan.Bridges[0].Side = Side{}
	must(t, Probe(plan, options(t)))
	want, err := Commands(plan, Plan{}, options(t))
	must(t, err)
	live, err := Apply(plan, options(t))
	must(t, err)
	defer live.Close()
	if _, err := Commands(plan, Plan{}, options(t)); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("beside itself: %v", err)
	}
	got, err := Commands(plan, plan, options(t))
	must(t, err)
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("%s", difference(w+"\n", g+"\n"))
	}
}

// comparable leaves out the numbers that the kernel chose or counts, the order, and what
// differs between a tap that was opened before it was up and one opened after.
func comparable(t *testing.T, snapshot string) string {
	t.Helper()
	var out []string
	for _, part := range strings.Split(snapshot, "\n\n") {
		from := strings.Index(part, "[\n")
		if from < 0 {
			out = append(out, part)
			continue
		}
		var v any
		must(t, json.Unmarshal([]byte(part[from:]), &v))
		out = append(out, part[:from]+sorted(v))
	}
	return strings.Join(out, "\n")
}

// sorted writes a value with the elements of its lists in a fixed order.
func sorted(v any) string {
	switch v := v.(type) {
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, sorted(e))
		}
		slices.Sort(all)
		return "[" + strings.Join(all, "\n ") + "]"
	case map[string]any:
		var all []string
		for k, e := range v {
			switch k {
			case "ifindex", "link_index", "id", "persist", "operstate", "fdb_n_learned":
			default:
				all = append(all, k+": "+sorted(e))
			}
		}
		slices.Sort(all)
		return "{" + strings.Join(all, ", ") + "}"
	}
	return fmt.Sprint(v)
}
