package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wolffia/internal/host/hosttest"
	"wolffia/internal/kernel"
	"wolffia/internal/machine/machinetest"
	"wolffia/internal/tooltest"
	"wolffia/internal/vnet"
	"wolffia/internal/vnet/wire"
)

// station is the test itself as a machine on a network: it asks and answers ARP
// (RFC 826), and pings (RFC 792).
type station struct {
	mac    [6]byte
	ip     [4]byte
	send   func(frame []byte) error
	frames <-chan []byte // closed at the end of the cable
}

var everybody = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frame is an Ethernet frame of the station's.
func (s *station) frame(to [6]byte, kind uint16, payload []byte) []byte {
	f := append(append(to[:], s.mac[:]...), byte(kind>>8), byte(kind))
	return append(f, payload...)
}

// arp is a request (1) or an answer (2).
func (s *station) arp(op byte, mac [6]byte, ip [4]byte) []byte {
	p := append([]byte{0, 1, 8, 0, 6, 4, 0, op}, s.mac[:]...)
	p = append(append(p, s.ip[:]...), mac[:]...)
	return s.frame(mac, 0x0806, append(p, ip[:]...))
}

// echo is a ping with so many bytes.
func (s *station) echo(mac [6]byte, ip [4]byte, size int) []byte {
	icmp := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, make([]byte, size)...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	p := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0}, s.ip[:]...)
	p = append(p, ip[:]...)
	binary.BigEndian.PutUint16(p[2:], uint16(20+len(icmp)))
	binary.BigEndian.PutUint16(p[10:], checksum(p))
	return s.frame(mac, 0x0800, append(p, icmp...))
}

// checksum is that of the Internet (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// ping asks for a neighbour's address, and pings it with so many bytes. A cable
// may lose what comes before both of its ends are up.
func (s *station) ping(t *testing.T, ip [4]byte, size int) {
	t.Helper()
	var mac [6]byte
	s.until(t, fmt.Sprintf("%v says who it is", ip), s.arp(1, everybody, ip), func(f []byte) bool {
		if len(f) < 42 || f[12] != 8 || f[13] != 6 || f[21] != 2 || [4]byte(f[28:]) != ip {
			return false
		}
		mac = [6]byte(f[22:])
		return true
	})
	s.until(t, fmt.Sprintf("%v answers %d bytes", ip, size), s.echo(mac, ip, size), func(f []byte) bool {
		return len(f) >= 42+size && f[12] == 8 && f[13] == 0 && f[23] == 1 && f[34] == 0 && [4]byte(f[26:]) == ip
	})
}

// until sends a frame again and again until the answer comes.
func (s *station) until(t *testing.T, what string, frame []byte, ok func([]byte) bool) {
	t.Helper()
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(patience); ; {
		if err := s.send(frame); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	reading:
		for {
			select {
			case f, open := <-s.frames:
				switch {
				case !open:
					t.Fatalf("%s: the cable has ended", what)
				case ok(f):
					return
				case len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && [4]byte(f[38:]) == s.ip:
					s.send(s.arp(2, [6]byte(f[22:]), [4]byte(f[28:])))
				}
			case <-again.C:
				break reading
			case <-limit:
				t.Fatalf("after %v not: %s", patience, what)
			}
		}
	}
}

// host is the station's n-th address in the lab's network.
func host(n byte) [4]byte { return [4]byte{10, 0, 2, n} }

// plug starts a vde_plug as the person, whose standard streams carry each frame
// behind its length.
func (p *person) plug(t *testing.T, folder string, ip [4]byte) (s *station, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := p.command(ctx, call{program: tooltest.Require(t, "vde_plug", "vdeplug")}, folder)
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	frames := make(chan []byte, 100)
	go func() {
		defer close(frames)
		for r := bufio.NewReader(out); ; {
			var size [2]byte
			if _, err := io.ReadFull(r, size[:]); err != nil {
				return
			}
			f := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(r, f); err != nil {
				return
			}
			select {
			case frames <- f:
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = func() {
		cancel()
		cmd.Wait()
	}
	t.Cleanup(stop)
	return &station{mac: [6]byte{2, 0, 0, 0, 1, ip[3]}, ip: ip, frames: frames, send: func(f []byte) error {
		_, err := in.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(f))), f...))
		return err
	}}, stop
}

