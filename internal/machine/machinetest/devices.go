package machinetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wolffia/internal/machine"
	"wolffia/internal/vnet"
)

func (s suite) command(t *testing.T) {
	spec := s.spec(t, "poweroff -f")
	spec.NICs = []machine.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	c, err := s.b.Command(spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Argv) == 0 || !filepath.IsAbs(c.Argv[0]) || len(c.FDs) == 0 {
		t.Errorf("command %+v", c)
	}
	if left, _ := filepath.Glob(spec.Dir + "/*"); len(left) > 0 {
		t.Errorf("Command wrote %v", left)
	}
}

// consoleEcho: what is typed arrives byte for byte, and the guest's line
// discipline echoes it.
func (s suite) consoleEcho(t *testing.T) {
	m := s.start(t, s.spec(t, "echo ready >$STATUS; read -r line; echo \"<$line>\"; stty raw -echo; echo raw >$STATUS; head -c 4 | od -An -tx1; poweroff -f"))
	until(t, m.Status(), "ready\n")
	write(t, m, "grüße\r")
	until(t, m.Console(), "grüße\r\n<grüße>\r\n")
	until(t, m.Status(), "raw\n")
	write(t, m, "\x00\xff\x03\r")
	until(t, m.Console(), "00 ff 03 0d")
	clean(t, m)
}

func write(t testing.TB, m machine.Machine, text string) {
	t.Helper()
	if _, err := m.Console().Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func (s suite) consoleResize(t *testing.T) {
	m := s.start(t, s.spec(t, `trap 'stty size' WINCH
stty size; echo ready >$STATUS
while read -r line; do [ "$line" = end ] && poweroff -f; stty size; done`))
	until(t, m.Status(), "ready\n")
	first := until(t, m.Console(), "\n")
	if m.Console().Resize(80, 24) == nil && first != "24 80\r\n" {
		t.Errorf("size at first %q", first)
	}
	for _, size := range [][2]int{{133, 41}, {60, 20}} {
		if err := m.Console().Resize(size[0], size[1]); errors.Is(err, machine.ErrNoResize) {
			write(t, m, "end\r")
			clean(t, m)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		// The guest hears of it some time later: ask until it has.
		want := strconv.Itoa(size[1]) + " " + strconv.Itoa(size[0]) + "\r\n"
		for seen := ""; !strings.Contains(seen, want); {
			write(t, m, "\r")
			seen = until(t, m.Console(), "\r\n")
		}
	}
	if err := m.Console().Resize(-1, 1<<20); err == nil {
		t.Error("an impossible size is taken")
	}
	write(t, m, "end\r")
	clean(t, m)
}

// consoleFlood: a guest is not held up by a console that nobody reads. (stty
// waits until the output is out.)
func (s suite) consoleFlood(t *testing.T) {
	m := s.start(t, s.spec(t, "seq 1 200000; echo the end; stty echo; poweroff -f"))
	exit := clean(t, m)
	out := output(t, m)
	if !strings.Contains(out, "the end") || len(out) > 2<<20 {
		t.Errorf("%d bytes, ending in %.80q", len(out), out[max(0, len(out)-80):])
	}
	if tail := strings.Join(exit.Tail, "\n"); !strings.Contains(tail, "199999\n200000\nthe end") {
		t.Errorf("tail %q", tail)
	}
}

func (s suite) memory(t *testing.T) {
	spec := s.spec(t, "grep MemTotal /proc/meminfo; poweroff -f")
	spec.Memory = 300 << 20
	m := s.start(t, spec)
	f := strings.Fields(until(t, m.Console(), "kB"))
	if kib, _ := strconv.Atoi(f[1]); kib < 250<<10 || kib > 300<<10 {
		t.Errorf("%d KiB of 300 MiB", kib)
	}
	clean(t, m)
}

func (s suite) cmdline(t *testing.T) {
	spec := s.spec(t, "cat /proc/cmdline; poweroff -f")
	spec.Cmdline = []string{"wolffia.test=a_word", "loglevel=5"}
	m := s.start(t, spec)
	if out := output(t, m); !strings.Contains(out, "wolffia.test=a_word loglevel=5") || strings.Contains(out, "loglevel=4") {
		t.Errorf("command line %q", out)
	}
	clean(t, m)
}

// entropy: a guest never waits for randomness.
func (s suite) entropy(t *testing.T) {
	m := s.start(t, s.spec(t, "head -c 16 /dev/random | wc -c; poweroff -f"))
	if out := output(t, m); !strings.HasPrefix(out, "16\r\n") {
		t.Errorf("console %q", out)
	}
	clean(t, m)
}

// frames: raw frames go both ways on each network card, up to its MTU, in
// order, and ARP asked from outside is answered with the card's MAC.
func (s suite) frames(t *testing.T) {
	const mtu = 9000
	spec := s.spec(t, `byMAC() { for d in /sys/class/net/*; do grep -q $1 $d/address && echo ${d##*/}; done; }
a=$(byMAC 02:00:00:00:09:01); b=$(byMAC 02:00:00:00:09:02)
ip link set $a up; ip addr add 10.9.0.1/24 dev $a; ip addr add 10.9.1.1/24 dev $b; ip link set $b up
cat /sys/class/net/$a/mtu /sys/class/net/$b/mtu; echo ready >$STATUS; ping -c 1 -s 8900 -W 60 10.9.1.2 >/dev/null && echo answered; poweroff -f`)
	spec.NICs = []machine.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 9, 1}}, {MAC: net.HardwareAddr{2, 0, 0, 0, 9, 2}, MTU: mtu}}
	m := s.start(t, spec)
	ports := m.Ports()
	if len(ports) != 2 {
		t.Fatalf("%d ports", len(ports))
	}
	until(t, m.Status(), "ready\n")
	if out := until(t, m.Console(), "9000\r\n"); !strings.Contains(out, "1500\r\n9000") {
		t.Errorf("MTUs %q", out)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 9, 9}
	send(t, ports[0], arp(1, mac, []byte{10, 9, 0, 9}, make(net.HardwareAddr, 6), []byte{10, 9, 0, 1}))
	reply := receive(t, ports[0], func(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 })
	if !bytes.Equal(reply[22:28], spec.NICs[0].MAC) || !bytes.Equal(reply[:6], mac) {
		t.Errorf("ARP reply %x", reply)
	}
	// The guest pings us over the other card, with more than an ordinary MTU.
	receive(t, ports[1], func(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 })
	send(t, ports[1], arp(2, mac, []byte{10, 9, 1, 2}, spec.NICs[1].MAC, []byte{10, 9, 1, 1}))
	echo := receive(t, ports[1], func(f []byte) bool { return len(f) > 8900 && f[12] == 8 && f[13] == 0 && f[23] == 1 })
	send(t, ports[1], pong(echo))
	until(t, m.Console(), "answered")
	clean(t, m)
	buf := []vnet.Frame{{Data: make([]byte, vnet.MaxFrame)}}
	for {
		if _, err := ports[0].ReadFrames(buf); err != nil {
			break // closed with the machine
		}
	}
}

