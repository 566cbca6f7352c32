package machinetest

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"wolffia/internal/machine"
)

// Smoke is the suite in two boots, for architectures that are slow to emulate:
// the console both ways, status lines, a disk, frames, random numbers, Stop by
// Ctrl-Alt-Del, a restart and an end.
func Smoke(t *testing.T, b machine.Backend, f Fixtures) {
	s := suite{b, f}
	t.Run("Restart", s.smokeRestart)
	t.Run("PowerOff", func(t *testing.T) {
		m := s.start(t, s.spec(t, "uname -m; poweroff -f"))
		t.Logf("%q", output(t, m))
		if exit := clean(t, m); exit.Reboot {
			t.Errorf("%+v", exit)
		}
	})
}

func (s suite) smokeRestart(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 9, 9}
	spec := s.spec(t, `trap 'echo stopping; reboot -f' INT
echo 0 >/proc/sys/kernel/ctrl-alt-del
ip link set eth0 up; ip addr add 10.9.0.1/24 dev eth0
echo "random $(head -c 16 /dev/random | wc -c) $(cat /sys/class/misc/hw_random/rng_current) mtu $(cat /sys/class/net/eth0/mtu)"
head -c 5 ${DISK}a; echo
echo ready >$STATUS; read -r line; echo "<$line>"
while :; do sleep 1000 & wait; done`)
	spec.NICs = []machine.NIC{{MAC: net.HardwareAddr{2, 0, 0, 0, 9, 1}, MTU: 4000}}
	spec.Disks = []machine.Disk{{Path: diskImage(t, "first")}}
	m := s.start(t, spec)
	until(t, m.Status(), "ready\n")
	write(t, m, "typed\r")
	out := until(t, m.Console(), "<typed>\r\n")
	if !strings.Contains(out, "random 16 virtio_rng.0 mtu 4000\r\nfirst\r\n") {
		t.Errorf("console %q", out)
	}
	send(t, m.Ports()[0], arp(1, mac, []byte{10, 9, 0, 9}, make(net.HardwareAddr, 6), []byte{10, 9, 0, 1}))
	reply := receive(t, m.Ports()[0], func(f []byte) bool { return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 })
	if !bytes.Equal(reply[22:28], spec.NICs[0].MAC) {
		t.Errorf("ARP reply %x", reply)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Error(err)
	}
	until(t, m.Console(), "stopping\r\n")
	if exit := clean(t, m); !exit.Reboot {
		t.Errorf("%+v", exit)
	}
}