// onPort is a station on a port.
func onPort(t *testing.T, port vnet.Port, ip [4]byte) *station {
	frames, over := make(chan []byte, 100), make(chan struct{})
	t.Cleanup(func() {
		close(over)
		port.Close()
	})
	go func() {
		defer close(frames)
		for bufs := vnet.NewBatch(1, vnet.MaxFrame); ; {
			if _, err := port.ReadFrames(bufs); err != nil {
				return
			}
			select {
			case frames <- slices.Clone(bufs[0].Data):
			case <-over:
				return
			}
		}
	}()
	return &station{mac: [6]byte{2, 0, 0, 0, 1, ip[3]}, ip: ip, frames: frames, send: func(f []byte) error {
		_, err := port.WriteFrames([]vnet.Frame{{Data: f}})
		return err
	}}
}

// emulators starts a QEMU without a machine, in which each network backend that
// leads into the lab is joined with one that the test is at the other end of.
func (l *lab) emulators(t *testing.T, backends ...string) []*station {
	t.Helper()
	program := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	dir := l.folder(t, "sockets")
	args := []string{"-machine", "none", "-nodefaults", "-nographic", "-serial", "none", "-monitor", "none"}
	for i, b := range backends {
		args = append(args, "-netdev", fmt.Sprintf("%s,id=in%d", b, i), "-netdev", fmt.Sprintf("hubport,id=a%d,hubid=%[1]d,netdev=in%[1]d", i),
			"-netdev", fmt.Sprintf("stream,id=out%d,server=on,addr.type=unix,addr.path=%s/%[1]d", i, dir), "-netdev", fmt.Sprintf("hubport,id=b%d,hubid=%[1]d,netdev=out%[1]d", i))
	}
	q := l.start(t, call{dir: l.dir, program: program}, args...)
	var out []*station
	for i := range backends {
		var port *wire.Stream
		eventually(t, patience, "QEMU listens", func() (ok bool) {
			select {
			case <-q.ended:
				t.Fatalf("QEMU has ended: %s%s", q.out, q.err)
			default:
			}
			var err error
			port, err = wire.DialStream(t.Context(), filepath.Join(dir, fmt.Sprint(i)))
			return err == nil
		})
		out = append(out, onPort(t, port, host(byte(110+i))))
	}
	return out
}