func send(t *testing.T, p vnet.Port, frame []byte) {
	t.Helper()
	if n, err := p.WriteFrames([]vnet.Frame{{Data: frame}}); n != 1 || err != nil {
		t.Fatalf("write frame: %d, %v", n, err)
	}
}

// receive reads frames until one is wanted.
func receive(t *testing.T, p vnet.Port, want func([]byte) bool) []byte {
	t.Helper()
	bufs := []vnet.Frame{{Data: make([]byte, vnet.MaxFrame)}, {Data: make([]byte, vnet.MaxFrame)}}
	for {
		n, err := p.ReadFrames(bufs)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range bufs[:n] {
			if want(f.Data) {
				return bytes.Clone(f.Data)
			}
		}
	}
}

// arp is an ARP frame (RFC 826); op is 1 for a request, 2 for a reply.
func arp(op byte, fromMAC net.HardwareAddr, from []byte, toMAC net.HardwareAddr, to []byte) []byte {
	dst := toMAC
	if op == 1 {
		dst = net.HardwareAddr{255, 255, 255, 255, 255, 255}
	}
	f := append(append([]byte{}, dst...), fromMAC...)
	f = append(f, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	f = append(append(f, fromMAC...), from...)
	return append(append(f, toMAC...), to...)
}

// pong answers an ICMP echo request in an IPv4 frame (RFC 792).
func pong(f []byte) []byte {
	r := bytes.Clone(f)
	copy(r, f[6:12])
	copy(r[6:], f[:6])
	copy(r[26:], f[30:34])
	copy(r[30:], f[26:30])
	ip := 14 + int(f[14]&15)*4
	r[ip] = 0
	sum := uint32(binary.BigEndian.Uint16(r[ip+2:])) + 0x0800 // the type went from 8 to 0
	binary.BigEndian.PutUint16(r[ip+2:], uint16(sum+sum>>16))
	return r
}