// qemuHas says whether QEMU has a kind of network backend.
func qemuHas(t *testing.T, kind string) bool {
	t.Helper()
	out, err := exec.Command(tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86"), "-machine", "none", "-netdev", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(strings.Fields(string(out)), kind)
}

// oldUML boots Debian 12's User-Mode Linux, the last that plugs into a VDE switch
// itself, by the words of the manual: it gets addresses by DHCP and finds anna.
func (l *lab) oldUML() {
	t := l.t
	t.Helper()
	c, st := machinetest.Archive(t)
	ctx, cancel := context.WithTimeout(context.Background(), cold)
	defer cancel()
	lock, err := c.Resolve(ctx, kernel.UMLRequest("bookworm", "amd64"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := kernel.InstallLockedUML(ctx, c, st, lock)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(l.home, "bookworm")
	if err := os.CopyFS(dir, os.DirFS(filepath.Dir(k.Path))); err != nil {
		t.Fatal(err)
	}
	initramfs, err := os.ReadFile(machinetest.UML(t).Initramfs(t, `
cat >/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add $ip/$mask dev $interface
echo "search $domain" >/etc/resolv.conf
for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf; done
END
chmod 755 /lease
for dev in eth0 eth1; do
	ip link set $dev up
	busybox udhcpc -n -q -t 30 -T 1 -s /lease -i $dev
	ping -4 -c 1 -W 30 anna
	ping -4 -c 1 -W 30 10.0.2.2
	ip link set $dev down
done
poweroff -f`))
	if err != nil {
		t.Fatal(err)
	}
	l.write(t, filepath.Join(dir, "initramfs"), string(initramfs))
	hide, _ := program() // newPerson has looked at the error
	o := l.run(t, call{dir: dir, limit: cold, wrap: []string{hide}, env: []string{withoutXStateEnv + "=1"}, program: filepath.Join(dir, filepath.Base(k.Path))},
		"mem=64M", "initrd=initramfs", "con=null", "con0=null,fd:1", "uml_dir=./", hosttest.WithoutAVX,
		"eth0=daemon,,unix,"+l.dir+"/lan.vde/ctl", "eth1=vde,"+l.dir+"/lan.vde")
	if strings.Count(o.out, " 0% packet loss") != 4 {
		t.Error(o)
	}
}

// left are the files in the lab's folder besides its own.
func (l *lab) left() (names []string) {
	entries, _ := os.ReadDir(l.dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "wolffia.") {
			names = append(names, e.Name())
		}
	}
	return names
}

// Payloads of pings that are as long as the MTU of Ethernet, and as a larger one.
const (
	usual   = 1500 - 28
	largest = 9000 - 28
)

// TestLabPlugs reaches a machine of a lab, on a network for large packets, from
// what was started elsewhere: stock VDE, QEMU and User-Mode Linux; also after the
// supervisor was killed, which leaves its sockets behind.
func TestLabPlugs(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, small+`
networks:
  lan:
    mtu: 9000
    plugs:
      - vde-switch: ./lan.vde
      - stream: ./lan.stream
      - bess: ./lan.bess
      - {vde-switch: ./ten.vde, vlan: 10}
      - {vde-switch: ./trunk.vde, trunk: [10]}
machines:
  anna: {networks: [lan]}
`)
	l.do("up")
	anna := host(15)
	s, stop := p.plug(t, filepath.Join(l.dir, "lan.vde"), host(100))
	s.ping(t, anna, 56)
	s.ping(t, anna, largest)
	s.ping(t, host(2), largest) // the gateway
	// On VLAN 10 nobody is but others like it.
	ten, _ := p.plug(t, filepath.Join(l.dir, "ten.vde"), host(101))
	eleven, _ := p.plug(t, filepath.Join(l.dir, "ten.vde"), host(102))
	trunk, _ := p.plug(t, filepath.Join(l.dir, "trunk.vde"), host(103))
	// What goes to all comes to those there, and there alone; on a trunk it has a tag.
	tag := []byte{0x81, 0, 0, 10}
	for came, limit := map[string]bool{}, time.After(patience); len(came) < 3; {
		ten.send(ten.arp(1, everybody, anna))
		question := trunk.arp(1, everybody, anna)
		trunk.send(question)
		trunk.send(slices.Concat(question[:12], tag, question[12:]))
		var f []byte
		open := true
		select {
		case f, open = <-eleven.frames:
			if len(f) >= 42 && [4]byte(f[28:]) == ten.ip {
				came["to the other"] = true
			}
			if len(f) >= 42 && [4]byte(f[28:]) == trunk.ip {
				came["from the trunk"] = true
			}
		case f, open = <-trunk.frames:
			if len(f) >= 46 && bytes.Equal(f[12:16], tag) && [4]byte(f[32:]) == ten.ip {
				came["to the trunk"] = true
			}
		case f, open = <-ten.frames:
		case <-time.After(100 * time.Millisecond):
		case <-limit:
			t.Fatalf("after %v only this has come: %v", patience, came)
		}
		if !open {
			t.Fatal("the cable has ended")
		}
		if bytes.Contains(f, anna[:]) && !bytes.HasPrefix(f, everybody[:]) {
			t.Fatalf("somebody answers on another VLAN: %x", f)
		}
	}
	if out := l.do("net"); !strings.Contains(out, " lan.vde:1 ") || !strings.Contains(out, " ten.vde:1 ") || !strings.Contains(out, " ten.vde:2 ") {
		t.Errorf("the plugs are not to be seen: %s", out)
	}
	stop()
	eventually(t, patience, "the plug has gone", func() bool { return !strings.Contains(l.do("net"), "lan.vde:1") })

	if !qemuHas(t, "vde") {
		tooltest.Missing(t, "this QEMU is built without -netdev vde")
	}
	for _, s := range l.emulators(t, "stream,server=off,addr.type=unix,addr.path="+l.dir+"/lan.stream", "vde,sock="+l.dir+"/lan.vde") {
		s.ping(t, anna, largest)
	}
	elsewhere := func() {
		t.Helper()
		o := l.run(t, call{dir: p.home, limit: cold}, "run", "-q", "--network", "none", "--backend", "uml", "--cmdline", "vec7:transport=bess,dst="+l.dir+"/lan.bess,mac=02:00:00:00:00:07,mtu=9000", "--",
			"sh", "-ec", "ip addr add 10.0.2.107/24 dev vec7; ip link set vec7 up mtu 9000; for to in 10.0.2.15 10.0.2.2; do ping -c 1 -W 30 -s "+fmt.Sprint(largest)+" $to; done; "+whole)
		if strings.Count(o.out, " 0% packet loss") != 2 {
			t.Error(o)
		}
	}
	elsewhere()
	l.oldUML()

	// What a supervisor that was killed leaves is no obstacle.
	pid, _ := l.ps()
	p.killed = true
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "the supervisor is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	if names := l.left(); len(names) != 5 {
		t.Errorf("the one that was killed leaves %q", names)
	}
	l.do("up")
	s, _ = p.plug(t, filepath.Join(l.dir, "lan.vde"), host(100))
	s.ping(t, anna, largest)
	l.do("down")
	if names := l.left(); len(names) != 0 {
		t.Errorf("after down there are %q", names)
	}
	for range s.frames { // which ends with the switch
	}
}

// TestLabIntoVDE plugs a lab's network into a stock vde_switch, and finds another
// client there; a switch that is not there is an error.
func TestLabIntoVDE(t *testing.T) {
	parallel(t)
	p := newPerson(t)
	l := newLab(t, p, small+`
networks:
  lan: {mtu: 9000, plugs: [vde: ./stock]}
machines:
  anna: {networks: [lan]}
`)
	if e := l.fails(1, "up"); !strings.Contains(e, "plug vde ./stock") {
		t.Error(e)
	}
	vdeSwitch := func() (stop func()) {
		in, w := io.Pipe()
		r := p.start(t, call{dir: l.dir, program: tooltest.Require(t, "vde_switch", "vde-switch"), stdin: in}, "-s", "./stock", "-f", os.DevNull)
		eventually(t, patience, "vde_switch answers", func() bool {
			select {
			case <-r.ended:
				t.Fatalf("vde_switch has ended: %s%s", r.out, r.err)
			default:
			}
			info, err := os.Stat(filepath.Join(l.dir, "stock", "ctl"))
			return err == nil && info.Mode()&os.ModeSocket != 0
		})
		return func() {
			w.Close() // ends it, and it cleans up
			r.end(t)
		}
	}
	stop := vdeSwitch()
	if e := l.run(t, call{dir: l.dir, limit: cold}, "up").err; !strings.Contains(e, "plug vde ./stock: the network's mtu is 9000, and a vde_switch cuts packets of more than 1500 bytes") {
		t.Error(e)
	}
	s, unplug := p.plug(t, filepath.Join(l.dir, "stock"), host(100))
	s.ping(t, host(15), usual)
	unplug()
	// One that ends and comes back is plugged into again.
	stop()
	eventually(t, patience, "the plug is out", func() bool { return !strings.Contains(l.do("net"), "vde:stock") })
	stop = vdeSwitch()
	s, unplug = p.plug(t, filepath.Join(l.dir, "stock"), host(100))
	s.ping(t, host(15), usual)
	unplug()
	l.do("down")
	if names := l.left(); !slices.Equal(names, []string{"stock"}) {
		t.Errorf("after down there are %q", names)
	}
	stop()
}
